//! B: frames that break RFC 6455, or only look as if they did.

use crate::case::Answer::{Closes, Error, Ignored, Seen, Sent};
use crate::case::{Case, Send, row, scene};
use crate::raw::{BINARY, CLOSE, CONTINUE, Frame, PING, PONG, TEXT, close_payload};
use crate::scenes::{limits, slow, sockets};

fn frames(bytes: impl Into<Vec<u8>>) -> Send {
    Send::Frames(bytes.into())
}

/// A whole frame with these bits before its opcode.
fn flags(bits: u8, opcode: u8) -> Send {
    frames(Frame { first: bits | opcode, ..Frame::new(opcode, b"x") }.bytes())
}

fn whole(opcode: u8, payload: &[u8]) -> Send {
    frames(Frame::new(opcode, payload).bytes())
}

fn parts(parts: &[Frame<'_>]) -> Send {
    frames(parts.iter().flat_map(Frame::bytes).collect::<Vec<u8>>())
}

fn close(code: u16, reason: &[u8]) -> Send {
    whole(CLOSE, &close_payload(code, reason))
}

const BAD: &[u8] = br#"{"type":"message","to":"friend","message":"BAD"}"#;

/// A message whose bytes, blanks included, are so many.
fn padded(bytes: usize) -> Vec<u8> {
    let mut text = br#"{"type":"message","to":"friend","message":"padded"}"#.to_vec();
    text.resize(bytes, b' ');
    text
}

fn in_two(text: &[u8], at: usize) -> Send {
    parts(&[Frame::part(TEXT, &text[..at]), Frame::new(CONTINUE, &text[at..])])
}

/// Each byte a fragment of its own, with pings between and an empty one at the end.
fn crumbs(text: &[u8]) -> Send {
    let mut bytes = Frame::part(TEXT, &text[..1]).bytes();
    for byte in text[1..].chunks(1) {
        bytes.extend(Frame::part(CONTINUE, byte).bytes());
        bytes.extend(Frame::new(PING, b"").bytes());
    }
    bytes.extend(Frame::new(CONTINUE, b"").bytes());
    frames(bytes)
}

/// Fragments of this length without an end.
fn endless(length: usize, count: usize) -> Vec<u8> {
    let part = vec![b' '; length];
    let mut bytes = Frame::part(TEXT, &part).bytes();
    for _ in 1..count {
        bytes.extend(Frame::part(CONTINUE, &part).bytes());
    }
    bytes
}

/// All of them.
pub fn lines() -> Vec<Case> {
    let mut lines = [flags_and_lengths(), texts(), ends()].concat();
    for opcode in (3..=7).chain(11..=15) {
        lines.push(row("B3", "an opcode of nobody", flags(0x80, opcode), Closes(1002)));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        lines.push(row("B16", "a code that is not for closing", close(code, b""), Closes(1002)));
    }
    lines
}

/// Bits, opcodes and lengths.
fn flags_and_lengths() -> Vec<Case> {
    let unmasked = |opcode| frames(Frame { mask: None, ..Frame::new(opcode, BAD) }.bytes());
    let non_minimal = {
        let mut bytes = vec![0x81, 0xfe, 0, 5, 0, 0, 0, 0];
        bytes.extend(b"hello");
        bytes
    };
    let announced = |first, length: u64| {
        let mut bytes = vec![first, 0xff];
        bytes.extend(length.to_be_bytes());
        bytes.extend([1, 2, 3, 4]);
        frames(bytes)
    };
    vec![
        row("B1", "unmasked text", unmasked(TEXT), Closes(1002)),
        row(
            "B1",
            "unmasked ping",
            frames(Frame { mask: None, ..Frame::new(PING, b"") }.bytes()),
            Closes(1002),
        ),
        row("B2", "RSV1", flags(0xc0, TEXT), Closes(1002)),
        row("B2", "RSV2", flags(0xa0, TEXT), Closes(1002)),
        row("B2", "RSV3", flags(0x90, TEXT), Closes(1002)),
        row("B2", "all of them on a ping", flags(0xf0, PING), Closes(1002)),
        row("B4", "fragmented ping", parts(&[Frame::part(PING, b"x")]), Closes(1002)),
        row("B4", "ping of 126 bytes", whole(PING, &[b'x'; 126]), Closes(1002)),
        row("B4", "close of 126 bytes", whole(CLOSE, &[3; 126]), Closes(1002)),
        row("B5", "continuation first", whole(CONTINUE, BAD), Closes(1002)),
        row(
            "B5",
            "a text inside a fragmented one",
            parts(&[Frame::part(TEXT, b"{"), Frame::new(TEXT, BAD)]),
            Closes(1002),
        ),
        row(
            "B6",
            "a length with its highest bit",
            announced(0x81, 0x8000_0000_0000_0001),
            Closes(1002),
        ),
        row(
            "B7",
            "14 bytes of actix-http 3723",
            frames([&[0x0a][..], &[0xff; 10], &[0xeb, 0x0e, 0x8f]].concat()),
            Closes(1002),
        ),
        row("B7", "2^64 - 1 bytes", announced(0x81, u64::MAX), Closes(1002)),
        row("B8", "4 GiB announced", announced(0x81, 1 << 32), Closes(1009)),
        row("B8", "64 sockets announce 4 GiB", scene!(sockets::much_announced), Seen),
        row("B9", "a length longer than needed", frames(non_minimal), Closes(1002)),
    ]
}

/// UTF-8, sizes and fragments.
fn texts() -> Vec<Case> {
    let text = r#"{"type":"message","to":"friend","message":"fine €😀"}"#.as_bytes();
    let [empty, many_empty] = [600, 20_000].map(|count| {
        let mut bytes = endless(0, count);
        bytes.extend(Frame::new(CONTINUE, text).bytes());
        bytes
    });
    vec![
        row("B10", "a lone continuation byte", whole(TEXT, b"\x80"), Closes(1007)),
        row("B10", "overlong", whole(TEXT, b"\xc0\x80"), Closes(1007)),
        row("B10", "a surrogate", whole(TEXT, b"\xed\xa0\x80"), Closes(1007)),
        row("B10", "beyond Unicode", whole(TEXT, b"\xf4\x90\x80\x80"), Closes(1007)),
        row(
            "B10",
            "ends inside a character",
            whole(TEXT, b"{\"type\":\"ping\",\"ref\":\"\xe2\x82"),
            Closes(1007),
        ),
        row(
            "B11",
            "not UTF-8 over two fragments",
            parts(&[Frame::part(TEXT, b"\xe2\x82"), Frame::new(CONTINUE, b"x")]),
            Closes(1007),
        ),
        row("B11", "a character in four fragments, pings between", crumbs(text), Sent),
        row("B11", "a byte at a time", scene!(sockets::a_byte_at_a_time), Seen),
        row("B12", "65,536 bytes", whole(TEXT, &padded(65_536)), Sent),
        row("B12", "65,537 bytes", whole(TEXT, &padded(65_537)), Closes(1009)),
        row("B12", "65,536 bytes in two", in_two(&padded(65_536), 60_000), Sent),
        row("B12", "65,537 bytes in two", in_two(&padded(65_537), 60_000), Closes(1009)),
        row("B12", "70,000 bytes of binary", whole(BINARY, &[0; 70_000]), Closes(1003)),
        row(
            "B13",
            "fragments of 1,000 bytes without end",
            frames(endless(1_000, 70)),
            Closes(1009),
        ),
        row("B13", "66 fragments of a byte", crumbs(&padded(66)), Sent)
            .differs("1008 at the 65th: a fragment costs what its bytes do, the sum is bounded"),
        row("B13", "600 empty fragments, then the text", frames(empty), Sent)
            .differs("1008 at the 65th: an empty one is dropped as it is read"),
        row("B13", "20,000 empty fragments, then the text", frames(many_empty), Closes(1009))
            .differs("1008 at the 65th: what their heads take has a bound, of 80 KiB"),
        row("B14", "half a message and pings", scene!(slow::half_a_message), Seen)
            .slow()
            .differs("4408 at 10 s: it keeps at most 64 KiB while its client answers pings"),
        row("B15", "binary", whole(BINARY, BAD), Closes(1003)),
        row("B15", "empty binary", whole(BINARY, b""), Closes(1003)),
    ]
}

/// Closes, pings, and what follows an end.
fn ends() -> Vec<Case> {
    let zeros = frames(
        Frame {
            mask: Some([0; 4]),
            ..Frame::new(TEXT, br#"{"type":"message","to":"friend","message":"fine"}"#)
        }
        .bytes(),
    );
    vec![
        row("B16", "close of one byte", whole(CLOSE, &[3]), Closes(1002)),
        row("B17", "1000 and a reason", close(1000, b"bye"), Closes(1000)),
        row("B17", "3000", close(3000, b""), Closes(3000)),
        row("B17", "4999", close(4999, b"bye"), Closes(4999)),
        row("B17", "a reason that is not UTF-8", close(1000, b"\xff"), Closes(1007)),
        row("B17", "a reason of 124 bytes", close(1000, &[b'x'; 124]), Closes(1002)),
        row("B18", "a message after the close", scene!(sockets::after_the_close), Seen)
            .differs("the end of TCP within 1 s: within 3 s, the balancer waits for both sides"),
        row("B19", "1,000 pings a second", scene!(limits::pings), Seen)
            .guarded()
            .slow()
            .differs("4429: it is not read until there is room"),
        row("B19", "a pong that nobody asked for", whole(PONG, &[0xff; 125]), Ignored),
        row("B19", "no pong to us", scene!(slow::no_pong), Seen)
            .long()
            .differs("4408: it is 4509, after two pings"),
        row("B20", "never reads", scene!(slow::never_reads), Seen)
            .long()
            .differs("closed within 10 s: within 90 s, a phone in a tunnel takes as long"),
        row("B21", "a key of zeros", zeros, Sent),
        row(
            "B21",
            "a text without bytes",
            whole(TEXT, b""),
            Error("bad_request", "one JSON object"),
        ),
        row(
            "B22",
            "HTTP after the 101",
            frames(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
            Closes(1002),
        ),
        row(
            "B22",
            "another upgrade after the 101",
            frames(crate::raw::upgrade_head("userId=evil", "")),
            Closes(1002),
        ),
    ]
}
