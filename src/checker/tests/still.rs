//! What shows only while connections stay as they are: lost hints, and what is stored of receipts;
//! and what belongs to one life of a process.

#![cfg(test)]

use super::super::gate::{Gates, Measures};
use super::super::history::*;
use super::super::report::{Invariant::*, Verdict};
use super::story::{DM, Story};

const SECOND: u64 = 1_000_000_000;

/// `m1` stands at 1, and `b2` alone was not handed it.
fn unhanded() -> Story {
    let mut story = Story::of_two();
    story.send("a1", "m1").acked("m1", 1).all_get(&["a2", "b1"], 1).delivered("a1", 1, "b");
    story
}

/// `b2` connects anew, and finds it in the store.
fn comes_back(story: &mut Story) -> &mut Story {
    story.close("b2").begin("b2'").welcome("b2'").got_offline("b2'", DM, 1).caughtup("b2'");
    story.ack("b2'", DM, 1)
}

#[test]
fn i1_a_connected_device_was_not_handed_a_message_that_it_found_later() {
    let mut story = unhanded();
    comes_back(story.still(45)).read();
    assert_eq!(story.broken(), [I1]);
    let counts = story.report().counts;
    assert_eq!((counts.unhanded, counts.lost, counts.stayed), (1, 0, 4));
    assert!(story.report().violations[0].statement.contains("not handed on"));
    // Without that part of the run nobody can tell.
    let mut story = unhanded();
    comes_back(story.phase(Phase::Drain)).read();
    assert_eq!((story.broken(), story.report().counts.stayed), (vec![], 0));
    // What was not acked, and was seen, is owed too.
    let mut story = Story::of_two();
    story.send("a1", "m1").stands("m1", 1).all_get(&["a2", "b1"], 1);
    comes_back(story.still(45)).read();
    assert_eq!(story.broken(), [I6]);
}

#[test]
fn whoever_came_late_or_was_told_late_is_owed_nothing_yet() {
    // It came by itself.
    let mut story = unhanded();
    story.t += 35 * SECOND;
    story.got("b2", DM, 1).still(45).read();
    assert_eq!((story.broken(), story.report().counts.stayed), (vec![], 4));
    // It had connected anew on its own.
    let mut story = unhanded();
    comes_back(&mut story).still(45).read();
    assert_eq!((story.broken(), story.report().counts.stayed), (vec![], 4));
    // It was away, and comes back after all was still.
    let mut story = unhanded();
    story.close("b2").still(45).begin("b2'").welcome("b2'").got_offline("b2'", DM, 1);
    story.caughtup("b2'").read();
    assert_eq!((story.broken(), story.report().counts.stayed), (vec![], 3));
    // It was sent too late for that.
    let mut story = unhanded();
    comes_back(story.still(30)).read();
    assert_eq!((story.broken(), story.report().counts.stayed), (vec![], 0));
    // A fault was over too late for that.
    let mut story = unhanded();
    story.t += 20 * SECOND;
    comes_back(story.fault(None, None).still(30)).read();
    assert_eq!((story.broken(), story.report().counts.stayed), (vec![], 0));
    // It is its own; it was told as missed.
    let mut story = unhanded();
    let (connection, conversation) = ("b2".into(), DM.into());
    story.push(What::Missed { connection, conversation, from: 1, to: 1 });
    story.send("b2", "m2").acked("m2", 2).all_get(&["a1", "a2", "b1"], 2).delivered("b2", 2, "a");
    story.still(45).read();
    assert_eq!(story.broken(), []);
}

#[test]
fn i1_who_is_in_a_room_is_handed_what_is_said_there() {
    let mut story = Story::of_a_room();
    story.send_in("a1", "room:r", "m1").acked("m1", 4).got("b1", "room:r", 4);
    story.still(45).close("c1").begin("c1'").welcome("c1'").got_offline("c1'", "room:r", 4);
    assert_eq!(story.caughtup("c1'").phase(Phase::Read).store().broken(), [I1]);
    // Who has left is not.
    let mut story = Story::of_a_room();
    story.member("c", false).stands_change("room:r", 4, "left", "a", "c");
    for who in ["a1", "b1", "c1"] {
        story.got(who, "room:r", 4);
    }
    story.send_in("a1", "room:r", "m1").acked("m1", 5).got("b1", "room:r", 5);
    assert_eq!(story.still(45).phase(Phase::Read).store().broken(), []);
}

/// `m1` stands at 1, everybody has it, and the live `delivered` has come.
fn told() -> Story {
    let mut story = Story::of_two();
    story.send("a1", "m1").acked("m1", 1).all_get(&["a2", "b1", "b2"], 1).delivered("a1", 1, "b");
    story
}

/// A history shows `m1` with this status.
fn shows(story: &mut Story, status: Status) -> &mut Story {
    let listed = Listed { status: Some(status), ..story.logs[DM][&1].clone() };
    story.walk("a", DM, vec![listed])
}

