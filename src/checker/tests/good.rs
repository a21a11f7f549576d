//! Good histories of many shapes.

#![cfg(test)]

use super::super::history::*;
use super::super::report::Verdict;
use super::story::{DM, Story};

#[track_caller]
fn passes(story: &Story) {
    assert_eq!(story.broken(), []);
    assert_eq!(story.report().verdict, Verdict::Pass);
}

#[test]
fn a_talk() {
    let mut story = Story::of_two();
    story.send("a1", "m1").acked("m1", 1).all_get(&["a2", "b1", "b2"], 1).delivered("a1", 1, "b");
    story.send("b1", "m2").acked("m2", 2).all_get(&["a1", "a2", "b2"], 2).delivered("b1", 2, "a");
    // The status passes b's own message, which needs no receipt.
    story.delivered("a1", 2, "b");
    story.read_all();
    passes(&story);
    let counts = story.report().counts;
    assert_eq!((counts.acked, counts.lost, counts.received, counts.drained), (2, 0, 6, 4));
}

#[test]
fn an_open_send_that_happened_and_one_that_did_not() {
    let mut story = Story::of_two();
    story.send("a1", "m1").send("a1", "gone").close("a1");
    story.stands("m1", 1).all_get(&["a2", "b1", "b2"], 1);
    story.connect("a1'").send("b1", "m2").acked("m2", 2).all_get(&["a1'", "a2", "b2"], 2);
    story.read_all();
    passes(&story);
    let counts = story.report().counts;
    assert_eq!((counts.unanswered, counts.open_happened), (2, 1));
}

#[test]
fn a_send_repeated_on_another_server() {
    let mut story = Story::of_two();
    story.send("a1", "m1").answer("m1", Outcome::Open, None).close("a1");
    story.stands("m1", 1).all_get(&["b1", "a2"], 1).got("b2", DM, 1);
    story.begin("a1'").welcome("a1'").got_offline("a1'", DM, 1).caughtup("a1'");
    story.send("a1'", "m1").acked("m1", 1).ack("b2", DM, 1);
    story.read_all();
    passes(&story);
    assert_eq!(story.report().counts.open, 1);
}

#[test]
fn a_crash_and_what_is_offered_again() {
    let mut story = Story::of_two();
    story.send("a1", "m1").acked("m1", 1).all_get(&["a2", "b2"], 1).got("b1", DM, 1);
    story.push(What::Forget { user: "b".into(), device: "1".into() });
    story.send("a1", "m2").acked("m2", 2).all_get(&["a2", "b2"], 2);
    story.begin("b1'").welcome("b1'").got_offline("b1'", DM, 1).got_offline("b1'", DM, 2);
    story.caughtup("b1'").ack("b1'", DM, 2);
    // Once more, to a client that has it.
    story.close("b1'").begin("b1''").welcome("b1''").got_offline("b1''", DM, 2).caughtup("b1''");
    story.read_all();
    passes(&story);
    let counts = story.report().counts;
    assert_eq!((counts.raw_duplicates, counts.redeliveries, counts.offline_drains), (1, 2, 2));
}

#[test]
fn a_new_device_starts_at_what_the_person_has_received() {
    let mut story = Story::of_two();
    story.send("a1", "m1").acked("m1", 1).all_get(&["a2", "b1", "b2"], 1);
    story.send("b1", "m2").acked("m2", 2).all_get(&["a1", "a2", "b2"], 2);
    story.connect("b3").send("a1", "m3").acked("m3", 3).all_get(&["a2", "b1", "b2", "b3"], 3);
    story.read_all();
    passes(&story);
    // It may get more: what the store knew of the receipts may trail.
    let mut story = Story::of_two();
    story.send("a1", "m1").acked("m1", 1).all_get(&["a2", "b1", "b2"], 1);
    story.begin("b3").welcome("b3").got_offline("b3", DM, 1).caughtup("b3");
    story.read_all();
    passes(&story);
}

#[test]
fn what_was_missed_is_paged_for() {
    let mut story = Story::of_two();
    story.close("b1");
    for (seq, reference) in (1..).zip(["m1", "m2", "m3"]) {
        story.send("a1", reference).acked(reference, seq).all_get(&["a2", "b2"], seq);
    }
    let (connection, conversation) = ("b1'".into(), DM.into());
    story.begin("b1'").welcome("b1'");
    story.push(What::Missed { connection, conversation, from: 1, to: 2 });
    story.got_offline("b1'", DM, 3).caughtup("b1'").ack("b1'", DM, 3);
    // Another tab asks for everything.
    story.begin("b1t").welcome("b1t");
    for seq in 1..=3 {
        story.got_offline("b1t", DM, seq);
    }
    story.caughtup("b1t").read_all();
    passes(&story);
}

