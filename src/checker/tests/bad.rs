//! For each invariant bad histories that break it, and nothing else.

#![cfg(test)]

use super::super::history::*;
use super::super::report::{Invariant, Invariant::*};
use super::story::{DM, Story};

#[track_caller]
fn breaks(story: &Story, invariant: Invariant) {
    assert_eq!(story.broken(), [invariant]);
}

/// `m1` stands at 1, and everybody has it.
fn begun() -> Story {
    let mut story = Story::of_two();
    story.send("a1", "m1").acked("m1", 1).all_get(&["a2", "b1", "b2"], 1).delivered("a1", 1, "b");
    story
}

#[test]
fn i1_a_device_lacks_an_acked_message() {
    for (lost, (prefix, middle, postfix)) in [(1, (1, 0, 0)), (2, (0, 1, 0)), (3, (0, 0, 1))] {
        let mut story = Story::of_two();
        for (seq, reference) in (1..).zip(["m1", "m2", "m3"]) {
            story.send("a1", reference).acked(reference, seq).all_get(&["a2", "b1"], seq);
            if seq != lost {
                story.got("b2", DM, seq);
            }
        }
        breaks(story.read_all(), I1);
        let counts = story.report().counts;
        let classes = (counts.lost_prefix, counts.lost_middle, counts.lost_postfix);
        assert_eq!((counts.lost, classes), (1, (prefix, middle, postfix)));
    }
}

#[test]
fn i1_the_store_lacks_an_acked_message() {
    let mut story = begun();
    story.send("a1", "m2").acked("m2", 2).all_get(&["a2", "b1", "b2"], 2);
    story.logs.get_mut(DM).unwrap().remove(&2);
    breaks(story.read_all(), I1);
    // Another stands in its place.
    let mut story = begun();
    story.send("a1", "m2").acked("m2", 2).all_get(&["a2", "b1", "b2"], 2);
    story.send("a1", "m3").stands("m3", 2).end().store();
    breaks(&story, I1);
    assert_eq!(story.report().counts.lost, 1);
    // Without the store's own content, what all histories lack is lost.
    let mut story = begun();
    story.send("a1", "m2").acked("m2", 2).all_get(&["a2", "b1", "b2"], 2).end();
    story.shows("a", DM, &[1]).shows("b", DM, &[1]);
    breaks(&story, I1);
}

#[test]
fn i2_nobody_sent_it() {
    let mut story = begun();
    let stray = Listed { body: "who?".into(), seq: 9, ..story.logs[DM][&1].clone() };
    story.got_listed("b1", DM, stray, false);
    breaks(story.read_all(), I2);
    // It came before it was sent.
    let mut story = begun();
    story.send("a1", "m2").acked("m2", 2);
    let sending = story.events.len() - 2;
    story.all_get(&["a2", "b1", "b2"], 2).read_all();
    let received = (sending..).find(|at| matches!(story.events[*at].what, What::Received { .. }));
    story.events[received.unwrap()].t = story.events[sending].t - 1;
    assert!(story.broken().contains(&I2));
}

#[test]
fn i2_somebody_else_sent_it() {
    let mut story = begun();
    story.send("a1", "m2").acked("m2", 2).all_get(&["a2", "b1"], 2);
    let spoofed = Listed { from: "b".into(), ..story.logs[DM][&2].clone() };
    story.got_listed("b2", DM, spoofed, false).got("b2", DM, 2);
    breaks(story.read_all(), I2);
}

#[test]
fn i2_it_was_refused() {
    let mut story = begun();
    story.send("a1", "m2").answer("m2", Outcome::Refused, None).stands("m2", 2);
    breaks(story.all_get(&["a2", "b1", "b2"], 2).read_all(), I2);
}

#[test]
fn i2_nobody_asked_for_the_change() {
    let mut story = Story::of_a_room();
    story.stands_change("room:r", 4, "left", "a", "b").got("a1", "room:r", 4);
    breaks(&story, I2);
}

#[test]
fn i3_a_seq_shows_something_else_the_second_time() {
    let mut story = begun();
    story.send("a1", "m2").acked("m2", 2).all_get(&["a2", "b1", "b2"], 2).got_at("b1", "m2", 1);
    breaks(story.read_all(), I3);
    assert_eq!(story.report().counts.shown_twice, 1);
}

