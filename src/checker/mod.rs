//! Judges a history: was an acked message lost, shown twice, reordered, shown to a stranger?
//!
//! It reads JSON lines that clients wrote and knows nothing of the server: no module of the crate
//! is imported here, so that a mistake in the server can't be shared by its judge.
//!
//! `history` is the format, `files` merges what many processes wrote, `judge` takes it event by
//! event, `origin` says what an entry is. The invariants are judged where their facts stand: `send`
//! (I2, I7, I8, I9), `device` (I1, I3, I4, I5, I6, I13, I14), `status` (I10), `walk` (I11, I12),
//! `upkeep` (I15, I16). `gate` says whether the run saw enough for its silence to mean something,
//! `report` what came of it.

pub mod history;
pub mod judge;
pub mod gate;
pub mod report;
pub mod files;
mod names;
mod ranges;
mod origin;
mod evidence;
mod words;
mod log;
mod send;
mod device;
mod walk;
mod status;
mod upkeep;

pub use files::{judge, judge_files};
pub use gate::{Gate, Gates, Limits, Measures};
pub use judge::Checker;
pub use report::{Counts, Invariant, Report, Verdict, Violation};

#[cfg(test)]
mod tests;
