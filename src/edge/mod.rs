//! The edge of a process: what a connection passes before its requests are served.
//!
//! `incoming` accepts connections, `arrival` takes one in (PROXY protocol, TLS), `head` refuses
//! requests that two parsers could read in two ways, `caller` says who asks and by which name, as
//! far as trusted proxies are to be believed, and `gate` refuses pages of other origins and, in
//! development mode, other names and other machines. `handoff` carries sockets between processes
//! of a host.
//! **Invariant:** what a client says of its own address, host or scheme counts only where a trusted
//! proxy has said it.

mod arrival;
mod brake;
mod caller;
mod cors;
mod framing;
mod gate;
pub mod handoff;
mod head;
mod incoming;
mod origin;
mod stall;
mod stream;
mod tls;

#[cfg(any(test, fuzzing))]
pub(crate) use arrival::proxy_line;
pub use arrival::{Arrived, Doorman, Edge, Entry, HEAD_PATIENCE, TLS_ADDRESS};
pub use brake::Brake;
pub use caller::{Caller, Headers, Peer, Trusted, is_forwarding};
pub use cors::Answering;
pub use framing::Watched;
#[cfg(any(test, fuzzing))]
pub(crate) use framing::fuzzed;
pub use gate::{Gate, Names, TOKENS_HEADER, Turned};
pub use head::{Body, HEAD_BYTES_MAX, Judged, judge, read_head};
pub use incoming::{Came, Incoming};
pub use origin::{Origin, Origins};
pub use stall::StallGuard;
pub use stream::Stream;
pub use tls::{Tls, TlsError, Upstream};