#[test]
fn i3_and_i9_a_message_stored_twice_is_shown_twice() {
    let mut story = begun();
    story.stands("m1", 2).all_get(&["a1", "a2", "b1", "b2"], 2);
    assert_eq!(story.read_all().broken(), [I3, I9]);
}

#[test]
fn i4_two_devices_see_different_things() {
    let mut story = Story::of_two();
    story.send("a1", "m1").send("a2", "lost").acked("m1", 1).all_get(&["a2", "b1"], 1);
    breaks(story.got_at("b2", "lost", 1).read_all(), I4);
}

#[test]
fn i4_a_history_shows_something_else() {
    let mut story = begun();
    story.send("a1", "lost").end();
    let lost = format!("<{DM}>lost");
    let other = Listed { body: lost, ..story.logs[DM][&1].clone() };
    story.walk("b", DM, vec![other]).store();
    breaks(&story, I4);
}

#[test]
fn i5_a_device_sees_seqs_fall() {
    let mut story = begun();
    story.send("a1", "m2").acked("m2", 2).send("a1", "m3").acked("m3", 3);
    story.all_get(&["a2", "b2"], 2).all_get(&["a2", "b2"], 3);
    story.got("b1", DM, 3).got("b1", DM, 2);
    breaks(story.read_all(), I5);
    assert_eq!(story.report().counts.reordered, 1);
}

#[test]
fn i6_a_device_lacks_what_was_not_acked() {
    let mut story = begun();
    story.send("a1", "open").stands("open", 2).all_get(&["a2", "b1"], 2);
    story.send("b1", "m3").acked("m3", 3).all_get(&["a1", "a2", "b2"], 3);
    breaks(story.read_all(), I6);
}

#[test]
fn i7_a_connection_is_overtaken_by_itself() {
    let mut story = Story::of_two();
    story.send("a1", "m1").send("a1", "m2").acked("m1", 2).acked("m2", 1);
    story.all_get(&["a2", "b1", "b2"], 1).all_get(&["a2", "b1", "b2"], 2);
    breaks(story.read_all(), I7);
}

#[test]
fn i8_a_send_stands_before_what_was_seen() {
    let mut story = Story::of_two();
    story.send("a1", "m1").acked("m1", 2).send("b1", "m2").acked("m2", 1);
    story.all_get(&["a1", "a2", "b2"], 1).all_get(&["a2", "b1", "b2"], 2);
    breaks(story.read_all(), I8);
}

#[test]
fn i9_a_ref_has_two_seqs() {
    let mut story = begun();
    story.send("a1", "m1").answer("m1", Outcome::Done, Some(5));
    breaks(story.read_all(), I9);
}

#[test]
fn i9_a_repeated_send_conflicts_with_itself() {
    let mut story = begun();
    story.send("a1", "m1").push(What::Sent {
        connection: "a1".into(),
        user: "a".into(),
        conversation: DM.into(),
        reference: "m1".into(),
        outcome: Outcome::Refused,
        seq: None,
        code: Some("ref_conflict".into()),
    });
    breaks(story.read_all(), I9);
}

#[test]
fn i10_delivered_comes_before_any_receipt() {
    let mut story = Story::of_two();
    story.send("a1", "m1").acked("m1", 1).got("b1", DM, 1).delivered("a1", 1, "b");
    story.ack("b1", DM, 1).got("b2", DM, 1).got("a2", DM, 1);
    breaks(story.read_all(), I10);
}

#[test]
fn i10_read_comes_before_it_was_seen() {
    let mut story = begun();
    let (connection, conversation) = ("a1".into(), DM.into());
    let status = Status::Read;
    story.push(What::Status { connection, conversation, seq: 1, user: "b".into(), status });
    breaks(story.read_all(), I10);
}

#[test]
fn i10_a_status_goes_back() {
    let mut story = begun();
    for status in [Status::Delivered, Status::Sent] {
        let listed = Listed { status: Some(status), ..story.logs[DM][&1].clone() };
        story.walk("a", DM, vec![listed]);
    }
    breaks(story.read_all(), I10);
}

