//! `talk`: pairs that answer each other, one message under way in each conversation, or one burst.
//!
//! What one message costs when nothing is busy: its latency, and with DynamoDB its write units
//! (the conditions of the cost targets: both write, gaps are short; bursts of 16).

use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::Common;
use super::crowd::{Crowd, close, fresh_names};
use super::flow::{self, Faults, Flow};
use super::process::Watch;
use super::report::{Latency, Report, progress};
use super::target::Target;
use crate::client::{Client, ClientError, Fields};

/// How long one message may take.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 30 });

/// `parlor bench talk`
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How many pairs
    #[arg(long, default_value_t = 50, env = "PARLOR_BENCH_PAIRS")]
    pub pairs: usize,
    /// Messages each way
    #[arg(long, default_value_t = 20, env = "PARLOR_BENCH_MESSAGES")]
    pub messages: u64,
    /// How many of them leave at once, in one write
    #[arg(long, default_value_t = 1, env = "PARLOR_BENCH_BURST",
          value_parser = clap::value_parser!(u64).range(1..=64))]
    pub burst: u64,
    /// The pause before each answer
    #[arg(long, default_value_t = 200, env = "PARLOR_BENCH_PAUSE_MS")]
    pub pause_ms: u64,
    /// The size of a message
    #[arg(long, default_value_t = 64, env = "PARLOR_BENCH_BYTES")]
    pub bytes: usize,
    /// What all scenarios take.
    #[command(flatten)]
    pub common: Common,
}

/// One of a pair.
struct Voice {
    client: Client,
    name: String,
    to: String,
    heard: Flow,
    said: u64,
    stored: u64,
    delivered_seq: u64,
    stored_seq: u64,
    refused: u64,
}

/// What one pair did.
struct Outcome {
    voices: [Voice; 2],
    latency: Latency,
    error: Option<String>,
}

/// Runs it.
pub(super) async fn run(target: &Target, options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("talk");
    let mut watch = Watch::new(&target.processes);
    let names = fresh_names("talk", options.pairs * 2);
    let crowd = Crowd::open(target, &names).await?;
    watch.mark("open");
    let units = target.write_units().await?;
    let bar = progress("messages", options.messages * names.len() as u64);
    let mut clients = crowd.clients.into_iter();
    let mut tasks = JoinSet::new();
    for pair in names.chunks(2) {
        let (Some(a), Some(b), [one, two]) = (clients.next(), clients.next(), pair) else { break };
        let voices = [Voice::new(a, one, two), Voice::new(b, two, one)];
        tasks.spawn(talk(voices, options.clone(), bar.clone()));
    }
    let outcomes = tasks.join_all().await;
    bar.finish_and_clear();
    watch.mark("after");
    report.figure("pairs", options.pairs);
    report.figure("burst", options.burst);
    let mut open = Vec::new();
    let messages = tell(&mut report, outcomes, &mut open);
    if let (Some(before), Some(after)) = (units, target.write_units().await?) {
        report.decimal("write_units_per_message", (after - before) / messages.max(1) as f64);
        close(open).await;
        // A socket's end writes its cursors, and when its device was last seen.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let ended = target.write_units().await?.unwrap_or(after) - after;
        report.decimal("write_units_per_socket_closed", ended / names.len() as f64);
    } else {
        close(open).await;
    }
    let micros = watch.cpu_seconds("open", "after") * 1e6;
    report.decimal("cpu_us_per_message", micros / messages.max(1) as f64);
    report.table("processes", watch.rows());
    Ok(report)
}

fn tell(report: &mut Report, outcomes: Vec<Outcome>, open: &mut Vec<Client>) -> u64 {
    let (mut latency, mut faults, mut messages) = (Latency::new(), Faults::default(), 0);
    for outcome in outcomes {
        latency.add(&outcome.latency);
        if let Some(error) = outcome.error {
            report.fail(format!("a pair said: {error}"));
        }
        let [mut a, mut b] = outcome.voices;
        faults.add(b.heard.close(a.stored));
        faults.add(a.heard.close(b.stored));
        for voice in [a, b] {
            messages += voice.stored;
            faults.refused += voice.refused;
            if voice.delivered_seq < voice.stored_seq {
                report.fail(format!("{} did not get a receipt for all", voice.to));
            }
            open.push(voice.client);
        }
    }
    report.figure("messages", messages);
    report.latency("send_to_received", &latency);
    report.faults(faults);
    messages
}

async fn talk(voices: [Voice; 2], options: Options, bar: indicatif::ProgressBar) -> Outcome {
    let [mut a, mut b] = voices;
    let (mut latency, mut error) = (Latency::new(), None);
    let mut said = 0;
    while said < options.messages {
        let burst = said + 1..=options.messages.min(said + options.burst);
        said = *burst.end();
        for turn in [true, false] {
            let (speaker, listener) = if turn { (&mut a, &mut b) } else { (&mut b, &mut a) };
            tokio::time::sleep(Duration::from_millis(options.pause_ms)).await;
            let begun = Instant::now();
            let told = timeout(PATIENCE, speaker.tell(listener, burst.clone(), &options)).await;
            match told.unwrap_or(Err(ClientError::TimedOut(PATIENCE))) {
                Ok(received) => latency.record(received - begun),
                Err(failure) => {
                    error.get_or_insert(failure.to_string());
                }
            }
            bar.inc(burst.end() - burst.start() + 1);
        }
    }
    Outcome { voices: [a, b], latency, error }
}

impl Voice {
    fn new(client: Client, name: &str, to: &str) -> Self {
        let (name, to) = (name.to_owned(), to.to_owned());
        let (said, stored, refused, delivered_seq, stored_seq) = (0, 0, 0, 0, 0);
        let heard = Flow::default();
        Self { client, name, to, heard, said, stored, refused, delivered_seq, stored_seq }
    }

    /// Says a burst of messages and waits until the other one has them, and this one the receipts.
    async fn tell(
        &mut self,
        listener: &mut Voice,
        burst: std::ops::RangeInclusive<u64>,
        options: &Options,
    ) -> Result<Instant, ClientError> {
        self.said = *burst.end();
        for number in burst {
            let (to, text) = (&self.to, flow::text(number, &self.to, options.bytes));
            let reference: u128 = rand::random();
            let frame = format!(
                r#"{{"type":"message","to":"{to}","message":"{text}","ref":"{reference:032x}"}}"#
            );
            self.client.feed_text(frame).await?;
        }
        self.client.flush().await?;
        let mut received = None;
        while received.is_none() || !self.is_answered() {
            tokio::select! {
                text = listener.client.next_text() => listener.hear(&text?),
                text = self.client.next_text() => self.hear(&text?),
            }
            if listener.heard.count() >= self.said {
                received.get_or_insert_with(Instant::now);
            }
        }
        Ok(received.unwrap_or_else(Instant::now))
    }

    fn is_answered(&self) -> bool {
        self.stored + self.refused >= self.said && self.delivered_seq >= self.stored_seq
    }

    fn hear(&mut self, text: &str) {
        let Ok(frame) = Fields::parse(text) else { return };
        match frame.kind.as_ref() {
            "sent" => {
                self.stored += 1;
                self.stored_seq = frame.seq;
            }
            "delivered" => self.delivered_seq = self.delivered_seq.max(frame.seq),
            "error" => self.refused += 1,
            "message" => match flow::number_for(&frame.message, &self.name) {
                Some(number) => {
                    self.heard.received(frame.seq, number);
                }
                None => self.heard.faults.foreign += 1,
            },
            _ => {}
        }
    }
}
