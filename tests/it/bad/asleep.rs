//! Clients that don't read, don't confirm or don't answer: closed with a code that says "come
//! back", and nothing is lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::Bystanders;
use crate::admin::{self, metrics, sum};
use crate::harness::Parts;
use crate::raw::{self, Raw};

const SENDERS: usize = 5;
const EACH: u64 = 1_000;

/// Puts the messages among `said` to what each sender has said so far.
fn gather(said: &[Value], heard: &mut BTreeMap<String, Vec<u64>>) {
    for entry in said.iter().filter(|said| said["type"] == "message") {
        let from = entry["from"].as_str().unwrap().to_owned();
        heard.entry(from).or_default().push(entry["seq"].as_u64().unwrap());
    }
}

/// 5,000 messages to somebody who never reads, and to somebody who reads and never confirms: 4508
/// for both, and everything after they have come back.
#[tokio::test]
async fn a_slow_reader_is_closed_and_loses_nothing() {
    let (mut stack, admin) = admin::start(Parts::Embedded).await.unwrap();
    let calm = Bystanders::start(&stack).await;
    let mut never_reads = Raw::ready(&stack.balancer, "userId=never-reads").await;
    let mut never_acks = Raw::ready(&stack.balancer, "userId=never-acks&acks=app").await;
    let memory = stack.process("up").memory("VmRSS");
    let words = "as long as what people write, more or less. ".repeat(5);
    let frame = |to: &str| {
        let frame = json!({"type": "message", "to": to, "message": words});
        raw::text(&frame.to_string())
    };
    let to_reader = frame("never-reads").repeat(EACH as usize);
    let to_acker = frame("never-acks").repeat(EACH as usize / 4);
    let sending = (0..SENDERS).map(|number| {
        let (address, frames) = (&stack.balancer, [&to_reader[..], &to_acker[..]].concat());
        async move {
            let mut sender = Raw::ready(address, &format!("userId=sender-{number}")).await;
            let is_sent = |said: &Value| said["type"] == "sent";
            let sent = sender.flood(&frames, (EACH + EACH / 4) as usize, is_sent).await;
            let last = |to: &str| {
                let of = |said: &&Value| said["conversation"] == format!("dm:{to}:sender-{number}");
                sent.iter().filter(of).map(|said| said["seq"].as_u64().unwrap()).max()
            };
            assert_eq!(last("never-reads"), Some(EACH));
            assert_eq!(last("never-acks"), Some(EACH / 4));
        }
    });
    join_all(sending).await;
    let grown = stack.process("up").memory("VmRSS").saturating_sub(memory);
    assert!(grown < 64 << 20, "{grown} bytes more for somebody who does not read");
    // Nothing is read of the other one before it was closed, so no pong has left.
    let slow = ["outcome=\"too slow, reconnect and catch up\""];
    never_acks.patience = Duration::from_secs(70);
    let (code, said) = never_acks.closed().await;
    assert_eq!(code, Some(4508), "after {} texts without an ack", said.len());
    let until = Instant::now() + Duration::from_secs(60);
    while sum(&metrics(&admin).await, "parlor_sockets_closed_total", &slow) < 2.0 {
        assert!(Instant::now() < until, "closed within 30 s and a tick");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (code, said) = never_reads.closed().await;
    assert!(matches!(code, Some(4508) | None), "{code:?} after {} texts", said.len());
    let mut first = BTreeMap::new();
    gather(&said, &mut first);
    for (user, each) in [("never-reads", EACH), ("never-acks", EACH / 4)] {
        let mut back = Raw::open(&stack.balancer, &format!("userId={user}")).await;
        let mut said = Vec::new();
        while said.last().is_none_or(|last: &Value| last["type"] != "caughtup") {
            said.push(back.json().await.expect("open until all is there"));
        }
        let mut heard = BTreeMap::new();
        gather(&said, &mut heard);
        let whole = (1..=each).collect::<Vec<_>>();
        assert_eq!(heard.len(), SENDERS);
        for (from, seqs) in heard {
            assert_eq!(seqs, whole, "from {from} to {user}: all of it, in order, once");
        }
    }
    calm.noticed_nothing(&stack).await;
    stack.stop().await;
}
