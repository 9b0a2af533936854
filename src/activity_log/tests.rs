//! Short stories: one fact each.

use super::*;

type Range = (ExtentIndex, ExtentIndex);

fn one(extent: u32) -> Range {
    (ExtentIndex(extent), ExtentIndex(extent))
}

/// Begins, and carries records through until the request runs.
fn run(log: &mut ActivityLog, token: u64, range: Range) {
    let mut admitted = Vec::new();
    if log.begin(token, range.0, range.1) == Begin::Queued {
        log.next_record().expect("a record is due");
        log.record_written(&mut admitted);
        assert_eq!(admitted, [token]);
    }
}

#[test]
fn records_are_those_of_the_format_s_sample() {
    let mut log = ActivityLog::new(67, 0);
    assert_eq!(log.begin(1, ExtentIndex(3), ExtentIndex(3)), Begin::Queued);
    assert_eq!(log.begin(2, ExtentIndex(5), ExtentIndex(5)), Begin::Queued);
    let plan = log.next_record().expect("two wait");
    assert_eq!((plan.number, plan.context_start, plan.slots), (0, 0, 67));
    assert_eq!(plan.updates, [(0, ExtentIndex(3)), (1, ExtentIndex(5))]);
    assert_eq!(plan.context, vec![None; 67], "the content before the updates");
    assert!(log.next_record().is_none(), "one at a time");
    let mut admitted = Vec::new();
    log.record_written(&mut admitted);
    assert_eq!(admitted, [1, 2]);
    assert_eq!(log.begin(3, ExtentIndex(3), ExtentIndex(3)), Begin::Hot);
    assert!(log.next_record().is_none(), "nobody waits");
    run(&mut log, 4, one(7));
    assert_eq!(log.counters(), Counters { records: 2, updates: 3, hits: 1, misses: 3 });
}

#[test]
fn the_least_recently_used_extent_goes() {
    let mut log = ActivityLog::new(67, 0);
    for extent in 0..67 {
        run(&mut log, 0, one(extent));
    }
    for extent in [5, 3, 9] {
        log.complete(ExtentIndex(extent), ExtentIndex(extent));
    }
    run(&mut log, 0, one(5));
    log.complete(ExtentIndex(5), ExtentIndex(5));
    assert_eq!(log.begin(1, ExtentIndex(100), ExtentIndex(100)), Begin::Queued);
    let plan = log.next_record().expect("three slots are idle");
    assert_eq!((plan.evicted, plan.updates), (vec![ExtentIndex(3)], vec![(3, ExtentIndex(100))]));
    assert_eq!(plan.context[3], Some(ExtentIndex(3)));
    assert_eq!(log.begin(2, ExtentIndex(3), ExtentIndex(3)), Begin::Queued, "an extent on its way out is cold");
    log.check();
}

#[test]
fn a_request_does_not_evict_its_own_extents() {
    let mut log = ActivityLog::new(67, 0);
    for extent in 0..67 {
        run(&mut log, 0, one(extent));
        log.complete(ExtentIndex(extent), ExtentIndex(extent));
    }
    run(&mut log, 1, (ExtentIndex(60), ExtentIndex(76)));
    assert_eq!(log.pinned_count(), 17);
    log.check();
}

#[test]
fn hot_requests_pass_a_starving_one_only_so_often() {
    let mut log = ActivityLog::new(67, 0);
    for extent in 0..67 {
        run(&mut log, 0, one(extent));
    }
    assert_eq!(log.begin(1, ExtentIndex(100), ExtentIndex(100)), Begin::Queued);
    assert!(log.next_record().is_none(), "every slot is pinned");
    for _ in 0..BYPASS_MAX {
        assert_eq!(log.begin(2, ExtentIndex(0), ExtentIndex(0)), Begin::Hot);
    }
    assert_eq!(log.begin(3, ExtentIndex(0), ExtentIndex(0)), Begin::Queued);
    log.complete(ExtentIndex(8), ExtentIndex(8));
    log.next_record().expect("a slot is free now");
    let mut admitted = Vec::new();
    log.record_written(&mut admitted);
    assert_eq!(admitted, [1, 3]);
    log.check();
}

#[test]
fn resync_holds_writes_back_and_others_go_on() {
    let mut log = ActivityLog::new(67, 0);
    run(&mut log, 1, one(2));
    assert!(!log.hold(ExtentIndex(0), ExtentIndex(3)), "a write is in flight there");
    assert_eq!(log.begin(2, ExtentIndex(2), ExtentIndex(2)), Begin::Queued, "hot, but held");
    assert!(log.waiters_on(ExtentIndex(0), ExtentIndex(3)));
    assert!(log.next_record().is_none(), "no record helps it");
    run(&mut log, 3, one(9));
    log.complete(ExtentIndex(2), ExtentIndex(2));
    assert!(log.is_held_free(ExtentIndex(0), ExtentIndex(3)));
    let mut admitted = Vec::new();
    log.release(ExtentIndex(0), ExtentIndex(3), &mut admitted);
    assert_eq!(admitted, [2]);
}

#[test]
fn a_failed_record_makes_nothing_hot_and_is_repeated_in_the_same_place() {
    let mut log = ActivityLog::new(67, 7);
    log.begin(1, ExtentIndex(4), ExtentIndex(4));
    let failed = log.next_record().expect("one waits");
    log.record_failed();
    log.check();
    assert_eq!(log.hot_extents().count(), 0);
    let again = log.next_record().expect("it still waits");
    assert_eq!(again, failed);
}

#[test]
fn writes_begun_without_records_are_recorded_when_records_are_on_again() {
    let mut log = ActivityLog::new(67, 0);
    log.begin(1, ExtentIndex(1), ExtentIndex(1));
    log.set_mode(Mode::Disabled);
    let mut admitted = Vec::new();
    log.admit_waiting(&mut admitted);
    assert_eq!(admitted, [1]);
    assert_eq!(log.begin(2, ExtentIndex(40), ExtentIndex(41)), Begin::Hot);
    assert!(!log.hold(ExtentIndex(40), ExtentIndex(43)), "resync sees it all the same");
    log.release(ExtentIndex(40), ExtentIndex(43), &mut admitted);
    assert!(log.next_record().is_none());
    log.check();
    log.set_mode(Mode::Recording);
    assert!(!log.is_complete());
    assert_eq!(log.begin(3, ExtentIndex(40), ExtentIndex(40)), Begin::Queued);
    let plan = log.next_record().expect("the running ones must be named");
    assert_eq!(plan.updates.len(), 3);
    log.record_written(&mut admitted);
    assert_eq!(admitted, [1, 3]);
    assert!(log.is_complete());
    log.check();
}
