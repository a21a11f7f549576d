//! What strangers can send, each kind as a function of bytes that must hold whatever they are.
//!
//! `fuzz/` feeds them with bytes that coverage has found, and the tests below with the bytes that
//! are kept in `fuzz/corpus`. A function here panics where a rule is broken; refusing is no fault.
//! It says whether the bytes came through, which those that are kept as `good` must.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

use crate::balancer::head::{self, Head};
use crate::bus::payload::decode;
use crate::bus::signing::{Guard, Keys, Refusal, Signer};
use crate::edge::fuzzed::Client as Arriving;
use crate::edge::handoff::{Packet, Reply};
use crate::edge::{Gate, HEAD_BYTES_MAX, HEAD_PATIENCE, Peer, Trusted, proxy_line, read_head};
use crate::gateway::framing;
use crate::gateway::handshake::{self, Request};
use crate::protocol::frame::{ClientFrame, SendFrame, parse_send};
use crate::protocol::{
    ConversationId, DATA_BYTES_MAX, Envelope, ErrorCode, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, Sizes,
    Target, answer,
};

/// A target: a name, and what is done with the bytes.
pub type Check = fn(&[u8]) -> bool;

/// All targets, by the names that `fuzz/run` takes.
pub const TARGETS: [(&str, Check); 11] = [
    ("frame", frame),
    ("handshake", handshake),
    ("proxy", proxy),
    ("command", command),
    ("envelope", envelope),
    ("token", token),
    ("request", request),
    ("stream", stream),
    ("packet", packet),
    ("map_entry", map_entry),
    ("jwks", jwks),
];

/// What the balancer adds to a head, at most, and how many headers one may have.
const ADDED: usize = 96;
const HEADERS_MAX: usize = 100;

/// The longest line of a proxy: what it begins with, and what it may announce.
const PROXY_LINE_BYTES_MAX: usize = 16 + 2 * 1_024;

/// In how many pieces bytes arrive at most.
const PIECES_MAX: usize = 1_024;

/// A client that says what it was given, so many bytes at a time, and takes every answer.
struct Client<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl Read for Client<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = self.step.min(buffer.len());
        self.bytes.read(&mut buffer[..count])
    }
}

impl Write for Client<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a socket reads, and how it ends.
fn read_all(bytes: &[u8], step: usize) -> (Vec<Message>, String) {
    let client = Client { bytes, step };
    let limits = WebSocketConfig::default();
    let limits = limits.max_message_size(Some(FRAME_BYTES_MAX));
    let limits = limits.max_frame_size(Some(FRAME_BYTES_MAX));
    let mut web = WebSocket::from_raw_socket(client, Role::Server, Some(limits));
    let mut messages = Vec::new();
    loop {
        match web.read() {
            Ok(message) => {
                assert!(message.len() <= FRAME_BYTES_MAX, "{} bytes are kept", message.len());
                messages.push(message);
            }
            Err(Error::Io(_)) => return (messages, "open".to_owned()),
            Err(error) => return (messages, error.to_string()),
        }
    }
}

/// Frames of a socket: bounded, the same however the network cuts them and whoever reads them, and
/// each text a command or a refusal.
pub fn frame(bytes: &[u8]) -> bool {
    let whole = read_all(bytes, usize::MAX);
    // A byte at a time, or in so many pieces where that would take long.
    let step = bytes.len() / PIECES_MAX + 1;
    assert_eq!(whole, read_all(bytes, step), "it depends on how the bytes arrive");
    framing::fuzzed::hold(bytes);
    let mut taken = false;
    for message in whole.0 {
        if let Message::Text(text) = message {
            taken |= command(text.as_bytes());
        }
    }
    taken
}

/// For the clock of what waits for bytes.
static RUNTIME: LazyLock<Option<Runtime>> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().build().ok());

/// A gate that trusts nobody, and one that trusts whoever dials it.
static GATES: LazyLock<[Gate; 2]> = LazyLock::new(|| {
    let trusted = Trusted::new(&["198.51.100.0/24".to_owned()]).unwrap_or_default();
    [Gate::default(), Gate { trusted, ..Gate::default() }]
});

/// The head of a request: the balancer and the server agree on where it ends and what it is, also
/// once the balancer has written it anew, and more bytes never change what was decided; from a
/// client and from a proxy that is believed about one.
pub fn handshake(bytes: &[u8]) -> bool {
    GATES.iter().map(|gate| handshake_at(bytes, gate)).fold(true, |all, opens| all & opens)
}

