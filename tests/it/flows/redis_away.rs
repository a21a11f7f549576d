//! Redis away and back, empty (P10): sends, acks, history and catch-up go on, live delivery slows.

use std::time::{Duration, Instant};

use crate::harness::{Parts, Person, Stack, eventually, texts, within};

/// Live delivery over the board takes about 3 s, the first one a little longer.
const SLOW: Duration = Duration::from_secs(8);
const BACK: Duration = Duration::from_secs(30);

#[tokio::test]
async fn one_process() {
    let Some(stack) = Stack::start(Parts::Real).await else { return };
    redis_is_a_hint(stack).await;
}

#[tokio::test]
async fn a_fleet() {
    let Some(stack) = Stack::start(Parts::Fleet).await else { return };
    redis_is_a_hint(stack).await;
}

async fn redis_is_a_hint(mut stack: Stack) {
    let mut a = stack.at("ws1", "userA").await;
    let mut b = stack.at("ws3", "userB").await;
    a.catch_up().await;
    b.catch_up().await;
    assert_eq!(a.say("userB", "before").await, 1);
    assert_eq!(b.hear().await, (1, "before".to_owned()));
    stack.redis.as_mut().unwrap().kill();
    let slowest = slow_but_sure(&stack, &mut a, &mut b).await;
    assert!(slowest < SLOW, "{slowest:?}");
    let mut c = while_away(&stack, &mut a).await;
    stack.redis.as_mut().unwrap().start_again();
    let redis = stack.redis.as_ref().unwrap();
    for (user, server) in [("userA", "ws1"), ("userB", "ws3"), ("userC", "ws2")] {
        let claimed = async || redis.entry(user).is_some_and(|e| e["server"] == server);
        let what = format!("{user} is claimed again");
        within(BACK, &what, async || claimed().await.then_some(())).await;
    }
    // Live again, and over the bus.
    let number = std::cell::Cell::new(0);
    let quick = async |from: &mut Person, to: &mut Person| {
        number.set(number.get() + 1);
        let (text, begun) = (format!("live {}", number.get()), Instant::now());
        from.say(&to.user, &text).await;
        while to.entry().await.message != text {}
        begun.elapsed() < Duration::from_millis(700)
    };
    eventually("live delivery is quick again", async || quick(&mut a, &mut b).await.then_some(()))
        .await;
    eventually("for who came meanwhile too", async || quick(&mut a, &mut c).await.then_some(()))
        .await;
    // Receipts go over the bus: one that comes again stands for all before it.
    let newest = a.say("userB", "all of it").await;
    a.told_delivered(newest).await;
    let history = stack.history("userA", "dm:userA:userB").await;
    let seqs = history.iter().map(|message| message["seq"].as_u64().unwrap());
    assert!(seqs.eq(1..=history.len() as u64));
    stack.stop().await;
}

/// Acks come at once, and delivery within seconds: the slowest one.
async fn slow_but_sure(stack: &Stack, a: &mut Person, b: &mut Person) -> Duration {
    let mut slowest = Duration::ZERO;
    for number in 2..=5 {
        let (text, begun) = (format!("message {number}"), Instant::now());
        assert_eq!(a.say("userB", &text).await, number);
        let acked = begun.elapsed();
        assert!(acked < Duration::from_secs(2), "acks do not wait for Redis: {acked:?}");
        assert_eq!(b.hear().await, (number, text));
        slowest = slowest.max(begun.elapsed());
    }
    assert_eq!(b.say("userA", "an answer").await, 6);
    assert_eq!(a.hear().await, (6, "an answer".to_owned()));
    assert_eq!(stack.history("userB", "dm:userA:userB").await.len(), 6);
    slowest
}

/// Who connects while Redis is away gets what waited, and then what is said.
async fn while_away(stack: &Stack, a: &mut Person) -> Person {
    assert_eq!(a.say("userC", "waiting").await, 1);
    let mut c = stack.at("ws2", "userC").await;
    assert_eq!(texts(&c.catch_up().await), [(1, "waiting".to_owned())]);
    assert_eq!(a.say("userC", "and live").await, 2);
    assert_eq!(c.hear().await, (2, "and live".to_owned()));
    c
}
