//! `ten-thousand`: users dealt round robin over the servers; each sends a message to the next one,
//! who is on another server, and receives one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Common;
use super::crowd::{Crowd, Names, close, each};
use super::flow::{self, Faults};
use super::process::Watch;
use super::report::{Latency, Report, progress};
use super::resp;
use super::ring::{Ring, User};
use super::target::Target;
use crate::client::Client;
use crate::protocol::{ConversationId, UserId};

/// How many pages of history are asked for at a time.
const HISTORY_CONCURRENCY: usize = 32;
const PAGE: u32 = 500;

/// `parlor bench ten-thousand`
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How many users: u0, u1, …
    #[arg(long, default_value_t = 10_000, env = "PARLOR_BENCH_USERS",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(2..))]
    pub users: usize,
    /// Messages from each user to the next
    #[arg(long, default_value_t = 1, env = "PARLOR_BENCH_MESSAGES")]
    pub messages: u64,
    /// How many users have messages under way at a time; DynamoDB Local takes some 3,000 calls a
    /// second, so ask for 200 there
    #[arg(long, default_value_t = 10_000, env = "PARLOR_BENCH_AT_ONCE")]
    pub at_once: usize,
    /// Of how many conversations the history is read: a number, or `all`
    #[arg(long, default_value = "all", env = "PARLOR_BENCH_HISTORY",
          value_parser = history_sample)]
    pub history: usize,
    /// What stands before a user's number; other users, other conversations
    #[arg(long, default_value = "u", env = "PARLOR_BENCH_PREFIX")]
    pub prefix: String,
    /// What all scenarios take.
    #[command(flatten)]
    pub common: Common,
}

fn history_sample(text: &str) -> Result<usize, String> {
    match text {
        "all" => Ok(usize::MAX),
        number => number.parse().map_err(|_| "a number, or `all`".to_owned()),
    }
}

/// Runs it.
pub(super) async fn run(target: &Target, options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("ten-thousand");
    let mut watch = Watch::new(&target.processes);
    let names: Names = (0..options.users).map(|n| format!("{}{n}", options.prefix)).collect();
    let crowd = Crowd::open(target, &names).await?;
    watch.mark("open");
    report.figure("users", names.len());
    report.decimal("open_seconds", crowd.took.as_secs_f64());
    report.decimal("users_per_second", names.len() as f64 / crowd.took.as_secs_f64());
    if !watch.is_empty() {
        let users = names.len() as f64;
        report.decimal("bytes_per_user", watch.grown_bytes("before", "open") / users);
    }
    check_spread(&mut report, target, &crowd.by_server());
    if let Some(redis) = &target.common.redis {
        let pattern = format!("user:{}*", options.prefix);
        let entries = resp::count_keys(redis.reveal(), &pattern).await?;
        report.figure("redis_entries", entries);
        if entries != names.len() {
            report.fail(format!("{entries} entries in Redis for {} users", names.len()));
        }
    }
    let bar = progress("messages", options.messages * names.len() as u64);
    let begun = Instant::now();
    let ring = Ring::new(names.len(), options.messages, options.at_once, bar.clone());
    let (shared, messages) = (names.clone(), options.messages);
    let users = each(crowd.clients, move |index, client| {
        let next = shared[(index + 1) % shared.len()].clone();
        User::new(ring.clone(), index, client, (shared[index].clone(), next)).run()
    })
    .await?;
    let took = begun.elapsed();
    bar.finish_and_clear();
    watch.mark("after");
    report.table("processes", watch.rows());
    let users = tell(&mut report, users, messages, took);
    history(&mut report, target, &names, options).await?;
    close(users).await;
    Ok(report)
}

/// Round robin over servers of the run's own leaves no two further apart than one.
fn check_spread(report: &mut Report, target: &Target, servers: &BTreeMap<String, u64>) {
    let (least, most) = (servers.values().min(), servers.values().max());
    if target.is_own() && least.zip(most).is_some_and(|(least, most)| most - least > 1) {
        report.fail(format!("not dealt evenly: {servers:?}"));
    }
}

