//! The wire contract: what clients and servers say to each other, and servers among themselves.
//!
//! Nothing here does IO, and nothing here imports the rest of the crate. `docs/protocol.md` is the
//! same contract in words; a test parses its examples with this module.

pub mod answer;
pub mod code;
pub mod envelope;
pub mod frame;
pub mod id;
pub mod message;
pub mod sizes;
pub mod token;
pub(crate) mod word;

pub use answer::Text;
pub use code::{CloseCode, ErrorCode};
pub use envelope::{Envelope, Receipt};
pub use frame::{BadFrame, ClientFrame, SendFrame, Target};
pub use id::{
    BadId, ConversationId, ConversationKind, DeviceId, Epoch, ProcessId, Ref, RoomId, SocketId,
    UserId,
};
pub use message::{Entry, Kind, Seq, Timestamp};
pub use sizes::{DATA_BYTES_MAX, DATA_DEPTH_MAX, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, Sizes};
pub use token::{LEEWAY_SECONDS, TOKEN_BYTES_MAX, TOKEN_REVOKED, Token};

/// The version of frames and envelopes.
pub const PROTOCOL_VERSION: u8 = 1;
/// How often a silent socket is pinged.
pub const PING_INTERVAL_MS: u64 = 25_000;
/// How many sockets a person may have where nothing else is set; the oldest is closed with 4001.
pub const SOCKETS_PER_USER: u16 = 16;
/// How many can be set.
pub const SOCKETS_PER_USER_MAX: u16 = 64;
/// How many devices a person may have; the longest unseen goes.
pub const DEVICES_PER_USER_MAX: usize = 16;
/// How many entries back a repeated ref with `after` is found (P2).
pub const REF_REACH_ENTRIES: u64 = 1_000;
/// How many entries back a repeated ref without `after` is found (P2).
pub const REF_WINDOW_ENTRIES: usize = 32;

/// The `limits` of `welcome`.
pub(crate) fn limits_json(sockets_per_user: u16, sizes: &Sizes) -> String {
    let Sizes { frame, message, data, depth } = sizes;
    format!(
        "{{\"messageBytes\":{message},\"dataBytes\":{data},\"dataDepth\":{depth},\
         \"frameBytes\":{frame},\"socketsPerUser\":{sockets_per_user}}}"
    )
}
