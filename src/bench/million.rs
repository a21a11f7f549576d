//! `million`: as many users as the machine holds, over as many processes as that takes, each of
//! whom can be reached.
//!
//! A process may open only so many files, and each user is one: every server has a process of the
//! load of its own. Users get in by steps, so that what the next step needs is known before it is
//! taken, and the run ends by itself where memory or time does.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Common;
use super::idle::{self, hold};
use super::kernel::Kernel;
use super::pair::LINGER;
use super::plot::Chart;
use super::process::{Sample, Watch, tenths};
use super::report::{Report, Row, progress};
use super::share::Standing;
use super::shares::Shares;
use super::target::Target;

/// In so many steps all get in.
const STEPS: usize = 10;
/// What a user needs at least: two ends of a connection in the kernel, of 4 KB each, and the load's
/// own of 4 KB. What the servers need is known after the first step.
const BYTES_PER_USER_MIN: u64 = 12 << 10;
/// How often memory is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long nothing may arrive before nothing is expected any more.
const QUIET: Duration = Duration::from_secs(30);
const GIB: f64 = (1_u64 << 30) as f64;

/// `parlor bench million`
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How many users
    #[arg(long, default_value_t = 250_000, env = "PARLOR_BENCH_USERS",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(10..=4_000_000))]
    pub users: usize,
    /// How many users each server process holds; it has other files open too
    #[arg(long, default_value_t = 19_000, env = "PARLOR_BENCH_USERS_PER_SERVER",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(2..=19_000))]
    pub users_per_server: usize,
    /// How long all of them stay, in seconds
    #[arg(long, default_value_t = 60, env = "PARLOR_BENCH_HOLD")]
    pub hold: u64,
    /// How long to wait before memory is read, in seconds
    #[arg(long, default_value_t = 5, env = "PARLOR_BENCH_SETTLE")]
    pub settle: u64,
    /// How many are written to once, evenly spread over all: a number, or `all`
    #[arg(long, default_value = "all", env = "PARLOR_BENCH_REACH", value_parser = reach)]
    pub reach: usize,
    /// How long opening may take, in seconds
    #[arg(long, default_value_t = 900, env = "PARLOR_BENCH_OPEN_SECONDS")]
    pub open_seconds: u64,
    /// How much memory is left to the machine, in MiB
    #[arg(long, default_value_t = 1_024, env = "PARLOR_BENCH_LEAVE")]
    pub leave: u64,
    /// What all scenarios take.
    #[command(flatten)]
    pub common: Common,
}

fn reach(text: &str) -> Result<usize, String> {
    match text {
        "all" => Ok(usize::MAX),
        number => number.parse().map_err(|_| "a number, or `all`".to_owned()),
    }
}

impl Options {
    /// How many server processes that takes.
    pub(super) fn servers(&self) -> usize {
        self.users.div_ceil(self.users_per_server)
    }

    /// Says what the run needs, and refuses where that is not there.
    pub(super) fn check(&self, kernel: &Kernel) -> anyhow::Result<()> {
        let needed = self.users as u64 * BYTES_PER_USER_MIN;
        let free = kernel.available_bytes.saturating_sub(self.leave << 20);
        let fits = free / BYTES_PER_USER_MIN / 1_000 * 1_000;
        let (users, files) = (self.users, self.users as u64 * 2);
        eprintln!(
            "{users} users: {} server processes and as many of the load, {files} open files, at \
             least {:.1} GiB of memory; {:.1} GiB are available, of which {:.1} stay free",
            self.servers(),
            needed as f64 / GIB,
            kernel.available_bytes as f64 / GIB,
            (self.leave << 20) as f64 / GIB,
        );
        anyhow::ensure!(needed <= free, "not enough memory: take --users {fits}");
        let most = std::fs::read_to_string("/proc/sys/fs/file-max").unwrap_or_default();
        let most = most.trim().parse().unwrap_or(u64::MAX);
        anyhow::ensure!(files < most, "fs.file-max is {most}: take --users {}", most / 2);
        Ok(())
    }
}

/// What was there when so many users were.
struct Point {
    users: usize,
    seconds: f64,
    servers_bytes: f64,
    load_bytes: f64,
    kernel: Kernel,
}

