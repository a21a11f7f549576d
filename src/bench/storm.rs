//! `storm`: users are lost at once and come back at once; or a server, or Redis is lost.

mod fault;
mod own_redis;
mod victim;

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Common;
use super::crowd::{Crowd, close, fresh_names};
use super::flow::{self, Faults, Flow};
use super::process::Watch;
use super::report::{Latency, Report, progress};
use super::target::Target;
use crate::client::{Backoff, Client, ClientError, ClientOptions, Fields, Rules};

/// How long a user may take to come back.
const PATIENCE: Duration = Duration::from_secs(120);
const TEXT_BYTES: usize = 64;
/// How many messages of the one who writes to the absent are under way.
const WRITING_AHEAD: u64 = 64;

pub(super) use own_redis::OwnRedis;

/// What is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// All users, who come back at once with messages waiting
    Users,
    /// One server of a fleet, by kill -9
    Server,
    /// One server of a fleet, or a `parlor up`, by SIGTERM
    Drain,
    /// A Redis of the run's own, by kill -9; it comes back empty
    Redis,
}

/// `parlor bench storm`
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// What is lost
    #[arg(long, value_enum, default_value_t = Fault::Users, env = "PARLOR_BENCH_FAULT")]
    pub fault: Fault,
    /// Pairs of users that nothing happens to: how long their messages take meanwhile
    #[arg(long, default_value_t = 20, env = "PARLOR_BENCH_PAIRS")]
    pub pairs: usize,
    /// How many users
    #[arg(long, default_value_t = 10_000, env = "PARLOR_BENCH_USERS")]
    pub users: usize,
    /// Messages that wait for each when it comes back
    #[arg(long, default_value_t = 1, env = "PARLOR_BENCH_MESSAGES")]
    pub messages: u64,
    /// Users of a lost server come back spread over so many seconds, as clients that wait with full
    /// jitter do; 0: all at once
    #[arg(long, default_value_t = 0.0, env = "PARLOR_BENCH_SPREAD")]
    pub spread: f64,
    /// What all scenarios take.
    #[command(flatten)]
    pub common: Common,
}

struct Back {
    client: Option<Client>,
    flow: Flow,
    tries: u64,
    took: Duration,
    error: Option<String>,
}

