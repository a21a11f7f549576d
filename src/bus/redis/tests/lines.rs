//! Connections that break, break again, die without a word, or are dropped by Redis.

use super::*;
use crate::directory::testing::Wire;

/// How many connections listen on the channel, as Redis counts them.
fn listeners(server: &Server, me: &ProcessId) -> usize {
    let answer = server.cli(&["PUBSUB", "NUMSUB", &format!("messages:{me}")]);
    answer.split_whitespace().last().unwrap().parse().unwrap()
}

/// In the end exactly one connection listens.
async fn settles(server: &Server, me: &ProcessId) {
    let until = Instant::now() + Duration::from_secs(5);
    while listeners(server, me) != 1 {
        assert!(Instant::now() < until, "{} listen", listeners(server, me));
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_breaks_twice_in_half_a_second_is_made_again() {
    if quick() {
        return;
    }
    let server = Server::start(&[]);
    let wire = Wire::before(server.port).await;
    let bus = connect(&wire.url, "").await;
    let me = process();
    let mut heard = bus.subscribe(&me).await.unwrap();
    for pause_ms in [0, 10, 50, 150, 300] {
        wire.reset();
        sleep(Duration::from_millis(pause_ms)).await;
        wire.reset();
        hears_after_a_gap(&bus, &me, &mut heard).await;
        settles(&server, &me).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_dies_without_a_word_is_noticed() {
    if quick() {
        return;
    }
    let server = Server::start(&[]);
    let wire = Wire::before(server.port).await;
    let bus = connect(&wire.url, "").await;
    let me = process();
    let mut heard = bus.subscribe(&me).await.unwrap();
    let begun = Instant::now();
    wire.go_dead();
    hears_after_a_gap(&bus, &me, &mut heard).await;
    let took = begun.elapsed();
    println!("heard again {took:?} after the line died");
    assert!(took < CHECK_INTERVAL + ANSWER_TIMEOUT + Duration::from_secs(3), "{took:?}");
    settles(&server, &me).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_could_not_hold_is_told_as_a_gap() {
    if quick() {
        return;
    }
    let server = Server::start(&["--client-output-buffer-limit", "pubsub", "4kb", "1kb", "1"]);
    let bus = connect(&server.url(), "").await;
    let me = process();
    let mut heard = bus.subscribe(&me).await.unwrap();
    bus.publish(&me, &[entry("fits")]).await.unwrap();
    assert_eq!(batch(&mut heard).await.len(), 1);
    let begun = Instant::now();
    bus.publish(&me, &[entry(&"x".repeat(64 * 1024))]).await.unwrap();
    hears_after_a_gap(&bus, &me, &mut heard).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    settles(&server, &me).await;
}
