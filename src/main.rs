//! The binary: reads the command line and runs the role.

use clap::Parser;
use parlor::config::Cli;

fn main() {
    let _cli = Cli::parse();
}
