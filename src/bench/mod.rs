//! Load, with a report: `parlor bench`.
//!
//! It knows the servers only from outside: sockets, the Message API, /proc. Invariant: a run in
//! which one message is missing, doubled or out of order is a failed run, whatever its speed.

mod bare;
mod calm;
mod crowd;
mod dialect;
mod door;
mod driven;
mod fanout;
mod flood;
mod flow;
mod idle;
mod kernel;
mod machine;
mod million;
mod own;
mod pair;
mod pairs;
mod plot;
mod process;
mod report;
pub(crate) mod resp;
mod ring;
mod share;
mod shares;
mod sitting;
mod storm;
mod talk;
mod target;
mod ten_thousand;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

pub use dialect::Dialect;

use crate::config::Secret;

/// `parlor bench`
#[derive(Debug, Clone, Args)]
pub struct Bench {
    /// What to measure.
    #[command(subcommand)]
    pub scenario: Scenario,
}

/// The scenarios.
#[derive(Debug, Clone, Subcommand)]
pub enum Scenario {
    /// Ten thousand users through the balancer, each sends one message and receives one
    TenThousand(ten_thousand::Options),
    /// Users that only stay connected: memory and CPU of each
    Idle(idle::Options),
    /// Pairs in a closed loop: messages per second, CPU of each, latency
    Pairs(pairs::PairsOptions),
    /// A fixed rate of messages: latency from the moment each was due
    Rate(pairs::RateOptions),
    /// Pairs that answer each other: latency and write units of a message when nothing is busy
    Talk(talk::Options),
    /// A room: every message to every member
    Fanout(fanout::Options),
    /// As many users as the machine holds, over many processes: memory of each, all reachable
    Million(million::Options),
    /// Users lost at once, or a server or Redis: time until all are back and caught up
    Storm(storm::Options),
    /// One user floods: how long the messages of others take meanwhile, and without it
    Flood(flood::Options),
    /// A process of the load, which the bench starts itself: orders from stdin, answers on stdout
    #[command(hide = true)]
    Share,
    /// What fan-out is compared with: a relay that is nothing but one `send` for each recipient
    #[command(hide = true)]
    Bare(bare::Options),
}

/// What all scenarios take.
#[derive(Debug, Clone, Args)]
#[cfg_attr(test, derive(Default))]
pub struct Common {
    /// The balancer, or a server; several, with commas between them: users are dealt round
    #[arg(
        id = "url",
        long = "url",
        default_value = "ws://127.0.0.1:8080/ws",
        hide_env_values = true,
        env = "PARLOR_BENCH_URL",
        value_delimiter = ','
    )]
    pub urls: Vec<String>,
    /// The Message API
    #[arg(
        long,
        default_value = "http://127.0.0.1:4000",
        hide_env_values = true,
        env = "PARLOR_BENCH_API"
    )]
    pub api: String,
    /// Start a `parlor up` of its own for the run, with free ports and a temporary folder
    #[arg(long, conflicts_with_all = ["url", "api"], env = "PARLOR_BENCH_START")]
    pub start: bool,
    /// With --start: that `parlor up` keeps everything in memory, as with its own --memory
    #[arg(long, requires = "start", conflicts_with = "dynamodb", env = "PARLOR_BENCH_MEMORY")]
    pub memory: bool,
    /// Redis: count its `user:*` entries; with --start the servers use it
    #[arg(long, value_name = "URL", hide_env_values = true, env = "PARLOR_BENCH_REDIS")]
    pub redis: Option<Secret>,
    /// With --start and --redis: a fleet of processes, balancer, three servers and API, on a new
    /// table here
    #[arg(long, value_name = "URL|aws", requires_all = ["start", "redis"],
          hide_env_values = true, env = "PARLOR_BENCH_DYNAMODB")]
    pub dynamodb: Option<String>,
    /// Each user asks the balancer for a server (GET /v1/connect) and dials it; a fleet of the
    /// run's own is always used so
    #[arg(long, env = "PARLOR_BENCH_CONNECT")]
    pub connect: bool,
    /// A server process whose memory and CPU are read, several times
    #[arg(long = "pid", value_name = "PID", env = "PARLOR_BENCH_PID", value_delimiter = ',')]
    pub pids: Vec<u32>,
    /// Print the report as one line of JSON
    #[arg(long, env = "PARLOR_BENCH_JSON")]
    pub json: bool,
    /// Draw latency by percentile, and where it is measured memory by users, into this SVG file
    #[arg(long, value_name = "FILE.svg", env = "PARLOR_BENCH_PLOT")]
    pub plot: Option<PathBuf>,
    /// With --start: the run's own processes take tokens, and every user has one
    #[arg(long, requires = "start", env = "PARLOR_BENCH_TOKENS")]
    pub tokens: bool,
    /// The token of all users, which must be a service's
    #[command(flatten)]
    pub carried: crate::auth::Carried,
    /// How many servers a fleet of the run's own has
    #[arg(long, default_value_t = 3, env = "PARLOR_BENCH_SERVERS",
          value_parser = clap::value_parser!(u8).range(1..=16))]
    pub servers: u8,
    /// How many connections are opened at a time
    #[arg(long, default_value_t = 128, env = "PARLOR_BENCH_CONCURRENCY")]
    pub concurrency: usize,
    /// What is spoken at --url
    #[arg(long, value_enum, default_value_t = Dialect::Parlor, env = "PARLOR_BENCH_DIALECT")]
    pub dialect: Dialect,
    /// `idle`, `pairs`, `rate`: how many processes the load has; more where one may not have so
    /// many open files
    #[arg(long, env = "PARLOR_BENCH_PROCESSES",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=128))]
    pub processes: Option<usize>,
    /// With `tokens`: the limits of the run's own processes are the usual ones.
    #[arg(skip)]
    pub limits: bool,
}