#[test]
fn i10_no_delivered_ever_comes() {
    let mut story = Story::of_two();
    story.send("a1", "m1").acked("m1", 1).all_get(&["a2", "b1", "b2"], 1).end();
    let listed =
        |story: &Story| vec![Listed { status: Some(Status::Sent), ..story.logs[DM][&1].clone() }];
    story.walk("a", DM, listed(&story));
    assert_eq!(story.broken(), [], "so early it may be under way");
    story.t += 60_000_000_000;
    story.walk("a", DM, listed(&story)).store();
    breaks(&story, I10);
    assert_eq!(story.report().counts.missing_statuses, 1);
}

#[test]
fn i11_a_history_has_a_hole() {
    let mut story = begun();
    for (seq, reference) in (2..).zip(["m2", "m3"]) {
        story.send("a1", reference).acked(reference, seq).all_get(&["a2", "b1", "b2"], seq);
    }
    story.end().shows("a", DM, &[1, 2, 3]).shows("b", DM, &[1, 3]).store();
    breaks(&story, I11);
}

#[test]
fn i11_a_history_ends_early() {
    let mut story = begun();
    story.send("a1", "m2").acked("m2", 2).all_get(&["a2", "b1", "b2"], 2);
    story.end().shows("a", DM, &[1, 2]).shows("b", DM, &[1]).store();
    breaks(&story, I11);
}

#[test]
fn i11_a_history_is_not_in_order() {
    let mut story = begun();
    story.send("a1", "m2").acked("m2", 2).all_get(&["a2", "b1", "b2"], 2);
    story.end().shows("b", DM, &[2, 1]).store();
    breaks(&story, I11);
}

/// Who has seen nothing of a time in the room yet may be shown nothing of it, or all.
#[test]
fn i11_a_history_begins_behind_the_own_joining() {
    let shown = |seqs: &[u64]| {
        let mut story = left();
        story.close("c1").member("c", true).stands_change("room:r", 6, "joined", "a", "c");
        story.got("a1", "room:r", 6).got("b1", "room:r", 6);
        story.send_in("a1", "room:r", "m2").acked("m2", 7).got("b1", "room:r", 7);
        story.shows("c", "room:r", seqs);
        story.begin("c1'").welcome("c1'").got_offline("c1'", "room:r", 6);
        story.got_offline("c1'", "room:r", 7).caughtup("c1'").ack("c1'", "room:r", 7).end();
        story.shows("a", "room:r", &[1, 2, 3, 4, 5, 6, 7]);
        story.shows("b", "room:r", &[2, 3, 4, 5, 6, 7]);
        story.shows("c", "room:r", &[3, 4, 6, 7]).store();
        story
    };
    assert_eq!(shown(&[3, 4]).broken(), []);
    assert_eq!(shown(&[3, 4, 6, 7]).broken(), []);
    breaks(&shown(&[3, 4, 7]), I11);
}

#[test]
fn i11_the_store_has_a_hole() {
    let mut story = begun();
    story.send("a1", "m2").acked("m2", 3).all_get(&["a2", "b1", "b2"], 3);
    breaks(story.read_all(), I11);
}

#[test]
fn i12_a_history_lacks_what_was_seen_before() {
    let mut story = begun();
    story.phase(Phase::Faults).walk("b", DM, vec![]);
    breaks(story.read_all(), I12);
}

#[test]
fn i12_a_history_is_refused_to_a_participant() {
    let mut story = begun();
    story.phase(Phase::Faults);
    story.walk_with("b", DM, Outcome::Refused, vec![], Direction::Forward);
    breaks(story.read_all(), I12);
}

/// `c` has left the room at 4, and `m1` stands at 5.
fn left() -> Story {
    let mut story = Story::of_a_room();
    story.member("c", false).stands_change("room:r", 4, "left", "a", "c");
    for who in ["a1", "b1", "c1"] {
        story.got(who, "room:r", 4);
    }
    story.send_in("a1", "room:r", "m1").acked("m1", 5).got("b1", "room:r", 5);
    story
}

#[test]
fn i13_who_has_left_sees_what_comes_later() {
    let mut story = left();
    breaks(story.got("c1", "room:r", 5).end().store(), I13);
    let mut story = left();
    story.end().shows("c", "room:r", &[3, 4, 5]).store();
    breaks(&story, I13);
}