impl Options {
    /// The Redis that will be killed, where that is asked for.
    pub(super) async fn own_redis(&self) -> anyhow::Result<Option<OwnRedis>> {
        match self.fault {
            Fault::Redis => {
                anyhow::ensure!(self.common.start, "only a Redis of the run's own: add --start");
                OwnRedis::start().await.map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// Runs it.
pub(super) async fn run(
    target: &mut Target,
    options: &Options,
    redis: Option<&mut OwnRedis>,
) -> anyhow::Result<Report> {
    match options.fault {
        Fault::Users => all_users(target, options).await,
        _ => fault::run(target, options, redis).await,
    }
}

async fn all_users(target: &Target, options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("storm");
    let mut watch = Watch::new(&target.processes);
    let names = fresh_names("storm", options.users);
    let writer = fresh_names("writer", 1);
    let crowd = Crowd::open(target, &names).await?;
    let mut writing = Crowd::open(target, &writer).await?;
    report.decimal("open_seconds", crowd.took.as_secs_f64());
    watch.mark("open");
    // No goodbye: the connections just end.
    drop(crowd);
    if let Some(writer) = writing.clients.first_mut() {
        write_to_all(writer, &names, options.messages).await?;
    }
    watch.mark("lost");
    let bar = progress("back", names.len() as u64);
    let begun = Instant::now();
    // All at once is the point of it.
    let mut tasks = JoinSet::new();
    for (index, name) in names.iter().enumerate() {
        let (dialled, messages) = (target.door.options(index, name), options.messages);
        tasks.spawn(come_back(dialled, messages, begun));
    }
    let mut back = Vec::with_capacity(names.len());
    while let Some(one) = tasks.join_next().await {
        back.push(one?);
        bar.inc(1);
    }
    let took = begun.elapsed();
    bar.finish_and_clear();
    watch.mark("after");
    report.table("processes", watch.rows());
    let clients = tell(&mut report, back, options.messages, took);
    if !watch.is_empty() {
        let micros = watch.cpu_seconds("lost", "after") * 1e6 / names.len().max(1) as f64;
        report.decimal("cpu_us_per_user", micros);
    }
    writing.close().await;
    close(clients).await;
    Ok(report)
}

fn tell(report: &mut Report, back: Vec<Back>, messages: u64, took: Duration) -> Vec<Client> {
    let (mut latency, mut faults, mut tries) = (Latency::new(), Faults::default(), 0);
    let mut clients = Vec::with_capacity(back.len());
    let users = back.len();
    let mut failed = 0_u64;
    let mut first_error = None;
    for mut one in back {
        latency.record(one.took);
        faults.add(one.flow.close(messages));
        tries += one.tries;
        failed += u64::from(one.error.is_some());
        first_error = first_error.or(one.error);
        clients.extend(one.client);
    }
    report.figure("users", users);
    report.decimal("all_caught_up_seconds", took.as_secs_f64());
    report.figure("tries_per_user", json!(tries as f64 / users.max(1) as f64));
    report.latency("lost_to_caught_up", &latency);
    report.faults(faults);
    if let Some(error) = first_error {
        report.fail(format!("{failed} users did not come back: {error}"));
    }
    clients
}

async fn write_to_all(writer: &mut Client, names: &[String], each: u64) -> anyhow::Result<()> {
    let (mut sent, mut stored) = (0_u64, 0_u64);
    let total = names.len() as u64 * each;
    while stored < total {
        while sent < total && sent < stored + WRITING_AHEAD {
            let name = &names[usize::try_from(sent / each)?];
            let text = flow::text(sent % each + 1, name, TEXT_BYTES);
            writer
                .feed_text(format!(r#"{{"type":"message","to":"{name}","message":"{text}"}}"#))
                .await?;
            sent += 1;
        }
        writer.flush().await?;
        let text = writer.next_text().await?;
        let frame = Fields::parse(&text)?;
        anyhow::ensure!(frame.kind != "error", "a message to the absent was refused: {text}");
        stored += u64::from(frame.kind == "sent");
    }
    Ok(())
}

async fn come_back(options: ClientOptions, messages: u64, begun: Instant) -> Back {
    let (client, flow, error) = (None, Flow::default(), None);
    let mut back = Back { client, flow, tries: 0, took: Duration::ZERO, error };
    let mut backoff = Backoff::new(Rules::default());
    let trying = async {
        loop {
            back.tries += 1;
            match caught_up(&options, messages, &mut back.flow).await {
                Ok(client) => return client,
                Err(error) => back.error = Some(error.to_string()),
            }
            tokio::time::sleep(backoff.next(rand::random())).await;
        }
    };
    back.client = tokio::time::timeout(PATIENCE, trying).await.ok();
    back.took = begun.elapsed();
    if back.client.is_some() {
        back.error = None;
    }
    back
}

/// Reads until `caughtup`, and on until all that waited is there.
async fn caught_up(
    options: &ClientOptions,
    messages: u64,
    flow: &mut Flow,
) -> Result<Client, ClientError> {
    let mut client = Client::connect(options).await?;
    let mut done = false;
    while !done || flow.count() < messages {
        let text = client.next_text().await?;
        let Ok(frame) = Fields::parse(&text) else { continue };
        match frame.kind.as_ref() {
            "caughtup" => done = true,
            "message" => match flow::number_for(&frame.message, &options.user) {
                Some(number) => {
                    flow.received(frame.seq, number);
                }
                None => flow.faults.foreign += 1,
            },
            _ => {}
        }
    }
    Ok(client)
}
