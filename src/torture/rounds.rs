//! Round after round: run, judged, written to the ledger; then a table.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use super::ledger::{self, PARLOR, Record};
use super::round::{self, Done};
use super::{Options, page};
use crate::checker::{Gates, Report, judge_files};

/// Rounds of so many seconds must see as much as the judge asks for by itself; shorter ones less.
const FULL_SECONDS: f64 = 300.0;
/// In a short round one fault that did not bite weighs much.
const SHORT_EFFECTIVE_SHARE: f64 = 0.8;
/// The machine is shared with the load itself, so latencies swing: by so much after the faults, and
/// what is below this is not looked at.
const LATENCY_FACTOR: f64 = 4.0;
const LATENCY_FLOOR_MS: u64 = 1_000;
/// So many of the devices are to be connected still when all is, or a lost hint has nobody to miss
/// it; and so many statuses are to be read of which the store must know.
const STAYED_SHARE: f64 = 0.5;
const STORED_STATUSES: f64 = 1_000.0;
/// Connections of the load's own to the API and the balancer are kept open for a while.
const GROWTH_FILES: u64 = 256;
/// How much of its file the embedded store may keep in memory (ADR 1): filled when all histories
/// are read in the end.
const PAGE_CACHE_BYTES: u64 = 128 << 20;

/// Runs them all: prints a table, 0 if all passed.
pub(super) async fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if let Some(missing) = missing(options).await {
        eprintln!("parlor: {missing}");
        return Ok(ExitCode::from(2));
    }
    tokio::select! {
        ran = all(options) => ran,
        // What was started ends with the runtime: each child is killed as it is dropped.
        () = told_to_stop() => anyhow::bail!("stopped, and all that was started with it"),
    }
}

