//! The attack on real processes: `parlor torture`.
//!
//! A round starts three servers, a balancer, the API, Redis and DynamoDB Local as processes, each
//! link between them through a fault proxy; people talk, faults are injected, everything is written
//! to a history, and the history is judged by `checker`, which knows nothing of the servers. The
//! same seed makes the same load and draws the same faults; what they meet is up to the system.

mod device;
mod faults;
mod fleet;
mod hearing;
mod http;
mod journal;
mod ledger;
mod members;
mod nemesis;
mod page;
mod plan;
mod post;
mod process;
mod reading;
mod round;
mod rounds;
mod sends;
mod talk;
mod tcp;
mod watch;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::checker::{Gates, Verdict, judge_files};

/// Between two faults, on average, where nobody says.
const GAP_MS: u64 = 1_500;

/// `parlor torture`
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Torture {
    /// In place of an attack.
    #[command(subcommand)]
    pub command: Option<Afterwards>,
    /// What is attacked, and how.
    #[command(flatten)]
    pub options: Options,
}

/// What can be done without an attack.
#[derive(Debug, Clone, Subcommand)]
pub enum Afterwards {
    /// Judge the histories of a round again
    Check {
        /// The files of one round
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Make the ledger's page again, from lines of rounds and of other systems
    Ledger {
        /// Like docs/ledger.jsonl; the page stands beside the first one
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
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
    #[arg(long, default_value_t = GAP_MS, env = "PARLOR_TORTURE_GAP_MS")]
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
    /// Keep histories and logs here; those of rounds that did not pass are kept in any case
    #[arg(long, value_name = "DIR", env = "PARLOR_TORTURE_KEEP")]
    pub keep: Option<PathBuf>,
    /// Add each round to this file, like docs/ledger.jsonl, and make the page beside it
    #[arg(long, value_name = "FILE", env = "PARLOR_TORTURE_LEDGER")]
    pub ledger: Option<PathBuf>,
}

impl Options {
    /// What the load aims at.
    fn messages_a_second(&self) -> f64 {
        self.rate.unwrap_or(if self.embedded { 2_000.0 } else { 300.0 }).max(1.0)
    }
}

/// Attacks, or judges what an attack left: 0 if all passed.
pub async fn run(torture: Torture) -> anyhow::Result<ExitCode> {
    match torture.command {
        None => rounds::run(&torture.options).await,
        Some(Afterwards::Check { files }) => {
            let report = judge_files(&files, Gates::default())?;
            print!("{report}");
            // A gate may be missed by a short run; what is broken is broken.
            let failed = report.verdict == Verdict::Fail;
            Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Some(Afterwards::Ledger { files }) => {
            println!("{}", ledger::make(&files)?.display());
            Ok(ExitCode::SUCCESS)
        }
    }
}