fn handshake_at(bytes: &[u8], gate: &Gate) -> bool {
    let peer = Peer { address: SocketAddr::from(([198, 51, 100, 1], 9)), secure: false };
    let judged_from = |bytes: &[u8], peer| handshake::judge(&mut BytesMut::from(bytes), peer, gate);
    let judge = |bytes: &[u8]| judged_from(bytes, peer);
    let (dealt, judged) = (head::seen(bytes, peer, gate), judge(bytes));
    let agreed = match (&dealt, &judged) {
        (None, None) => true,
        (Some(Head::Upgrade(upgrade)), Some(known)) => {
            // In this process the server is told who asks; in another, the head says it.
            let (here, onward) = (upgrade.here(), upgrade.onward());
            agree(known, judged_from(&here, upgrade.caller.peer).as_ref(), &here);
            agree(known, judge(&onward).as_ref(), &onward);
            true
        }
        // No socket that the balancer did not deal.
        (Some(Head::Plain(read)), Some(other)) => {
            read[..] == *bytes && !matches!(other, Request::Open(..))
        }
        (Some(Head::TooLong | Head::Bad(_)), Some(Request::Refused(_))) => true,
        // The balancer answers these itself, without a look at what only sockets need.
        (Some(Head::Bad(_)), Some(Request::Health | Request::Ready)) => true,
        _ => false,
    };
    assert!(agreed, "they do not agree: {dealt:?}, {judged:?}");
    if let Some(Request::Open(_, behind)) = &judged {
        assert!(bytes.ends_with(behind), "what follows the head belongs to the socket");
    }
    // A few beginnings: a socket that is open stays open.
    for end in [1, 7, 64, bytes.len() / 2, bytes.len().saturating_sub(1)] {
        let begun = bytes.get(..end).and_then(judge);
        let Some(Request::Open(hello, behind)) = begun else { continue };
        let same = match &judged {
            Some(Request::Open(later, more)) => hello == *later && more.starts_with(&behind),
            _ => false,
        };
        assert!(same, "a socket that was open is not: {judged:?}");
    }
    arriving(bytes, peer, gate, judged.as_ref());
    matches!(judged, Some(Request::Open(..)))
}

/// Read as it arrives, and looked at where it is worth it: whoever opens a socket opens the same.
fn arriving(bytes: &[u8], peer: Peer, gate: &Gate, judged: Option<&Request>) {
    let Some(_runtime) = RUNTIME.as_ref().map(|runtime| runtime.enter()) else { return };
    let step = bytes.len() / PIECES_MAX + 1;
    for step in [step, step * 7] {
        let mut client = Arriving { bytes: Bytes::copy_from_slice(bytes), step };
        let until = Instant::now() + HEAD_PATIENCE;
        let judge = |read: &mut BytesMut| handshake::judge(read, peer, gate);
        let read = read_head(&mut client, BytesMut::new(), until, judge).now_or_never().flatten();
        let same = match (judged, &read) {
            (Some(Request::Open(hello, rest)), Some(Request::Open(same, behind))) => {
                hello == same && rest.starts_with(behind)
            }
            (Some(Request::Open(..)), _) | (_, Some(Request::Open(..))) => false,
            _ => true,
        };
        assert!(same, "in pieces of {step} it is {read:?}, and at once {judged:?}");
    }
}

/// What a server makes of the bytes as they came, and of those that the balancer hands on.
fn agree(known: &Request, written: Option<&Request>, bytes: &[u8]) {
    match (known, written) {
        (Request::Open(hello, rest), Some(Request::Open(same, behind))) => {
            assert_eq!((hello, rest), (same, behind));
        }
        (Request::Refused(_), Some(Request::Refused(_))) => {}
        // What the balancer adds may be what is too much.
        (Request::Open(_, rest), Some(Request::Refused(refusal))) => {
            let head = &bytes[..bytes.len() - rest.len()];
            let lines = head.iter().filter(|byte| **byte == b'\n').count();
            let much = head.len() + 1 > HEAD_BYTES_MAX - ADDED || lines > HEADERS_MAX;
            assert!(refusal.status == 431 && much, "{refusal:?}");
        }
        other => assert!(other.1 == Some(other.0), "another request: {other:?}"),
    }
}

