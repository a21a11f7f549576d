//! One user's flood does not raise another's p99 by more than half.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Limited, bearer, message};
use crate::auth::{token, with_token};
use crate::harness::Person;
use crate::raw::{self, upgrade_head};

/// Messages of the two who talk, in each window.
const SAID: usize = 50;
/// Windows with the flood and without it, by turns: both see the same of a machine that is busy
/// with other things, and what disturbs one of them does not decide.
const WINDOWS: usize = 7;
/// What the machine's own clock and scheduler may add to a p99 of some milliseconds.
const SLACK: Duration = Duration::from_millis(4);

/// Two who talk on two servers.
struct Pair {
    a: Person,
    b: Person,
    said: u64,
}

impl Pair {
    async fn talk(&mut self) -> Vec<Duration> {
        let mut took = Vec::with_capacity(SAID);
        for _ in 0..SAID {
            let begun = Instant::now();
            self.said += 1;
            assert_eq!(self.a.say("calm-b", "all is well").await, self.said);
            assert_eq!(self.b.hear().await.0, self.said);
            took.push(begun.elapsed());
            // Slower than a user's messages may come.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        took
    }
}

fn p99(mut took: Vec<Duration>) -> Duration {
    took.sort();
    took[(took.len() * 99).div_ceil(100) - 1]
}

fn median(mut of_windows: Vec<Duration>) -> Duration {
    of_windows.sort();
    of_windows[of_windows.len() / 2]
}

/// Writes as fast as it is read while `on`, and reads away what is answered.
async fn flood(address: String, number: usize, on: Arc<AtomicBool>) {
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let head = upgrade_head("", &bearer(&token("eager", json!({}))));
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let frames: Vec<u8> = (0..100)
        .flat_map(|n| raw::text(&message("victim", "me again", &format!("{number}-{n}"))))
        .collect();
    let reading = async {
        let mut away = vec![0; 64 << 10];
        while reader.read(&mut away).await.is_ok_and(|count| count > 0) {}
    };
    let writing = async {
        loop {
            if !on.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
            if writer.write_all(&frames).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_user_keeps_nobody_else_waiting() {
    let limited = Limited::start(&[]).await;
    let stack = &limited.guarded.stack;
    let person = async |server: &str, name: &str| {
        let options = with_token(&stack.ws_at(server), name, token(name, json!({})));
        let mut person = Person::with(&options).await;
        person.catch_up().await;
        person
    };
    let (a, b) = (person("ws1", "calm-a").await, person("ws3", "calm-b").await);
    let mut pair = Pair { a, b, said: 0 };
    let on = Arc::new(AtomicBool::new(false));
    let addresses: Vec<String> = stack.servers.values().cloned().collect();
    let floods = (0..6).map(|number| {
        let address = addresses[number % addresses.len()].clone();
        tokio::spawn(flood(address, number, on.clone()))
    });
    let floods: Vec<_> = floods.collect();
    pair.talk().await;
    let (mut calm, mut flooded) = (Vec::new(), Vec::new());
    for _ in 0..WINDOWS {
        calm.push(p99(pair.talk().await));
        on.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
        flooded.push(p99(pair.talk().await));
        on.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (calm, flooded) = (median(calm), median(flooded));
    let met = [limited.met("messages").await, limited.met("frames").await];
    println!("p99 {calm:?} calm, {flooded:?} under a flood that met its limits {met:?} times");
    assert!(met[0] > 0 && met[1] > 0, "{met:?}: it was a flood");
    assert!(flooded <= calm * 3 / 2 + SLACK, "{calm:?} and {flooded:?}");
    floods.iter().for_each(tokio::task::JoinHandle::abort);
    join_all(floods).await;
    limited.guarded.stack.stop().await;
}