#[test]
fn i10_a_status_was_told_and_is_not_stored() {
    for phase in [Phase::Quiet, Phase::Faults, Phase::Drain] {
        let mut story = told();
        story.phase(phase);
        story.t += 33 * SECOND;
        assert_eq!(shows(&mut story, Status::Sent).read_all().broken(), [I10], "{phase:?}");
        assert_eq!(story.report().counts.stored_statuses, 1);
    }
    let mut story = told();
    let (connection, conversation) = ("b1".into(), DM.into());
    story.push(What::Seen { connection, conversation, seq: 1 });
    story.t += 33 * SECOND;
    assert_eq!(shows(&mut story, Status::Delivered).read_all().broken(), [I10]);
}

#[test]
fn what_is_stored_may_trail_for_a_while_and_by_a_fault_or_a_death() {
    let mut story = told();
    story.t += 33 * SECOND;
    shows(&mut story, Status::Delivered).read_all();
    assert_eq!((story.broken(), story.report().counts.stored_statuses), (vec![], 1));
    let mut story = told();
    story.t += 31 * SECOND;
    assert_eq!(shows(&mut story, Status::Sent).read_all().broken(), []);
    // The store was away in that time.
    let mut story = told();
    story.t += 20 * SECOND;
    story.fault(None, None).t += 20 * SECOND;
    assert_eq!(shows(&mut story, Status::Sent).read_all().broken(), []);
    // Their servers may have died with the receipts: then it is offered again.
    let mut story = told();
    story.close("b1").close("b2").t += 40 * SECOND;
    assert_eq!(shows(&mut story, Status::Sent).read_all().broken(), []);
    // One's own need no receipt, and give none.
    let mut story = told();
    story.send("b1", "m2").acked("m2", 2).all_get(&["a1", "a2", "b2"], 2);
    story.t += 33 * SECOND;
    let mut listed = story.whole(DM);
    listed.iter_mut().for_each(|entry| entry.status = Some(Status::Delivered));
    assert_eq!(story.walk("b", DM, listed).read_all().broken(), []);
}

#[test]
fn i16_is_judged_within_one_life_of_a_process() {
    let needs = |story: &mut Story, times, files, pid| {
        for _ in 0..times {
            let process = "ws1".into();
            story.push(What::Resources { process, resident: 100 << 20, files, pid: Some(pid) });
        }
    };
    // The second life needs more than the first, and no more in its end than in its beginning.
    let mut story = told();
    story.phase(Phase::Quiet);
    needs(&mut story, 3, 50, 1);
    story.phase(Phase::Faults);
    needs(&mut story, 12, 80, 2);
    story.phase(Phase::Healed);
    needs(&mut story, 5, 81, 2);
    assert_eq!(story.read_all().broken(), []);
    // The second life leaks, and ends where the first had been.
    let mut story = told();
    story.phase(Phase::Quiet);
    needs(&mut story, 3, 50, 1);
    story.phase(Phase::Faults);
    needs(&mut story, 12, 20, 2);
    story.phase(Phase::Healed);
    needs(&mut story, 5, 50, 2);
    assert_eq!(story.read_all().broken(), [I16]);
    // One that has just begun has no beginning to be compared with.
    let mut story = told();
    story.phase(Phase::Quiet);
    needs(&mut story, 3, 50, 1);
    story.phase(Phase::Healed);
    needs(&mut story, 5, 90, 2);
    assert_eq!(story.read_all().broken(), []);
}

#[test]
fn every_history_is_read_and_every_conversation_both_ways() {
    let verdict = |wanted: Measures, walks: &[(&str, Direction)]| {
        let mut story = told();
        story.end();
        for (user, direction) in walks {
            story.walk_with(user, DM, Outcome::Done, story.whole(DM), *direction);
        }
        let gates = Gates { wanted, ..Gates::none() };
        super::super::files::judge(&story.store().events, gates).verdict
    };
    let histories = || Measures { histories_share: 1.0, ..Measures::default() };
    let both_ways = || Measures { both_ways_share: 1.0, ..Measures::default() };
    let (forward, backward) = (Direction::Forward, Direction::Backward);
    let walks = [("a", forward), ("a", backward), ("b", forward)];
    assert_eq!(verdict(histories(), &walks), Verdict::Pass);
    assert_eq!(verdict(both_ways(), &walks), Verdict::Pass);
    assert_eq!(verdict(histories(), &walks[..2]), Verdict::Unknown, "b has read nothing");
    let one_way = [("a", forward), ("b", backward)];
    assert_eq!(verdict(histories(), &one_way), Verdict::Pass);
    assert_eq!(verdict(both_ways(), &one_way), Verdict::Unknown, "nobody read both ways");
}
