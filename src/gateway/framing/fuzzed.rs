//! A stranger's frames, read in ways that must agree: at once, in pieces, by somebody who rests
//! after every message, and by tungstenite.

use std::io::{self, Read, Write};

use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

use super::{Decoder, Fault, Incoming};
use crate::protocol::{FRAME_BYTES_MAX, Sizes};

/// In how many pieces bytes arrive at most.
const PIECES_MAX: usize = 1_024;

/// What was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    Text(String),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
}

/// All that was said with what it cost, the fault that ended it, and what nobody has paid for.
pub(crate) type Heard = (Vec<(Said, u32)>, Option<Fault>, u32);

fn said(incoming: Incoming<'_>) -> (Said, u32) {
    match incoming {
        Incoming::Text { text, cost } => (Said::Text(text.to_owned()), cost),
        Incoming::Ping(payload) => (Said::Ping(payload.to_vec()), 0),
        Incoming::Pong(payload) => (Said::Pong(payload.to_vec()), 0),
        Incoming::Close(code) => (Said::Close(code), 0),
    }
}

/// Reads until a close or a fault; who `rests` keeps what is left after each message.
pub(crate) fn hear<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, rests: bool) -> Heard {
    let (mut decoder, mut heard) = (Decoder::default(), Vec::new());
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            match decoder.next(&mut input, Sizes::MOST.frame) {
                Ok(Some(incoming)) => heard.push(said(incoming)),
                Ok(None) => break,
                Err(fault) => return (heard, Some(fault), 0),
            }
            if matches!(heard.last(), Some((Said::Close(_), _))) {
                return (heard, None, 0);
            }
            if rests {
                decoder.keep(input);
                input = &mut [];
            }
        }
        assert!(input.is_empty() && !decoder.has_kept(), "something was left");
    }
    (heard, None, decoder.unpaid())
}

/// A client that says what it was given and takes every answer.
struct Client<'a>(&'a [u8]);

impl Read for Client<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.read(buffer)
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

/// What tungstenite hears, and whether it refuses what follows.
pub(crate) fn oracle(bytes: &[u8]) -> (Vec<Said>, bool) {
    let limits = WebSocketConfig::default()
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    let mut web = WebSocket::from_raw_socket(Client(bytes), Role::Server, Some(limits));
    let mut heard = Vec::new();
    loop {
        heard.push(match web.read() {
            Ok(Message::Text(text)) => Said::Text(text.as_str().to_owned()),
            Ok(Message::Ping(payload)) => Said::Ping(payload.to_vec()),
            Ok(Message::Pong(payload)) => Said::Pong(payload.to_vec()),
            // Of a code that may not be it makes this sentence.
            Ok(Message::Close(Some(frame))) if frame.reason == "Protocol violation" => {
                return (heard, true);
            }
            Ok(Message::Close(frame)) => {
                heard.push(Said::Close(frame.map(|frame| frame.code.into())));
                return (heard, false);
            }
            Err(Error::Io(_)) => return (heard, false),
            Ok(_) | Err(_) => return (heard, true),
        });
    }
}

/// Bytes mean the same however they come. What tungstenite refuses is refused, and what is not
/// refused it hears as well.
pub(crate) fn hold(bytes: &[u8]) {
    let whole = hear([bytes], false);
    let step = bytes.len() / PIECES_MAX + 1;
    for step in [step, step * 7] {
        assert_eq!(whole, hear(bytes.chunks(step), false), "in pieces of {step}");
        assert_eq!(whole, hear(bytes.chunks(step), true), "resting, in pieces of {step}");
    }
    assert_eq!(whole, hear([bytes], true), "resting");
    let (heard, fault, _) = whole;
    let ours: Vec<_> = heard.into_iter().map(|(said, _)| said).collect();
    let (theirs, refused) = oracle(bytes);
    // A code that was registered after tungstenite's list was made.
    let newer = ours.last() == Some(&Said::Close(Some(1014)));
    match fault {
        None if newer => assert_eq!(ours[..ours.len() - 1], theirs),
        None => assert_eq!((&ours, false), (&theirs, refused)),
        // It takes longer forms of a length, crumbs, and heads whose payload is still to come.
        Some(fault) => assert!(theirs.starts_with(&ours), "{fault:?}: {ours:?}, {theirs:?}"),
    }
}
