//! The rules of RFC 6455, one by one.

use super::*;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A masked frame with a head in the shortest form.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, 0, payload);
    bytes[0] = first;
    bytes[1] |= 0x80;
    let at = bytes.len() - payload.len();
    bytes.splice(at..at, MASK);
    head::unmask(&mut bytes[at + 4..], MASK);
    bytes
}

/// What was said, in words of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Text(String, u32),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
}

impl From<Incoming<'_>> for Said {
    fn from(incoming: Incoming<'_>) -> Self {
        match incoming {
            Incoming::Text { text, cost } => Self::Text(text.to_owned(), cost),
            Incoming::Ping(payload) => Self::Ping(payload.to_vec()),
            Incoming::Pong(payload) => Self::Pong(payload.to_vec()),
            Incoming::Close(code) => Self::Close(code),
        }
    }
}

/// All that is said in bytes that come in these pieces, and the fault that ends it.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Said>, Option<Fault>) {
    let (mut decoder, mut said) = (Decoder::default(), Vec::new());
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            match decoder.next(&mut input) {
                Ok(Some(incoming)) => said.push(incoming.into()),
                Ok(None) => break,
                Err(fault) => return (said, Some(fault)),
            }
        }
        assert!(input.is_empty());
    }
    (said, None)
}

/// The same however the bytes come.
#[track_caller]
fn all(bytes: &[u8]) -> (Vec<Said>, Option<Fault>) {
    let whole = read([bytes]);
    for step in [1, 2, 3, 7, 1_000] {
        assert_eq!(whole, read(bytes.chunks(step)), "in pieces of {step}");
    }
    whole
}

fn text(text: &str, cost: u32) -> Said {
    Said::Text(text.to_owned(), cost)
}

#[track_caller]
fn refused(bytes: &[u8], fault: Fault) {
    assert_eq!(all(bytes), (vec![], Some(fault)));
}

#[test]
fn the_examples_of_the_rfc() {
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(all(&hello), (vec![text("Hello", 11)], None));
    let parts = [frame(0x01, b"Hel"), frame(0x80, b"lo")].concat();
    assert_eq!(all(&parts), (vec![text("Hello", 17)], None));
    let pong = [0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(all(&pong), (vec![Said::Pong(b"Hello".to_vec())], None));
    let mut out = Vec::new();
    put_text(&mut out, b"Hello");
    put_ping(&mut out, b"Hello");
    put_pong(&mut out, b"Hello");
    assert_eq!(out, [&b"\x81\x05Hello"[..], b"\x89\x05Hello", b"\x8a\x05Hello"].concat());
}

#[test]
fn heads_that_may_not_be() {
    // Reserved bits, unknown codes, no mask.
    for first in [0xc1, 0xa1, 0x91, 0x83, 0x87, 0x8b, 0x8f] {
        refused(&frame(first, b""), Fault::Protocol);
    }
    refused(b"\x81\x05Hello", Fault::Protocol);
    // Control frames in parts, or too long.
    for code in [8, 9, 10] {
        refused(&frame(code, b""), Fault::Protocol);
        refused(&frame(0x80 | code, &[b'x'; 126]), Fault::Protocol);
    }
    let longest = [b'x'; 125];
    assert_eq!(all(&frame(0x89, &longest)), (vec![Said::Ping(longest.to_vec())], None));
    refused(&frame(0x82, b""), Fault::Unsupported);
    refused(&frame(0x02, b""), Fault::Unsupported);
}
