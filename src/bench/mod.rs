//! Load, with a report: `parlor bench`.
//!
//! It knows the servers only from outside: sockets, the Message API, /proc. Invariant: a run in
//! which one message is missing, doubled or out of order is a failed run, whatever its speed.

mod crowd;
mod fanout;
mod flow;
mod idle;
mod pair;
mod pairs;
mod process;
mod report;
mod resp;
mod storm;
mod target;
mod ten_thousand;

use std::process::ExitCode;

use clap::{Args, Subcommand};

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
    /// A room: every message to every member
    Fanout(fanout::Options),
    /// All users lost at once: time until all are back and caught up
    Storm(storm::Options),
}

/// What all scenarios take.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// The balancer, or a server
    #[arg(long, default_value = "ws://127.0.0.1:8080/ws", env = "PARLOR_BENCH_URL")]
    pub url: String,
    /// The Message API
    #[arg(long, default_value = "http://127.0.0.1:4000", env = "PARLOR_BENCH_API")]
    pub api: String,
    /// Start a `parlor up` of its own for the run, with free ports and a temporary folder
    #[arg(long, conflicts_with_all = ["url", "api"], env = "PARLOR_BENCH_START")]
    pub start: bool,
    /// Redis: count its `user:*` entries; with --start the servers use it
    #[arg(long, value_name = "URL", env = "PARLOR_BENCH_REDIS")]
    pub redis: Option<String>,
    /// A server process whose memory and CPU are read, several times
    #[arg(long = "pid", value_name = "PID", env = "PARLOR_BENCH_PID", value_delimiter = ',')]
    pub pids: Vec<u32>,
    /// Print the report as one line of JSON
    #[arg(long, env = "PARLOR_BENCH_JSON")]
    pub json: bool,
    /// How many connections are opened at a time
    #[arg(long, default_value_t = 128, env = "PARLOR_BENCH_CONCURRENCY")]
    pub concurrency: usize,
}

/// Runs a scenario: prints its report, 0 if nothing was lost.
pub async fn run(bench: Bench) -> anyhow::Result<ExitCode> {
    let common = bench.scenario.common().clone();
    let mut target = target::Target::new(&common).await?;
    let ran = match bench.scenario {
        Scenario::TenThousand(options) => ten_thousand::run(&target, &options).await,
        Scenario::Idle(options) => idle::run(&target, &options).await,
        Scenario::Pairs(options) => pairs::run_pairs(&target, &options).await,
        Scenario::Rate(options) => pairs::run_rate(&target, &options).await,
        Scenario::Fanout(options) => fanout::run(&target, &options).await,
        Scenario::Storm(options) => storm::run(&target, &options).await,
    };
    let stopped = target.stop().await;
    let mut report = ran?;
    if let Err(error) = stopped {
        report.fail(format!("the servers did not stop cleanly: {error:#}"));
    }
    report.print(common.json);
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Scenario {
    fn common(&self) -> &Common {
        match self {
            Self::TenThousand(options) => &options.common,
            Self::Idle(options) => &options.common,
            Self::Pairs(options) => &options.common,
            Self::Rate(options) => &options.common,
            Self::Fanout(options) => &options.common,
            Self::Storm(options) => &options.common,
        }
    }
}