impl Common {
    /// What keeps people from the run's own processes.
    fn guard(&self) -> own::Guard {
        match (self.limits, self.tokens) {
            (true, _) => own::Guard::Limits,
            (false, true) => own::Guard::Tokens,
            (false, false) => own::Guard::Open,
        }
    }
}

/// Runs a scenario: prints its report, 0 if nothing was lost.
pub async fn run(bench: Bench) -> anyhow::Result<ExitCode> {
    let Some(common) = bench.scenario.common() else {
        match &bench.scenario {
            Scenario::Bare(options) => bare::run(options).await?,
            _ => share::run().await?,
        }
        return Ok(ExitCode::SUCCESS);
    };
    let mut common = common.clone();
    // Without tokens there are no limits.
    common.limits = common.start && matches!(&bench.scenario, Scenario::Flood(_));
    let spoken = common.dialect == Dialect::Parlor || bench.scenario.is_for_all();
    anyhow::ensure!(spoken, "only idle, pairs, rate and fanout speak other dialects");
    let dealt = common.processes.is_none() || bench.scenario.is_dealt();
    anyhow::ensure!(dealt, "only idle, pairs and rate take --processes");
    let shown = |redis: &Secret| redis.reveal().contains('@') && redis.is_on_command_line();
    if common.redis.as_ref().is_some_and(shown) {
        eprintln!(
            "parlor: --redis holds a secret that everybody on this machine can see: use \
             PARLOR_BENCH_REDIS"
        );
    }
    let unreadable = process::unreadable(&common.pids);
    if !unreadable.is_empty() {
        eprintln!(
            "parlor: --pid {unreadable:?}: no such process here, or its /proc can't be read: name \
             a process that runs on this machine, or leave --pid out"
        );
        return Ok(ExitCode::from(2));
    }
    let mut redis = match &bench.scenario {
        Scenario::Storm(options) => options.own_redis().await?,
        _ => None,
    };
    if let Some(redis) = &redis {
        common.redis = Some(Secret::from(redis.url.as_str()));
    }
    let islands = match &bench.scenario {
        Scenario::Million(options) => {
            anyhow::ensure!(common.start, "it takes servers of the run's own: add --start");
            options.check(&kernel::Kernel::now())?;
            Some(options.servers())
        }
        _ => None,
    };
    // What was started by then ends with it.
    let mut target = tokio::select! {
        target = target::Target::new(&common, islands) => target?,
        stopped = interrupted() => return stopped.map(|_| ExitCode::FAILURE),
    };
    let ran = tokio::select! {
        ran = measure(&bench.scenario, &mut target, redis.as_mut()) => ran,
        stopped = interrupted() => stopped,
    };
    let ended = process::unreadable(&common.pids);
    let stopped = target.stop().await;
    let mut report = ran?;
    if !ended.is_empty() {
        report.fail(format!("processes of --pid ended during the run: {ended:?}"));
    }
    if let Err(error) = stopped {
        report.fail(format!("the servers did not stop cleanly: {error:#}"));
    }
    report.print(common.json);
    if let Some(path) = &common.plot {
        let written = std::fs::write(path, report.svg());
        written.with_context(|| format!("--plot {}", path.display()))?;
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure(
    scenario: &Scenario,
    target: &mut target::Target,
    redis: Option<&mut storm::OwnRedis>,
) -> anyhow::Result<report::Report> {
    match scenario {
        Scenario::TenThousand(options) => ten_thousand::run(target, options).await,
        Scenario::Idle(options) => idle::run(target, options).await,
        Scenario::Pairs(options) => pairs::run_pairs(target, options).await,
        Scenario::Rate(options) => pairs::run_rate(target, options).await,
        Scenario::Talk(options) => talk::run(target, options).await,
        Scenario::Fanout(options) => fanout::run(target, options).await,
        Scenario::Million(options) => million::run(target, options).await,
        Scenario::Storm(options) => storm::run(target, options, redis).await,
        Scenario::Flood(options) => flood::run(target, options).await,
        Scenario::Share | Scenario::Bare(_) => anyhow::bail!("a helper has no report"),
    }
}

/// A run that is told to stop ends what it started.
async fn interrupted() -> anyhow::Result<report::Report> {
    let mut interrupt = signal(SignalKind::interrupt()).context("no signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("no signals")?;
    tokio::select! {
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("told to stop"),
    }
}

impl Scenario {
    fn common(&self) -> Option<&Common> {
        Some(match self {
            Self::TenThousand(options) => &options.common,
            Self::Idle(options) => &options.common,
            Self::Pairs(options) => &options.common,
            Self::Rate(options) => &options.common,
            Self::Talk(options) => &options.common,
            Self::Fanout(options) => &options.common,
            Self::Million(options) => &options.common,
            Self::Storm(options) => &options.common,
            Self::Flood(options) => &options.common,
            Self::Share | Self::Bare(_) => return None,
        })
    }

    /// Whether other systems than Parlor can be loaded so.
    fn is_for_all(&self) -> bool {
        matches!(self, Self::Idle(_) | Self::Pairs(_) | Self::Rate(_) | Self::Fanout(_))
    }

    /// Whether its users may be dealt over several processes of the load by the caller's number.
    fn is_dealt(&self) -> bool {
        matches!(self, Self::Idle(_) | Self::Pairs(_) | Self::Rate(_))
    }
}

#[cfg(test)]
mod tests {
    use super::target::Target;
    use super::*;
    use crate::client::fake::Fake;

    fn parse(arguments: &[&str]) -> Bench {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            bench: Bench,
        }
        let line = ["bench"].iter().chain(arguments);
        <Line as clap::Parser>::try_parse_from(line).unwrap().bench
    }

    async fn run(fake: &Fake, arguments: &[&str]) -> report::Report {
        let bench = parse(arguments);
        let mut target = Target::of_test(fake.url());
        measure(&bench.scenario, &mut target, None).await.unwrap()
    }

    #[tokio::test]
    async fn every_scenario_accounts_for_what_it_sent() {
        let fake = Fake::start().await;
        let ring =
            run(&fake, &["ten-thousand", "--users", "9", "--messages", "2", "--history", "0"])
                .await;
        assert!(ring.is_good(), "{ring:?}");
        assert_eq!((ring.number("messages"), fake.log("dm:u0:u1").len()), (18.0, 2));
        assert_eq!(ring.number("users"), 9.0);
        // The fake counts a write to a socket that just ended as a receipt.
        fake.forget_receipts();
        for arguments in [
            &["idle", "--users", "5", "--hold", "1", "--settle", "0"][..],
            &["pairs", "--pairs", "3", "--seconds", "1"],
            &["rate", "--rate", "50", "--seconds", "1"],
            &["storm", "--users", "6", "--messages", "3"],
            &["talk", "--messages", "3", "--pause-ms", "1"],
        ] {
            let report = run(&fake, arguments).await;
            assert!(report.is_good(), "{report:?}");
        }
    }

    #[tokio::test]
    async fn dialects_and_processes_are_refused_where_they_would_be_ignored() {
        for (line, option) in [
            (&["storm", "--processes", "2"][..], "--processes"),
            (&["fanout", "--processes", "2"], "--processes"),
            (&["talk", "--dialect", "socket-io"], "dialects"),
        ] {
            let refused = super::run(parse(line)).await.unwrap_err().to_string();
            assert!(refused.contains(option), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_process_that_is_not_there_is_not_measured() {
        let fake = Fake::start().await;
        let idle = async |pid: u32, hold: &str| {
            let (url, pid) = (fake.url(), pid.to_string());
            let line = ["idle", "--users", "2", "--settle", "0", "--hold", hold];
            let bench = parse(&[&line[..], &["--url", &url, "--pid", &pid]].concat());
            format!("{:?}", super::run(bench).await.unwrap())
        };
        let code = |code: ExitCode| format!("{code:?}");
        assert_eq!(idle(u32::MAX, "0").await, code(ExitCode::from(2)));
        assert_eq!(idle(std::process::id(), "0").await, code(ExitCode::SUCCESS));
        let mut child = std::process::Command::new("sleep").arg("1").spawn().unwrap();
        assert_eq!(idle(child.id(), "2").await, code(ExitCode::FAILURE));
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn a_run_that_lost_a_message_is_a_failed_run() {
        let fake = Fake::start().await;
        fake.swallow(3);
        let lost = run(&fake, &["pairs", "--pairs", "2", "--seconds", "1"]).await;
        assert!(!lost.is_good());
        assert_eq!(lost.number("missing"), 2.0);
        fake.refuse_all();
        let refused = run(&fake, &["ten-thousand", "--users", "3", "--history", "0"]).await;
        assert!(!refused.is_good());
        assert_eq!(refused.number("refused"), 3.0);
    }
}
