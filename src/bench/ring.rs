//! A user of `ten-thousand`: sends to the next one of the ring, and hears from the one before.
//!
//! Behaves as a client should: a send that is refused for the moment is tried again with its `ref`,
//! after the pause that the server asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::sync::{Barrier, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::flow::{self, Flow};
use super::report::Latency;
use crate::client::{Client, ClientError, Fields};

/// How long all users together may take.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 180 });
const TEXT_BYTES: usize = 64;
/// The pause before a send is tried again, where the server names none.
const PAUSE_MS: u64 = 500;

/// What all users share.
pub(super) struct Ring {
    /// Messages from each user to the next.
    pub messages: u64,
    /// How many users may have messages under way.
    turns: Semaphore,
    begun: Instant,
    /// When each user sent, in microseconds from `begun`.
    sent_at: Vec<AtomicU64>,
    /// Who stops reading gives no receipts, and others wait for them: all stop together.
    all_done: Barrier,
    bar: ProgressBar,
}

impl Ring {
    /// A ring of so many users, of whom `at_once` send at a time.
    pub fn new(users: usize, messages: u64, at_once: usize, bar: ProgressBar) -> Arc<Self> {
        Arc::new(Self {
            messages,
            turns: Semaphore::new(at_once.max(1)),
            begun: Instant::now(),
            sent_at: (0..users).map(|_| AtomicU64::default()).collect(),
            all_done: Barrier::new(users),
            bar,
        })
    }
}

/// One user's part, and how it went.
pub(super) struct User {
    /// The socket.
    pub client: Client,
    /// What came from the one before.
    pub flow: Flow,
    /// How many of the own messages the store has.
    pub stored: u64,
    /// The highest of their seqs.
    pub stored_seq: u64,
    /// Up to where the next one has received them.
    pub delivered_seq: u64,
    /// From the other's send until it came.
    pub latency: Latency,
    /// Sends that were tried again.
    pub retried: u64,
    /// Sends that were refused for good.
    pub refused: u64,
    /// The first thing that went wrong.
    pub error: Option<String>,
    ring: Arc<Ring>,
    index: usize,
    name: String,
    next: String,
    /// Frames without an answer, by ref, and when they are to be sent again.
    waiting: BTreeMap<String, (String, Option<Instant>)>,
}

impl User {
    /// User number `index`, by its name, who writes to `next`.
    pub fn new(
        ring: Arc<Ring>,
        index: usize,
        client: Client,
        (name, next): (String, String),
    ) -> Self {
        Self {
            client,
            flow: Flow::default(),
            stored: 0,
            stored_seq: 0,
            delivered_seq: 0,
            latency: Latency::new(),
            retried: 0,
            refused: 0,
            error: None,
            ring,
            index,
            name,
            next,
            waiting: BTreeMap::new(),
        }
    }

    /// Sends, receives, and reads on until all users are done.
    pub async fn run(mut self) -> Self {
        let limit = self.ring.begun + PATIENCE;
        let ran = tokio::time::timeout_at(limit, self.exchange()).await;
        if let Err(error) = ran.unwrap_or(Err(ClientError::TimedOut(PATIENCE))) {
            self.error.get_or_insert(error.to_string());
        }
        let (ring, mut open) = (self.ring.clone(), true);
        let all_done = ring.all_done.wait();
        tokio::pin!(all_done);
        loop {
            tokio::select! {
                _ = &mut all_done => return self,
                text = self.client.next_text(), if open => match text {
                    Ok(text) => self.heard(&text),
                    Err(_) => open = false,
                },
            }
        }
    }

    async fn exchange(&mut self) -> Result<(), ClientError> {
        let ring = self.ring.clone();
        let turn = ring.turns.acquire();
        tokio::pin!(turn);
        let turn = loop {
            tokio::select! {
                turn = &mut turn => break turn,
                text = self.client.next_text() => self.heard(&text?),
            }
        };
        self.send().await?;
        while !self.is_answered() {
            let again = self.waiting.values().filter_map(|(_, at)| *at).min();
            tokio::select! {
                text = self.client.next_text() => self.heard(&text?),
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {
                    self.send_again().await?;
                }
            }
        }
        drop(turn);
        while self.flow.count() < ring.messages {
            let text = self.client.next_text().await?;
            self.heard(&text);
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), ClientError> {
        let now = u64::try_from(self.ring.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.ring.sent_at[self.index].store(now, Ordering::Relaxed);
        for number in 1..=self.ring.messages {
            let reference = format!("{:032x}", rand::random::<u128>());
            let (to, text) = (&self.next, flow::text(number, &self.next, TEXT_BYTES));
            let frame = format!(
                r#"{{"type":"message","to":"{to}","message":"{text}","ref":"{reference}"}}"#
            );
            self.client.feed_text(frame.clone()).await?;
            self.waiting.insert(reference, (frame, None));
        }
        self.client.flush().await
    }

    async fn send_again(&mut self) -> Result<(), ClientError> {
        let now = Instant::now();
        for (frame, again) in self.waiting.values_mut() {
            if again.take_if(|at| *at <= now).is_some() {
                self.retried += 1;
                self.client.feed_text(frame.clone()).await?;
            }
        }
        self.client.flush().await
    }

    fn is_answered(&self) -> bool {
        self.waiting.is_empty() && self.delivered_seq >= self.stored_seq
    }

    fn heard(&mut self, text: &str) {
        let Ok(frame) = Fields::parse(text) else { return };
        match frame.kind.as_ref() {
            "sent" => {
                self.stored += 1;
                self.stored_seq = self.stored_seq.max(frame.seq);
                self.waiting.remove(frame.reference.as_ref());
            }
            "delivered" => self.delivered_seq = self.delivered_seq.max(frame.seq),
            "error" if frame.retryable => {
                let pause = frame.retry_after_ms.unwrap_or(PAUSE_MS).max(1);
                let pause = pause + rand::random_range(0..pause);
                if let Some((_, again)) = self.waiting.get_mut(frame.reference.as_ref()) {
                    *again = Some(Instant::now() + Duration::from_millis(pause));
                }
            }
            "error" => {
                self.refused += 1;
                self.waiting.remove(frame.reference.as_ref());
                self.error.get_or_insert(format!("{}: {}", frame.code, frame.detail));
            }
            "message" => match flow::number_for(&frame.message, &self.name) {
                Some(number) => self.received(frame.seq, number),
                None => self.flow.faults.foreign += 1,
            },
            _ => {}
        }
    }

    fn received(&mut self, seq: u64, number: u64) {
        if self.flow.received(seq, number) {
            let users = self.ring.sent_at.len();
            let before = &self.ring.sent_at[(self.index + users - 1) % users];
            let sent_at = Duration::from_micros(before.load(Ordering::Relaxed));
            self.latency.record(self.ring.begun.elapsed().saturating_sub(sent_at));
            self.ring.bar.inc(1);
        }
    }
}
