//! `pairs` and `rate`: many pairs at once, in a closed loop or at a fixed rate.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Common;
use super::crowd::{Crowd, close, fresh_names};
use super::flow::Faults;
use super::pair::{Outcome, Pace, Plan, drive};
use super::process::{Sample, Watch};
use super::report::{Latency, Report, progress};
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
    /// The size of a message
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
    /// The size of a message
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
    let pace = |_, _| Pace::Closed(options.window);
    run(report, target, (options.pairs, options.bytes, options.seconds), pace).await
}

/// Runs `rate`.
pub(super) async fn run_rate(target: &Target, options: &RateOptions) -> anyhow::Result<Report> {
    let mut report = Report::new("rate");
    report.figure("rate_per_second", options.rate);
    let step = Duration::from_secs(1).div_f64(f64::from(options.rate));
    let every = step.mul_f64(options.pairs as f64);
    let pace = |index: usize, from: Instant| Pace::Open(from + step.mul_f64(index as f64), every);
    run(report, target, (options.pairs, options.bytes, options.seconds), pace).await
}

async fn run(
    mut report: Report,
    target: &Target,
    (pairs, bytes, seconds): (usize, usize, u64),
    pace: impl Fn(usize, Instant) -> Pace,
) -> anyhow::Result<Report> {
    let mut watch = Watch::new(&target.processes);
    let names = fresh_names("pair", pairs * 2);
    let crowd = Crowd::open(target, &names).await?;
    report.decimal("open_seconds", crowd.took.as_secs_f64());
    let mut clients = crowd.clients.into_iter();
    let bar = progress("seconds", seconds);
    let from = Instant::now() + COUNTDOWN;
    let until = from + Duration::from_secs(seconds);
    let own_before = Sample::of(std::process::id()).unwrap_or_default();
    watch.mark("open");
    let units = target.write_units().await?;
    let mut tasks = JoinSet::new();
    let mut crossing = 0_u64;
    for (index, to) in names.iter().skip(1).step_by(2).enumerate() {
        let (Some(a), Some(b)) = (clients.next(), clients.next()) else { break };
        crossing += u64::from(a.server() != b.server());
        let (to, pace) = (to.clone(), pace(index, from));
        tasks.spawn(drive(a, b, Plan { to, pace, from, until, patience: PATIENCE, bytes }));
    }
    for _ in 0..seconds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bar.inc(1);
    }
    let (mut outcomes, mut open) = (Vec::new(), Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (outcome, a, b) = done?;
        outcomes.push(outcome);
        open.extend([a, b]);
    }
    bar.finish_and_clear();
    watch.mark("after");
    let own = Sample::of(std::process::id()).unwrap_or_default();
    report.table("processes", watch.rows());
    report.figure("pairs", pairs);
    report.figure("pairs_on_two_servers", crossing);
    tell(&mut report, &outcomes, seconds);
    cpu(&mut report, &watch, &outcomes);
    if let (Some(before), Some(after)) = (units, target.write_units().await?) {
        let messages = outcomes.iter().map(|outcome| outcome.received).sum::<u64>();
        report.decimal("write_units_per_message", (after - before) / messages.max(1) as f64);
    }
    report.decimal("bench_cpu_seconds", own.cpu_seconds - own_before.cpu_seconds);
    close(open).await;
    Ok(report)
}

fn tell(report: &mut Report, outcomes: &[Outcome], seconds: u64) {
    let (mut latency, mut stored) = (Latency::new(), Latency::new());
    let mut faults = Faults::default();
    for outcome in outcomes {
        latency.add(&outcome.latency);
        stored.add(&outcome.stored);
        faults.add(outcome.faults);
    }
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    report.figure("messages", sum(|outcome| outcome.received));
    report.decimal("messages_per_second", sum(|o| o.in_time) as f64 / seconds.max(1) as f64);
    report.latency("send_to_received", &latency);
    report.latency("send_to_sent", &stored);
    report.figure("repeats_on_the_wire", sum(|outcome| outcome.repeats));
    report.faults(faults);
    let undelivered = outcomes.iter().filter(|outcome| !outcome.all_delivered).count();
    if undelivered > 0 {
        report.fail(format!("{undelivered} pairs were not told that all was delivered"));
    }
    if let Some(error) = outcomes.iter().find_map(|outcome| outcome.error.as_ref()) {
        report.fail(format!("a pair said: {error}"));
    }
}

fn cpu(report: &mut Report, watch: &Watch, outcomes: &[Outcome]) {
    let messages: u64 = outcomes.iter().map(|outcome| outcome.received).sum();
    if watch.is_empty() || messages == 0 {
        return;
    }
    let micros = watch.cpu_seconds("open", "after") * 1e6 / messages as f64;
    report.figure("cpu_us_per_message", json!((micros * 10.0).round() / 10.0));
}
