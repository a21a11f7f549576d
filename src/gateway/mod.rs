//! Sockets of one server: handshake, the socket loop, drain.
//!
//! A connection comes from the server's own listener or from the balancer in the same process; both
//! give an [`Accepted`]. Nothing above the gateway knows which socket engine runs.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// A connection whose request head may have been read already.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub stream: TcpStream,
    /// Who dialled.
    pub peer: SocketAddr,
    /// What was read already, from the first byte of the request on; empty if nothing was.
    pub read: Bytes,
}

/// How many handed-over connections wait for a server.
pub const DOOR_MAX: usize = 1_024;

/// Where a balancer in the same process hands connections to a server.
pub type Door = mpsc::Sender<Accepted>;
