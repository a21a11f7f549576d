//! `fanout`: a room; what its creator says reaches every member, once and in order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Common;
use super::crowd::{Crowd, close, each, fresh_names};
use super::dialect::{Heard, To, Wire};
use super::flow::{self, Faults, Flow};
use super::pair::LINGER;
use super::process::Watch;
use super::report::{Latency, Report, Row, progress};
use super::target::Target;
use crate::client::ClientError;

/// How long all may take.
const PATIENCE: Duration = Duration::from_secs(120);
const TEXT_BYTES: usize = 64;
/// As many messages as there are where nothing else is asked for, and as many deliveries.
const MESSAGES: u64 = 1_000;
const DELIVERIES: u64 = 200_000;
/// How many members one POST may name.
const MEMBERS_AT_ONCE: usize = 256;

/// `parlor bench fanout`
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How many members, the creator among them; several, with commas between them, for a room
    /// each, one after the other
    #[arg(long, default_value = "100", env = "PARLOR_BENCH_MEMBERS", value_delimiter = ',',
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(2..))]
    pub members: Vec<usize>,
    /// How many messages; default: 1,000, and fewer where that made more than 200,000 deliveries
    #[arg(long, env = "PARLOR_BENCH_MESSAGES",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: Option<u64>,
    /// How many of them may be on their way to the slowest member
    #[arg(long, default_value_t = 8, env = "PARLOR_BENCH_WINDOW")]
    pub window: usize,
    /// What all scenarios take.
    #[command(flatten)]
    pub common: Common,
}

/// What the tasks of a room share.
struct Room {
    name: String,
    messages: u64,
    begun: Instant,
    /// When each was sent, in microseconds from `begun`.
    sent_at: Vec<std::sync::atomic::AtomicU64>,
    /// How many members have each.
    arrived: Vec<std::sync::atomic::AtomicUsize>,
    others: usize,
    window: Semaphore,
    bar: ProgressBar,
}

struct Member {
    wire: Wire,
    flow: Flow,
    stored: u64,
    latency: Latency,
    error: Option<String>,
    /// When it had all.
    done: Instant,
}

/// Runs it.
pub(super) async fn run(target: &Target, options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("fanout");
    let (mut rows, mut faults, mut deliveries) = (Vec::new(), Faults::default(), 0);
    for members in &options.members {
        let usual = MESSAGES.min(DELIVERIES / *members as u64).max(1);
        let messages = options.messages.unwrap_or(usual);
        let ran = one_room(target, *members, messages, options.window, &mut report);
        let (row, more, delivered) =
            ran.await.with_context(|| format!("a room of {members} members"))?;
        rows.push(row);
        faults.add(more);
        deliveries += delivered;
    }
    report.table("rooms", rows);
    report.figure("deliveries", deliveries);
    report.figure("window", options.window);
    report.faults(faults);
    Ok(report)
}

async fn one_room(
    target: &Target,
    members: usize,
    messages: u64,
    window: usize,
    report: &mut Report,
) -> anyhow::Result<(Row, Faults, u64)> {
    let mut watch = Watch::new(&target.processes);
    let (mut latency, mut faults, mut deliveries) = (Latency::new(), Faults::default(), 0);
    let (name, wires) = gather(target, members).await?;
    watch.mark("open");
    let count = usize::try_from(messages)?;
    let shared = Arc::new(Room {
        name,
        messages,
        begun: Instant::now(),
        sent_at: (0..count).map(|_| Default::default()).collect(),
        arrived: (0..count).map(|_| Default::default()).collect(),
        others: members - 1,
        window: Semaphore::new(window.max(1)),
        bar: progress("messages", messages),
    });
    let heard = each(wires, |index, wire| take_part(shared.clone(), index == 0, wire)).await?;
    let last = heard.iter().map(|one| one.done).max().unwrap_or(shared.begun);
    let took = last - shared.begun;
    shared.bar.finish_and_clear();
    watch.mark("after");
    let mut clients = Vec::new();
    for (index, mut one) in heard.into_iter().enumerate() {
        if index == 0 {
            faults.refused += messages - one.stored.min(messages);
        } else {
            deliveries += one.flow.count();
            faults.add(one.flow.close(messages));
            latency.add(&one.latency);
        }
        if let Some(error) = one.error {
            report.fail(format!("member {index} of {members} said: {error}"));
        }
        clients.push(one.wire.into_client());
    }
    report.line(format!("room of {members}"), &latency);
    let cpu = watch.cpu_seconds("open", "after") * 1e6 / deliveries.max(1) as f64;
    let row = vec![
        ("members", json!(members)),
        ("messages", json!(messages)),
        ("deliveries/s", json!((deliveries as f64 / took.as_secs_f64()).round())),
        ("p50 ms", json!(latency.quantile_ms(0.5))),
        ("p99 ms", json!(latency.quantile_ms(0.99))),
        ("CPU us/delivery", json!((cpu * 1_000.0).round() / 1_000.0)),
    ];
    close(clients).await;
    Ok((row, faults, deliveries))
}

