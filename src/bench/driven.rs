//! The pairs of one share: started together with those of all others, and counted together.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::dialect::Wire;
use super::flow::Faults;
use super::pair::{Outcome, Pace, Plan, drive};
use super::report::Latency;
use super::share::{Job, since_epoch};

/// What all pairs of a run do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Driving {
    /// When, in microseconds since 1970.
    pub begin_us: u64,
    /// For how long.
    pub run: Duration,
    /// How long the rest may take to arrive after that.
    pub patience: Duration,
    /// The size of a message.
    pub bytes: usize,
    /// How the next message comes about.
    pub rhythm: Rhythm,
}

/// How the next message comes about.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Rhythm {
    /// Fewer than so many are under way.
    Window(u64),
    /// It is due: pair number `i` of the run begins `i` steps after the first.
    Every {
        /// From one message of a pair to its next.
        pause: Duration,
        /// From one pair's to the next pair's.
        step: Duration,
    },
}

/// How it went, over all pairs.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Driven {
    /// How many pairs.
    pub pairs: u64,
    /// How many of them had their two users on two servers.
    pub crossing: u64,
    /// Messages received while sending went on.
    pub in_time: u64,
    /// Messages that were to be sent: at a fixed rate, those that were due.
    pub offered: u64,
    /// Those of them that were sent before the end.
    pub sent_in_time: u64,
    /// Those of them that were never sent.
    pub unsent: u64,
    /// Messages received.
    pub received: u64,
    /// The same seq again, as at-least-once allows.
    pub repeats: u64,
    /// What must be zero.
    pub faults: Faults,
    /// Pairs that do not know that all was delivered.
    pub undelivered: u64,
    /// From the send (or the due time) until it was received.
    pub latency: Latency,
    /// From the send (or the due time) until the answer.
    pub stored: Latency,
    /// The first thing that went wrong.
    pub error: Option<String>,
}

impl Driven {
    /// Takes another share's in.
    pub fn add(&mut self, other: Driven) {
        self.pairs += other.pairs;
        self.crossing += other.crossing;
        self.in_time += other.in_time;
        self.offered += other.offered;
        self.sent_in_time += other.sent_in_time;
        self.unsent += other.unsent;
        self.received += other.received;
        self.repeats += other.repeats;
        self.faults.add(other.faults);
        self.undelivered += other.undelivered;
        self.latency.add(&other.latency);
        self.stored.add(&other.stored);
        self.error = self.error.take().or(other.error);
    }

    fn take(&mut self, outcome: Outcome) {
        self.pairs += 1;
        self.in_time += outcome.in_time;
        self.offered += outcome.offered;
        self.sent_in_time += outcome.sent_in_time;
        self.unsent += outcome.unsent;
        self.received += outcome.received;
        self.repeats += outcome.repeats;
        self.faults.add(outcome.faults);
        self.undelivered += u64::from(!outcome.all_delivered);
        self.latency.add(&outcome.latency);
        self.stored.add(&outcome.stored);
        self.error = self.error.take().or(outcome.error);
    }
}

/// Drives the users of a share two by two, and gives their sockets back.
pub(super) async fn drive_all(
    job: &Job,
    driving: Driving,
    wires: Vec<Wire>,
) -> (Driven, Vec<Wire>) {
    let begin = Duration::from_micros(driving.begin_us).saturating_sub(since_epoch());
    let from = Instant::now() + begin;
    let (until, patience, bytes) = (from + driving.run, driving.patience, driving.bytes);
    let (mut driven, mut tasks) = (Driven::default(), JoinSet::new());
    let mut wires = wires.into_iter();
    let mut index = job.first;
    while let (Some(a), Some(b)) = (wires.next(), wires.next()) {
        driven.crossing += u64::from(a.server() != b.server());
        let pace = match driving.rhythm {
            Rhythm::Window(window) => Pace::Closed(window),
            Rhythm::Every { pause, step } => {
                Pace::Open(from + step.mul_f64((index / 2) as f64), pause)
            }
        };
        let to = job.name(index + 1);
        index += 2;
        tasks.spawn(drive(a, b, Plan { to, pace, from, until, patience, bytes }));
    }
    let mut back = Vec::new();
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok((outcome, a, b)) => {
                driven.take(outcome);
                back.extend([a, b]);
            }
            Err(error) => driven.error = Some(error.to_string()),
        }
    }
    (driven, back)
}
