//! Names of people, devices, conversations, sockets and processes.
//!
//! Every id is checked once, where it enters (a frame, a URL, an item of the store), and is cheap
//! to clone from there on. The alphabets keep ids free of the separators that Redis keys, DynamoDB
//! keys and URLs are built with, so that no id can reach into another's key.

mod conversation;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Timestamp;
use super::word::read_text;

pub use conversation::{ConversationId, ConversationKind};

/// Longest user or room id, in bytes.
pub const USER_ID_BYTES_MAX: usize = 128;
/// Longest device id, in bytes.
pub const DEVICE_ID_BYTES_MAX: usize = 32;
/// Longest `ref` of a send, in bytes.
pub const REF_BYTES_MAX: usize = 64;

/// An id that is not of its alphabet or length; the text says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must match {pattern}")]
pub struct BadId {
    /// What was to be parsed, in words for a person.
    pub what: &'static str,
    /// The allowed form.
    pub pattern: &'static str,
}

fn is_user_byte(b: u8) -> bool {
    matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9')
        || matches!(b, b'_' | b'.' | b'@' | b'|' | b'+' | b'=' | b'~' | b'-')
}

fn is_device_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'-'
}

fn is_ref_byte(b: u8) -> bool {
    matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9')
        || matches!(b, b'_' | b'.' | b':' | b'+' | b'=' | b'/' | b'~' | b'-')
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $pattern:literal, $max:expr, $byte:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the alphabet and the length.
            pub fn parse(text: &str) -> Result<Self, BadId> {
                let bad = BadId { what: $what, pattern: $pattern };
                if Self::fits(text) { Ok(Self(text.into())) } else { Err(bad) }
            }

            /// Whether this is one, of its alphabet and length.
            fn fits(text: &str) -> bool {
                !text.is_empty() && text.len() <= $max && text.bytes().all($byte)
            }

            /// The id as it stands on the wire.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                read_text(d, Self::parse)
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                Self::parse(text)
            }
        }
    };
}

text_id!(
    /// A person, as the embedding product names them: the alphabet is what identity providers put
    /// into `sub`.
    UserId, "a user id", "[A-Za-z0-9_.@|+=~-]{1,128}", USER_ID_BYTES_MAX, is_user_byte
);
text_id!(
    /// A room's id, given by its creator or made by the server.
    RoomId, "a room id", "[A-Za-z0-9_.@|+=~-]{1,128}", USER_ID_BYTES_MAX, is_user_byte
);
text_id!(
    /// One of a person's devices; each has its own cursor.
    DeviceId, "a device", "[A-Za-z0-9_-]{1,32}", DEVICE_ID_BYTES_MAX, is_device_byte
);
text_id!(
    /// The name of a process on the board and of its bus channel, as in `messages:ws3`.
    ProcessId, "a server id", "[A-Za-z0-9_-]{1,32}", DEVICE_ID_BYTES_MAX, is_device_byte
);
text_id!(
    /// The client's name for one send; the same ref again is the same message (P2).
    Ref, "a ref", "[A-Za-z0-9_.:+=/~-]{1,64}", REF_BYTES_MAX, is_ref_byte
);

impl DeviceId {
    /// The device of clients that name none: one name for all of them.
    pub fn plain() -> Self {
        static PLAIN: LazyLock<DeviceId> = LazyLock::new(|| DeviceId("default".into()));
        PLAIN.clone()
    }

    /// The device under which the Message API sends.
    pub fn api() -> Self {
        static API: LazyLock<DeviceId> = LazyLock::new(|| DeviceId("api".into()));
        API.clone()
    }
}

impl Ref {
    /// A ref that the server made for a send that had none, so that its own put can be told from
    /// another's after a time-out. It is stored, never shown.
    pub fn made_by_server(unique: u128) -> Self {
        Self(format!("~{unique:032x}").into())
    }

