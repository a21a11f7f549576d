//! Reading from the store what a socket has missed.

/// Work that a session asks its task to do.
#[derive(Debug)]
pub enum Work {}

/// What came of it.
#[derive(Debug)]
pub enum Done {}
