//! Signed publishes on a real Redis: forged, altered, replayed, sent on to another channel.

use std::time::Duration;

use tokio::time::sleep;

use super::super::super::Bus;
use super::super::super::contract::{self, batch, entry, probe};
use super::*;
use crate::bus::signing::Keys;

const OLD: &str = "the key of last year, 32 characters";
const NEW: &str = "the key of this year, 32 characters";

async fn keyed(url: &str, prefix: &str, keys: &[&str]) -> RedisBus {
    connect(url, prefix).await.signed(Keys::new(keys.iter().copied()).unwrap())
}

fn heard(bus: &RedisBus, outcome: &'static str) -> u64 {
    bus.link.counted(&Call { operation: "hear", outcome })
}

/// Whatever a stranger with access to Redis may say, byte for byte.
async fn say(bus: &RedisBus, channel: &str, payload: &[u8]) {
    let call = |mut connection| {
        let mut command = redis::cmd("PUBLISH");
        command.arg(channel).arg(payload);
        async move { command.query_async::<()>(&mut connection).await }
    };
    bus.link.run("test", Link::deadline(), call).await.unwrap();
}

/// Listens as a stranger does.
async fn overhear(server: &Server, channel: &str) -> redis::aio::PubSub {
    let mut plain = redis::Client::open(server.url()).unwrap().get_async_pubsub().await.unwrap();
    plain.subscribe(channel).await.unwrap();
    plain
}

async fn overheard(plain: &mut redis::aio::PubSub) -> Vec<u8> {
    plain.on_message().next().await.unwrap().get_payload().unwrap()
}

#[tokio::test]
async fn passes_the_contract_with_a_key() {
    let Some(url) = shared_url() else { return };
    contract::all(&keyed(&url, &prefix(), &[NEW, OLD]).await).await;
}

#[tokio::test]
async fn a_person_still_reads_json() {
    if quick() {
        return;
    }
    let server = Server::start(&[]);
    let bus = keyed(&server.url(), "", &[NEW]).await;
    let mut plain = overhear(&server, "messages:ws3").await;
    let ws3 = ProcessId::parse("ws3").unwrap();
    bus.publish(&ws3, &[entry("Hi")]).await.unwrap();
    bus.publish(&ws3, &[entry("one"), entry("two")]).await.unwrap();
    for (number, texts) in [(1, vec!["Hi"]), (2, vec!["one", "two"])] {
        let shown: serde_json::Value =
            serde_json::from_slice(&overheard(&mut plain).await).unwrap();
        assert_eq!(shown["number"], number);
        assert_eq!(shown["mac"].as_str().unwrap().len(), 64);
        let batch = &shown["batch"];
        let batch = batch.as_array().cloned().unwrap_or_else(|| vec![batch.clone()]);
        let said: Vec<_> = batch.iter().map(|one| one["message"].as_str().unwrap()).collect();
        assert_eq!(said, texts);
        assert_eq!((&batch[0]["to"], &batch[0]["from"]), (&"userB".into(), &"userA".into()));
    }
}

#[tokio::test]
async fn strangers_are_counted_and_not_heard() {
    if quick() {
        return;
    }
    let server = Server::start(&[]);
    let bus = keyed(&server.url(), "", &[NEW]).await;
    let (ws2, ws3) = (ProcessId::parse("ws2").unwrap(), ProcessId::parse("ws3").unwrap());
    let mut subscription = bus.subscribe(&ws3).await.unwrap();
    let mut plain = overhear(&server, "messages:ws3").await;

    bus.publish(&ws3, &[entry("Hi")]).await.unwrap();
    let genuine = overheard(&mut plain).await;
    assert_eq!(batch(&mut subscription).await.len(), 1);

    // Said by nobody, by a fleet with another key, in other words, once more.
    let unsigned = encode(&[entry("forged")], "messages:ws3", None).remove(0);
    say(&bus, "messages:ws3", &unsigned).await;
    keyed(&server.url(), "", &[OLD]).await.publish(&ws3, &[entry("foreign")]).await.unwrap();
    let altered = String::from_utf8(genuine.clone()).unwrap().replace("\"Hi\"", "\"Ho\"");
    say(&bus, "messages:ws3", altered.as_bytes()).await;
    say(&bus, "messages:ws3", &genuine).await;
    say(&bus, "messages:ws3", &genuine).await;
    // Meant for another server.
    let mut elsewhere = overhear(&server, "messages:ws2").await;
    bus.publish(&ws2, &[entry("for ws2")]).await.unwrap();
    say(&bus, "messages:ws3", &overheard(&mut elsewhere).await).await;

    bus.publish(&ws3, &[probe(7)]).await.unwrap();
    let next = batch(&mut subscription).await;
    assert!(matches!(*next[0], Envelope::Probe { number: 7 }) && next.len() == 1);
    let counts = ["unsigned", "foreign", "altered", "replayed", "ok"].map(|o| heard(&bus, o));
    assert_eq!(counts, [1, 1, 2, 2, 2]);
}

