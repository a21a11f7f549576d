//! `fanout`: a room; what its creator says reaches every member, once and in order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Common;
use super::crowd::{Crowd, close, each, fresh_names};
use super::flow::{self, Faults, Flow};
use super::process::Watch;
use super::report::{Latency, Report, progress};
use super::target::Target;
use crate::client::{Client, ClientError, Fields};

/// How long all may take.
const PATIENCE: Duration = Duration::from_secs(120);
const TEXT_BYTES: usize = 64;
/// How many members one POST may name.
const MEMBERS_AT_ONCE: usize = 256;

/// `parlor bench fanout`
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How many members, the creator among them
    #[arg(long, default_value_t = 100, env = "PARLOR_BENCH_MEMBERS",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(2..))]
    pub members: usize,
    /// How many messages
    #[arg(long, default_value_t = 1_000, env = "PARLOR_BENCH_MESSAGES")]
    pub messages: u64,
    /// How many of them may be on their way to the slowest member
    #[arg(long, default_value_t = 8, env = "PARLOR_BENCH_WINDOW")]
    pub window: usize,
    /// What all scenarios take.
    #[command(flatten)]
    pub common: Common,
}

/// What the tasks of a room share.
struct Room {
    id: String,
    messages: u64,
    begun: Instant,
    /// When each was sent, in microseconds from `begun`.
    sent_at: Vec<std::sync::atomic::AtomicU64>,
    /// How many members have each.
    arrived: Vec<std::sync::atomic::AtomicUsize>,
    others: usize,
    window: Semaphore,
}

struct Heard {
    client: Client,
    flow: Flow,
    stored: u64,
    latency: Latency,
    error: Option<String>,
}

/// Runs it.
pub(super) async fn run(target: &Target, options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("fanout");
    let mut watch = Watch::new(&target.processes);
    let names = fresh_names("member", options.members);
    let room = fresh_names("room", 1).concat();
    make(target, &room, &names).await.context("making the room")?;
    // Everybody missed everybody's joining; one entry of it is enough.
    let crowd = Crowd::open_with(target, &names, Some(1)).await?;
    watch.mark("open");
    let messages = usize::try_from(options.messages)?;
    let shared = Arc::new(Room {
        id: format!("room:{room}"),
        messages: options.messages,
        begun: Instant::now(),
        sent_at: (0..messages).map(|_| Default::default()).collect(),
        arrived: (0..messages).map(|_| Default::default()).collect(),
        others: options.members - 1,
        window: Semaphore::new(options.window.max(1)),
    });
    progress("messages", options.messages).finish_and_clear();
    let heard = each(crowd.clients, |index, client| member(shared.clone(), index == 0, client));
    let heard = heard.await?;
    let took = shared.begun.elapsed();
    watch.mark("after");
    let (mut latency, mut faults) = (Latency::new(), Faults::default());
    let (mut clients, mut deliveries) = (Vec::new(), 0);
    for (index, mut one) in heard.into_iter().enumerate() {
        if index == 0 {
            faults.refused += options.messages - one.stored.min(options.messages);
        } else {
            deliveries += one.flow.count();
            faults.add(one.flow.close(options.messages));
            latency.add(&one.latency);
        }
        if let Some(error) = one.error {
            report.fail(format!("member {index} said: {error}"));
        }
        clients.push(one.client);
    }
    report.table("processes", watch.rows());
    report.figure("members", options.members);
    report.figure("messages", options.messages);
    report.figure("deliveries", deliveries);
    report.decimal("deliveries_per_second", deliveries as f64 / took.as_secs_f64());
    report.latency("send_to_received", &latency);
    if !watch.is_empty() {
        let micros = watch.cpu_seconds("open", "after") * 1e6 / deliveries.max(1) as f64;
        report.decimal("cpu_us_per_delivery", micros);
    }
    report.faults(faults);
    close(clients).await;
    Ok(report)
}

/// Makes the room with all its members; the first is its creator.
async fn make(target: &Target, room: &str, names: &[String]) -> anyhow::Result<()> {
    let Some((creator, others)) = names.split_first() else { return Ok(()) };
    let (first, more) = others.split_at(others.len().min(MEMBERS_AT_ONCE));
    let body = json!({"room": room, "title": "bench", "members": first});
    target.api.post(&format!("/v1/rooms?userId={creator}"), &body).await?.good()?;
    for name in more {
        let path = format!("/v1/rooms/{room}/members/{name}?userId={creator}");
        target.api.call("PUT", &path, None, &[]).await?.good()?;
    }
    Ok(())
}

async fn member(room: Arc<Room>, speaks: bool, client: Client) -> Heard {
    let mut heard =
        Heard { client, flow: Flow::default(), stored: 0, latency: Latency::new(), error: None };
    let part = async { if speaks { heard.speak(&room).await } else { heard.listen(&room).await } };
    let ran = tokio::time::timeout(PATIENCE, part).await;
    if let Err(error) = ran.unwrap_or(Err(ClientError::TimedOut(PATIENCE))) {
        heard.error.get_or_insert(error.to_string());
    }
    heard
}

impl Heard {
    async fn speak(&mut self, room: &Room) -> Result<(), ClientError> {
        let mut sent = 0;
        while self.stored < room.messages {
            tokio::select! {
                place = room.window.acquire(), if sent < room.messages => {
                    if let Ok(place) = place {
                        place.forget();
                    }
                    sent += 1;
                    let now = u64::try_from(room.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                    if let Some(at) = slot(&room.sent_at, sent) {
                        at.store(now, std::sync::atomic::Ordering::Release);
                    }
                    let (id, text) = (&room.id, flow::text(sent, TEXT_BYTES));
                    let frame =
                        format!(r#"{{"type":"message","conversation":"{id}","message":"{text}"}}"#);
                    self.client.send_text(frame).await?;
                }
                text = self.client.next_text() => {
                    let text = text?;
                    let Ok(frame) = Fields::parse(&text) else { continue };
                    match frame.kind.as_ref() {
                        "sent" => self.stored += 1,
                        "error" => return Err(ClientError::Protocol(text.as_str().to_owned())),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    async fn listen(&mut self, room: &Room) -> Result<(), ClientError> {
        use std::sync::atomic::Ordering;
        while self.flow.count() < room.messages {
            let text = self.client.next_text().await?;
            let Ok(frame) = Fields::parse(&text) else { continue };
            if frame.kind != "message" {
                continue;
            }
            let number = flow::number(&frame.message).unwrap_or_default();
            let Some(sent_at) = slot(&room.sent_at, number) else {
                self.flow.faults.foreign += 1;
                continue;
            };
            if !self.flow.received(frame.seq, number) {
                continue;
            }
            let sent_at = Duration::from_micros(sent_at.load(Ordering::Acquire));
            self.latency.record(room.begun.elapsed().saturating_sub(sent_at));
            let arrived = slot(&room.arrived, number);
            let arrived = arrived.map_or(0, |count| count.fetch_add(1, Ordering::AcqRel) + 1);
            if arrived == room.others {
                room.window.add_permits(1);
            }
        }
        Ok(())
    }
}

fn slot<T>(slots: &[T], number: u64) -> Option<&T> {
    slots.get(usize::try_from(number.checked_sub(1)?).ok()?)
}
