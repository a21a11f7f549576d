//! Where sockets are not handed over: the option is refused, and there is no line.

use std::io::{ErrorKind, Result};
use std::os::fd::BorrowedFd;
use std::path::Path;

/// The user that this process acts as.
pub fn own_user() -> u32 {
    0
}

/// A packet that nobody gets.
#[derive(Debug)]
pub struct Received {
    /// Its length.
    pub bytes: usize,
    /// Nothing of it was cut off.
    pub whole: bool,
}

impl Received {
    /// The socket that came with it.
    pub fn stream(self) -> Option<std::net::TcpStream> {
        None
    }
}

/// A place that nobody has.
#[derive(Debug)]
pub enum Listening {}

impl Listening {
    /// At this path.
    pub fn at(_: &Path) -> Result<Self> {
        Err(ErrorKind::Unsupported.into())
    }

    /// The next one that has dialled.
    pub async fn accept(&self) -> Result<Line> {
        match *self {}
    }
}

/// A line that nobody has.
#[derive(Debug)]
pub enum Line {}

impl Line {
    /// To whoever listens there.
    pub fn dial(_: &Path) -> Result<Self> {
        Err(ErrorKind::Unsupported.into())
    }

    /// The user at the other end.
    pub fn user(&self) -> Result<u32> {
        match *self {}
    }

    /// Sends a packet with what it carries.
    pub async fn send(&self, _: &[u8], _: Option<BorrowedFd<'_>>) -> Result<()> {
        match *self {}
    }

    /// The next packet.
    pub async fn receive(&self, _: &mut [u8]) -> Result<Received> {
        match *self {}
    }
}
