//! Tests of `pipeline`.

use super::*;

fn pipeline(expects: impl IntoIterator<Item = Expect>) -> Pipeline {
    let mut pipeline = Pipeline::default();
    expects.into_iter().for_each(|expect| pipeline.push(expect));
    pipeline
}

#[test]
fn an_error_skips_to_the_next_sync() {
    let mut p = pipeline([Expect::Bind(0), Expect::Execute, Expect::Sync, Expect::Query(0)]);
    let (skipped, synced) = p.fail();
    assert_eq!((skipped.len(), synced), (2, true));
    assert!(matches!(p.front(), Some(Expect::Sync)));
    assert_eq!(p.outstanding(), 2);

    let mut p = pipeline([Expect::Bind(0), Expect::Execute]);
    assert!(!p.fail().1);
    assert!(p.is_empty() && p.is_certain());
}

#[test]
fn what_is_done_to_the_unnamed_statement_hangs_behind_a_sync() {
    for expect in [Expect::OwnClose(0), Expect::OwnUnnamed(1), Expect::CloseUnnamed(1)] {
        let mut p = pipeline([expect, Expect::Bind(0)]);
        assert!(!p.unnamed_hangs());
        p.push(Expect::Sync);
        assert!(p.unnamed_hangs());
        p.pop();
        assert!(!p.unnamed_hangs());
    }
}

#[test]
fn an_unnamed_statement_closed_twice_is_closed_although_the_first_is_skipped() {
    let mut p = pipeline([Expect::Execute, Expect::CloseUnnamed(1), Expect::Sync]);
    p.push(Expect::CloseUnnamed(1));
    p.push(Expect::Sync);
    p.fail();
    assert!(p.closes_unnamed() && p.unnamed_hangs());
    for closed in [true, false] {
        assert_eq!(p.closes_unnamed(), closed);
        (0..2).for_each(|_| drop(p.pop()));
    }
}

#[test]
fn copy_in_ignores_early_syncs() {
    let mut p = pipeline([Expect::Execute, Expect::Sync]);
    assert!(!p.copy_in());
    assert_eq!(p.queue.len(), 1);

    let mut p = pipeline([Expect::Execute, Expect::Sync, Expect::CopyEnd(1), Expect::Sync]);
    assert!(p.copy_in());
    assert!(matches!(p.queue.make_contiguous(), [Expect::Execute, Expect::Sync]));

    // Two in one Query, whose ends are there already; a third end is of none.
    let mut p = pipeline([Expect::Query(0)]);
    (0..3).for_each(|_| p.push_copy_end());
    p.push(Expect::Sync);
    assert!(p.copy_in() && p.copy_in());
    assert!(matches!(p.queue.make_contiguous(), [Expect::Query(0), Expect::CopyEnd(1), Expect::Sync]));
    drop(p.pop());
    assert!(matches!(p.queue.make_contiguous(), [Expect::Sync]));
}
