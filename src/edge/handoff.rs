//! The hand-over of sockets between processes of one host: what is said, and over what.
//!
//! A balancer dials a server's socket in a folder that both share (`folder`), sends one packet with
//! the client's socket in it (`line`), and gets one packet back. What was read of the client and
//! who it is stand in the packet.
//! **Invariant:** a socket whose packet has left is dealt again only after the server has said that
//! it did not take it.

mod folder;
#[cfg(target_os = "linux")]
mod line;
#[cfg(not(target_os = "linux"))]
#[path = "handoff/nowhere.rs"]
mod line;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Peer;
pub use folder::{BadFolder, Folder};
pub use line::{Line, Listening, Received};

/// How long a server may take to answer.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
/// The longest packet: a head of the longest kind, and what a client may have said behind it.
pub const PACKET_BYTES_MAX: usize = 32 * 1024;

/// In metrics: nobody has answered, or nobody was there any more to hear it.
pub const UNANSWERED: &str = "unanswered";
/// In metrics: the server does not listen in the folder, or too many wait for it.
pub const ABSENT: &str = "absent";

/// What every packet begins with: the last byte is the version.
const MARK: [u8; 8] = *b"parlor\0\x01";
/// Mark, flags, kind of address, port and address.
const FRONT_BYTES: usize = MARK.len() + 1 + 1 + 2 + 16;
/// In the flags: the client is known to speak TLS with a trusted proxy.
const SECURE: u8 = 1;

/// What goes with a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The client.
    pub peer: Peer,
    /// What was read of it, from the first byte of the request on.
    pub read: &'a [u8],
}

impl<'a> Packet<'a> {
    /// As it is sent; `None` where it would be too long.
    pub fn write(&self) -> Option<Vec<u8>> {
        let Peer { address, secure } = self.peer;
        let mut bytes = Vec::with_capacity(FRONT_BYTES + self.read.len());
        bytes.extend(MARK);
        bytes.push(if secure { SECURE } else { 0 });
        let (kind, mut ip) = (if address.is_ipv4() { 4 } else { 6 }, [0; 16]);
        match address.ip() {
            IpAddr::V4(four) => ip[..4].copy_from_slice(&four.octets()),
            IpAddr::V6(six) => ip = six.octets(),
        }
        bytes.push(kind);
        bytes.extend(address.port().to_be_bytes());
        bytes.extend(ip);
        bytes.extend(self.read);
        (bytes.len() <= PACKET_BYTES_MAX).then_some(bytes)
    }

    /// Reads one; `None` where it is none of this version.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&MARK)?;
        let (&[flags, kind, high, low], rest) = rest.split_first_chunk()?;
        let (ip, read) = rest.split_first_chunk::<16>()?;
        let ip = match (kind, ip) {
            (4, [a, b, c, d, rest @ ..]) if *rest == [0; 12] => IpAddr::from([*a, *b, *c, *d]),
            (6, six) => IpAddr::from(*six),
            _ => return None,
        };
        if flags & !SECURE != 0 || read.is_empty() || bytes.len() > PACKET_BYTES_MAX {
            return None;
        }
        let address = SocketAddr::new(ip, u16::from_be_bytes([high, low]));
        Some(Self { peer: Peer { address, secure: flags == SECURE }, read })
    }
}

/// What a server says to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is the server's now.
    Taken,
    /// The server takes none now: it starts or stops.
    Closed,
    /// The server has as many as it may.
    Full,
    /// The packet was not understood.
    Damaged,
    /// The balancer is another user's.
    Stranger,
}

impl Answer {
    const ALL: [Self; 5] = [Self::Taken, Self::Closed, Self::Full, Self::Damaged, Self::Stranger];

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Closed => "closed",
            Self::Full => "full",
            Self::Damaged => "damaged",
            Self::Stranger => "stranger",
        }
    }
}

/// An answer, and how many sockets the server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The answer.
    pub answer: Answer,
    /// Those that are open, without this one.
    pub sockets: u32,
}

impl Reply {
    /// How long one is.
    pub const BYTES: usize = 5;

    /// As it is sent.
    pub fn write(self) -> [u8; Self::BYTES] {
        let [a, b, c, d] = self.sockets.to_be_bytes();
        let place = Answer::ALL.iter().position(|answer| *answer == self.answer);
        [place.map_or(u8::MAX, |place| place as u8), a, b, c, d]
    }

    /// Reads one; `None` where it is none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let &[place, a, b, c, d] = bytes else { return None };
        let answer = *Answer::ALL.get(usize::from(place))?;
        Some(Self { answer, sockets: u32::from_be_bytes([a, b, c, d]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const READ: &[u8] = b"GET /ws HTTP/1.1\r\n\r\nframes";

    fn packet(address: &str, secure: bool) -> Packet<'static> {
        Packet { peer: Peer { address: address.parse().unwrap(), secure }, read: READ }
    }

    #[test]
    fn a_packet_is_read_as_it_was_written() {
        for address in ["203.0.113.7:4711", "[2001:db8::1]:5", "[::ffff:10.0.0.1]:0", "0.0.0.0:0"] {
            for secure in [false, true] {
                let packet = packet(address, secure);
                assert_eq!(Packet::read(&packet.write().unwrap()), Some(packet), "{address}");
            }
        }
    }

    #[test]
    fn damaged_ones_are_told() {
        let good = packet("203.0.113.7:4711", false).write().unwrap();
        assert!(Packet::read(&good).is_some());
        for length in 0..=FRONT_BYTES {
            assert_eq!(Packet::read(&good[..length]), None, "cut at {length}");
        }
        // The mark, the flags, the kind, and what stands behind an address of four bytes.
        for at in (0..10).chain([17, 27]) {
            let mut bad = good.clone();
            bad[at] ^= 0x42;
            assert_eq!(Packet::read(&bad), None, "at {at}");
        }
        let long = [&good[..], &[b'x'; PACKET_BYTES_MAX]].concat();
        assert_eq!(Packet::read(&long), None);
        assert_eq!(Packet { read: &long, ..packet("1.2.3.4:5", false) }.write(), None);
    }

    #[test]
    fn a_reply_is_read_as_it_was_written() {
        for answer in Answer::ALL {
            let reply = Reply { answer, sockets: 70_000 };
            assert_eq!(Reply::read(&reply.write()), Some(reply));
        }
        for bad in [&[][..], &[0; 4], &[0; 6], &[5, 0, 0, 0, 0]] {
            assert_eq!(Reply::read(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_what_would_be_written(
            front in proptest::collection::vec(0_u8..8, FRONT_BYTES - MARK.len()),
            rest in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let bytes = [&MARK[..], &front, &rest].concat();
            if let Some(packet) = Packet::read(&bytes) {
                prop_assert_eq!(packet.write(), Some(bytes.clone()));
            }
        }
    }
}