/// The table and the totals; gives the sockets back.
fn tell(report: &mut Report, mut users: Vec<User>, messages: u64, took: Duration) -> Vec<Client> {
    let mut servers: BTreeMap<String, [u64; 3]> = BTreeMap::new();
    let (mut latency, mut faults) = (Latency::new(), Faults::default());
    let (mut stored, mut undelivered, mut repeats, mut retried) = (0, 0, 0, 0);
    for user in &mut users {
        let server = user.client.server().unwrap_or("?").to_owned();
        let row = servers.entry(server).or_default();
        row[0] += 1;
        row[1] += user.stored;
        row[2] += user.flow.count();
        stored += user.stored;
        repeats += user.flow.repeats;
        undelivered += u64::from(user.delivered_seq < user.stored_seq);
        latency.add(&user.latency);
        retried += user.retried;
        faults.add(user.flow.close(messages));
        faults.refused += messages - user.stored.min(messages);
    }
    let rows = servers.iter().map(|(server, [users, sent, received])| {
        vec![
            ("server", json!(server)),
            ("users", json!(users)),
            ("sent", json!(sent)),
            ("received", json!(received)),
        ]
    });
    report.table("servers", rows.collect());
    report.figure("messages", stored);
    report.decimal("exchange_seconds", took.as_secs_f64());
    report.decimal("messages_per_second", stored as f64 / took.as_secs_f64());
    report.latency("send_to_received", &latency);
    report.figure("sends_tried_again", retried);
    report.figure("repeats_on_the_wire", repeats);
    report.faults(faults);
    if undelivered > 0 {
        report.fail(format!("{undelivered} users were not told that all was delivered"));
    }
    if let Some(error) = users.iter().find_map(|user| user.error.as_ref()) {
        report.fail(format!("a user said: {error}"));
    }
    users.into_iter().map(|user| user.client).collect()
}

/// The Message API shows what was sent.
async fn history(
    report: &mut Report,
    target: &Target,
    names: &Names,
    options: &Options,
) -> anyhow::Result<()> {
    let count = options.history.min(names.len());
    let step = names.len() / count.max(1);
    let bar = progress("histories", count as u64);
    let target = Arc::new((target.api.clone(), options.messages));
    let pages = (0..count).map(|index| {
        let (at, names, target) = (index * step, names.clone(), target.clone());
        async move {
            let (api, messages) = &*target;
            let (me, next) = (&names[at], &names[(at + 1) % names.len()]);
            let conversation = ConversationId::direct(&UserId::parse(me)?, &UserId::parse(next)?);
            let limit = PAGE.min(u32::try_from(*messages).unwrap_or(PAGE).max(1));
            let page = api.history(me, conversation.as_str(), None, limit).await?;
            anyhow::Ok(is_complete(&page, me, (*messages).min(u64::from(limit))))
        }
    });
    let mut pages = stream::iter(pages).buffer_unordered(HISTORY_CONCURRENCY);
    let mut bad = 0_u64;
    while let Some(good) = pages.next().await {
        bad += u64::from(!good?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    report.figure("histories_read", count);
    if bad > 0 {
        report.fail(format!("{bad} histories are not what was sent"));
    }
    Ok(())
}

/// Whether the newest `count` messages of this sender's stand there, in order.
fn is_complete(page: &Value, from: &str, count: u64) -> bool {
    let Some(messages) = page["messages"].as_array() else { return false };
    let numbers: Vec<u64> = messages
        .iter()
        .filter(|message| message["from"] == from)
        .filter_map(|message| flow::number(message["message"].as_str()?))
        .collect();
    numbers.len() as u64 >= count && numbers.windows(2).all(|pair| pair[0] < pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_checked() {
        let page = |texts: &[&str]| {
            let one = |text: &&str| json!({"from": "u0", "message": text});
            json!({"messages": texts.iter().map(one).collect::<Vec<_>>()})
        };
        assert!(is_complete(&page(&["1 ..", "2 .."]), "u0", 2));
        assert!(!is_complete(&page(&["1 .."]), "u0", 2));
        assert!(!is_complete(&page(&["2 ..", "1 .."]), "u0", 2));
        assert!(!is_complete(&page(&["1 ..", "2 .."]), "u1", 2));
        assert!(!is_complete(&json!({"code": "not_found"}), "u0", 1));
    }

    #[test]
    fn the_sample_is_a_number_or_all() {
        assert_eq!(history_sample("all"), Ok(usize::MAX));
        assert_eq!(history_sample("7"), Ok(7));
        assert!(history_sample("some").is_err());
    }
}
