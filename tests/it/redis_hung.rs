//! Redis that hangs (SIGSTOP): no ack waits for it, delivery goes the slow way, and all is as
//! before when it goes on.

use std::time::{Duration, Instant};

use crate::harness::{Parts, Person, Stack, live_again};

/// How many messages are timed.
const MESSAGES: usize = 60;

/// How long acks take, one message after the other: the median, and the slowest but two. Where the
/// machine stands still one message is late; a Redis that is waited for makes three late before it
/// is given up.
async fn acks(from: &mut Person, to: &str) -> (Duration, Duration) {
    let mut took = Vec::new();
    for number in 0..MESSAGES {
        let begun = Instant::now();
        from.say(to, &format!("message {number}")).await;
        took.push(begun.elapsed());
    }
    took.sort();
    (took[MESSAGES / 2], took[MESSAGES - 3])
}

#[tokio::test]
async fn no_ack_waits_for_a_redis_that_hangs() {
    let Some(stack) = Stack::start(Parts::Fleet).await else { return };
    let mut a = stack.at("ws1", "userA").await;
    let mut b = stack.at("ws3", "userB").await;
    a.catch_up().await;
    b.catch_up().await;
    let before = acks(&mut a, "userB").await;
    b.hear_all(MESSAGES).await;

    stack.redis.as_ref().unwrap().signal("STOP");
    let begun = Instant::now();
    let during = acks(&mut a, "userB").await;
    println!("acks: median and slowest but two {before:?} before, {during:?} while Redis hangs");
    assert!(during.0 < before.0 + Duration::from_millis(100), "{before:?}, {during:?}");
    assert!(during.1 < before.1 + Duration::from_millis(200), "{before:?}, {during:?}");
    let heard = b.hear_all(MESSAGES).await;
    assert!(heard.iter().map(|(seq, _)| *seq).eq(61..=120), "{heard:?}");
    println!("all heard {:?} after it hung", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    // Who connects is not kept waiting either.
    let begun = Instant::now();
    let mut c = stack.at("ws2", "userC").await;
    c.catch_up().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());

    stack.redis.as_ref().unwrap().signal("CONT");
    live_again(&mut a, &mut b).await;
    stack.stop().await;
}