/// Runs it.
pub(super) async fn run(target: &Target, options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("million");
    let mut watch = Watch::new(&target.processes);
    let each = options.users.div_ceil(options.servers());
    let cut = |n: usize| (n * each).min(options.users)..((n + 1) * each).min(options.users);
    let cuts = (0..options.servers()).map(|n| (target.door.only(n), cut(n))).collect();
    let mut shares = Shares::start("million", cuts).await?;
    let load = shares.pids();
    let mut points = vec![point(&watch, &load, 0, 0.0)];
    let begun = Instant::now();
    let stopped = open(&mut shares, &mut watch, &mut points, options, &load, begun).await?;
    let (users, first) =
        (points.last().map_or(0, |p| p.users), points.get(1).map_or(0, |p| p.users));
    let (took, more) = (begun.elapsed().as_secs_f64(), (users - first).max(1) as f64);
    let parts = match &target.common.dynamodb {
        Some(_) => "a fleet: sockets in Redis, messages in DynamoDB, written from another server",
        None => {
            "embedded: each server process with a memory store of its own, its users written \
                 to from there"
        }
    };
    report.figure("parts", parts);
    report.figure("users_wanted", options.users);
    report.figure("users", users);
    report.figure("server_processes", options.servers());
    report.decimal("open_seconds", took);
    report.decimal("users_per_second", users as f64 / took);
    report.table("growth", points.iter().map(row).collect());
    report.chart(chart(&points));
    if let Some(why) = stopped {
        report.figure("stopped_by", why.as_str());
        report.fail(format!("{users} of {} users got in: {why}", options.users));
    }
    if users == options.users {
        tokio::time::sleep(Duration::from_secs(options.settle)).await;
        watch.mark("settled");
        hold(options.hold).await;
        watch.mark("after");
        idle::slopes(&mut report, &watch, more, true);
        let cpu = watch.cpu_seconds("settled", "after") * 1e6;
        let seconds = options.hold.max(1) as f64;
        report.decimal("cpu_us_per_user_and_second", cpu / users as f64 / seconds);
        reach_them(&mut report, &mut shares, target, options).await?;
        shares.close().await?;
    }
    Ok(report)
}

/// Opens step by step. Gives what stopped it before all were in.
async fn open(
    shares: &mut Shares,
    watch: &mut Watch,
    points: &mut Vec<Point>,
    options: &Options,
    load: &[u32],
    begun: Instant,
) -> anyhow::Result<Option<String>> {
    let limit = Duration::from_secs(options.open_seconds);
    for step in 1..=STEPS {
        let wanted = options.users * step / STEPS;
        if let Some(why) = too_much(points, wanted, options.leave << 20) {
            return Ok(Some(why));
        }
        // What is stopped in the middle of a step ends with the run.
        let opened = tokio::select! {
            opened = shares.open(wanted, true) => opened?,
            why = runs_out(options.leave << 20) => return Ok(Some(why)),
            () = tokio::time::sleep_until(begun + limit) => {
                return Ok(Some(format!("--open-seconds {} are over", options.open_seconds)));
            }
        };
        if step == 1 {
            tokio::time::sleep(Duration::from_secs(options.settle)).await;
        }
        watch.mark(if step == 1 { "first" } else { "step" });
        points.push(point(watch, load, opened.users, begun.elapsed().as_secs_f64()));
        if opened.failures > 0 {
            let why = opened.error.unwrap_or_default();
            return Ok(Some(format!("{} did not get in: {why}", opened.failures)));
        }
    }
    Ok(None)
}

fn point(watch: &Watch, load: &[u32], users: usize, seconds: f64) -> Point {
    let load = load.iter().filter_map(|pid| Sample::of(*pid));
    Point {
        users,
        seconds,
        servers_bytes: watch.private_bytes(watch.last()),
        load_bytes: load.map(|sample| sample.private_kib as f64 * 1_024.0).sum(),
        kernel: Kernel::now(),
    }
}

/// Whether so many users would not leave enough, by what those have taken who are in.
fn too_much(points: &[Point], wanted: usize, leave: u64) -> Option<String> {
    let (none, last) = (points.first()?, points.last()?);
    let taken = none.kernel.available_bytes.saturating_sub(last.kernel.available_bytes);
    let each = taken as f64 / last.users.max(1) as f64;
    let needed = each * wanted.saturating_sub(last.users) as f64;
    let free = last.kernel.available_bytes.saturating_sub(leave) as f64;
    (last.users > 0 && needed > free).then(|| {
        format!(
            "memory: {each:.0} bytes a user with all that is on this machine, and {wanted} \
                 users would not leave {} MiB",
            leave >> 20
        )
    })
}