/// What a trusted proxy begins with: read to its announced end and not a byte further, the same
/// whatever follows, and nothing of less; who it names stands there.
pub fn proxy(bytes: &[u8]) -> bool {
    let read = |bytes: &[u8]| {
        let mut rest = bytes;
        let said = proxy_line(&mut rest).now_or_never()?.ok()?;
        Some((said, bytes.len() - rest.len()))
    };
    let Some((said, length)) = read(bytes) else { return false };
    let line = &bytes[..length];
    assert!(line.starts_with(ppp::v2::PROTOCOL_PREFIX) && length <= PROXY_LINE_BYTES_MAX);
    assert_eq!(length, 16 + usize::from(u16::from_be_bytes([line[14], line[15]])));
    assert_eq!(read(line), Some((said, length)));
    assert_eq!(read(&[line, b"GET / HTTP/1.1"].concat()), Some((said, length)));
    assert_eq!(read(&line[..length - 1]), None, "it was not whole");
    assert!(said.is_none() || line[12] == 0x21, "a proxy that speaks for itself names nobody");
    let named = match (said.map(|peer| peer.address), line[13] >> 4) {
        (Some(SocketAddr::V4(of)), 1) => {
            line[16..20] == of.ip().octets() && line[24..26] == of.port().to_be_bytes()
        }
        (Some(SocketAddr::V6(of)), 2) => {
            line[16..32] == of.ip().octets() && line[48..50] == of.port().to_be_bytes()
        }
        (said, family) => said.is_none() || ![1, 2].contains(&family),
    };
    assert!(named, "{said:?}");
    said.is_some()
}

/// A command of a socket: taken within its limits, or refused in a short sentence.
pub fn command(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let parsed = ClientFrame::parse(text, &Sizes::MOST);
    let at_length = ClientFrame::parse_at_length(text, &Sizes::MOST);
    assert_eq!(format!("{parsed:?}"), format!("{at_length:?}"), "read in one go, and at length");
    let taken = parsed.is_ok();
    match parsed {
        Ok(ClientFrame::Message(send)) => {
            check_send(&send);
            let again = parse_send(text, send.reference.clone(), &Sizes::MOST);
            assert!(again.is_ok_and(|again| again.message == send.message), "{text}");
        }
        Ok(ClientFrame::Signal { data, target, .. }) => {
            check_target(&target);
            assert!(data.get().len() <= DATA_BYTES_MAX && data.get().starts_with('{'));
        }
        Ok(_) => {}
        Err(refusal) => {
            let known = [ErrorCode::BadRequest, ErrorCode::TooLarge].contains(&refusal.code);
            assert!(known && (8..400).contains(&refusal.detail.chars().count()), "{refusal:?}");
            let reference = refusal.reference.as_ref();
            let said = answer::error(refusal.code, &refusal.detail, reference, None);
            let parsed: Result<serde_json::Value, _> = serde_json::from_slice(&said);
            assert!(parsed.is_ok_and(|said| said["detail"] == refusal.detail), "{refusal:?}");
        }
    }
    taken
}

fn check_send(send: &SendFrame) {
    assert!((1..=MESSAGE_BYTES_MAX).contains(&send.message.len()));
    assert!(send.reference.as_ref().is_none_or(|reference| reference.is_clients()));
    assert!(send.data.as_ref().is_none_or(|data| data.get().len() <= DATA_BYTES_MAX));
    check_target(&send.target);
}

/// No id holds what separates it from its neighbours in a key, a channel or a URL.
fn check_target(target: &Target) {
    match target {
        Target::User(user) => {
            let bad = [':', '/', '{', '}', '*', '?', '#', '%', '\r', '\n', '\0', ' '];
            assert!(!user.as_str().contains(bad), "{user}");
        }
        Target::Conversation(conversation) => {
            let again = ConversationId::parse(conversation.as_str());
            assert_eq!(again.as_ref(), Ok(conversation));
        }
    }
}

const CHANNEL: &str = "messages:ws1";
const KEY: &str = "5f1e8c0b7a2d49e3a6b1c4d7e8f90123";

