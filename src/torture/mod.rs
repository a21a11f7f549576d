//! The attack on real processes: `parlor torture`.
//!
//! A round starts three servers, a balancer, the API, Redis and DynamoDB Local as processes, each
//! link between them through a fault proxy; people talk, faults are injected, everything is written
//! to a history, and the history is judged by `checker`, which knows nothing of the servers. The
//! same seed makes the same load and draws the same faults; what they meet is up to the system.

mod device;
mod faults;
mod fleet;
mod http;
mod journal;
mod members;
mod nemesis;
mod plan;
mod post;
mod process;
mod reading;
mod round;
mod sends;
mod talk;
mod tcp;
mod watch;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

/// `parlor torture`
#[derive(Debug, Clone, Args)]
pub struct Torture {
    /// What is attacked, and how.
    #[command(flatten)]
    pub options: Options,
}

/// What is attacked, and how.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How long faults are injected in each round
    #[arg(long, default_value_t = 60, env = "PARLOR_TORTURE_SECONDS")]
    pub seconds: u64,
    /// Makes load and faults; each round takes the next one
    #[arg(long, default_value_t = 1, env = "PARLOR_TORTURE_SEED")]
    pub seed: u64,
    /// How many rounds, each with a fresh fleet
    #[arg(long, default_value_t = 1, env = "PARLOR_TORTURE_ROUNDS")]
    pub rounds: u64,
    /// Attack `parlor up` on its embedded parts, in place of a fleet
    #[arg(long, env = "PARLOR_TORTURE_EMBEDDED")]
    pub embedded: bool,
    /// How many people, with two devices each
    #[arg(long, default_value_t = 40, env = "PARLOR_TORTURE_USERS",
          value_parser = clap::value_parser!(u16).range(20..=99))]
    pub users: u16,
    /// Messages a second that are aimed at; default 300, with --embedded 2,000
    #[arg(long, env = "PARLOR_TORTURE_RATE")]
    pub rate: Option<f64>,
    /// Between two faults, on average, in milliseconds
    #[arg(long, default_value_t = 1_500, env = "PARLOR_TORTURE_GAP_MS")]
    pub gap_ms: u64,
    /// The program of Redis
    #[arg(
        long,
        value_name = "PROGRAM",
        default_value = "redis-server",
        env = "PARLOR_TORTURE_REDIS_SERVER"
    )]
    pub redis_server: PathBuf,
    /// The jars of DynamoDB Local
    #[arg(
        long,
        value_name = "DIR",
        default_value = ".tools/dynamodb-local/lib",
        env = "PARLOR_TORTURE_DYNAMODB_LOCAL"
    )]
    pub dynamodb_local: PathBuf,
    /// Keep histories and logs here; those of failed rounds are kept in any case
    #[arg(long, value_name = "DIR", env = "PARLOR_TORTURE_KEEP")]
    pub keep: Option<PathBuf>,
}

impl Options {
    /// What the load aims at.
    fn messages_a_second(&self) -> f64 {
        self.rate.unwrap_or(if self.embedded { 2_000.0 } else { 300.0 }).max(1.0)
    }
}

/// Runs the rounds: prints a table, 0 if all passed.
pub async fn run(torture: Torture) -> anyhow::Result<ExitCode> {
    let options = torture.options;
    let folder = std::env::temp_dir().join(format!("parlor-torture-{:08x}", rand::random::<u32>()));
    let bar = ProgressBar::new(options.seconds);
    bar.set_style(ProgressStyle::with_template("{elapsed} {bar:20} {msg}")?);
    let round = round::run(&options, &folder, options.seed, "unknown", &bar);
    let done = tokio::select! {
        done = round => done?,
        // What was started ends with the runtime: each child is killed as it is dropped.
        () = told_to_stop() => anyhow::bail!("stopped, with all that was started"),
    };
    bar.finish_and_clear();
    println!("{} {:?} {}", done.history.display(), done.took, done.pairs.len());
    Ok(ExitCode::SUCCESS)
}

async fn told_to_stop() {
    let mut signals = Vec::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        signals.extend(signal(kind));
    }
    let any = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    futures_util::future::select_all(any).await;
}
