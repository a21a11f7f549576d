//! `idle`: what a user costs who only stays connected.
//!
//! A process has memory and work of its own before anybody comes, so both are taken as a slope: a
//! quarter of the users gets in and everything settles, then the others, and what the others added
//! is theirs.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::Instant;

use super::Common;
use super::plot::Chart;
use super::process::{Watch, tenths};
use super::report::{Report, Row, progress};
use super::shares::{Shares, processes_for};
use super::target::Target;

/// What part of the users gets in first.
const FIRST_PART: usize = 4;

/// `parlor bench idle`
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How many users
    #[arg(long, default_value_t = 10_000, env = "PARLOR_BENCH_USERS",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(2..))]
    pub users: usize,
    /// How long all of them stay, in seconds; each is pinged every 25, so take 60 at least
    #[arg(long, alias = "seconds", default_value_t = 75, env = "PARLOR_BENCH_HOLD")]
    pub hold: u64,
    /// How long to wait before memory is read, in seconds
    #[arg(long, default_value_t = 5, env = "PARLOR_BENCH_SETTLE")]
    pub settle: u64,
    /// What all scenarios take.
    #[command(flatten)]
    pub common: Common,
}

/// Runs it.
pub(super) async fn run(target: &Target, options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("idle");
    let mut watch = Watch::new(&target.processes);
    let count = processes_for(options.users, target.common.processes)?;
    let mut shares = Shares::of(&target.door, "idle", options.users, count).await?;
    let settle = Duration::from_secs(options.settle);
    let first = shares.open(options.users.div_ceil(FIRST_PART), true).await?.users;
    tokio::time::sleep(settle).await;
    watch.mark("first");
    let begun = Instant::now();
    let opened = shares.open(options.users, true).await?;
    let took = begun.elapsed().as_secs_f64();
    watch.mark("open");
    tokio::time::sleep(settle).await;
    watch.mark("settled");
    let held = Instant::now();
    hold(options.hold).await;
    watch.mark("after");
    let held = held.elapsed().as_secs_f64();
    let standing = shares.count().await?;

    let row = |(server, users)| vec![("server", json!(server)), ("users", json!(users))];
    report.table("servers", opened.servers.iter().map(row).collect());
    report.table("processes", watch.rows());
    report.figure("users", opened.users);
    report.figure("load_processes", count);
    report.decimal("users_per_second", (opened.users - first) as f64 / took);
    if !watch.is_empty() {
        let more = (opened.users - first).max(1) as f64;
        report.decimal("cpu_us_per_connect", watch.cpu_seconds("first", "open") * 1e6 / more);
        report.table("memory", memory(&watch, first, opened.users));
        report.chart(chart(&watch, first, opened.users));
        slopes(&mut report, &watch, more, is_here(target));
        let cpu = watch.cpu_seconds("settled", "after") * 1e6;
        report.decimal("held_seconds", held);
        report.decimal("cpu_us_per_user_and_second", cpu / opened.users.max(1) as f64 / held);
    }
    if opened.users < options.users {
        let error = opened.error.unwrap_or_default();
        report.fail(format!("{} of {} users got in: {error}", opened.users, options.users));
    }
    if standing.gone > 0 {
        let error = standing.error.unwrap_or_default();
        report.fail(format!("{} users lost their connection: {error}", standing.gone));
    }
    report.faults(standing.faults);
    shares.close().await?;
    Ok(report)
}

/// Whether both ends of every connection are on this machine.
fn is_here(target: &Target) -> bool {
    let here = ["//127.", "//localhost", "//[::1]"];
    target.door.urls.iter().all(|url| here.iter().any(|host| url.contains(host)))
}

/// What is there at each number of users.
fn memory(watch: &Watch, first: usize, all: usize) -> Vec<Row> {
    let moments = [("before", 0), ("first", first), ("open", all), ("settled", all)];
    let mib = |bytes: f64| json!(tenths(bytes / f64::from(1 << 20)));
    let row = |(moment, users): (&'static str, usize)| {
        let kernel = watch.kernel(moment);
        vec![
            ("users", json!(users)),
            ("moment", json!(moment)),
            ("private MiB", mib(watch.private_bytes(moment))),
            ("anonymous MiB", mib(watch.anonymous_bytes(moment))),
            ("slab MiB", mib(kernel.slab_bytes as f64)),
            ("names of open files in it MiB", mib(kernel.names_bytes as f64)),
            ("in TCP buffers MiB", mib(kernel.tcp_bytes as f64)),
        ]
    };
    moments.into_iter().map(row).collect()
}

/// Memory by users, from what was there before.
fn chart(watch: &Watch, first: usize, all: usize) -> Chart {
    let mut chart = Chart::memory();
    let moments = [("before", 0), ("first", first), ("settled", all)];
    let mut line = |name: &str, of: &dyn Fn(&'static str) -> f64| {
        let at = |(moment, users): (&'static str, usize)| {
            (users as f64, (of(moment) - of("before")).max(0.0) / f64::from(1 << 20))
        };
        chart.series(name, moments.into_iter().map(at).collect());
    };
    line("servers", &|moment| watch.private_bytes(moment));
    line("kernel, both ends", &|moment| watch.kernel(moment).socket_bytes() as f64);
    chart
}

/// What each of the later users added, between the moments `first` and `settled`.
pub(super) fn slopes(report: &mut Report, watch: &Watch, more: f64, here: bool) {
    let user = watch.grown_bytes("first", "settled") / more;
    let anonymous = watch.anonymous_bytes("settled") - watch.anonymous_bytes("first");
    report.decimal("user_space_bytes_per_user", user);
    report.decimal("anonymous_bytes_per_user", anonymous / more);
    report.decimal("user_space_bytes_per_user_after", watch.grown_bytes("first", "after") / more);
    if here {
        let held = |moment| watch.kernel(moment).socket_bytes() as f64;
        let both = (held("settled") - held("first")) / more;
        report.decimal("kernel_bytes_per_connection", both);
        report.decimal("kernel_bytes_per_user", both / 2.0);
        report.decimal("bytes_per_user", user + both / 2.0);
        report.figure(
            "kernel_is",
            "slab and TCP buffers of the whole machine, whoever else is on it, without the names \
             under which others look at open files in /proc (known to root alone); a connection \
             has both its ends here, and half of it counts as the server's",
        );
    }
}

/// Waits so long, and shows it.
pub(super) async fn hold(seconds: u64) {
    let bar = progress("seconds", seconds);
    for _ in 0..seconds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bar.inc(1);
    }
    bar.finish_and_clear();
}
