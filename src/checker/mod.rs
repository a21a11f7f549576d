//! Judges a history: was an acked message lost, shown twice, reordered, shown to a stranger?
//!
//! It reads JSON lines that clients wrote and knows nothing of the server: no module of the crate
//! is imported here, so that a mistake in the server can't be shared by its judge.

pub mod history;
