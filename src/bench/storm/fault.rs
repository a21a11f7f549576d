//! A server is killed or drained, or Redis dies, under users who stay or come back at once.

use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::super::calm::{Calm, latency};
use super::super::crowd::{Crowd, close, fresh_names};
use super::super::flow::Faults;
use super::super::report::{Latency, Report, Row};
use super::super::resp;
use super::super::target::Target;
use super::own_redis::OwnRedis;
use super::victim::Victim;
use super::{Fault, Options, PATIENCE, write_to_all};
use crate::client::Client;

/// How often each pair of bystanders says something.
const EVERY: Duration = Duration::from_millis(250);
/// How long the bystanders are measured before anything happens.
const CALM: Duration = Duration::from_secs(10);
/// How long after it: a death is noticed within 16 s, and mailboxes are read then.
const AFTER: Duration = Duration::from_secs(25);
/// How long Redis is away.
const REDIS_AWAY: Duration = Duration::from_secs(2);
/// The drain where no other was asked for.
const DRAIN_SECONDS: f64 = 25.0;

/// Runs it.
pub(super) async fn run(
    target: &mut Target,
    options: &Options,
    redis: Option<&mut OwnRedis>,
) -> anyhow::Result<Report> {
    let mut report = Report::new("storm");
    let names = fresh_names("storm", options.users);
    let crowd = Crowd::open(target, &names).await?;
    report.decimal("open_seconds", crowd.took.as_secs_f64());
    let hit = hit(target, options.fault);
    let is_hit = |client: &Client| hit.is_none_or(|hit| client.server() == Some(hit));
    let (mut victims, mut others) = (Vec::new(), Vec::new());
    for ((index, name), client) in names.iter().enumerate().zip(crowd.clients) {
        match is_hit(&client) {
            true => victims.push(Victim::new(target, index, name, client)),
            false => others.push(client),
        }
    }
    report.figure("users", names.len());
    report.figure("users_hit", victims.len());
    let mut staying = stay(others);
    // Nobody stays where the one process there is drains.
    let alone = options.fault == Fault::Drain && hit.is_none();
    let calm = Calm::open(target, if alone { 0 } else { options.pairs }, EVERY, hit).await?;
    let (before, calm) = calm.run(if alone { Duration::ZERO } else { CALM }).await?;
    let spread = Duration::try_from_secs_f64(options.spread).context("--spread is no time")?;
    let during = calm.start(if alone { Duration::ZERO } else { AFTER.max(spread) });
    let victims = match (options.fault, redis) {
        (Fault::Redis, Some(redis)) => {
            let staying = each(victims, |victim| victim.stayed(AFTER));
            registered(redis, names.len() + 2 * options.pairs, &mut report).await?;
            joined(staying).await?
        }
        (Fault::Drain, _) => drained(target, hit, victims, &mut report).await?,
        _ => killed(target, hit, spread, victims, &mut report).await?,
    };
    let (during, calm) = during.await??;
    if !alone {
        report.latency("others_before", &latency(&before));
        report.latency("others_during", &latency(&during));
    }
    let (mut faults, mut error) = (Faults::default(), None);
    for outcome in before.into_iter().chain(during) {
        faults.add(outcome.faults);
        error = error.or(outcome.error);
    }
    let messages = if alone { 0 } else { options.messages };
    let victims = reached(target, victims, messages, &mut report).await?;
    let mut clients = calm;
    for mut victim in victims {
        faults.add(victim.flow.close(messages));
        error = error.or(victim.error.map(|error| format!("{}: {error}", victim.name)));
        clients.extend(victim.client);
    }
    report.faults(faults);
    if let Some(error) = error {
        report.fail(error);
    }
    let stayed = staying.len();
    tell_lost(&mut report, &lost(&mut staying)?, stayed);
    close(clients).await;
    drop(staying);
    Ok(report)
}

/// Whose sockets end; `None`: everybody is concerned.
fn hit(target: &Target, fault: Fault) -> Option<&'static str> {
    let fleet = target.common.dynamodb.is_some();
    (fleet && fault != Fault::Redis).then_some("ws2")
}