#[test]
fn i13_who_has_left_may_still_write() {
    let mut story = left();
    story.send_in("c1", "room:r", "m2").acked("m2", 6);
    breaks(story.got("a1", "room:r", 6).got("b1", "room:r", 6).end().store(), I13);
}

#[test]
fn i13_a_stranger_sees() {
    let mut story = begun();
    story.connect("c1").got("c1", DM, 1);
    breaks(story.read_all(), I13);
    let mut story = begun();
    breaks(story.walk("c", DM, story.whole(DM)).read_all(), I13);
    let mut story = begun();
    breaks(story.connect("c1").delivered("c1", 1, "b").read_all(), I13);
    // A text of another conversation, in one of the reader's own.
    let mut story = begun();
    story.conversation("dm:b:c", &["b", "c"]).connect("c1");
    let leaked = Listed { seq: 1, ..story.logs[DM][&1].clone() };
    breaks(story.got_listed("c1", "dm:b:c", leaked, false).read_all(), I13);
}

#[test]
fn i13_a_log_holds_content() {
    let mut story = begun();
    let line = format!("sent <{DM}>m1");
    breaks(story.push(What::Leaked { process: "ws1".into(), line }).read_all(), I13);
}

#[test]
fn i14_caughtup_without_what_waited() {
    let mut story = begun();
    story.close("b2").send("a1", "m2").acked("m2", 2).all_get(&["a2", "b1"], 2);
    story.connect("b2'").got("b2'", DM, 2);
    breaks(story.read_all(), I14);
    let mut story = Story::of_a_room();
    story.close("b1").send_in("a1", "room:r", "m1").acked("m1", 4).got("c1", "room:r", 4);
    story.connect("b1'").got("b1'", "room:r", 4);
    breaks(story.end().store(), I14);
}

#[test]
fn i15_after_the_faults() {
    let pair = |user: &str| (user.to_owned(), "ws1".to_owned());
    let mut story = begun();
    story.phase(Phase::Healed);
    story.push(What::Map { claimed: vec![pair("a"), pair("b")], open: vec![pair("a")] });
    breaks(story.read_all(), I15);
    let mut story = begun();
    breaks(story.fault(Some(31_000), None).read_all(), I15);
    let mut story = begun();
    breaks(story.fault(None, Some(30_000)).read_all(), I15);
    assert_eq!(story.report().counts.recovery["kill"].never, 1);
    // A device that tries in vain.
    let mut story = begun();
    story.close("b2").phase(Phase::Healed);
    story.t += 31_000_000_000;
    for try_ in ["b2'", "b2''", "b2'''", "b2''''"] {
        story.begin(try_).close(try_);
        story.t += 11_000_000_000;
    }
    breaks(story.read_all(), I15);
    // One that was away, for its own reasons.
    let mut story = begun();
    story.close("b2").phase(Phase::Healed);
    story.t += 31_000_000_000;
    story.begin("b2'").close("b2'");
    story.t += 40_000_000_000;
    assert_eq!(story.connect("b2''").read_all().broken(), []);
}

#[test]
fn i15_slower_than_before() {
    let mut story = Story::of_two();
    story.phase(Phase::Quiet).send("a1", "m1").acked("m1", 1).all_get(&["a2", "b1", "b2"], 1);
    story.delivered("a1", 1, "b").phase(Phase::Healed);
    story.t += 31_000_000_000;
    story.send("a1", "m2").acked("m2", 2).got("a2", DM, 2).got("b1", DM, 2);
    story.t += 1_000_000_000;
    story.got("b2", DM, 2);
    breaks(story.read_all(), I15);
}

#[test]
fn i16_something_broke_or_grew() {
    let mut story = begun();
    story.push(What::Broken { process: "ws1".into(), detail: "panicked at …".into() });
    breaks(story.read_all(), I16);
    let mut story = begun();
    let needs =
        |resident, files| What::Resources { process: "ws1".into(), resident, files, pid: None };
    story.phase(Phase::Quiet).push(needs(100 << 20, 50));
    story.phase(Phase::Healed).push(needs(100 << 20, 80));
    breaks(story.read_all(), I16);
}
