//! What a polling thread tells its core, and the kernel's scheduler.

use std::path::PathBuf;
use std::{fs, io};

/// Tells the core that this is a spin loop: a sibling thread gets its share, and the loop's exit costs less.
#[inline(always)]
pub fn pause() {
    std::hint::spin_loop();
}

/// More than the slice that the scheduler gives on its own, 3 ms at most.
const POLLING_SLICE_NS: u64 = 5_000_000;
/// SCHED_FLAG_RESET_ON_FORK
const RESET_ON_FORK: u64 = 1;

/// Has the calling thread, which polls and never waits, give its core up at once to whoever wakes up there with a shorter
/// slice. That is the kernel's own work too, a drive's completions among it, which would otherwise stand behind the poller
/// until the next tick, up to 4 ms. EEVDF does so since Linux 6.12 (PREEMPT_SHORT; sched(7), sched_setattr(2)); an older
/// kernel takes no notice. Threads of another policy than the ordinary one are left as they are.
///
/// # Errors
/// What the kernel answers.
pub fn give_way() -> io::Result<()> {
    let mut attributes = libc::sched_attr {
        size: 0,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    let bytes = u32::try_from(size_of_val(&attributes)).expect("a few bytes");
    // SAFETY: the kernel writes at most so many bytes, into memory that is ours; 0 is the calling thread.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, bytes, 0) };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    if ![libc::SCHED_OTHER, libc::SCHED_BATCH].map(i32::cast_unsigned).contains(&attributes.sched_policy) {
        return Ok(());
    }
    // Threads that the kernel or the program makes from this one have a slice like all others, and no higher priority.
    attributes.sched_flags |= RESET_ON_FORK;
    attributes.sched_runtime = POLLING_SLICE_NS;
    // SAFETY: the kernel reads as many bytes as `size` says, which it has set itself; 0 is the calling thread.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A core that does not halt while it has nothing to run, until this is dropped: its idle loop polls. Who is blocked there in
/// a flush, and would else poll, goes on 10 to 40 us sooner. Whoever ends without dropping it, killed, leaves the core so.
pub struct KeptAwake {
    request: PathBuf,
    before: String,
}

/// No latency of waking up is borne (Linux, Documentation/ABI/testing/sysfs-devices-power).
const NO_LATENCY: &str = "n/a";

/// Asks the kernel to keep core `id` from halting. None: it is kept so already, by somebody who is to end it himself.
///
/// # Errors
/// Only root may ask. There is nobody to ask in a kernel without power management.
pub fn keep_awake(id: usize) -> io::Result<Option<KeptAwake>> {
    let request = PathBuf::from(format!("/sys/devices/system/cpu/cpu{id}/power/pm_qos_resume_latency_us"));
    let before = fs::read_to_string(&request)?;
    if before.trim_end() == NO_LATENCY {
        return Ok(None);
    }
    fs::write(&request, NO_LATENCY)?;
    Ok(Some(KeptAwake { request, before }))
}

impl Drop for KeptAwake {
    fn drop(&mut self) {
        // Who may ask may take it back. There is nobody to tell, and nothing is lost but power.
        _ = fs::write(&self.request, &self.before);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_thread_may_give_way() {
        std::thread::spawn(|| super::give_way().expect("no right is needed")).join().expect("it returns");
    }

    #[test]
    fn a_core_is_kept_awake_until_nobody_asks_for_it() {
        let request = || std::fs::read_to_string("/sys/devices/system/cpu/cpu0/power/pm_qos_resume_latency_us");
        let Ok(before) = request() else { return eprintln!("skipped: needs power management (PM QoS) in the kernel") };
        match super::keep_awake(0) {
            Ok(kept) => {
                assert_eq!(request().expect("it is there"), "n/a\n");
                assert!(super::keep_awake(0).expect("it is there").is_none(), "it is another's");
                drop(kept);
                assert_eq!(request().expect("it is there"), before);
            }
            Err(error) => eprintln!("skipped: needs root: {error}"),
        }
    }
}