async fn killed(
    target: &mut Target,
    hit: Option<&str>,
    spread: Duration,
    victims: Vec<Victim>,
    report: &mut Report,
) -> anyhow::Result<Vec<Victim>> {
    let hit = hit.context("a server can be killed in a fleet only: add --redis and --dynamodb")?;
    let coming = lost_and_back(target, victims, PATIENCE, spread);
    let begun = Instant::now();
    target.own()?.kill(hit).await?;
    let victims = joined(coming).await?;
    tell_back(&victims, begun, report);
    Ok(victims)
}

async fn drained(
    target: &mut Target,
    hit: Option<&str>,
    victims: Vec<Victim>,
    report: &mut Report,
) -> anyhow::Result<Vec<Victim>> {
    let asked = std::env::var("PARLOR_DRAIN_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds: f64 = asked.unwrap_or(DRAIN_SECONDS);
    let patience = PATIENCE + Duration::from_secs_f64(seconds);
    let rate = victims.len() as f64 / seconds;
    let coming = match hit {
        // The server spreads them.
        Some(_) => lost_and_back(target, victims, patience, Duration::ZERO),
        None => each(victims, |victim| victim.lost(patience)),
    };
    let begun = Instant::now();
    target.own()?.terminate(hit.unwrap_or("up")).await?;
    report.decimal("exit_seconds", begun.elapsed().as_secs_f64());
    let victims = joined(coming).await?;
    let told: Vec<Instant> = victims.iter().filter_map(|v| v.told.first().copied()).collect();
    if let Some(first) = told.iter().min() {
        let windows = windows(*first, &told, rate, seconds, report);
        report.table("each_second", windows);
    }
    let moved_twice = victims.iter().filter(|victim| victim.told.len() != 1).count();
    report.figure("not_told_once", moved_twice);
    if moved_twice > 0 {
        report.fail(format!("{moved_twice} users were not told to reconnect exactly once"));
    }
    if hit.is_some() {
        tell_back(&victims, begun, report);
    }
    Ok(victims)
}

/// How many were told in each whole second, against the rate that was asked for.
fn windows(
    first: Instant,
    told: &[Instant],
    rate: f64,
    seconds: f64,
    report: &mut Report,
) -> Vec<Row> {
    let whole = seconds.floor() as u64;
    let count = |second: u64| {
        told.iter().filter(|told| told.duration_since(first).as_secs() == second).count()
    };
    let counts: Vec<usize> = (0..whole).map(count).collect();
    let off = |count: &usize| (*count as f64 / rate - 1.0) * 100.0;
    let worst = counts.iter().map(off).fold(0.0, |worst: f64, off| match off.abs() > worst.abs() {
        true => off,
        false => worst,
    });
    report.decimal("rate_per_second", rate);
    report.decimal("worst_second_off_percent", worst);
    let row = |(second, count): (usize, &usize)| {
        vec![("second", json!(second)), ("told to reconnect", json!(count))]
    };
    counts.iter().enumerate().map(row).collect()
}

/// Kills Redis, starts it again empty, and waits until every socket stands there.
async fn registered(redis: &mut OwnRedis, users: usize, report: &mut Report) -> anyhow::Result<()> {
    redis.kill().await?;
    sleep(REDIS_AWAY).await;
    redis.start_again().await?;
    let begun = Instant::now();
    loop {
        let stands = resp::count_keys(&redis.url, "user:*").await.unwrap_or(0);
        if stands >= users {
            break;
        }
        anyhow::ensure!(begun.elapsed() < PATIENCE, "{stands} of {users} are registered again");
        sleep(Duration::from_millis(50)).await;
    }
    report.decimal("all_registered_seconds", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Does this with each, all at once.
fn each<F>(victims: Vec<Victim>, task: impl Fn(Victim) -> F) -> JoinSet<Victim>
where
    F: Future<Output = Victim> + Send + 'static,
{
    victims.into_iter().map(task).collect()
}

/// Each, from when its socket ends until it is back.
fn lost_and_back(
    target: &Target,
    victims: Vec<Victim>,
    patience: Duration,
    spread: Duration,
) -> JoinSet<Victim> {
    let connect = target.door.connect.then(|| target.balancer_url());
    each(victims, |victim| {
        let connect = connect.clone();
        async move { victim.lost(patience).await.returned(PATIENCE, connect, spread).await }
    })
}

/// Users of the servers that stay go on reading; each ends with why its socket did.
fn stay(clients: Vec<Client>) -> JoinSet<String> {
    let read = |mut client: Client| async move {
        loop {
            if let Err(error) = client.next_text().await {
                let server = client.server().unwrap_or("?");
                return format!("on {server}: {error}");
            }
        }
    };
    clients.into_iter().map(read).collect()
}

/// Why sockets of those who stay have ended.
fn lost(staying: &mut JoinSet<String>) -> anyhow::Result<Vec<String>> {
    let mut lost = Vec::new();
    while let Some(ended) = staying.try_join_next() {
        lost.push(ended?);
    }
    Ok(lost)
}

/// Nothing was done to their servers, so no fault explains the end of a socket of theirs.
fn tell_lost(report: &mut Report, lost: &[String], stayed: usize) {
    report.figure("others_lost", lost.len());
    if let Some(first) = lost.first() {
        let count = lost.len();
        report.fail(format!(
            "{count} of {stayed} users lost their sockets though nothing was done to their \
             servers: {first}"
        ));
    }
}

async fn joined(mut tasks: JoinSet<Victim>) -> anyhow::Result<Vec<Victim>> {
    let mut victims = Vec::with_capacity(tasks.len());
    while let Some(victim) = tasks.join_next().await {
        victims.push(victim?);
    }
    Ok(victims)
}

fn tell_back(victims: &[Victim], begun: Instant, report: &mut Report) {
    let (mut away, mut tries) = (Latency::new(), 0);
    for victim in victims {
        tries += victim.tries;
        if let (Some(lost), Some(back)) = (victim.lost, victim.back) {
            away.record(back - lost);
        }
    }
    report.figure("tries_per_user", json!(tries as f64 / victims.len().max(1) as f64));
    report.latency("lost_to_caught_up", &away);
    let last = victims.iter().filter_map(|victim| victim.back).max();
    let last = last.map_or(Duration::ZERO, |last| last - begun);
    report.decimal("all_caught_up_seconds", last.as_secs_f64());
}

/// Everybody is written to, and gets it.
async fn reached(
    target: &Target,
    victims: Vec<Victim>,
    messages: u64,
    report: &mut Report,
) -> anyhow::Result<Vec<Victim>> {
    let reachable = victims.iter().filter(|victim| victim.client.is_some());
    let names: Vec<String> = reachable.map(|victim| victim.name.clone()).collect();
    if messages == 0 || names.is_empty() {
        return Ok(victims);
    }
    let mut writing = Crowd::open(target, &fresh_names("writer", 1)).await?;
    let begun = Instant::now();
    let tasks = each(victims, |victim| victim.received(messages, PATIENCE));
    if let Some(writer) = writing.clients.first_mut() {
        write_to_all(writer, &names, messages).await?;
    }
    let victims = joined(tasks).await?;
    report.decimal("all_reached_seconds", begun.elapsed().as_secs_f64());
    writing.close().await;
    Ok(victims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientOptions;
    use crate::client::fake::Fake;

    #[tokio::test]
    async fn a_bystander_who_loses_its_socket_fails_the_run() {
        let fake = Fake::start().await;
        let mut clients = Vec::new();
        for name in ["userA", "userB"] {
            clients.push(Client::open(&ClientOptions::new(fake.url(), name)).await.unwrap().0);
        }
        let mut staying = stay(clients);
        let mut report = Report::new("storm");
        tell_lost(&mut report, &lost(&mut staying).unwrap(), staying.len());
        assert!(report.is_good());
        fake.close_all(1001);
        let mut told = Vec::new();
        while told.len() < 2 {
            sleep(Duration::from_millis(5)).await;
            told.extend(lost(&mut staying).unwrap());
        }
        tell_lost(&mut report, &told, 2);
        assert!(!report.is_good());
    }
}
