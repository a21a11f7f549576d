//! The bus on real servers: the contract, what a person sees, and Redis dying or hanging.

mod lines;
mod signed;

use super::super::Heard;
use super::super::contract::{self, batch, entry, probe, process};
use super::*;
use crate::directory::testing::{Cluster, NOT_TWO, Server, prefix, quick, shared_url};
use futures_util::StreamExt;

async fn connect(url: &str, prefix: &str) -> RedisBus {
    RedisBus::connect(Target::parse(url).unwrap(), prefix, Arc::new(Metrics::new("test")))
        .await
        .unwrap()
}

#[tokio::test]
async fn passes_the_contract() {
    let Some(url) = shared_url() else { return };
    contract::all(&connect(&url, &prefix()).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_contract_on_a_cluster_and_survives_a_move() {
    if quick() {
        return;
    }
    let mut cluster = Cluster::start();
    let bus = connect(&cluster.url(), "").await;
    contract::all(&bus).await;

    // The channel's slot moves to another master under the live subscription.
    let me = ProcessId::parse("ws3").unwrap();
    let mut subscription = bus.subscribe(&me).await.unwrap();
    let slot = cluster.nodes[0].cli(&["CLUSTER", "KEYSLOT", "messages:ws3"]);
    let slot = slot.trim();
    let mine = |node: &Server| node.cli(&["SPUBLISH", "messages:ws3", "[]"]).trim() == "1";
    let owner = cluster.nodes.iter().position(mine).unwrap();
    let next = cluster.nodes[(owner + 1) % 3].cli(&["CLUSTER", "MYID"]);
    for node in &cluster.nodes {
        let answer = node.cli(&["CLUSTER", "SETSLOT", slot, "NODE", next.trim()]);
        assert_eq!(answer.trim(), "OK");
    }
    hears_after_a_gap(&bus, &me, &mut subscription).await;
    assert!(mine(&cluster.nodes[(owner + 1) % 3]));
    cluster.nodes.clear();
}

/// A gap comes, and whatever is published from then on.
async fn hears_after_a_gap(bus: &RedisBus, me: &ProcessId, heard: &mut Subscription) {
    let gap = async {
        loop {
            match heard.recv().await.unwrap() {
                Heard::Gap => return,
                Heard::Batch(_) => {}
            }
        }
    };
    timeout(Duration::from_secs(10), gap).await.expect("no gap was heard");
    let until = Instant::now() + Duration::from_secs(5);
    while bus.publish(me, &[probe(77)]).await.is_err() {
        assert!(Instant::now() < until, "publishing does not recover");
        sleep(Duration::from_millis(20)).await;
    }
    // A line that broke again meanwhile is told again.
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        match timeout(Duration::from_secs(1), heard.recv()).await {
            Ok(Some(Heard::Batch(batch))) => {
                return assert!(matches!(*batch[0], Envelope::Probe { number: 77 }));
            }
            Ok(Some(Heard::Gap)) | Err(_) => bus.publish(me, &[probe(77)]).await.unwrap_or(()),
            Ok(None) => panic!("the subscription ended"),
        }
        assert!(Instant::now() < until, "nothing is heard");
    }
}

#[tokio::test]
async fn a_plain_client_sees_json() {
    if quick() {
        return;
    }
    let server = Server::start(&[]);
    let client = redis::Client::open(server.url()).unwrap();
    let mut plain = client.get_async_pubsub().await.unwrap();
    plain.subscribe("messages:ws3").await.unwrap();
    let bus = connect(&server.url(), "").await;
    let ws3 = ProcessId::parse("ws3").unwrap();
    bus.publish(&ws3, &[entry("Hi")]).await.unwrap();
    bus.publish(&ws3, &[entry("one"), entry("two")]).await.unwrap();
    let mut messages = plain.on_message();
    let first: String = messages.next().await.unwrap().get_payload().unwrap();
    let start = "{\"to\":\"userB\",\"message\":\"Hi\",\"from\":\"userA\",\"type\":\"entry\",";
    assert!(first.starts_with(start), "{first}");
    let second: String = messages.next().await.unwrap().get_payload().unwrap();
    let second: serde_json::Value = serde_json::from_str(&second).unwrap();
    assert_eq!(second[0]["message"], "one");
    assert_eq!(second[1]["message"], "two");
}

#[tokio::test]
async fn foreign_payloads_are_dropped_and_counted() {
    if quick() {
        return;
    }
    let server = Server::start(&[]);
    let bus = connect(&server.url(), "").await;
    let me = ProcessId::parse("ws3").unwrap();
    let mut heard = bus.subscribe(&me).await.unwrap();
    let publish = async |payload: &str| {
        let call = |mut c| {
            let mut command = redis::cmd("PUBLISH");
            command.arg("messages:ws3").arg(payload);
            async move { command.query_async::<()>(&mut c).await }
        };
        bus.link.run("test", Link::deadline(), call).await.unwrap();
    };
    for payload in ["", "{", "[", "[]", "7", "null", "{\"type\":\"later\"}", "\u{7f}\u{0}"] {
        publish(payload).await;
    }
    publish(&format!("\"{}\"", "x".repeat(PAYLOAD_BYTES_MAX))).await;
    publish("[{\"type\":\"later\"},{\"type\":\"probe\",\"number\":5,\"v\":1}]").await;
    let known = batch(&mut heard).await;
    assert!(matches!(*known[0], Envelope::Probe { number: 5 }) && known.len() == 1);
    let counted = |outcome| bus.link.counted(&Call { operation: "hear", outcome });
    assert_eq!((counted("malformed"), counted("oversized")), (8, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_died_is_heard_again_after_a_gap() {
    if quick() {
        return;
    }
    let mut server = Server::start(&[]);
    let bus = connect(&server.url(), "").await;
    let me = process();
    let mut heard = bus.subscribe(&me).await.unwrap();
    for round in 0..2 {
        bus.publish(&me, &[probe(round)]).await.unwrap();
        batch(&mut heard).await;
        server.kill();
        let begun = Instant::now();
        assert!(bus.publish(&me, &[probe(99)]).await.is_err());
        assert!(begun.elapsed() < NOT_TWO);
        sleep(Duration::from_millis(300)).await;
        server.start_again();
        hears_after_a_gap(&bus, &me, &mut heard).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_redis_is_noticed_and_heard_again() {
    if quick() {
        return;
    }
    let server = Server::start(&[]);
    let bus = connect(&server.url(), "").await;
    let me = process();
    let mut heard = bus.subscribe(&me).await.unwrap();
    server.signal("STOP");
    let begun = Instant::now();
    assert!(bus.publish(&me, &[probe(1)]).await.is_err());
    assert!(begun.elapsed() < NOT_TWO);
    sleep(CHECK_INTERVAL + ANSWER_TIMEOUT + Duration::from_secs(3)).await;
    server.signal("CONT");
    hears_after_a_gap(&bus, &me, &mut heard).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_subscription_leaves_redis() {
    if quick() {
        return;
    }
    let server = Server::start(&[]);
    let bus = connect(&server.url(), "").await;
    let me = ProcessId::parse("ws3").unwrap();
    let heard = bus.subscribe(&me).await.unwrap();
    let subscribers = || server.cli(&["PUBSUB", "NUMSUB", "messages:ws3"]);
    assert!(subscribers().contains('1'));
    drop(heard);
    let until = Instant::now() + Duration::from_secs(5);
    while subscribers().contains('1') {
        assert!(Instant::now() < until, "still subscribed");
        sleep(Duration::from_millis(20)).await;
    }
}
