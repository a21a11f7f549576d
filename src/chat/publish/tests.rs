//! Queues alone, and on a bus that has a pace, by a clock that stands still between steps.

use futures_util::FutureExt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::sleep;

use super::*;
use crate::bus::{BusError, Subscription};

const PACE: Duration = Duration::from_millis(1);

fn ws(number: u64) -> ProcessId {
    ProcessId::parse(&format!("ws{number}")).unwrap()
}

fn probe(number: u64) -> Vec<Arc<Envelope>> {
    vec![Arc::new(Envelope::Probe { number })]
}

/// Notes what it is given; each publish takes a while.
struct Noting {
    pace: Duration,
    begun: Instant,
    /// When each publish began, for whom, and the numbers in it.
    noted: Mutex<Vec<(Duration, ProcessId, Vec<u64>)>>,
}

impl Noting {
    fn new(pace: Duration) -> Arc<Self> {
        Arc::new(Self { pace, begun: Instant::now(), noted: Mutex::default() })
    }
}

#[async_trait]
impl Bus for Noting {
    async fn publish(&self, to: &ProcessId, batch: &[Arc<Envelope>]) -> Result<(), BusError> {
        let number = |envelope: &Arc<Envelope>| match **envelope {
            Envelope::Probe { number } => number,
            _ => panic!("{envelope:?}"),
        };
        let numbers = batch.iter().map(number).collect();
        self.noted.lock().unwrap().push((self.begun.elapsed(), to.clone(), numbers));
        tokio::task::yield_now().await;
        Ok(())
    }

    fn pace(&self) -> Duration {
        self.pace
    }

    async fn subscribe(&self, _: &ProcessId) -> Result<Subscription, BusError> {
        Err(BusError("nobody listens".to_owned()))
    }
}

fn push(publishers: &Arc<Publishers>, bus: &Arc<Noting>, to: &ProcessId, number: u64) {
    match publishers.push(to, probe(number)) {
        Pushed::Queued => {}
        Pushed::Full(_) => panic!("{number} does not fit"),
        Pushed::Drain(first) => {
            let (publishers, bus, to) = (publishers.clone(), bus.clone(), to.clone());
            tokio::spawn(async move {
                publishers.drain(&*bus, &to, first, |_| panic!("it failed")).await;
            });
        }
    }
}

