//! Bugs planted on purpose, so that a test can show that the simulator finds them. None exists outside tests.

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Planted {
    #[default]
    None,
    /// Frames count as durable when they are submitted.
    AcknowledgeBeforeDurable,
    /// A start goes on in the epoch before it.
    SkipEpochRaise,
    /// A flight recorder counts although the log has gone on without it.
    TrustStaleRecorder,
    /// Recovery cuts the log at damage instead of refusing.
    CutInsteadOfRefuse,
    /// A segment is marked free before the copies of what counts in it are durable.
    FreeBeforeCopiesDurable,
    /// A write counts as durable when it stands in the drive's volatile cache.
    SkipFlush,
    /// Nobody remembers what producers appended before a start.
    ForgetProducers,
    /// A drive that came back is written again without its flight recorder, and nobody looks what is missing.
    ReturnUnproven,
}

impl Planted {
    /// Whether this bug is planted. Constant `false` outside tests, so that nothing of it is compiled.
    #[must_use]
    pub fn is(self, bug: Planted) -> bool {
        cfg!(test) && self == bug
    }
}
