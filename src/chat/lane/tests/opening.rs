//! Who may not open a direct conversation (`--dm existing`, or too many of late) writes where there
//! is one.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::faulty::{Fault, What};
use super::world::{Say, World, dm};
use crate::chat::lane::Opens;
use crate::store::{MailboxPart, Store};

fn guest(from: &str, to: &str, text: &str) -> Say {
    Say { opens: Opens::Never, ..Say::to(from, to, text) }
}

#[tokio::test(start_paused = true)]
async fn what_would_open_a_conversation_is_refused_and_leaves_nothing() {
    let world = World::new();
    for _ in 0..2 {
        assert_eq!(world.code(guest("a", "b", "Hi")).await, "forbidden");
    }
    assert_eq!(world.code(guest("a", "a", "a note")).await, "forbidden");
    assert!(!world.trace().iter().any(|call| call.starts_with("raise") || call.starts_with("put")));
    assert!(world.log(&dm()).await.is_empty());
    for name in ["a", "b"] {
        let part = MailboxPart::Row(dm());
        let page = world.calm.mailbox(&super::world::user(name), part).await.unwrap();
        assert!(page.rows.is_empty(), "nobody is told of a conversation that was refused");
    }
}

#[tokio::test(start_paused = true)]
async fn once_it_is_opened_both_write() {
    let world = World::new();
    assert_eq!(world.seq(Say::to("a", "b", "a service's")).await, 1);
    assert_eq!(world.seq(guest("b", "a", "one")).await, 2);
    assert_eq!(world.seq(guest("a", "b", "two")).await, 3);
    // Another process has opened one since this lane looked.
    let (mine, other) = (World::new(), Say::to("a", "b", "first"));
    assert_eq!(mine.code(guest("a", "b", "early")).await, "forbidden");
    assert_eq!(mine.another().seq(other).await, 1);
    assert_eq!(mine.seq(guest("b", "a", "second")).await, 2, "before a no the lane reads on");
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_the_first_message_is_taken_with_it() {
    let world = World::new();
    world.store.plan(What::Log, [Fault::Slow(Duration::from_millis(100))]);
    let both = world.submit_all([Say::to("a", "b", "opens"), guest("b", "a", "follows")]);
    for (seq, answer) in (1..).zip(both) {
        assert_eq!(answer.await.unwrap().unwrap().seq, seq);
    }
    let late = world.submit_all([guest("c", "a", "too early"), Say::to("c", "a", "opens")]);
    let answers = futures_util::future::join_all(late).await;
    assert_eq!(answers[0].as_ref().unwrap().as_ref().unwrap_err().code.as_str(), "forbidden");
    assert_eq!(answers[1].as_ref().unwrap().as_ref().unwrap().seq, 1);
}

fn within(from: &str, to: &str, text: &str) -> Say {
    Say { opens: Opens::Within, ..Say::to(from, to, text) }
}

fn asked(world: &World) -> Vec<String> {
    world.trace().into_iter().filter(|call| call.contains(" opens with ")).collect()
}

#[tokio::test(start_paused = true)]
async fn only_whoever_opens_is_asked_and_only_once() {
    let world = World::new();
    assert_eq!(world.code(within("a", "b", "too many")).await, "rate_limited");
    assert!(world.log(&dm()).await.is_empty());
    assert_eq!(asked(&world), ["a opens with b"]);
    world.part.openings.store(1, Ordering::SeqCst);
    // The put fails before it reaches the store, and is tried again.
    world.store.plan(What::Append, [Fault::Fail]);
    let both = world.submit_all([within("b", "a", "opens"), within("a", "b", "follows")]);
    for (seq, answer) in (1..).zip(both) {
        assert_eq!(answer.await.unwrap().unwrap().seq, seq);
    }
    assert_eq!(world.seq(within("a", "b", "goes on")).await, 3);
    assert_eq!(asked(&world), ["b opens with a"]);
}

/// Another process has opened it since this lane looked: nobody opens it here, and nobody pays.
#[tokio::test(start_paused = true)]
async fn what_is_open_already_is_not_counted() {
    let world = World::new();
    assert_eq!(world.code(within("a", "b", "too many")).await, "rate_limited");
    assert_eq!(world.another().seq(Say::to("a", "b", "first")).await, 1);
    asked(&world);
    assert_eq!(world.seq(within("a", "b", "second")).await, 2);
    assert_eq!(asked(&world), Vec::<String>::new());
}
