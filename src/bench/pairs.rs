//! `pairs` and `rate`: many pairs at once, in a closed loop or at a fixed rate.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::Common;
use super::driven::{Driven, Driving, Rhythm};
use super::process::{Sample, Watch};
use super::report::{Report, progress};
use super::share::since_epoch;
use super::shares::{Shares, processes_for};
use super::target::Target;

/// How long the rest may take to arrive after the last send.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 30 });
/// Time for all tasks to stand at the line.
const COUNTDOWN: Duration = Duration::from_millis(200);

/// `parlor bench pairs`
#[derive(Debug, Clone, Args)]
pub struct PairsOptions {
    /// How many pairs
    #[arg(long, default_value_t = 100, env = "PARLOR_BENCH_PAIRS")]
    pub pairs: usize,
    /// Messages under way per pair
    #[arg(long, default_value_t = 8, env = "PARLOR_BENCH_WINDOW",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub window: u64,
    /// How long
    #[arg(long, default_value_t = 10, env = "PARLOR_BENCH_SECONDS")]
    pub seconds: u64,
    /// The size of a message; its number and its receiver's name have room in any case
    #[arg(long, default_value_t = 64, env = "PARLOR_BENCH_BYTES")]
    pub bytes: usize,
    /// What all scenarios take.
    #[command(flatten)]
    pub common: Common,
}

/// `parlor bench rate`
#[derive(Debug, Clone, Args)]
pub struct RateOptions {
    /// Messages a second, over all pairs
    #[arg(long, default_value_t = 1_000, env = "PARLOR_BENCH_RATE",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// How many pairs
    #[arg(long, default_value_t = 100, env = "PARLOR_BENCH_PAIRS")]
    pub pairs: usize,
    /// How long
    #[arg(long, default_value_t = 10, env = "PARLOR_BENCH_SECONDS")]
    pub seconds: u64,
    /// The size of a message; its number and its receiver's name have room in any case
    #[arg(long, default_value_t = 64, env = "PARLOR_BENCH_BYTES")]
    pub bytes: usize,
    /// What all scenarios take.
    #[command(flatten)]
    pub common: Common,
}

/// Runs `pairs`.
pub(super) async fn run_pairs(target: &Target, options: &PairsOptions) -> anyhow::Result<Report> {
    let mut report = Report::new("pairs");
    report.figure("window", options.window);
    let rhythm = Rhythm::Window(options.window);
    run(report, target, (options.pairs, options.bytes, options.seconds), rhythm).await
}

/// Runs `rate`.
pub(super) async fn run_rate(target: &Target, options: &RateOptions) -> anyhow::Result<Report> {
    let mut report = Report::new("rate");
    report.figure("rate_per_second", options.rate);
    let step = Duration::from_secs(1).div_f64(f64::from(options.rate));
    let rhythm = Rhythm::Every { pause: step.mul_f64(options.pairs as f64), step };
    run(report, target, (options.pairs, options.bytes, options.seconds), rhythm).await
}

async fn run(
    mut report: Report,
    target: &Target,
    (pairs, bytes, seconds): (usize, usize, u64),
    rhythm: Rhythm,
) -> anyhow::Result<Report> {
    let mut watch = Watch::new(&target.processes);
    let users = pairs * 2;
    let count = processes_for(users, target.common.processes)?;
    let mut shares = Shares::of(&target.door, "pair", users, count).await?;
    let begun = Instant::now();
    let opened = shares.open(users, false).await?;
    let error = || opened.error.clone().unwrap_or_default();
    anyhow::ensure!(opened.users == users, "{} of {users} got in: {}", opened.users, error());
    report.decimal("open_seconds", begun.elapsed().as_secs_f64());
    let load = shares.pids();
    let load_cpu = || load.iter().filter_map(|pid| Sample::of(*pid)).map(|s| s.cpu_seconds);
    let load_before: f64 = load_cpu().sum();
    watch.mark("open");
    let units = target.write_units().await?;
    let begin_us = u64::try_from((since_epoch() + COUNTDOWN).as_micros())?;
    let (run, patience) = (Duration::from_secs(seconds), PATIENCE);
    let driving = Driving { begin_us, run, patience, bytes, rhythm };
    let driven = {
        let _ticking = AbortOnDropHandle::new(tokio::spawn(tick(seconds)));
        shares.drive(&driving).await?
    };
    watch.mark("after");
    let load_after: f64 = load_cpu().sum();
    report.table("processes", watch.rows());
    report.figure("pairs", driven.pairs);
    report.figure("pairs_on_two_servers", driven.crossing);
    report.figure("load_processes", count);
    if matches!(rhythm, Rhythm::Every { .. }) {
        let a_second = |count: u64| count as f64 / seconds.max(1) as f64;
        report.decimal("offered_per_second", a_second(driven.offered));
        report.decimal("achieved_per_second", a_second(driven.sent_in_time));
    }
    tell(&mut report, &driven, seconds);
    if !watch.is_empty() && driven.received > 0 {
        let micros = watch.cpu_seconds("open", "after") * 1e6 / driven.received as f64;
        report.decimal("cpu_us_per_message", micros);
    }
    if let (Some(before), Some(after)) = (units, target.write_units().await?) {
        let messages = driven.received.max(1) as f64;
        report.decimal("write_units_per_message", (after - before) / messages);
    }
    report.decimal("bench_cpu_seconds", load_after - load_before);
    shares.close().await?;
    Ok(report)
}

async fn tick(seconds: u64) {
    let bar = progress("seconds", seconds);
    for _ in 0..seconds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bar.inc(1);
    }
    bar.finish_and_clear();
}

fn tell(report: &mut Report, driven: &Driven, seconds: u64) {
    report.figure("messages", driven.received);
    report.decimal("messages_per_second", driven.in_time as f64 / seconds.max(1) as f64);
    report.latency("send_to_received", &driven.latency);
    report.latency("send_to_sent", &driven.stored);
    report.figure("repeats_on_the_wire", driven.repeats);
    report.faults(driven.faults);
    if driven.unsent > 0 {
        let (unsent, patience) = (driven.unsent, PATIENCE.as_secs());
        report.fail(format!(
            "{unsent} messages that were due could not be sent, {patience} s after the end: take a \
             lower --rate, or more --processes"
        ));
    }
    if driven.undelivered > 0 {
        let pairs = driven.undelivered;
        report.fail(format!("{pairs} pairs were not told that all was delivered"));
    }
    if let Some(error) = &driven.error {
        report.fail(format!("a pair said: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_sent_fails_the_run() {
        let mut report = Report::new("rate");
        tell(&mut report, &Driven::default(), 1);
        assert!(report.is_good());
        tell(&mut report, &Driven { unsent: 1, ..Driven::default() }, 1);
        assert!(!report.is_good());
    }
}