/// A publish on the bus: what is read of it means the same when it is said again; with a key, only
/// what a holder has signed for this channel is opened, and once.
pub fn envelope(bytes: &[u8]) -> bool {
    let plain = Guard::new(None, CHANNEL.to_owned());
    let (batch, bad) = plain.open(bytes).map_or((Vec::new(), 0), decode);
    // Each takes a byte at least, but that nothing at all is one that can't be read.
    assert!(batch.len() + bad <= bytes.len().max(1));
    for read in &batch {
        let written = |envelope: &Envelope| {
            let mut out = Vec::new();
            envelope.write(&mut out);
            out
        };
        let said = written(read);
        let (again, bad) = decode(&said);
        let same = again.first().map(|again| written(again));
        assert_eq!((same, bad), (Some(said), 0), "{read:?}");
    }
    let Ok(Some(keys)) = Keys::new([KEY]) else { return false };
    let guard = Guard::new(Some(keys.clone()), CHANNEL.to_owned());
    assert!(guard.open(bytes).is_err(), "nobody has signed this");
    let signer = Signer::new(keys);
    let mut signed = signer.begin();
    signed.extend_from_slice(bytes);
    signer.finish(&mut signed, CHANNEL);
    assert_eq!(guard.open(&signed), Ok(bytes), "what was signed is heard");
    assert_eq!(guard.open(&signed), Err(Refusal::Replayed), "once");
    let place = bytes.iter().fold(bytes.len(), |sum, byte| sum * 31 % 65_521 + usize::from(*byte));
    let place = place % signed.len();
    signed[place] ^= 1;
    assert!(guard.open(&signed).is_err(), "one bit at {place} was turned");
    !batch.is_empty() && bad == 0
}

/// A token, as a request carries it, and as one that was signed: only what holds the secret signs
/// is taken, and only where it says what is allowed.
pub fn token(bytes: &[u8]) -> bool {
    crate::auth::fuzzed::read(bytes)
}

/// A connection of requests, as the balancer and the API read it: hyper reads none that the strict
/// parser before it has not read as the same one.
pub fn stream(bytes: &[u8]) -> bool {
    crate::edge::fuzzed::hold(bytes)
}

/// What goes between processes of a host with a socket, and back: whatever is read is what would be
/// written.
pub fn packet(bytes: &[u8]) -> bool {
    if let Some(reply) = Reply::read(bytes) {
        assert_eq!(reply.write(), bytes);
    }
    let Some(packet) = Packet::read(bytes) else { return false };
    assert_eq!(packet.write().as_deref(), Some(bytes));
    assert!(!packet.read.is_empty() && bytes.ends_with(packet.read));
    true
}

/// An entry of the socket map, which somebody else on the same Redis may have written.
pub fn map_entry(bytes: &[u8]) -> bool {
    crate::directory::read_again(bytes)
}

/// A provider's keys, and which of them is for a token.
pub fn jwks(bytes: &[u8]) -> bool {
    crate::auth::fuzzed::choose(bytes)
}

/// A request to the Message API: target, headers and body, as the handlers read them. The first
/// line is the target, the second an `Idempotency-Key` and whom a service acts for, the rest the
/// body.
pub fn request(bytes: &[u8]) -> bool {
    let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
    let [target, key, body] = [(); 3].map(|()| lines.next().unwrap_or_default());
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(key)
        && !key.is_empty()
    {
        headers.insert(HeaderName::from_static("on-behalf-of"), value.clone());
        headers.insert(HeaderName::from_static("idempotency-key"), value);
    }
    match (str::from_utf8(target), str::from_utf8(body)) {
        (Ok(target), Ok(body)) => crate::api::fuzzed::read(target, &headers, body) > 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is kept holds, in every run of the tests; what is good comes through, or all the rest
    /// might fail at the door.
    #[test]
    fn the_kept_bytes_hold() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, check) in TARGETS {
            let kept: Vec<_> = std::fs::read_dir(root.join(name)).unwrap().collect();
            assert!(kept.len() >= 5, "{name} has a corpus");
            let mut good = 0;
            for file in kept {
                let file = file.unwrap();
                let bytes = std::fs::read(file.path()).unwrap();
                let held = std::panic::catch_unwind(|| check(&bytes));
                let taken = held.unwrap_or_else(|_| panic!("{}", file.path().display()));
                if file.file_name().to_string_lossy().starts_with("good") {
                    good += 1;
                    assert!(taken, "{}", file.path().display());
                }
            }
            assert!(good > 0, "{name} has something good");
        }
    }
}
