//! Load, with a report.

use clap::Args;

/// `parlor bench`
#[derive(Debug, Clone, Args)]
pub struct Bench {}