    /// Whether a client gave this ref.
    pub fn is_clients(&self) -> bool {
        !self.0.starts_with('~')
    }
}

/// A socket's name: when it opened, and 64 random bits, so that no two processes ever give the same
/// one, and those of a person are in the order of their age.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u128);

impl SocketId {
    /// The name of a socket that opens now. `last` is of its server: a clock that steps back, and
    /// more than one socket in a millisecond, keep the order there.
    pub fn next(last: &AtomicU64, now: Timestamp, chance: u64) -> Self {
        // Milliseconds take 48 bits until the year 10889.
        const WITHIN_A_MS_BITS: u32 = 16;
        // A clock that was wrong by more, and is right again, is believed.
        const STEP_MS_MAX: u64 = 3_600_000;
        let (now, ahead) = (now << WITHIN_A_MS_BITS, STEP_MS_MAX << WITHIN_A_MS_BITS);
        let after = |last: u64| if last < now + ahead { now.max(last + 1) } else { now };
        let before =
            last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(after(last)));
        let opened = after(before.unwrap_or_else(|last| last));
        Self(u128::from(opened) << u64::BITS | u128::from(chance))
    }
}

/// One life of a process: random, so that a restart under the same name is another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

macro_rules! hex_id {
    ($name:ident, $int:ty, $format:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                read_text(d, |text| <$int>::from_str_radix(text, 16).map(Self))
            }
        }
    };
}

// Text, not numbers: Redis scripts keep integers as doubles and lose what is past 2^53.
hex_id!(SocketId, u128, "{:032x}");
hex_id!(Epoch, u64, "{:016x}");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_refuse_what_could_reach_into_a_key() {
        for bad in
            ["", "a#b", "user:1", "{tag}", "*", "a\r\nSET x 1", "../", "%2e", "é", "a b", "a/b"]
        {
            assert!(UserId::parse(bad).is_err(), "{bad:?}");
            assert!(ConversationId::parse(&format!("room:{bad}")).is_err(), "{bad:?}");
        }
        assert!(UserId::parse(&"a".repeat(128)).is_ok());
        assert!(UserId::parse(&"a".repeat(129)).is_err());
        assert!(UserId::parse("auth0|5f-7_c.x@y+z=~").is_ok());
    }

    #[test]
    fn clients_that_name_no_device_share_one_name() {
        assert!(Arc::ptr_eq(&DeviceId::plain().0, &DeviceId::plain().0));
        assert_eq!(DeviceId::parse("default"), Ok(DeviceId::plain()));
        assert_eq!(DeviceId::parse("api"), Ok(DeviceId::api()));
    }

    #[test]
    fn sockets_are_in_the_order_of_their_age() {
        let (last, now) = (AtomicU64::new(0), 1_790_000_000_001);
        let mut before = SocketId::next(&last, now - 1, u64::MAX);
        // In one millisecond, in the next one, and on a clock that steps back.
        for (now, chance) in [(now - 1, 9), (now, 8), (now - 3_500_000, 7), (now, 6)] {
            let next = SocketId::next(&last, now, chance);
            assert!(next > before, "{next} after {before}");
            before = next;
        }
        let far = SocketId::next(&last, now + 3_600_000_000, 0);
        assert!(SocketId::next(&last, now, 0) < far, "it is right again");
        let (_, first) = (last.swap(0, Ordering::Relaxed), SocketId::next(&last, now, 0xa));
        assert_eq!(first.to_string(), "01a0c4506c010000000000000000000a");
        assert_ne!(first, SocketId::next(&AtomicU64::new(0), now, 0xb), "on another server");
    }

    #[test]
    fn sockets_and_epochs_are_text_on_the_wire() {
        let socket = SocketId(7);
        let text = serde_json::to_string(&socket).unwrap();
        assert_eq!(text, format!("\"{:032x}\"", 7));
        assert_eq!(serde_json::from_str::<SocketId>(&text).unwrap(), socket);
    }
}
