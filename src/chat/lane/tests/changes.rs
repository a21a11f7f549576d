//! Joining and leaving: row, then entry, then member item, then the answer.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::faulty::{Fault, What};
use super::rooms::{found, room};
use super::world::{Say, World, user};
use crate::protocol::{DeviceId, Entry, Kind, Seq};
use crate::store::{Record, RecordPart, Store};

const SECOND: Duration = Duration::from_secs(1);

async fn world() -> World {
    let world = World::new();
    found(&world).await;
    world.seq(Say::change(Kind::Joined, "owner")).await;
    world.trace();
    world
}

/// Members by their items: who is there, who is not, and as of which entry.
async fn members(world: &World) -> Vec<(String, bool, Seq)> {
    let records = world.calm.records(RecordPart::Roster(room())).await.unwrap();
    let member = |record| match record {
        Record::Member(_, member) => {
            Some((member.user.to_string(), member.present(), member.as_of))
        }
        _ => None,
    };
    records.into_iter().filter_map(member).collect()
}

#[tokio::test(start_paused = true)]
async fn a_change_goes_row_entry_item_answer() {
    let world = world().await;
    assert_eq!(world.seq(Say::change(Kind::Joined, "a")).await, 2);
    let expected = ["raise a 2", "put 2", "member a as of 2", "stored", "handed 2"];
    assert_eq!(world.trace(), expected);
    assert_eq!(world.seq(Say::change(Kind::Left, "a")).await, 3);
    let expected = ["raise a 3", "put 3", "member a as of 3", "stored", "handed 3"];
    assert_eq!(world.trace(), expected);
    assert_eq!(members(&world).await, [("a".into(), false, 3), ("owner".into(), true, 1)]);
}

#[tokio::test(start_paused = true)]
async fn an_item_is_written_before_anything_follows() {
    let world = world().await;
    world.store.plan(What::Write, [Fault::Fail, Fault::Lose, Fault::Mute]);
    let answers = world.submit_all([Say::change(Kind::Joined, "a"), Say::room("a", "Hi")]);
    for (seq, answer) in (2..).zip(answers) {
        assert_eq!(answer.await.unwrap().unwrap().seq, seq);
    }
    let expected = [
        "raise a 2",
        "put 2",
        "member a as of 2",
        "member a as of 2",
        "member a as of 2",
        "member a as of 2",
        "stored",
        "handed 2",
        "put 3",
        "stored",
        "handed 3",
    ];
    assert_eq!(world.trace(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_owes_an_item_is_blocked_until_it_is_written() {
    let world = world().await;
    world.store.always(What::Write, Fault::Fail);
    assert_eq!(world.code(Say::change(Kind::Joined, "a")).await, "unavailable");
    sleep(20 * SECOND).await;
    assert_eq!(world.code(Say::room("owner", "Hi")).await, "unavailable");
    assert_eq!(world.log(&room()).await.len(), 2, "nothing follows");
    world.store.always(What::Write, Fault::Pass);
    timeout(5 * SECOND, world.lanes.finish()).await.unwrap();
    assert_eq!(members(&world).await[0], ("a".into(), true, 2));
    assert_eq!(world.handed(), [1, 2], "it is stored and handed on");
    let again = world.say(Say::change(Kind::Joined, "a")).await.unwrap();
    assert_eq!((again.seq, again.repeated), (2, true));
    assert_eq!(world.seq(Say::room("a", "Hi")).await, 3);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_was_made_is_answered_with_its_entry() {
    let world = world().await;
    world.seq(Say::change(Kind::Joined, "a")).await;
    world.seq(Say::room("a", "Hi")).await;
    world.trace();
    let again = world.say(Say::change(Kind::Joined, "a")).await.unwrap();
    assert_eq!((again.seq, again.repeated), (2, true));
    let expected = ["log after 3", "log 1..3", "raise a 2", "repeated", "handed 2"];
    assert_eq!(world.trace(), expected, "the whole way");
    world.seq(Say::change(Kind::Left, "a")).await;
    let again = world.say(Say::change(Kind::Left, "a")).await.unwrap();
    assert_eq!((again.seq, again.repeated), (4, true));
    let back = world.say(Say::change(Kind::Joined, "a")).await.unwrap();
    assert_eq!((back.seq, back.repeated), (5, false));
    assert_eq!(world.log(&room()).await.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn two_that_ask_for_the_same_change_get_the_same_entry() {
    let world = world().await;
    let other = world.another();
    let mut answers = world.submit_all([0; 3].map(|_| Say::change(Kind::Joined, "a")));
    answers.extend(other.submit_all([0; 3].map(|_| Say::change(Kind::Joined, "a"))));
    let mut made = 0;
    for answer in answers {
        let sent = answer.await.unwrap().unwrap();
        assert_eq!(sent.seq, 2);
        made += usize::from(!sent.repeated);
    }
    assert_eq!(made, 1);
    assert_eq!(world.log(&room()).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_unknown_outcome_is_decided() {
    for fault in [Fault::Mute, Fault::Lose, Fault::Late(9 * SECOND)] {
        let world = world().await;
        world.store.plan(What::Append, [fault]);
        let sent = world.say(Say::change(Kind::Joined, "a")).await.unwrap();
        assert_eq!((sent.seq, sent.repeated), (2, false));
        sleep(10 * SECOND).await;
        assert_eq!(world.log(&room()).await.len(), 2);
        assert_eq!(members(&world).await[0], ("a".into(), true, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn changes_that_can_not_be_are_refused() {
    let world = world().await;
    assert_eq!(world.code(Say::change(Kind::Left, "stranger")).await, "not_found");
    let other = Kind::Other("of a later version".into());
    assert_eq!(world.code(Say::change(other, "owner")).await, "bad_request");
    let dm = Say { kind: Kind::Joined, ..Say::to("a", "b", "") };
    assert_eq!(world.code(dm).await, "bad_request");
    assert_eq!(world.log(&room()).await.len(), 1);
    assert!(world.texts().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn items_that_a_dead_process_owed_are_written_when_a_lane_opens() {
    let world = World::new();
    found(&world).await;
    let joined = |seq, who| Entry {
        seq,
        kind: Kind::Joined,
        from: user("owner"),
        to: Some(user(who)),
        message: None,
        data: None,
        reference: None,
        device: DeviceId::api(),
        timestamp: 1,
        n: 0,
    };
    let left = Entry { kind: Kind::Left, ..joined(3, "owner") };
    let entries = [joined(1, "owner"), joined(2, "a"), left];
    world.calm.append(&room(), &entries).await.unwrap();
    assert_eq!(world.seq(Say::room("a", "Hi")).await, 4);
    let expected = [
        "log newest",
        "head",
        "roster",
        "member owner as of 1",
        "member a as of 2",
        "member owner as of 3",
        "put 4",
        "stored",
        "handed 4",
    ];
    assert_eq!(world.trace(), expected);
    assert_eq!(members(&world).await, [("a".into(), true, 2), ("owner".into(), false, 3)]);
}
