//! Lanes are bounded in number, appends and bytes, and live while they are used (I11).

use std::time::Duration;

use tokio::time::sleep;

use super::faulty::{Fault, What};
use super::world::{Say, World};
use crate::chat::lane::Bounds;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn appends_that_wait_are_bounded_by_count() {
    let world = World::with(Bounds { appends: 4, ..Bounds::default() });
    world.store.plan(What::Append, [Fault::Slow(SECOND)]);
    let first = world.submit(Say::to("a", "b", "0"));
    sleep(SECOND / 10).await;
    let waiting = world.submit_all(["1", "2", "3", "4"].map(|text| Say::to("a", "b", text)));
    let error = world.say(Say::to("a", "b", "5")).await.unwrap_err();
    assert_eq!(error.code.as_str(), "rate_limited");
    assert!(error.code.retryable() && error.retry_after_ms.is_some());
    assert_eq!(world.seq(Say::to("a", "c", "another conversation has room")).await, 1);
    assert_eq!(first.await.unwrap().unwrap().seq, 1);
    for (seq, answer) in (2..).zip(waiting) {
        assert_eq!(answer.await.unwrap().unwrap().seq, seq);
    }
    assert_eq!(world.seq(Say::to("a", "b", "5")).await, 6);
    assert_eq!(world.texts().await, ["0", "1", "2", "3", "4", "5"]);
}

#[tokio::test(start_paused = true)]
async fn appends_that_wait_are_bounded_by_bytes() {
    let world = World::with(Bounds { bytes: 20_000, ..Bounds::default() });
    world.store.plan(What::Append, [Fault::Slow(SECOND)]);
    let first = world.submit(Say::to("a", "b", "0"));
    sleep(SECOND / 10).await;
    let long = "x".repeat(12_000);
    let waiting = world.submit(Say::to("a", "b", &long));
    assert_eq!(world.code(Say::to("a", "b", &long)).await, "rate_limited");
    let data = Some(format!("\"{long}\""));
    assert_eq!(world.code(Say { data, ..Say::to("a", "b", "1") }).await, "rate_limited");
    let short = world.submit(Say::to("a", "b", "short"));
    for (seq, answer) in (1..).zip([first, waiting, short]) {
        assert_eq!(answer.await.unwrap().unwrap().seq, seq);
    }
    // What was taken has made room again.
    assert_eq!(world.seq(Say::to("a", "b", &long)).await, 4);
}

#[tokio::test(start_paused = true)]
async fn lanes_are_bounded_and_idle_ones_give_way() {
    let world = World::with(Bounds { lanes: 2, ..Bounds::default() });
    world.store.always(What::Append, Fault::Slow(SECOND));
    let busy = world.submit_all([Say::to("a", "b", "1"), Say::to("a", "c", "1")]);
    assert_eq!(world.code(Say::to("a", "d", "1")).await, "rate_limited");
    for answer in busy {
        assert_eq!(answer.await.unwrap().unwrap().seq, 1);
    }
    for (seq, to) in [(1, "d"), (1, "e"), (1, "f"), (2, "d"), (2, "b"), (2, "c"), (2, "f")] {
        assert_eq!(world.seq(Say::to("a", to, "Hi")).await, seq, "to {to}");
    }
    let all = [Say::to("a", "b", "x"), Say::to("a", "c", "x"), Say::to("a", "d", "x")];
    let mut refused = 0;
    for answer in world.submit_all(all) {
        refused += usize::from(answer.await.unwrap().is_err());
    }
    assert_eq!(refused, 1, "never more than two at once");
}

#[tokio::test(start_paused = true)]
async fn a_lane_lives_while_it_is_used() {
    let world = World::with(Bounds { idle: 10 * SECOND, ..Bounds::default() });
    let opened = |world: &World| world.trace().contains(&"log newest".to_owned());
    world.seq(Say::to("a", "b", "1")).await;
    assert!(opened(&world));
    for text in ["2", "3", "4"] {
        sleep(8 * SECOND).await;
        world.seq(Say::to("a", "b", text)).await;
        assert!(!opened(&world), "{text}: it is in use");
    }
    sleep(21 * SECOND).await;
    world.seq(Say::to("a", "b", "5")).await;
    assert!(opened(&world), "it was idle");
    assert_eq!(world.texts().await, ["1", "2", "3", "4", "5"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_between_lanes_that_come_and_go() {
    let idle = Duration::from_millis(3);
    let world = World::with(Bounds { lanes: 2, idle, ..Bounds::default() });
    let mut sent = std::collections::HashMap::<_, u64>::new();
    for i in 0..600 {
        let to = ["b", "c", "d"][rand::random_range(0..3)];
        match world.say(Say::to("a", to, "Hi")).await {
            Ok(told) => {
                let seq = sent.entry(to).or_default();
                *seq += 1;
                assert_eq!(told.seq, *seq, "send {i}");
            }
            Err(error) => assert_eq!(error.code.as_str(), "rate_limited"),
        }
        sleep(Duration::from_millis(rand::random_range(0..5))).await;
    }
    assert!(sent.values().sum::<u64>() > 500, "{sent:?}");
    // Every place was given back.
    sleep(SECOND).await;
    for answer in world.submit_all([Say::to("a", "x", "1"), Say::to("a", "y", "1")]) {
        answer.await.unwrap().unwrap();
    }
}
