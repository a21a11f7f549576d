//! Rooms: who may speak is judged by the roster as of the tail, in log order (P9).

use std::time::Duration;

use super::faulty::{Fault, What};
use super::world::{Say, World, user};
use crate::protocol::{ConversationId, Kind};
use crate::store::{Head, Record};

pub fn room() -> ConversationId {
    ConversationId::parse("room:r").unwrap()
}

/// A room of `owner`, still without members.
pub async fn found(world: &World) {
    let creator = Some(user("owner"));
    let head = Head { floor: 0, title: None, creator, public: false, created: 1 };
    world.write(Record::Head(room(), head)).await;
}

/// With `owner`, `a` and `b` as members, by entries 1 to 3.
async fn world() -> World {
    let world = World::new();
    found(&world).await;
    for (seq, who) in (1..).zip(["owner", "a", "b"]) {
        assert_eq!(world.seq(Say::change(Kind::Joined, who)).await, seq);
    }
    world.trace();
    world
}

#[tokio::test(start_paused = true)]
async fn an_unknown_room_is_not_found() {
    let world = World::new();
    assert_eq!(world.code(Say::room("a", "Hi")).await, "not_found");
    assert_eq!(world.trace(), ["log newest", "head", "roster", "not_found"]);
    assert_eq!(world.code(Say::change(Kind::Joined, "a")).await, "not_found");
    // Made meanwhile.
    found(&world).await;
    assert_eq!(world.seq(Say::change(Kind::Joined, "a")).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_is_one_write_whatever_the_rooms_size() {
    let world = world().await;
    assert_eq!(world.seq(Say::room("a", "Hi")).await, 4);
    assert_eq!(world.trace(), ["put 4", "stored", "handed 4"]);
    let sent = world.say(Say::room("b", "Ho")).await.unwrap();
    assert_eq!((sent.seq, sent.n), (5, 2), "joins are no messages");
    let handed = world.part.handed.lock().unwrap().last().unwrap().clone();
    let members: Vec<_> =
        handed.roster.unwrap().iter().map(|member| member.user.to_string()).collect();
    assert_eq!(members, ["a", "b", "owner"]);
    assert!(handed.entry.to.is_none());
}

#[tokio::test(start_paused = true)]
async fn who_is_no_member_is_refused_as_if_there_were_no_room() {
    let world = world().await;
    let stranger = world.say(Say::room("stranger", "Hi")).await.unwrap_err();
    assert_eq!(world.trace(), ["log after 3", "not_found"], "read before the no");
    let unknown = World::new().say(Say::room("stranger", "Hi")).await.unwrap_err();
    assert_eq!(stranger, unknown);
    world.seq(Say::change(Kind::Left, "b")).await;
    assert_eq!(world.say(Say::room("b", "Hi")).await.unwrap_err(), unknown);
    assert_eq!(world.log(&room()).await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn who_was_removed_elsewhere_is_refused() {
    let world = world().await;
    let other = world.another();
    assert_eq!(other.seq(Say::change(Kind::Left, "b")).await, 4);
    // This lane does not know it yet: the log tells it.
    assert_eq!(world.code(Say::room("b", "Hi")).await, "not_found");
    assert_eq!(world.seq(Say::room("a", "Hi")).await, 5);
    let handed = world.part.handed.lock().unwrap().last().unwrap().clone();
    let b = handed.roster.unwrap().iter().find(|member| member.user == user("b")).cloned();
    assert!(!b.unwrap().may_see(5));
}

#[tokio::test(start_paused = true)]
async fn who_joined_elsewhere_is_heard() {
    let world = world().await;
    let other = world.another();
    assert_eq!(other.seq(Say::change(Kind::Joined, "c")).await, 4);
    other.seq(Say::room("a", "Hi")).await;
    assert_eq!(world.seq(Say::room("c", "Ho")).await, 6);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_judged_in_the_order_of_the_log() {
    let world = world().await;
    world.store.plan(What::Append, [Fault::Slow(Duration::from_secs(1))]);
    let first = world.submit(Say::room("a", "first"));
    tokio::time::sleep(Duration::from_millis(10)).await;
    let said = [
        Say::room("b", "before"),
        Say::change(Kind::Joined, "c"),
        Say::room("c", "here"),
        Say::change(Kind::Left, "b"),
        Say::room("b", "after"),
        Say::room("a", "last"),
    ];
    let answers = world.submit_all(said);
    assert_eq!(first.await.unwrap().unwrap().seq, 4);
    let mut told = Vec::new();
    for answer in answers {
        told.push(answer.await.unwrap().map(|sent| sent.seq).map_err(|e| e.code.as_str()));
    }
    assert_eq!(told, [Ok(5), Ok(6), Ok(7), Ok(8), Err("not_found"), Ok(9)]);
    let handed = world.part.handed.lock().unwrap();
    let present = |seq: u64, who: &str| {
        let handed = handed.iter().find(|handed| handed.entry.seq == seq).unwrap();
        let member = handed.roster.as_ref().unwrap().iter().find(|m| m.user == user(who)).cloned();
        member.is_some_and(|member| member.may_see(seq))
    };
    assert_eq!([5, 6, 7].map(|seq| present(seq, "c")), [false, true, true], "as of each entry");
    assert_eq!([7, 8, 9].map(|seq| present(seq, "b")), [true, true, false]);
}

#[tokio::test(start_paused = true)]
async fn refs_hold_in_rooms() {
    let world = world().await;
    let say = || Say { reference: Say::named("r1", "").reference, ..Say::room("a", "Hi") };
    assert_eq!(world.seq(say()).await, 4);
    world.seq(Say::change(Kind::Left, "b")).await;
    let again = world.say(say()).await.unwrap();
    assert_eq!((again.seq, again.repeated), (4, true));
    let other = world.another();
    assert_eq!(other.seq(say()).await, 4);
    // Somebody who has left still learns what became of an earlier try.
    world.seq(Say::change(Kind::Left, "a")).await;
    assert_eq!(world.seq(say()).await, 4);
}
