//! One share of the load: so many users in one process, which does what it is told and tells how it
//! went. The first share of a small run is a task of the bench itself; others are processes of
//! their own, since each may open only so many files.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, stdin, stdout};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::dialect::{Heard, To, Wire};
use super::door::Door;
use super::driven::{Driven, Driving, drive_all};
use super::flow::{self, Faults};
use super::report::Latency;
use super::sitting::{Sitting, Tally, sit};

/// Orders and answers under way between the bench and a share.
const TALK_BOUND: usize = 16;
/// How often a share tells how many are in.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// A share that so many users could not get into gives up.
const FAILURES_MAX: usize = 20;
/// Messages under way of the one who writes to all.
const WRITING_AHEAD: u64 = 64;
/// How long one of them may wait for its answer, and all of them for one that is taken.
const ANSWER: Duration = Duration::from_secs(60);
/// How long all of it may take.
const WRITING_MAX: Duration = Duration::from_secs(900);
/// How long a server that asks for something again is left alone before.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const TEXT_BYTES: usize = 64;

/// Which users a share has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Job {
    /// How they get in.
    pub door: Door,
    /// User number `i` of the run has this name and `-i`.
    pub prefix: String,
    /// The number of the first in the run.
    pub first: usize,
}

impl Job {
    /// The name of a user, by its number in the run.
    pub fn name(&self, index: usize) -> String {
        format!("{}-{index}", self.prefix)
    }
}

/// Whom to write to: the numbers of users in the run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Writing {
    /// The first.
    pub first: usize,
    /// From one to the next.
    pub step: usize,
    /// How many.
    pub count: usize,
}

/// What a share is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Order {
    /// The first of all.
    Take(Box<Job>),
    /// Have so many users in; they sit and listen, or stand and wait to be driven.
    Open { users: usize, sit: bool },
    /// How many are still there, and what came?
    Count,
    /// One more user writes to these.
    Write(Writing),
    /// Those who stand talk in pairs.
    Drive(Driving),
    /// Goodbye for all.
    Close,
}

/// What a share tells.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    /// So many are in so far.
    Opening(usize),
    /// The end of opening.
    Open(Opened),
    /// The answer to `Count`.
    Standing(Standing),
    /// How writing went.
    Wrote(Wrote),
    /// How it went.
    Driven(Box<Driven>),
    /// All are gone.
    Closed,
}

/// How opening went.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Opened {
    /// How many this share has now.
    pub users: usize,
    /// How many of them on which server.
    pub servers: BTreeMap<String, u64>,
    /// How many did not get in.
    pub failures: usize,
    /// The first failure.
    pub error: Option<String>,
}

/// What became of what was to be written.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Wrote {
    /// So many were stored.
    pub stored: u64,
    /// How often one was refused for now, and sent again.
    pub again: u64,
    /// Why not all.
    pub error: Option<String>,
}

/// Those who sit.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Standing {
    /// Whose connection ended.
    pub gone: u64,
    /// Messages that came.
    pub received: u64,
    /// The same seq again, as at-least-once allows.
    pub repeats: u64,
    /// What must be zero.
    pub faults: Faults,
    /// From the first try of a send until they came.
    pub latency: Latency,
    /// The first thing that went wrong.
    pub error: Option<String>,
}

/// `parlor bench share`: orders from stdin, answers on stdout, a line of JSON each. Ends with the
/// process that started it.
pub(super) async fn run() -> anyhow::Result<()> {
    let (orders, mut told) = start();
    let mut lines = BufReader::new(stdin()).lines();
    let mut out = stdout();
    loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                Some(line) => orders.send(serde_json::from_str(&line)?).await?,
                None => return Ok(()),
            },
            told = told.recv() => match told {
                Some(told) => {
                    out.write_all((serde_json::to_string(&told)? + "\n").as_bytes()).await?;
                    out.flush().await?;
                }
                None => return Ok(()),
            },
        }
    }
}

/// Starts a share as a task, which ends when the orders do.
pub(super) fn start() -> (mpsc::Sender<Order>, mpsc::Receiver<Told>) {
    let (orders, order) = mpsc::channel(TALK_BOUND);
    let (tell, told) = mpsc::channel(TALK_BOUND);
    tokio::spawn(async move { Share::new(tell).run(order).await });
    (orders, told)
}

struct Share {
    job: Job,
    tell: mpsc::Sender<Told>,
    opened: Opened,
    standing: Vec<Wire>,
    seats: JoinSet<()>,
    stop: CancellationToken,
    tally: Arc<Tally>,
}

