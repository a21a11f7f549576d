//! How far back a repeated ref is found: 32 entries, or with `after` 1,000.

use super::world::{Say, World, dm};
use crate::protocol::{REF_REACH_ENTRIES, REF_WINDOW_ENTRIES, Seq};

const WINDOW: Seq = REF_WINDOW_ENTRIES as Seq;

/// The send that stands at `seq` of a log made by `World::fill`, tried again.
fn again(seq: Seq) -> Say {
    Say::named(&format!("r{seq}"), &format!("text {seq}"))
}

#[tokio::test(start_paused = true)]
async fn without_after_the_last_32_are_searched() {
    let world = World::new();
    world.fill(1..=WINDOW).await;
    assert_eq!(world.seq(again(1)).await, 1, "the 32nd from the end");
    world.fill(WINDOW + 1..=WINDOW + 1).await;
    let late = world.another();
    let sent = late.say(again(1)).await.unwrap();
    assert_eq!((sent.seq, sent.repeated), (WINDOW + 2, false), "the 33rd is a new message");
    assert_eq!(late.seq(again(3)).await, 3);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_remembers_more_searches_no_more() {
    let world = World::new();
    for seq in 1..=WINDOW + 1 {
        assert_eq!(world.seq(again(seq)).await, seq);
    }
    let sent = world.say(again(1)).await.unwrap();
    assert_eq!((sent.seq, sent.repeated), (WINDOW + 2, false));
    assert_eq!(world.seq(again(3)).await, 3);
    assert_eq!(world.seq(again(2).after(1)).await, 2, "with `after` it does");
}

#[tokio::test(start_paused = true)]
async fn with_after_a_thousand_are_searched() {
    let world = World::new();
    world.fill(1..=REF_REACH_ENTRIES).await;
    for seq in [1, 2, 500, 967, 968, 969, 1_000] {
        world.trace();
        let sent = world.say(again(seq).after(seq - 1)).await.unwrap();
        assert_eq!((sent.seq, sent.repeated), (seq, true));
        // `after` may lie further back than the entry.
        assert_eq!(world.seq(again(seq).after(0)).await, seq);
    }
    assert_eq!(world.code(Say::named("r1", "other").after(0)).await, "ref_conflict");
    // A ref that was never used, with its first try as far back: a new message.
    assert_eq!(world.seq(Say::named("new", "new").after(0)).await, REF_REACH_ENTRIES + 1);
    assert_eq!(world.log(&dm()).await.len() as Seq, REF_REACH_ENTRIES + 1);
}

#[tokio::test(start_paused = true)]
async fn further_back_it_is_expired() {
    let world = World::new();
    world.fill(1..=REF_REACH_ENTRIES + 1).await;
    let expired = world.say(again(1).after(0)).await.unwrap_err();
    assert_eq!(expired.code.as_str(), "ref_expired");
    assert!(!expired.code.retryable() && expired.retry_after_ms.is_none());
    assert_eq!(world.code(Say::named("new", "new").after(0)).await, "ref_expired");
    assert_eq!(world.seq(again(2).after(1)).await, 2);
    // What is found is found, though the first try may have been long before.
    assert_eq!(world.seq(again(2).after(0)).await, 2);
    assert_eq!(world.seq(again(1_001).after(0)).await, 1_001);
    assert_eq!(world.log(&dm()).await.len() as Seq, REF_REACH_ENTRIES + 1, "nothing was put");
}

#[tokio::test(start_paused = true)]
async fn an_after_near_or_past_the_end_searches_the_last_32() {
    let world = World::new();
    world.fill(1..=100).await;
    for after in [90, 100, 5_000, Seq::MAX] {
        assert_eq!(world.seq(again(70).after(after)).await, 70);
    }
    let sent = world.say(again(68).after(100)).await.unwrap();
    assert_eq!((sent.seq, sent.repeated), (101, false), "the 33rd from the end");
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_different_reaches_reads_back_once() {
    let world = World::new();
    world.fill(1..=600).await;
    let said = [
        again(300).after(299),
        again(100).after(99),
        Say::named("new", "new").after(50),
        again(590),
        again(40).after(45),
    ];
    let mut told = Vec::new();
    for answer in world.submit_all(said) {
        let sent = answer.await.unwrap().unwrap();
        told.push((sent.seq, sent.repeated));
    }
    let expected = [(300, true), (100, true), (601, false), (590, true), (602, false)];
    assert_eq!(told, expected, "the last one's `after` excludes its own");
    let trace = world.trace();
    let back: Vec<_> = trace.iter().filter(|line| line.contains("..")).collect();
    assert_eq!(back, ["log 45..569", "log 545..569"], "pages of 500");
}