/// Returns when there is too little left.
async fn runs_out(leave: u64) -> String {
    while Kernel::now().available_bytes > leave / 2 {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    format!("memory: less than {} MiB are left", leave >> 21)
}

fn row(point: &Point) -> Row {
    let mib = |bytes: f64| json!(tenths(bytes / f64::from(1 << 20)));
    vec![
        ("users", json!(point.users)),
        ("seconds", json!(tenths(point.seconds))),
        ("servers MiB", mib(point.servers_bytes)),
        ("kernel MiB", mib(point.kernel.socket_bytes() as f64)),
        ("load MiB", mib(point.load_bytes)),
        ("available MiB", mib(point.kernel.available_bytes as f64)),
    ]
}

/// Memory by users, from what was there before.
fn chart(points: &[Point]) -> Chart {
    type Part = (&'static str, fn(&Point) -> f64);
    let parts: [Part; 3] = [
        ("servers", |point| point.servers_bytes),
        ("kernel, both ends", |point| point.kernel.socket_bytes() as f64),
        ("load", |point| point.load_bytes),
    ];
    let mut chart = Chart::memory();
    for (name, of) in parts {
        let none = points.first().map_or(0.0, of);
        let at =
            |point: &Point| (point.users as f64, (of(point) - none).max(0.0) / f64::from(1 << 20));
        chart.series(name, points.iter().map(at).collect());
    }
    chart
}

/// Each of a sample is written to once, and must get it once.
async fn reach_them(
    report: &mut Report,
    shares: &mut Shares,
    target: &Target,
    options: &Options,
) -> anyhow::Result<()> {
    let step = (options.users / options.reach.clamp(1, options.users)).max(1);
    let further = usize::from(target.common.dynamodb.is_some());
    let begun = Instant::now();
    let (wrote, wanted) = shares.write(step, further).await?;
    let stored = wrote.stored;
    let bar = progress("reached", stored);
    let mut standing = shares.count().await?;
    let mut changed = Instant::now();
    while standing.received < stored && changed.elapsed() < QUIET {
        tokio::time::sleep(LOOK_EVERY).await;
        let before = std::mem::replace(&mut standing, shares.count().await?);
        if standing.received > before.received {
            changed = Instant::now();
        }
        bar.set_position(standing.received);
    }
    bar.finish_and_clear();
    let took = begun.elapsed();
    // What comes once too often comes after all that should.
    tokio::time::sleep(LINGER).await;
    let standing = shares.count().await?;
    tell(report, &standing, (stored, wanted), options);
    report.figure("sent_again", wrote.again);
    if let Some(why) = wrote.error {
        report.fail(format!("{why} ({stored} of {wanted} were stored)"));
    }
    report.decimal("reach_seconds", took.as_secs_f64());
    Ok(())
}

fn tell(report: &mut Report, standing: &Standing, (stored, wanted): (u64, u64), options: &Options) {
    let sample: Value = match options.reach >= options.users {
        true => "everybody".into(),
        false => format!("a sample: {wanted} of {}, evenly spread", options.users).into(),
    };
    report.figure("written_to", sample);
    report.figure("reached", standing.received);
    report.latency("send_to_received", &standing.latency);
    report.figure("repeats_on_the_wire", standing.repeats);
    let mut faults = standing.faults;
    faults.missing += stored.saturating_sub(standing.received);
    faults.refused += wanted.saturating_sub(stored);
    report.faults(faults);
    report.figure("connections_lost", standing.gone);
    if standing.gone > 0 {
        let error = standing.error.clone().unwrap_or_default();
        report.fail(format!("{} users lost their connection: {error}", standing.gone));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(users: usize, available: u64) -> Point {
        let kernel = Kernel { available_bytes: available, ..Kernel::default() };
        Point { users, seconds: 0.0, servers_bytes: 0.0, load_bytes: 0.0, kernel }
    }

    #[test]
    fn the_next_step_is_not_taken_where_it_would_not_fit() {
        // 10 bytes each: 100 more fit into what is beyond 3,000.
        let points = [at(0, 5_000), at(100, 4_000)];
        assert_eq!(too_much(&points, 200, 3_000), None);
        assert!(too_much(&points, 201, 3_000).unwrap().contains("10 bytes a user"));
        assert_eq!(too_much(&points[..1], 1_000_000, 3_000), None);
    }

    fn parse(users: &str) -> Options {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            options: Options,
        }
        let line = ["million", "--users", users];
        <Line as clap::Parser>::try_parse_from(line).unwrap().options
    }

    #[tokio::test]
    async fn a_letter_that_comes_twice_late_is_counted() {
        let fake = crate::client::fake::Fake::start().await;
        let target = Target::of_test(fake.url());
        let mut shares = Shares::of(&target.door, "million", 10, 1).await.unwrap();
        shares.open(10, true).await.unwrap();
        let mut report = Report::new("million");
        let options = parse("10");
        // While the one who asks is asleep: all have theirs, and one gets it again.
        let speaking = async {
            tokio::time::sleep(LINGER / 2).await;
            let again = json!({"type": "message", "seq": 2, "message": "0 1 .."});
            fake.say_all(&again.to_string());
        };
        let reaching = reach_them(&mut report, &mut shares, &target, &options);
        let (reached, ()) = tokio::join!(reaching, speaking);
        reached.unwrap();
        assert_eq!((report.number("reached"), report.number("doubled")), (10.0, 1.0));
        assert!(!report.is_good());
    }

    #[test]
    fn servers_are_as_many_as_files_ask_for() {
        assert_eq!((parse("19000").servers(), parse("19001").servers()), (1, 2));
        let some = |gib: u64| Kernel { available_bytes: gib << 30, ..Kernel::default() };
        assert!(parse("250000").check(&some(8)).is_ok());
        let refused = parse("1000000").check(&some(8)).unwrap_err().to_string();
        assert_eq!(refused, "not enough memory: take --users 611000");
        assert_eq!((reach("all"), reach("7"), reach("x").is_err()), (Ok(usize::MAX), Ok(7), true));
    }
}