#[test]
fn people_join_and_leave_a_room() {
    let mut story = Story::of_a_room();
    story.send_in("a1", "room:r", "m1").acked("m1", 4);
    story.got("b1", "room:r", 4).got("c1", "room:r", 4);
    story.member("c", false).stands_change("room:r", 5, "left", "a", "c");
    for who in ["a1", "b1", "c1"] {
        story.got(who, "room:r", 5);
    }
    story.send_in("b1", "room:r", "m2").acked("m2", 6).got("a1", "room:r", 6);
    story.member("c", true).stands_change("room:r", 7, "joined", "a", "c");
    for who in ["a1", "b1", "c1"] {
        story.got(who, "room:r", 7);
    }
    story.send_in("c1", "room:r", "m3").acked("m3", 8);
    story.got("a1", "room:r", 8).got("b1", "room:r", 8).end();
    story.shows("a", "room:r", &[1, 2, 3, 4, 5, 6, 7, 8]);
    story.shows("b", "room:r", &[2, 3, 4, 5, 6, 7, 8]);
    story.shows("c", "room:r", &[3, 4, 5, 7, 8]);
    story.walk_with("x", "room:r", Outcome::Refused, vec![], Direction::Forward);
    story.store();
    passes(&story);
    assert_eq!(story.report().counts.membership_changes, 2);
}

#[test]
fn own_sends_on_the_way() {
    // A send whose `sent` was lost comes as a text, after what was sent later had been acked.
    let mut story = Story::of_two();
    story.send("a1", "m1").stands("m1", 1).all_get(&["a2", "b1", "b2"], 1);
    story.send("b1", "m2").acked("m2", 2).all_get(&["a2", "b2"], 2).got("a1", DM, 2).close("a1");
    story.begin("a1'").welcome("a1'").got_offline("a1'", DM, 1).got_offline("a1'", DM, 2);
    story.caughtup("a1'");
    // `sent` may run ahead of texts that are read first.
    story.send("b1", "m3").send("a1'", "m4").acked("m3", 3).acked("m4", 4).got("a1'", DM, 3);
    story.all_get(&["a2", "b2"], 3).all_get(&["a2", "b1", "b2"], 4);
    // One of the API comes to all devices.
    story.send("api", "m5").acked("m5", 5).all_get(&["a1'", "a2", "b1", "b2"], 5);
    story.read_all();
    passes(&story);
}

#[test]
fn histories_while_people_write() {
    let mut story = Story::of_two();
    story.walk("a", DM, vec![]);
    story.send("a1", "m1").acked("m1", 1).all_get(&["a2", "b1", "b2"], 1).delivered("a1", 1, "b");
    story.send("a1", "m2");
    let mut listed = story.stands("m2", 2).whole(DM);
    listed[0].status = Some(Status::Delivered);
    listed[1].status = Some(Status::Sent);
    story.walk("b", DM, listed.clone());
    story.acked("m2", 2).all_get(&["a2", "b1", "b2"], 2);
    listed[1].status = Some(Status::Delivered);
    story.walk("a", DM, listed);
    story.walk_with("b", DM, Outcome::Open, vec![], Direction::Backward);
    story.read_all();
    passes(&story);
}

#[test]
fn a_device_that_never_came_back_is_not_judged() {
    let mut story = Story::of_two();
    story.close("b2");
    story.send("a1", "m1").acked("m1", 1).all_get(&["a2", "b1"], 1).read_all();
    passes(&story);
    assert_eq!((story.report().counts.devices, story.report().counts.drained), (4, 3));
}

#[test]
fn a_run_that_broke_off_is_not_judged_by_what_is_missing() {
    let mut story = Story::of_two();
    story.phase(Phase::Faults).send("a1", "m1").acked("m1", 1).all_get(&["a2", "b1"], 1);
    passes(&story);
    assert_eq!(story.phase(Phase::Drain).broken(), []);
    assert_eq!(story.report().counts.drained, 3);
}