/// Pushes the number of each millisecond for two servers, `often` times in each `step`; gives the
/// number of publishes and the longest that one has waited.
async fn publishes(bus: &Arc<Noting>, steps: u64, step_ms: u64, often: u64) -> (usize, u64) {
    let publishers = Arc::new(Publishers::default());
    for step in 0..steps {
        for _ in 0..often {
            for server in [1, 2] {
                push(&publishers, bus, &ws(server), step * step_ms);
            }
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
        sleep(Duration::from_millis(step_ms)).await;
    }
    sleep(Duration::from_millis(20)).await;
    assert!(publishers.is_idle());
    let noted = bus.noted.lock().unwrap();
    for server in [1, 2] {
        let of_it = noted.iter().filter(|(_, to, _)| *to == ws(server));
        let numbers: Vec<u64> = of_it.flat_map(|(_, _, numbers)| numbers.clone()).collect();
        assert!(numbers.is_sorted() && numbers.len() as u64 == steps * often);
    }
    let waited = |(at, _, numbers): &(Duration, _, Vec<u64>)| at.as_millis() as u64 - numbers[0];
    (noted.len(), noted.iter().map(waited).max().unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_comes_for_a_busy_server_leaves_at_a_pace() {
    let (count, waited) = publishes(&Noting::new(PACE), 500, 1, 5).await;
    let per_push = count as f64 / 5_000.0;
    println!("{per_push:.3} publishes a push, which waited {waited} ms at most");
    assert!((0.1..0.3).contains(&per_push) && waited <= 2, "{per_push}, {waited} ms");
    let (unpaced, _) = publishes(&Noting::new(Duration::ZERO), 500, 1, 5).await;
    assert!(unpaced > 4_000, "{unpaced}");
}

#[tokio::test(start_paused = true)]
async fn what_comes_for_a_quiet_server_leaves_at_once() {
    // A burst now and then is no load.
    for (steps, step_ms, often) in [(500, 2, 1), (50, 100, 1), (50, 40, 10)] {
        let bus = Noting::new(PACE);
        let (count, waited) = publishes(&bus, steps, step_ms, often).await;
        assert_eq!(waited, 0, "{step_ms} ms");
        assert!(count as u64 >= 2 * steps, "{count}");
    }
}

#[tokio::test(start_paused = true)]
async fn so_much_that_a_publish_is_full_waits_for_no_pace() {
    let (publishers, bus) = (Arc::new(Publishers::default()), Noting::new(60 * WINDOW));
    let (to, pace) = (ws(1), bus.pace);
    // Busy, and it pauses.
    for number in 0..100 {
        push(&publishers, &bus, &to, number);
        sleep(Duration::from_millis(1)).await;
    }
    assert!(publishers.lock().queues[&to].under_way && publishers.lock().queues[&to].traffic.busy);
    let before = bus.begun.elapsed();
    for number in 100..100 + BATCH_MAX as u64 {
        push(&publishers, &bus, &to, number);
    }
    sleep(Duration::from_millis(2)).await;
    let (at, _, numbers) = bus.noted.lock().unwrap().last().unwrap().clone();
    assert!(numbers.len() == BATCH_MAX && at < before + pace / 10, "{at:?}, {}", numbers.len());
}

#[test]
fn long_texts_fill_a_publish_by_their_bytes() {
    let data = format!("\"{}\"", "x".repeat(BATCH_BYTES / 4));
    let data = serde_json::value::RawValue::from_string(data).unwrap();
    let signal = Arc::new(Envelope::Signal {
        conversation: crate::protocol::ConversationId::parse("room:x").unwrap(),
        from: crate::protocol::UserId::parse("a").unwrap(),
        data: Arc::from(data),
        users: vec![],
        roster: None,
    });
    let (publishers, to) = (Publishers::default(), ws(1));
    let is_full = || publishers.lock().queues[&to].is_full();
    let expected = [false, false, false, false, true];
    for full in expected {
        publishers.push(&to, vec![signal.clone()]);
        assert_eq!(is_full(), full);
    }
    assert_eq!(publishers.next(&to).len(), 4);
    assert_eq!((is_full(), publishers.lock().queues[&to].bytes), (false, 0));
}

#[test]
fn what_comes_during_a_publish_leaves_together() {
    let (publishers, to) = (Publishers::default(), ws(3));
    let push = |number| publishers.push(&to, probe(number));
    assert!(matches!(push(1), Pushed::Drain(first) if first.len() == 1));
    assert!(matches!(push(2), Pushed::Queued) && !publishers.is_idle());
    assert!(matches!(push(3), Pushed::Queued));
    assert_eq!(publishers.next(&to).len(), 2);
    assert!(publishers.next(&to).is_empty() && publishers.is_idle());
    assert!(matches!(push(4), Pushed::Drain(_)), "idle again");
}

#[test]
fn a_queue_is_bounded() {
    let (publishers, to) = (Publishers::default(), ws(3));
    let push = |number| publishers.push(&to, probe(number));
    assert!(matches!(push(0), Pushed::Drain(_)));
    for number in 0..QUEUE_MAX as u64 {
        assert!(matches!(push(number), Pushed::Queued));
    }
    assert!(matches!(push(0), Pushed::Full(back) if back.len() == 1));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_gone_is_forgotten() {
    let publishers = Publishers::default();
    for number in 0..1_000 {
        publishers.push(&ws(number), probe(number));
        assert_eq!(publishers.next(&ws(number)).len(), 0);
        sleep(FORGET_AFTER / 10).await;
    }
    assert!(publishers.lock().queues.len() <= 22, "{}", publishers.lock().queues.len());
}

/// A stop does not wait for the end of a busy server's traffic.
#[tokio::test(start_paused = true)]
async fn a_pause_with_nothing_behind_it_is_idle() {
    let (publishers, to) = (Publishers::default(), ws(3));
    assert!(matches!(publishers.push(&to, probe(1)), Pushed::Drain(_)));
    publishers.lock().queues.get_mut(&to).unwrap().traffic.busy = true;
    assert!(!publishers.is_idle(), "its publish is under way");
    let mut pause = Box::pin(publishers.pause(Duration::from_millis(1), &to));
    assert!((&mut pause).now_or_never().is_none());
    assert!(publishers.is_idle());
    assert!(matches!(publishers.push(&to, probe(2)), Pushed::Queued));
    assert!(!publishers.is_idle(), "it is still to be published");
    pause.await;
    assert_eq!(publishers.next(&to).len(), 1);
    assert!(!publishers.is_idle(), "its publish is under way");
}