impl Share {
    fn new(tell: mpsc::Sender<Told>) -> Self {
        let job = Job { door: Door::default(), prefix: String::new(), first: 0 };
        Self {
            job,
            tell,
            opened: Opened::default(),
            standing: Vec::new(),
            seats: JoinSet::new(),
            stop: CancellationToken::new(),
            tally: Arc::default(),
        }
    }

    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        while let Some(order) = orders.recv().await {
            let told = match order {
                Order::Take(job) => {
                    self.job = *job;
                    continue;
                }
                Order::Open { users, sit } => self.open(users, sit).await,
                Order::Count => Told::Standing(self.tally.standing()),
                Order::Write(writing) => self.write(&writing).await,
                Order::Drive(driving) => {
                    let wires = std::mem::take(&mut self.standing);
                    let (driven, wires) = drive_all(&self.job, driving, wires).await;
                    self.standing = wires;
                    Told::Driven(Box::new(driven))
                }
                Order::Close => self.close().await,
            };
            if self.tell.send(told).await.is_err() {
                return;
            }
        }
    }

    /// Opens until so many are in, or too many did not get in.
    async fn open(&mut self, users: usize, sits: bool) -> Told {
        let from = self.opened.users + self.opened.failures;
        let (job, tell) = (self.job.clone(), self.tell.clone());
        let opening = (from..users).map(|index| {
            let (job, number) = (&job, job.first + index);
            async move { (number, job.door.open(number, &job.name(number), None).await) }
        });
        let mut opening = stream::iter(opening).buffered(job.door.concurrency.max(1));
        let (mut told, mut failures) = (Instant::now(), 0);
        while let Some((number, wire)) = opening.next().await {
            match wire {
                Ok(wire) => {
                    self.opened.users += 1;
                    let server = wire.server().unwrap_or("?").to_owned();
                    *self.opened.servers.entry(server).or_default() += 1;
                    if sits {
                        let sitting = Sitting::new(number, wire, self.tally.clone());
                        self.seats.spawn(sit(sitting, self.stop.clone()));
                    } else {
                        self.standing.push(wire);
                    }
                }
                Err(error) => {
                    self.opened.failures += 1;
                    failures += 1;
                    let error = || format!("user number {number}: {error:#}");
                    self.opened.error.get_or_insert_with(error);
                }
            }
            if failures >= FAILURES_MAX {
                break;
            }
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                let _ = tell.send(Told::Opening(self.opened.users)).await;
            }
        }
        Told::Open(Opened {
            servers: self.opened.servers.clone(),
            error: self.opened.error.clone(),
            ..self.opened
        })
    }

    async fn write(&self, writing: &Writing) -> Told {
        let mut wrote = Wrote::default();
        let written = timeout(WRITING_MAX, self.write_to(writing, &mut wrote)).await;
        let error = written.unwrap_or_else(|late| Err(late.into())).err();
        wrote.error = error.map(|error| format!("writing: {error:#}"));
        Told::Wrote(wrote)
    }

    async fn write_to(&self, writing: &Writing, wrote: &mut Wrote) -> anyhow::Result<()> {
        let (run, first) = (&self.job.prefix, self.job.first);
        let writer = format!("{run}-writer-{first}");
        let mut wire = self.job.door.open(first, &writer, None).await?;
        let (count, mut taken_at) = (writing.count as u64, Instant::now());
        // By the wire's id, so that what is refused for now is sent again as the one it was.
        let (mut letters, mut refused) = (HashMap::new(), Vec::new());
        let (mut fed, mut open) = (0, 0);
        while wrote.stored < count {
            while refused.is_empty() && fed < count && open < WRITING_AHEAD {
                let index = writing.first + usize::try_from(fed)? * writing.step;
                let (to, text) = (self.job.name(index), letter(index));
                let id = wire.feed(To::User(&to), &text).await?;
                letters.insert(id, (to, text));
                (fed, open) = (fed + 1, open + 1);
            }
            if open == 0 {
                tokio::time::sleep(AGAIN_AFTER).await;
                for id in refused.drain(..) {
                    let (to, text) = letters.get(&id).context("refused what nobody sent")?;
                    wire.feed_again(To::User(to), text, id).await?;
                    (open, wrote.again) = (open + 1, wrote.again + 1);
                }
            }
            wire.flush().await?;
            match timeout(ANSWER, wire.hear()).await?? {
                Heard::Stored { .. } => {
                    (open, taken_at) = (open - 1, Instant::now());
                    wrote.stored += 1;
                }
                Heard::Refused { retry: Some(id), .. } if taken_at.elapsed() < ANSWER => {
                    open -= 1;
                    refused.push(id);
                }
                Heard::Refused { why, .. } => anyhow::bail!("refused: {why}"),
                _ => {}
            }
        }
        // The goodbye of the writer must not wait for the receipts of all.
        wire.into_client().close(1000).await;
        Ok(())
    }

    async fn close(&mut self) -> Told {
        self.stop.cancel();
        let standing: Vec<_> = self.standing.drain(..).map(Wire::into_client).collect();
        super::crowd::close(standing).await;
        while self.seats.join_next().await.is_some() {}
        Told::Closed
    }
}

/// What a user is written once: its own number, so that it knows what it must get, and when.
fn letter(index: usize) -> String {
    flow::text(index as u64, &since_epoch().as_micros().to_string(), TEXT_BYTES)
}

/// All processes of a run share a machine, and so a clock.
pub(super) fn since_epoch() -> Duration {
    std::time::UNIX_EPOCH.elapsed().unwrap_or_default()
}