async fn all(options: &Options) -> anyhow::Result<ExitCode> {
    let run = format!("{:08x}", rand::random::<u32>());
    let folder = match &options.keep {
        Some(keep) => keep.clone(),
        None => std::env::temp_dir().join(format!("parlor-torture-{run}")),
    };
    let (commit, dirty) = ledger::commit();
    let (mut records, mut passed) = (Vec::new(), true);
    for round in 0..options.rounds {
        let seed = options.seed + round;
        let place = folder.join(format!("seed-{seed}"));
        eprintln!("round {} of {}, seed {seed}: {}", round + 1, options.rounds, place.display());
        let mut record = Record {
            system: PARLOR.to_owned(),
            run: run.clone(),
            commit: commit.to_owned(),
            dirty,
            target: if options.embedded { "embedded" } else { "fleet" }.to_owned(),
            seed,
            seconds: options.seconds,
            command: command(options),
            // What could not be judged has not passed.
            verdict: "unknown".to_owned(),
            ..Record::default()
        };
        match one(options, &place, seed, commit).await {
            Ok((done, report)) => {
                println!("{report}");
                std::fs::write(place.join("report.txt"), report.to_string())?;
                (record.recovery_ms, record.pairs) = (done.recovery_ms, done.pairs.len() as u64);
                record = record.judged(&report);
            }
            Err(error) => eprintln!("the round could not be judged: {error:#}"),
        }
        let is_good = record.verdict == "pass";
        if is_good && options.keep.is_none() {
            std::fs::remove_dir_all(&place)?;
        } else {
            println!("kept: {}", place.display());
        }
        passed &= is_good;
        record.when = utc().await;
        if let Some(lines) = &options.ledger {
            ledger::add(lines, &record)?;
        }
        records.push(record);
    }
    print!("{}", page::summary(&records));
    if passed && options.keep.is_none() {
        let _ = std::fs::remove_dir(&folder);
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A round, with its progress on the screen, and its judgement.
async fn one(
    options: &Options,
    place: &Path,
    seed: u64,
    commit: &str,
) -> anyhow::Result<(Done, Report)> {
    let bar = ProgressBar::new(options.seconds);
    bar.set_style(ProgressStyle::with_template("{elapsed} {msg}")?);
    bar.enable_steady_tick(Duration::from_millis(500));
    let done = round::run(options, place, seed, commit, &bar).await?;
    bar.set_message("judging");
    let judged = judged(options, done).await;
    bar.finish_and_clear();
    judged
}

/// Judges beside the runtime: a long history takes seconds.
async fn judged(options: &Options, done: Done) -> anyhow::Result<(Done, Report)> {
    let (gates, history) = (gates(options), done.history.clone());
    let report = tokio::task::spawn_blocking(move || judge_files(&[history], gates)).await??;
    Ok((done, report))
}

fn gates(options: &Options) -> Gates {
    let part = (options.seconds as f64 / FULL_SECONDS).min(1.0);
    let mut gates = Gates::default();
    (gates.wanted.stayed_share, gates.wanted.stored_statuses) = (STAYED_SHARE, STORED_STATUSES);
    let mut gates = gates.scaled(part);
    if part < 1.0 {
        gates.wanted.effective_share = SHORT_EFFECTIVE_SHARE;
        gates.wanted.effective_per_kind = 0.0;
        // Too soon after the faults to be compared.
        gates.wanted.latencies = 0.0;
    }
    gates.limits.growth_floor_files = GROWTH_FILES;
    if options.embedded {
        gates.limits.growth_floor_bytes += PAGE_CACHE_BYTES;
    }
    gates.limits.latency_factor = Some(LATENCY_FACTOR);
    gates.limits.latency_floor_ms = LATENCY_FLOOR_MS;
    gates
}

/// What is not there, and what to do.
async fn missing(options: &Options) -> Option<String> {
    if options.embedded {
        return None;
    }
    let redis = &options.redis_server;
    if Command::new(redis).arg("--version").output().await.is_err() {
        return Some(format!(
            "there is no program {}: install Redis (Debian: apt-get install redis-server), name it \
             with --redis-server, or use --embedded, which needs none",
            redis.display()
        ));
    }
    if !is_dynamodb_local(&options.dynamodb_local) {
        return Some(format!(
            "DynamoDB Local is not in {}: run ./test once, which puts it there by Maven, name its \
             jars with --dynamodb-local, or use --embedded, which needs none",
            options.dynamodb_local.display()
        ));
    }
    match Command::new("java").arg("-version").output().await {
        Ok(_) => None,
        Err(_) => Some(
            "there is no java, which DynamoDB Local needs: install a JDK 17 (Debian: apt-get \
             install openjdk-17-jdk-headless), or use --embedded, which needs none"
                .to_owned(),
        ),
    }
}

fn is_dynamodb_local(folder: &Path) -> bool {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    names.any(|name| name.starts_with("DynamoDBLocal") && name.ends_with(".jar"))
}

/// The call that makes it again.
fn command(options: &Options) -> String {
    let mut command = String::from("cargo run --release -- torture");
    if options.embedded {
        command.push_str(" --embedded");
    }
    command.push_str(&format!(" --seconds {} --seed {}", options.seconds, options.seed));
    if options.rounds > 1 {
        command.push_str(&format!(" --rounds {}", options.rounds));
    }
    let default = Options { rate: None, ..options.clone() }.messages_a_second();
    if options.messages_a_second() != default {
        command.push_str(&format!(" --rate {}", options.messages_a_second()));
    }
    if options.gap_ms != super::GAP_MS {
        command.push_str(&format!(" --gap-ms {}", options.gap_ms));
    }
    command
}

/// As `date` says: to the minute is enough for people.
async fn utc() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M"]).output().await;
    output.map_or_else(|_| String::new(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

/// SIGINT, SIGTERM, SIGHUP.
async fn told_to_stop() {
    let mut signals = Vec::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        signals.extend(signal(kind));
    }
    let any = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    futures_util::future::select_all(any).await;
}

/// Where `cargo test` finds it.
#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(arguments: &[&str]) -> Options {
        Line::parse_from(["torture"].iter().chain(arguments)).options
    }

    #[test]
    fn the_command_that_makes_it_again_says_what_differs() {
        let plain = "cargo run --release -- torture --seconds 60 --seed 1";
        assert_eq!(command(&options(&[])), plain);
        let other = options(&["--embedded", "--seed", "9", "--rounds", "3", "--rate", "77"]);
        let line =
            "cargo run --release -- torture --embedded --seconds 60 --seed 9 --rounds 3 --rate 77";
        assert_eq!(command(&other), line);
    }

    #[tokio::test]
    async fn what_is_missing_is_said_with_what_to_do() {
        let none = options(&["--redis-server", "/nowhere/redis"]);
        assert!(missing(&none).await.unwrap().contains("--redis-server"));
        let folder = tempfile::tempdir().unwrap();
        let jars = folder.path().to_str().unwrap();
        // `true` takes the place of Redis.
        let none = options(&["--redis-server", "true", "--dynamodb-local", jars]);
        assert!(missing(&none).await.unwrap().contains("--dynamodb-local"));
        let none = options(&["--embedded", "--redis-server", "/nowhere/redis"]);
        assert_eq!(missing(&none).await, None);
    }

    #[test]
    fn a_short_round_has_less_to_see_and_a_long_one_all() {
        let wanted = |told: &[&str]| gates(&options(told)).wanted;
        let (short, long) = (wanted(&[]), wanted(&["--seconds", "600"]));
        let full = Gates::default().wanted;
        assert_eq!((short.acked, long.acked), (200.0, full.acked));
        assert_eq!(long.effective_share, full.effective_share);
        assert!(short.drained_share == 1.0 && short.stored_share == 1.0);
        assert_eq!((short.stored_statuses, long.stored_statuses), (200.0, STORED_STATUSES));
        assert_eq!((short.stayed_share, long.stayed_share), (STAYED_SHARE, STAYED_SHARE));
    }
}