/// A room with all its members in it, the one who speaks first.
async fn gather(target: &Target, members: usize) -> anyhow::Result<(String, Vec<Wire>)> {
    let names = fresh_names("member", members);
    let room = fresh_names("room", 1).concat();
    let dialect = target.door.dialect;
    if dialect.has_members() {
        make(target, &room, &names).await.context("making the room")?;
    }
    // Everybody missed everybody's joining; one entry of it is enough.
    let crowd = Crowd::open_with(target, &names, Some(1)).await?;
    let mut wires: Vec<_> = crowd.clients.into_iter().map(|c| Wire::new(c, dialect)).collect();
    for wire in &mut wires {
        wire.join(&room).await.context("joining the room")?;
    }
    Ok((room, wires))
}

/// Makes the room with all its members; the first is its creator.
async fn make(target: &Target, room: &str, names: &[String]) -> anyhow::Result<()> {
    let Some((creator, others)) = names.split_first() else { return Ok(()) };
    let (first, more) = others.split_at(others.len().min(MEMBERS_AT_ONCE));
    let body = json!({"room": room, "title": "bench", "members": first});
    target.api.post(&format!("/v1/rooms?userId={creator}"), &body).await?.good()?;
    let bar = progress("members", more.len() as u64);
    for name in more {
        let path = format!("/v1/rooms/{room}/members/{name}?userId={creator}");
        target.api.call("PUT", &path, None, &[]).await?.good()?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

async fn take_part(room: Arc<Room>, speaks: bool, wire: Wire) -> Member {
    let (flow, latency) = (wire.flow(), Latency::new());
    let done = room.begun;
    let mut member = Member { wire, flow, stored: 0, latency, error: None, done };
    let part = async {
        if speaks { member.speak(&room).await } else { member.listen(&room, room.messages).await }
    };
    let ran = tokio::time::timeout(PATIENCE, part).await;
    if let Err(error) = ran.unwrap_or(Err(ClientError::TimedOut(PATIENCE))) {
        member.error.get_or_insert(error.to_string());
    }
    member.done = Instant::now();
    if member.error.is_none() && !speaks {
        // Nothing more should come, so this ends with the time.
        let more = tokio::time::timeout(LINGER, member.listen(&room, u64::MAX)).await;
        member.error = more.ok().and_then(Result::err).map(|error| error.to_string());
    }
    member
}

impl Member {
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
                    let text = flow::text(sent, &room.name, TEXT_BYTES);
                    self.wire.feed(To::Room(&room.name), &text).await?;
                    self.wire.flush().await?;
                }
                heard = self.wire.hear() => match heard? {
                    Heard::Stored { .. } => self.stored += 1,
                    Heard::Refused { why, .. } => return Err(ClientError::Protocol(why)),
                    _ => {}
                },
            }
        }
        Ok(())
    }

    /// Hears until so many messages are there.
    async fn listen(&mut self, room: &Room, messages: u64) -> Result<(), ClientError> {
        while self.flow.count() < messages {
            let heard = self.wire.hear().await?;
            self.heard(room, heard);
        }
        Ok(())
    }

    fn heard(&mut self, room: &Room, heard: Heard) {
        use std::sync::atomic::Ordering;
        let Heard::Message { seq, text } = heard else { return };
        let number = flow::number_for(&text, &room.name).unwrap_or_default();
        let Some(sent_at) = slot(&room.sent_at, number) else {
            self.flow.faults.foreign += 1;
            return;
        };
        if !self.flow.received(seq, number) {
            return;
        }
        let sent_at = Duration::from_micros(sent_at.load(Ordering::Acquire));
        self.latency.record(room.begun.elapsed().saturating_sub(sent_at));
        let arrived = slot(&room.arrived, number);
        let arrived = arrived.map_or(0, |count| count.fetch_add(1, Ordering::AcqRel) + 1);
        if arrived == room.others {
            room.window.add_permits(1);
            room.bar.inc(1);
        }
    }
}

fn slot<T>(slots: &[T], number: u64) -> Option<&T> {
    slots.get(usize::try_from(number.checked_sub(1)?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::dialect::Dialect;
    use crate::client::fake::Fake;
    use crate::client::{Client, ClientOptions};

    /// What a member of a room of one message finds wrong with these.
    async fn account(texts: &[&str]) -> Faults {
        let fake = Fake::start().await;
        let client = Client::open(&ClientOptions::new(fake.url(), "userB")).await.unwrap().0;
        let room = Room {
            name: "room-1".to_owned(),
            messages: 1,
            begun: Instant::now(),
            sent_at: vec![Default::default()],
            arrived: vec![Default::default()],
            others: 1,
            window: Semaphore::new(1),
            bar: ProgressBar::hidden(),
        };
        for (index, text) in texts.iter().enumerate() {
            let seq = index + 1;
            let frame = json!({"type": "message", "seq": seq, "message": text}).to_string();
            fake.say_to("userB", &frame);
        }
        let wire = Wire::new(client, Dialect::Parlor);
        let mut member = take_part(Arc::new(room), false, wire).await;
        assert_eq!(member.error, None);
        member.flow.close(1)
    }

    #[tokio::test]
    async fn a_double_behind_the_last_message_is_heard() {
        assert_eq!(account(&["1 room-1 .."]).await, Faults::default());
        let doubled = Faults { doubled: 1, ..Faults::default() };
        assert_eq!(account(&["1 room-1 ..", "1 room-1 .."]).await, doubled);
    }

    #[tokio::test]
    async fn another_rooms_message_stands_for_nothing() {
        let foreign = Faults { foreign: 1, ..Faults::default() };
        assert_eq!(account(&["1 room-2 ..", "1 room-1 .."]).await, foreign);
    }
}
