//! Redis whose memory is full: it answers everything, and takes no claims. Who connects then is
//! written to all the same, over the board.

use std::time::{Duration, Instant};

use crate::harness::{Parts, Stack, live_again};

#[tokio::test]
async fn who_connects_while_redis_is_full_hears_what_is_said() {
    let Some(stack) = Stack::start(Parts::Fleet).await else { return };
    let redis = stack.redis.as_ref().unwrap();
    let mut a = stack.at("ws1", "userA").await;
    a.catch_up().await;
    assert_eq!(redis.cli(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    let mut b = stack.at("ws3", "userB").await;
    b.catch_up().await;
    assert!(redis.entry("userB").is_none(), "its claim is refused");
    let begun = Instant::now();
    a.say("userB", "one").await;
    assert_eq!(b.hear().await.1, "one");
    println!("heard {:?} after it was said", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    // By now the others know, and go the slow way at once.
    let begun = Instant::now();
    a.say("userB", "two").await;
    assert_eq!(b.hear().await.1, "two");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());

    assert_eq!(redis.cli(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    live_again(&mut a, &mut b).await;
    stack.stop().await;
}
