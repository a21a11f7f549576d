//! The binary: reads the command line and runs the role. Exit codes: 0 clean stop, 1 failure, 2 bad
//! usage or configuration, said in one line.

// Tests may unwrap; what serves people gives an answer instead.
#![warn(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use parlor::auth::BadKeys;
use parlor::config::{Cli, Command};
use parlor::node::NodeError;
use parlor::table::TableError;
use parlor::{auth, bench, folder, roles, table, telemetry, terminal, torture};

/// What thousands of openings at once have used for a moment goes back: half of what an idle user
/// takes with glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keep_to_itself();
    let cli = Cli::parse();
    telemetry::start_logs();
    // A socket is a file, and many systems begin at 1,024. Where this is refused, running out of
    // files says so.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    // A huge page is 2 MiB for whoever touches a byte of it, and idle users are many small things.
    // Only a kernel without them refuses, and there is nothing to switch off.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // On one core a second thread brings nothing but the way between the two.
    let mut builder = match std::thread::available_parallelism() {
        Ok(cores) if cores.get() == 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli.command)) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("{error:#}"));
            match (error.downcast_ref::<NodeError>(), error.downcast_ref::<TableError>()) {
                (Some(NodeError::Usage(_)), _) => ExitCode::from(2),
                (_, Some(error)) => ExitCode::from(error.exit_code()),
                _ if error.is::<BadKeys>() => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// To stderr. Where nobody reads it the exit code says it alone.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "parlor: {what}");
}

/// Memory holds keys and texts, and variables may hold passwords: no core file keeps them, and no
/// other process of the same user looks into them. Whoever has to debug sets
/// `PARLOR_INSPECTABLE=1`.
fn keep_to_itself() {
    if std::env::var_os("PARLOR_INSPECTABLE").is_some_and(|value| value == "1") {
        return;
    }
    // Lowering is never refused.
    let _ = rlimit::Resource::CORE.set(0, 0);
    // Where a program takes core files (apport, systemd-coredump) Linux does not ask that limit.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(options) => Ok(roles::up(options).await?),
        Command::Balancer(options) => Ok(roles::balancer(options).await?),
        Command::Server(options) => Ok(roles::server(options).await?),
        Command::Api(options) => Ok(roles::api(options).await?),
        Command::Table(options) => Ok(table::run(&options).await?),
        Command::Store(options) => Ok(folder::run(&options)?),
        Command::Token(options) => Ok(auth::mint::run(&options)?),
        Command::Chat(options) => terminal::run(options).await,
        Command::Bench(options) => bench::run(options).await,
        Command::Torture(options) => torture::run(options).await,
    }
}
