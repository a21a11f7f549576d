//! One pair: a sends, b receives, one task drives both sockets.
//!
//! In a closed loop a message's place in the window is free once b has it and a has its `sent`; at
//! a fixed rate a message is due at its time, whatever became of those before it, and its latency
//! counts from there (no coordinated omission).

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::dialect::{Heard, To, Wire};
use super::flow::{self, Faults, Flow};
use super::report::Latency;
use crate::client::ClientError;

/// How many messages are fed at most before the sockets are read again.
const BURST_MAX: u64 = 64;
/// How long it is listened on when all is there, or nobody would hear what comes once too often.
pub(super) const LINGER: Duration = Duration::from_millis(200);

/// When the next message goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// As soon as fewer than this are under way.
    Closed(u64),
    /// The first at this time, then one every so often.
    Open(Instant, Duration),
}

/// What a pair does.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The name of b.
    pub to: String,
    /// See there.
    pub pace: Pace,
    /// Sends from here …
    pub from: Instant,
    /// … until here; what was due before is sent afterwards, while there is patience.
    pub until: Instant,
    /// How long the rest may take to be sent and to arrive after that.
    pub patience: Duration,
    /// The size of a message.
    pub bytes: usize,
}

/// How it went.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Messages that b received while a was sending.
    pub in_time: u64,
    /// Messages that were to be sent: at a fixed rate, those that were due.
    pub offered: u64,
    /// Those of them that were sent before the end.
    pub sent_in_time: u64,
    /// Those of them that were never sent.
    pub unsent: u64,
    /// Messages that b received.
    pub received: u64,
    /// The same seq again, as at-least-once allows.
    pub repeats: u64,
    /// What must be zero.
    pub faults: Faults,
    /// From the send (or the due time) until b has it.
    pub latency: Latency,
    /// From the send (or the due time) until a has its `sent`.
    pub stored: Latency,
    /// Whether a knows that all was delivered.
    pub all_delivered: bool,
    /// The first thing that went wrong.
    pub error: Option<String>,
}

struct Pair {
    a: Wire,
    b: Wire,
    plan: Plan,
    /// When the messages from `oldest` on were sent, or due.
    times: VecDeque<Instant>,
    oldest: u64,
    sent: u64,
    stored: u64,
    stored_seq: u64,
    delivered_seq: u64,
    flow: Flow,
    out: Outcome,
}

/// Runs a pair to its end and gives the sockets back.
pub(super) async fn drive(a: Wire, b: Wire, plan: Plan) -> (Outcome, Wire, Wire) {
    let out = Outcome {
        in_time: 0,
        offered: 0,
        sent_in_time: 0,
        unsent: 0,
        received: 0,
        repeats: 0,
        faults: Faults::default(),
        latency: Latency::new(),
        stored: Latency::new(),
        all_delivered: false,
        error: None,
    };
    let (times, flow) = (VecDeque::new(), b.flow());
    let (oldest, sent, stored, stored_seq, delivered_seq) = (1, 0, 0, 0, 0);
    let mut pair =
        Pair { a, b, plan, times, oldest, sent, stored, stored_seq, delivered_seq, flow, out };
    sleep_until(pair.plan.from).await;
    let patience = pair.plan.patience;
    // Whatever it waits for: a socket that takes nothing more, too.
    let ran = timeout_at(pair.plan.until + patience, pair.run()).await;
    let ran = match ran.unwrap_or(Err(ClientError::TimedOut(patience))) {
        Ok(()) => pair.linger().await,
        Err(error) => Err(error),
    };
    if let Err(error) = ran {
        pair.out.error.get_or_insert(error.to_string());
    }
    pair.close()
}

