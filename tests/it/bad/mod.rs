//! Bad input, from outside: it gets a clear answer, nothing is lost, nobody else notices.
//!
//! What is answered to each bad thing stands in `tests/corpus`, a line each; here is what takes
//! more than a line: floods, parts that are away, the classic holes. Most tests have a pair of
//! bystanders on the same servers who talk all the while. What a client library would refuse to
//! send goes out through `raw`.

mod asleep;
mod away;
mod flood;
mod frames;
mod holes;
mod http;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parlor::client::{Send, To};
use tokio::task::JoinHandle;

use crate::harness::{SOON, Stack};

/// How long the usual message of the bystanders may take while others misbehave: the machine may
/// be busy, but nobody waits for somebody else's time-out.
const USUAL: Duration = Duration::from_secs(2);

/// Two people on two servers who talk to each other all the while.
struct Bystanders {
    stop: Arc<AtomicBool>,
    talking: JoinHandle<Vec<Duration>>,
    names: (String, String),
}

impl Bystanders {
    async fn start(stack: &Stack) -> Self {
        let unique = rand::random::<u32>();
        let names = (format!("calm-a-{unique:08x}"), format!("calm-b-{unique:08x}"));
        let (mut a, mut b) = (stack.at("ws1", &names.0).await, stack.at("ws3", &names.1).await);
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, to) = (stop.clone(), names.1.clone());
        let talking = tokio::spawn(async move {
            let mut took = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let (begun, number) = (Instant::now(), took.len() as u64 + 1);
                let said = format!("all is well {number}");
                assert_eq!(a.send(&Send::new(To::User(to.clone()), &said)).await, number);
                assert_eq!(b.hear().await, (number, said), "in order, once");
                took.push(begun.elapsed());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            took
        });
        Self { stop, talking, names }
    }

    /// Each message arrived once, in order and in time, on sockets that are open still.
    async fn noticed_nothing(self, stack: &Stack) {
        self.stop.store(true, Ordering::Relaxed);
        let mut took = tokio::time::timeout(SOON, self.talking).await.expect("in time").unwrap();
        assert!(!took.is_empty(), "the bystanders talked");
        took.sort();
        let (usual, longest) = (took[took.len() * 9 / 10], took[took.len() - 1]);
        assert!(usual < USUAL && longest < SOON / 2, "9 of 10 in {usual:?}, all in {longest:?}");
        let conversation = format!("dm:{}:{}", self.names.0, self.names.1);
        let kept = stack.history(&self.names.0, &conversation).await;
        assert_eq!(kept.len(), took.len().min(500));
    }
}
