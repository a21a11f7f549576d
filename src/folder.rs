//! `parlor store`: checks the data folder of `parlor up`, and says what to do about what is wrong.
//!
//! One line a fault on stdout, signs of life on stderr. Names in the folder may be anything after
//! damage: nothing that could steer the terminal is printed as it is.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::config::{Store, StoreCommand};
use crate::node::NodeError;
use crate::table::escaped;
use crate::wiring;

/// How often a long check says how far it is, where nobody watches.
const SIGN_EVERY: Duration = Duration::from_secs(10);
/// The same on a terminal.
const SIGN_EVERY_ON_TERMINAL: Duration = Duration::from_secs(1);

/// Runs `parlor store`: exit 0 where all is well, 1 where something is damaged.
pub fn run(options: &Store) -> Result<ExitCode, NodeError> {
    match options.command {
        StoreCommand::Check => check(&options.data, &mut std::io::stdout()),
        StoreCommand::AcceptLoss => accept_loss(&options.data),
    }
}

fn check(folder: &Path, out: &mut dyn Write) -> Result<ExitCode, NodeError> {
    let every = match std::io::stderr().is_terminal() {
        true => SIGN_EVERY_ON_TERMINAL,
        false => SIGN_EVERY,
    };
    let (mut faults, mut rows, mut said, mut printed) = (0_u64, 0, Instant::now(), Ok(()));
    wiring::check_folder(folder, &mut |told| match told {
        wiring::Told::Fault(fault) => {
            faults += 1;
            if printed.is_ok() {
                printed = writeln!(out, "{}", escaped(&fault.to_string()));
            }
        }
        wiring::Told::Progress(what, done, all) => {
            rows = all;
            if said.elapsed() >= every {
                said = Instant::now();
                let percent = (done * 100).checked_div(all).unwrap_or(0);
                eprintln!("parlor: checking {what}: {done} of {all} rows, {percent} %");
            }
        }
        wiring::Told::Done(all) => rows = all,
    })?;
    let end = match faults {
        0 => format!("{} is sound: {rows} rows", folder.display()),
        1 => format!("{} is damaged: 1 fault in {rows} rows", folder.display()),
        _ => format!("{} is damaged: {faults} faults in {rows} rows", folder.display()),
    };
    match printed.and_then(|()| writeln!(out, "{end}")) {
        // Whoever reads has seen enough, as in `parlor store check | head`.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            return Err(NodeError::Failed(format!("can't print: {error}")));
        }
        _ => {}
    }
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn accept_loss(folder: &Path) -> Result<ExitCode, NodeError> {
    let kept = wiring::accept_loss(folder)?;
    let kept =
        kept.map_or(String::new(), |path| format!("; its log is kept in {}", path.display()));
    println!("{} goes on with what is left{kept}", folder.display());
    Ok(ExitCode::SUCCESS)
}
