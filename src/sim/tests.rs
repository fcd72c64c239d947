//! The simulator finds what was planted, and nothing else.

use super::*;

#[test]
fn seeds_pass() {
    let mut report = Report::default();
    for seed in 1..=100 {
        match run(seed, &Options::default()) {
            Ok(one) => report.merge(&one),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{report}");
    let missing: Vec<&str> =
        Count::FAULTS.iter().filter(|count| report.get(**count) == 0).map(|count| count.name()).collect();
    assert!(missing.is_empty(), "not one of these was injected: {missing:?}");
}

/// Runs seeds with a planted bug until one fails with these words. The same seed passes without the bug.
fn finds(planted: Planted, seeds: std::ops::RangeInclusive<u64>, words: &str) {
    finds_among(planted, seeds, words);
}

/// The same among the seeds that have pages, most of them; some have snapshots too.
fn finds_in_pages(planted: Planted, words: &str) {
    finds_among(planted, (1..=3_000).filter(|seed| seed % 5 == 3 || matches!(seed % 20, 2 | 7)), words);
}

/// The same among the seeds with seasons.
fn finds_in_seasons(planted: Planted, words: &str) {
    finds_among(planted, (1..=3_000).filter(|seed| seed % 7 == 4), words);
}

fn finds_among(planted: Planted, mut seeds: impl Iterator<Item = u64>, words: &str) {
    let failure = |seed| run(seed, &Options { planted, ..Options::default() }).err();
    let caught = seeds.find_map(|seed| failure(seed).filter(|failure| failure.what.contains(words)));
    let failure = *caught.unwrap_or_else(|| panic!("{planted:?} is not found: {words:?}"));
    println!("{planted:?}: {failure}");
    let without = run(failure.seed, &Options::default());
    assert!(without.is_ok(), "the history fails without the bug as well: {without:?}");
}

#[test]
fn an_acknowledgement_before_durability_is_found() {
    finds(Planted::AcknowledgeBeforeDurable, 1..=30, "and the drive was not damaged");
}

#[test]
fn a_missing_epoch_raise_is_found() {
    finds(Planted::SkipEpochRaise, 1..=30, "came back");
    // What was cut off comes back behind an identical frame.
    finds(Planted::SkipEpochRaise, 1..=100, "nobody asked for this, or it was dead");
}

#[test]
fn a_flight_recorder_that_is_stale_and_trusted_is_found() {
    finds(Planted::TrustStaleRecorder, 1..=600, "nobody asked for this, or it was dead");
}

#[test]
fn a_cut_instead_of_a_refusal_is_found() {
    finds(Planted::CutInsteadOfRefuse, 1..=200, "and the flight recorder says");
    finds(Planted::CutInsteadOfRefuse, 1..=200, "tells of it");
}

#[test]
fn a_segment_freed_before_its_copies_are_durable_is_found() {
    finds(Planted::FreeBeforeCopiesDurable, 1..=200, "");
}

#[test]
fn a_checkpoint_that_counts_too_early_is_found() {
    finds(Planted::NameCheckpointTooEarly, 1..=600, "from its checkpoint on");
}

#[test]
fn a_checkpoint_that_names_a_freed_segment_is_found() {
    finds(Planted::FreeNamedSegment, 1..=300, "");
}

#[test]
fn a_checkpoint_that_forgets_cursors_is_found() {
    finds(Planted::ForgetInCheckpoint, 1..=300, "from its checkpoint on");
}

#[test]
fn a_value_that_is_forgotten_too_early_is_found() {
    finds(Planted::ForgetTooEarly, 1..=700, "unexpected status Unreadable");
}

#[test]
fn a_value_of_another_version_is_found() {
    finds(Planted::BelieveAnyVersion, 1..=300, "another value was shown");
}

#[test]
fn a_segment_deallocated_while_it_is_in_use_again_is_found() {
    finds(Planted::DeallocateInUse, 1..=200, "nothing was damaged");
}

#[test]
fn a_segment_deallocated_before_it_is_free_is_found() {
    finds(Planted::DeallocateBeforeFreed, 1..=200, "nothing was damaged");
}

#[test]
fn a_drive_that_returns_and_is_not_proven_is_found() {
    finds(Planted::ReturnUnproven, 1..=200, "was given twice");
}

#[test]
fn a_write_that_nobody_flushed_is_found() {
    finds(Planted::SkipFlush, 1..=200, "and the drive was not damaged");
}

#[test]
fn producers_that_nobody_remembers_are_found() {
    finds(Planted::ForgetProducers, 1..=30, "had been acknowledged");
    finds(Planted::ForgetProducers, 1..=60, "before");
}

#[test]
fn events_that_changed_places_are_found() {
    finds(Planted::SwapEvents, 1..=300, "the chain breaks at offset");
}

#[test]
fn who_waits_for_a_drive_that_hangs_is_told_and_told_once() {
    // For ever, or until the drive comes to itself.
    finds(Planted::WaitForStalled, 1..=200, "no answer");
    finds(Planted::WaitForStalled, 1..=1500, "had stopped writing, and acknowledges");
}

#[test]
fn a_torn_commit_is_found() {
    finds(Planted::TornCommit, 1..=30, "a commit is torn");
}

#[test]
fn a_version_that_a_commit_does_not_check_is_found() {
    finds(Planted::SkipReadCheck, 1..=30, "a cycle");
}

#[test]
fn a_commit_decided_too_early_is_found() {
    finds(Planted::DecideTooEarly, 1..=100, "acknowledged up to LSN");
    // One history in a thousand has nobody answered and a part on the drive: only the part tells.
    finds(Planted::DecideTooEarly, 1_800..=6_000, "another shard has its part");
}

#[test]
fn a_decision_given_up_too_early_is_found() {
    finds(Planted::ForgetDecision, 1..=600, "");
}

#[test]
fn a_copy_behind_the_decision_that_writes_over_it_is_found() {
    finds(Planted::CopyLocked, 1..=700, "recovered: Some(Held");
}

#[test]
fn reads_that_are_not_locked_are_found() {
    finds(Planted::SkipReadLocks, 1..=200, "a cycle");
}

#[test]
fn a_part_that_is_done_again_is_found() {
    finds(Planted::RedoAgain, 1..=100, "an old version was shown");
}

#[test]
fn a_copy_without_its_time_to_live_is_found() {
    finds(Planted::CopyWithoutUntil, 1..=300, "nobody asked for this");
}

#[test]
fn a_start_that_forgets_times_to_live_is_found() {
    finds(Planted::ForgetUntil, 1..=100, "whose time was over");
}

#[test]
fn a_put_that_keeps_the_time_to_live_before_it_is_found() {
    finds(Planted::KeepUntil, 1..=100, "the key is gone, and nobody deleted it");
}

#[test]
fn retention_that_trims_too_much_is_found() {
    finds(Planted::RetireTooMuch, 1..=200, "nobody");
}

#[test]
fn events_that_seem_older_than_they_are_are_found() {
    finds(Planted::MarkTooEarly, 1..=200, "nobody");
}

#[test]
fn retention_that_does_not_wait_for_the_drive_is_found() {
    finds(Planted::RetireUndurable, 1..=400, "their writers were not told");
}

#[test]
fn retention_that_a_start_forgets_is_found() {
    finds(Planted::ForgetRetention, 1..=100, "old bounds were told");
    finds(Planted::ForgetRetention, 1..=400, "may keep");
}

#[test]
fn retention_that_reclaim_forgets_is_found() {
    finds(Planted::DropRetention, 1..=800, "it is kept by");
}

#[test]
fn a_snapshot_that_sees_later_writes_is_found() {
    finds(Planted::SeeLaterWrites, 1..=60, "the snapshot had shown");
    finds(Planted::SeeLaterWrites, 1..=100, "has no place in time");
}

#[test]
fn a_version_that_goes_with_its_segment_is_found() {
    finds(Planted::ForgetKept, 1..=600, "unexpected status Unreadable");
}

#[test]
fn a_snapshot_without_a_barrier_is_found() {
    finds(Planted::SkipBarrier, 1..=600, "has no place in time");
}

#[test]
fn a_page_that_is_coalesced_into_a_sealed_frame_is_found() {
    finds_in_pages(Planted::RewriteSealed, "stands where");
}

#[test]
fn a_page_that_is_coalesced_into_another_record_is_found() {
    finds_in_pages(Planted::RewriteAnother, "");
}

#[test]
fn a_coalesced_page_that_the_flight_recorder_does_not_know_is_found() {
    finds_in_pages(Planted::RewriteUnrecorded, "stands where");
}

#[test]
fn a_coalesced_page_that_is_acknowledged_too_early_is_found() {
    finds_in_pages(Planted::RewriteEarly, "and the drive was not damaged");
}

#[test]
fn a_page_that_a_snapshot_sees_and_is_coalesced_is_found() {
    finds_in_pages(Planted::RewriteSeen, "the snapshot had shown");
}

#[test]
fn a_torn_write_of_several_pages_is_found() {
    finds_in_pages(Planted::TornCommit, "of WritePages");
}

#[test]
fn a_read_of_several_pages_that_mixes_moments_is_found() {
    finds_in_pages(Planted::MixMoments, "a cycle");
}

#[test]
fn events_in_a_segment_that_was_given_up_unread_are_found() {
    finds_in_seasons(Planted::SpendEvents, "");
}

#[test]
fn a_trim_in_a_segment_that_was_given_up_unread_is_found() {
    finds_in_seasons(Planted::SpendTrims, "");
}

#[test]
fn one_seed_is_one_history() {
    for seed in [3, 11, 17] {
        let first = run(seed, &Options::default()).expect("it passes");
        assert_eq!(first, run(seed, &Options::default()).expect("it passes again"));
    }
}