impl Pair {
    async fn run(&mut self) -> Result<(), ClientError> {
        loop {
            let wake = self.send_due().await?;
            if Instant::now() >= self.plan.until && self.is_complete() {
                return Ok(());
            }
            tokio::select! {
                heard = self.a.hear() => self.heard_a(heard?),
                heard = self.b.hear() => self.heard_b(heard?),
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Hears what comes though nothing should.
    async fn linger(&mut self) -> Result<(), ClientError> {
        let end = Instant::now() + LINGER;
        loop {
            tokio::select! {
                heard = self.a.hear() => self.heard_a(heard?),
                heard = self.b.hear() => self.heard_b(heard?),
                () = sleep_until(end) => return Ok(()),
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.unsent() == 0
            && self.stored + self.out.faults.refused == self.sent
            && self.flow.count() >= self.stored
            && self.is_delivered()
    }

    /// Whether a knows that all was delivered, where it can know.
    fn is_delivered(&self) -> bool {
        self.delivered_seq >= self.stored_seq || !self.a.has_receipts()
    }

    /// Sends what may be sent now; returns when to look again.
    async fn send_due(&mut self) -> Result<Instant, ClientError> {
        let mut now = Instant::now();
        let before = self.sent;
        while self.sent < before + BURST_MAX {
            let time = match self.plan.pace {
                Pace::Closed(window) => {
                    let done = self.flow.count().min(self.stored + self.out.faults.refused);
                    if now >= self.plan.until || self.sent >= done + window {
                        break;
                    }
                    now
                }
                Pace::Open(first, every) => {
                    let due = self.due(first, every);
                    // The end does not excuse what was due before it.
                    if due > now || due >= self.plan.until {
                        break;
                    }
                    now = Instant::now();
                    due
                }
            };
            self.sent += 1;
            self.out.sent_in_time += u64::from(now <= self.plan.until);
            self.times.push_back(time);
            let text = flow::text(self.sent, &self.plan.to, self.plan.bytes);
            self.a.feed(To::User(&self.plan.to), &text).await?;
        }
        if self.sent > before {
            self.a.flush().await?;
        }
        let until = self.plan.until;
        Ok(match self.plan.pace {
            Pace::Open(first, every) if self.unsent() > 0 => self.due(first, every),
            _ if now < until => until,
            _ => until + self.plan.patience,
        })
    }

    /// How many are due before the end, and not sent yet.
    fn unsent(&self) -> u64 {
        let Pace::Open(first, every) = self.plan.pace else { return 0 };
        let left = self.plan.until.saturating_duration_since(self.due(first, every));
        left.div_duration_f64(every.max(Duration::from_nanos(1))).ceil() as u64
    }

    fn due(&self, first: Instant, every: Duration) -> Instant {
        first + every.mul_f64(self.sent as f64)
    }

    fn heard_a(&mut self, heard: Heard) {
        match heard {
            Heard::Stored { seq } => {
                self.stored += 1;
                if seq <= self.stored_seq {
                    self.out.faults.disordered += 1;
                }
                self.stored_seq = seq;
                if let Some(time) = self.time(self.stored + self.out.faults.refused) {
                    self.out.stored.record(time.elapsed());
                }
                self.forget();
            }
            Heard::Delivered { seq } => self.delivered_seq = self.delivered_seq.max(seq),
            Heard::Refused { why, .. } => {
                self.out.faults.refused += 1;
                self.out.error.get_or_insert(why);
            }
            Heard::Message { text, .. } => self.foreign(&text),
        }
    }

    /// Something came to where it should not have.
    fn foreign(&mut self, text: &str) {
        self.out.faults.foreign += 1;
        let why = match flow::number(text) {
            Some(_) => "came to somebody it was not for",
            None => "nobody sent this",
        };
        self.out.error.get_or_insert_with(|| format!("{why}: {text}"));
    }

    fn heard_b(&mut self, heard: Heard) {
        let Heard::Message { seq, text } = heard else { return };
        let number = flow::number_for(&text, &self.plan.to).filter(|n| (1..=self.sent).contains(n));
        let Some(number) = number.filter(|_| text.len() >= self.plan.bytes) else {
            return self.foreign(&text);
        };
        if !self.flow.received(seq, number) {
            return;
        }
        let now = Instant::now();
        if now <= self.plan.until {
            self.out.in_time += 1;
        }
        if let Some(time) = self.time(number) {
            self.out.latency.record(now.saturating_duration_since(time));
        }
        self.forget();
    }

    fn time(&self, number: u64) -> Option<Instant> {
        let index = number.checked_sub(self.oldest)?;
        self.times.get(usize::try_from(index).ok()?).copied()
    }

    /// Drops the times that nothing will ask for.
    fn forget(&mut self) {
        let done = self.flow.count().min(self.stored);
        while self.oldest <= done && self.times.pop_front().is_some() {
            self.oldest += 1;
        }
    }

    fn close(mut self) -> (Outcome, Wire, Wire) {
        let refused = self.out.faults.refused;
        self.out.faults.add(self.flow.close(self.stored));
        // A send without an answer promised nothing, but on a healthy server it is a fault.
        self.out.faults.refused += self.sent - (self.stored + refused).min(self.sent);
        self.out.unsent = self.unsent();
        self.out.offered = self.sent + self.out.unsent;
        self.out.received = self.flow.count();
        self.out.repeats = self.flow.repeats;
        self.out.all_delivered = self.is_delivered();
        (self.out, self.a, self.b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::dialect::Dialect;
    use crate::client::fake::Fake;
    use crate::client::{Client, ClientOptions};

    async fn run(fake: &Fake, pace: Pace, run_ms: u64) -> Outcome {
        let open = async |name: &str| {
            let client = Client::open(&ClientOptions::new(fake.url(), name)).await.unwrap().0;
            Wire::new(client, Dialect::Parlor)
        };
        let (a, b) = (open("userA").await, open("userB").await);
        let from = Instant::now();
        let until = from + Duration::from_millis(run_ms);
        let patience = Duration::from_millis(500);
        let to = String::from("userB");
        drive(a, b, Plan { to, pace, from, until, patience, bytes: 64 }).await.0
    }

    fn message(seq: u64, text: &str) -> String {
        format!(r#"{{"type":"message","seq":{seq},"message":"{text}"}}"#)
    }

    #[tokio::test]
    async fn a_closed_loop_accounts_for_every_message() {
        let fake = Fake::start().await;
        let out = run(&fake, Pace::Closed(8), 200).await;
        assert_eq!((out.faults, out.error, out.all_delivered), (Faults::default(), None, true));
        assert!(out.received > 8, "{}", out.received);
        assert_eq!(out.received, fake.log("dm:userA:userB").len() as u64);
        assert!(fake.log("dm:userA:userB").iter().all(|text| text.len() == 64));
    }

    #[tokio::test]
    async fn a_fixed_rate_sends_what_is_due() {
        let fake = Fake::start().await;
        let every = Duration::from_millis(10);
        let out = run(&fake, Pace::Open(Instant::now(), every), 205).await;
        assert_eq!((out.faults, out.error), (Faults::default(), None));
        assert!((15..=21).contains(&out.received), "{}", out.received);
    }

    #[tokio::test]
    async fn what_was_due_is_sent_late_and_counts_from_when_it_was_due() {
        let fake = Fake::start().await;
        // The load was away: all of it was due before it came back.
        let (ago, every) = (Duration::from_millis(200), Duration::from_millis(1));
        let out = run(&fake, Pace::Open(Instant::now() - ago, every), 0).await;
        assert_eq!((out.faults, out.error), (Faults::default(), None));
        assert!(out.offered >= 200, "{}", out.offered);
        assert_eq!((out.received, out.unsent, out.sent_in_time), (out.offered, 0, 0));
        assert!(out.latency.quantile_ms(0.5) > 90.0, "{}", out.latency.quantile_ms(0.5));
    }

    #[tokio::test]
    async fn what_could_not_be_sent_in_time_is_told() {
        let fake = Fake::start().await;
        let (first, every) = (Instant::now(), Duration::from_nanos(20));
        let out = run(&fake, Pace::Open(first, every), 200).await;
        assert!(out.unsent > 0 && out.offered > out.received, "{}", out.unsent);
        assert!(out.error.is_some());
    }

    #[tokio::test]
    async fn what_another_pair_sent_stands_for_nothing() {
        let fake = Fake::start().await;
        let speaking = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            fake.say_all(&message(1_000_000, &flow::text(1, "userC", 64)));
        };
        let (out, ()) = tokio::join!(run(&fake, Pace::Closed(1), 100), speaking);
        // Both of the pair heard it.
        assert_eq!(out.faults, Faults { foreign: 2, ..Faults::default() }, "{:?}", out.error);
        assert!(out.error.unwrap().starts_with("came to somebody it was not for"));
    }

    #[tokio::test]
    async fn a_double_that_comes_late_is_heard() {
        let fake = Fake::start().await;
        let speaking = async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            fake.say_to("userB", &message(1_000_000, &flow::text(1, "userB", 64)));
        };
        let (out, ()) = tokio::join!(run(&fake, Pace::Closed(1), 100), speaking);
        assert_eq!(out.faults, Faults { doubled: 1, ..Faults::default() });
    }

    #[tokio::test]
    async fn a_message_that_never_arrives_is_missed() {
        let fake = Fake::start().await;
        fake.swallow(3);
        let out = run(&fake, Pace::Closed(8), 100).await;
        assert_eq!(out.faults.missing, 1, "{out:?}");
        assert!(out.error.is_some());
    }
}
