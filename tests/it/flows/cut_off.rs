//! One server of a fleet is cut off from Redis, in every way that a network can: its users still
//! get what those of others say, and the other way round (P10).

use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::AttributeValue;

use crate::harness::{Parts, Person, Process, Proxy, Stack, Way, eventually, texts, within};

/// Hints over the board: written at once, read every 2 s; and a busy machine.
const SLOW: Duration = Duration::from_secs(5);
/// Until everybody knows that a server is deaf.
const NOTICED: Duration = Duration::from_secs(12);
/// Whoever is acked does not wait for Redis, but for one call of it at most.
const ACKED: Duration = Duration::from_secs(2);

/// A server beside the fleet's own, which reaches Redis through a proxy.
struct Remote {
    process: Process,
    proxy: Proxy,
    ws: String,
}

async fn remote(stack: &Stack) -> Remote {
    let redis = stack.redis.as_ref().unwrap();
    let proxy = Proxy::start(redis.url().trim_start_matches("redis://")).await;
    let mut arguments =
        ["server", "--listen", "127.0.0.1:0", "--id", "ws4", "--redis"].map(str::to_owned).to_vec();
    arguments.push(format!("redis://{}", proxy.address()));
    arguments.extend(stack.where_it_is());
    let process = Process::start("ws4", &arguments);
    let ready = process.ready().await;
    let ws = format!("ws://{}/ws", ready["servers"]["ws4"].as_str().unwrap());
    Remote { process, proxy, ws }
}

/// Waits until the board says so of ws4.
async fn says_deaf(stack: &Stack, deaf: bool) {
    let said = async || {
        let rows = stack.items("BOARD").await.unwrap();
        let row = rows.iter().find(|row| row["sk"].as_s().unwrap() == "ws4")?;
        (row.get("deaf") == Some(&AttributeValue::Bool(deaf))).then_some(())
    };
    within(NOTICED, &format!("ws4 says deaf: {deaf}"), said).await;
}

/// Says something, and the other one hears it.
async fn across(from: &mut Person, to: &mut Person, text: &str, limit: Duration) -> Duration {
    let begun = Instant::now();
    from.say(&to.user, text).await;
    let acked = begun.elapsed();
    assert!(acked < ACKED, "{text}: acked after {acked:?}");
    while to.entry_within(limit).await.message != text {}
    let heard = begun.elapsed();
    assert!(heard < limit, "{text}: heard after {heard:?}");
    heard
}

#[tokio::test]
async fn messages_go_both_ways_over_the_board() {
    let Some(stack) = Stack::start(Parts::Fleet).await else { return };
    let remote = remote(&stack).await;
    let mut a = stack.at("ws1", "userA").await;
    let mut b = Person::connect(&remote.ws, "userB").await;
    a.catch_up().await;
    b.catch_up().await;
    across(&mut a, &mut b, "before", SLOW).await;
    for way in [Way::Cut, Way::Stalled, Way::Deaf] {
        remote.proxy.set(way);
        // Nobody knows yet: it takes longer, and arrives.
        across(&mut a, &mut b, &format!("{way:?}: first"), NOTICED).await;
        across(&mut b, &mut a, &format!("{way:?}: first back"), NOTICED).await;
        says_deaf(&stack, true).await;
        // Each process has read the row by then.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        let mut c = Person::connect(&remote.ws, &format!("user{way:?}")).await;
        c.catch_up().await;
        let mut slowest = Duration::ZERO;
        for number in 0..3 {
            let text = format!("{way:?}: {number}");
            for took in [
                across(&mut a, &mut b, &text, SLOW).await,
                across(&mut b, &mut a, &format!("{text} back"), SLOW).await,
                across(&mut a, &mut c, &format!("{text} to who came meanwhile"), SLOW).await,
            ] {
                slowest = slowest.max(took);
            }
        }
        eprintln!("{way:?}: the slowest took {slowest:?}");
        remote.proxy.set(Way::Open);
        says_deaf(&stack, false).await;
        let quick = async || {
            let took = across(&mut a, &mut c, "back again", NOTICED).await;
            (took < Duration::from_millis(700)).then_some(())
        };
        eventually("live delivery is quick again", quick).await;
    }
    // In order and once, whatever way it came.
    let log = stack.history("userA", "dm:userA:userB").await;
    let seqs = log.iter().map(|message| message["seq"].as_u64().unwrap());
    assert!(seqs.eq(1..=log.len() as u64));
    b.leave().await;
    let nothing_waits = async || {
        let mut b = stack.at("ws2", "userB").await;
        texts(&b.catch_up().await).is_empty().then_some(())
    };
    eventually("all was received, and that is stored", nothing_waits).await;
    assert_eq!(remote.process.stop().await.code(), Some(0));
    stack.stop().await;
}