#[tokio::test]
async fn what_was_said_to_an_earlier_life_is_not_heard_again() {
    if quick() {
        return;
    }
    let server = Server::start(&[]);
    let ws3 = ProcessId::parse("ws3").unwrap();
    let mut plain = overhear(&server, "messages:ws3").await;
    let publisher = keyed(&server.url(), "", &[NEW]).await;
    publisher.publish(&ws3, &[entry("before")]).await.unwrap();
    let before = overheard(&mut plain).await;
    sleep(Duration::from_millis(5)).await;

    // ws3 starts again, the publisher lives on; then the publisher starts again too.
    let bus = keyed(&server.url(), "", &[NEW]).await;
    let mut subscription = bus.subscribe(&ws3).await.unwrap();
    say(&bus, "messages:ws3", &before).await;
    publisher.publish(&ws3, &[probe(1)]).await.unwrap();
    say(&bus, "messages:ws3", &before).await;
    let publisher = keyed(&server.url(), "", &[NEW]).await;
    publisher.publish(&ws3, &[probe(2)]).await.unwrap();
    let numbers = [batch(&mut subscription).await, batch(&mut subscription).await].concat();
    let numbers: Vec<_> = numbers.iter().map(|one| format!("{one:?}")).collect();
    assert_eq!(numbers, ["Probe { number: 1 }", "Probe { number: 2 }"]);
    assert_eq!((heard(&bus, "stale"), heard(&bus, "ok")), (2, 2));
}

#[tokio::test]
async fn keys_change_without_a_message_lost() {
    if quick() {
        return;
    }
    let server = Server::start(&[]);
    let ws3 = ProcessId::parse("ws3").unwrap();
    // Step by step: all accept both, then all sign with the new one, then the old one goes.
    for (publisher, listener) in
        [([OLD, OLD], [OLD, NEW]), ([OLD, NEW], [NEW, OLD]), ([NEW, OLD], [NEW, NEW])]
    {
        let listening = keyed(&server.url(), "", &listener).await;
        let mut subscription = listening.subscribe(&ws3).await.unwrap();
        let publishing = keyed(&server.url(), "", &publisher).await;
        publishing.publish(&ws3, &[probe(1)]).await.unwrap();
        assert_eq!(batch(&mut subscription).await.len(), 1);
    }
    // A server that has no key yet reads what is signed; it is not heard itself.
    let plain = connect(&server.url(), "").await;
    let mut reads = plain.subscribe(&ws3).await.unwrap();
    let signing = keyed(&server.url(), "", &[NEW]).await;
    let ws1 = ProcessId::parse("ws1").unwrap();
    let mut hears = signing.subscribe(&ws1).await.unwrap();
    signing.publish(&ws3, &[probe(3), probe(4)]).await.unwrap();
    assert_eq!(batch(&mut reads).await.len(), 2);
    plain.publish(&ws1, &[probe(5)]).await.unwrap();
    signing.publish(&ws1, &[probe(6)]).await.unwrap();
    assert!(matches!(*batch(&mut hears).await[0], Envelope::Probe { number: 6 }));
    assert_eq!(heard(&signing, "unsigned"), 1);
}

#[test]
fn a_signature_adds_little_to_a_publish() {
    let guard = Guard::new(Keys::new([NEW]).unwrap(), "messages:ws3".to_owned());
    let signer = Signer::new(Keys::new([NEW]).unwrap().unwrap());
    let lines: Vec<_> = (0..16).map(|i| entry(&format!("message {i}"))).collect();
    let plain = encode(&lines, "messages:ws3", None).remove(0);
    let signed = encode(&lines, "messages:ws3", Some(&signer)).remove(0);
    assert!(signed.len() < plain.len() + 200, "{} and {}", signed.len(), plain.len());
    assert!(guard.open(&signed) == Ok(&plain[..]), "the same bytes, serialised once");
}
