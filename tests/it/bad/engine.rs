//! What breaks RFC 6455: the socket is closed with the code that says why, what was said before it
//! is kept, and only that socket ends.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use super::{Bystanders, resident};
use crate::harness::{Stack, on_both};
use crate::raw::{self, BINARY, CLOSE, CONTINUE, Frame, PING, Raw, TEXT, close_payload};

on_both! {
    broken_frames_close_only_their_own_socket,
}

/// What is sent, and the code that it is closed with.
struct Broken(&'static str, Vec<u8>, u16);

fn flags(bits: u8, opcode: u8) -> Vec<u8> {
    Frame { first: bits | opcode, ..Frame::new(opcode, b"x") }.bytes()
}

/// The rows B1 to B6, B16, B17 and B22.
fn protocol_errors() -> Vec<Broken> {
    let ping = br#"{"type":"ping"}"#;
    let mut cases = vec![
        Broken("B1 unmasked", Frame { mask: None, ..Frame::new(TEXT, ping) }.bytes(), 1002),
        Broken("B1 unmasked ping", Frame { mask: None, ..Frame::new(PING, b"") }.bytes(), 1002),
        Broken("B2 RSV1", flags(0xc0, TEXT), 1002),
        Broken("B2 RSV2", flags(0xa0, TEXT), 1002),
        Broken("B2 RSV3", flags(0x90, TEXT), 1002),
        Broken("B2 all of them on a ping", flags(0xf0, PING), 1002),
        Broken("B4 fragmented ping", Frame::part(PING, b"x").bytes(), 1002),
        Broken("B4 ping of 126 bytes", Frame::new(PING, &[b'x'; 126]).bytes(), 1002),
        Broken("B4 close of 126 bytes", Frame::new(CLOSE, &[3; 126]).bytes(), 1002),
        Broken("B5 continuation of nothing", Frame::new(CONTINUE, ping).bytes(), 1002),
        Broken("B22 HTTP", b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), 1002),
        Broken("B16 close of one byte", Frame::new(CLOSE, &[3]).bytes(), 1002),
    ];
    let new_text = [Frame::part(TEXT, b"{").bytes(), Frame::new(TEXT, ping).bytes()].concat();
    cases.push(Broken("B5 text inside a fragmented text", new_text, 1002));
    for opcode in (3..=7).chain(11..=15) {
        cases.push(Broken("B3 bad opcode", flags(0x80, opcode), 1002));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        let payload = close_payload(code, b"");
        cases.push(Broken("B16 bad close code", Frame::new(CLOSE, &payload).bytes(), 1002));
    }
    for code in [1000, 1001, 3000, 4999] {
        let payload = close_payload(code, b"bye");
        cases.push(Broken("B17 an ordinary close", Frame::new(CLOSE, &payload).bytes(), code));
    }
    let not_utf8 = close_payload(1000, b"\xff");
    cases.push(Broken("B17 reason not UTF-8", Frame::new(CLOSE, &not_utf8).bytes(), 1007));
    cases
}

/// The rows B8, B10 to B13 and B15.
fn kinds_and_sizes() -> Vec<Broken> {
    let mut cases = vec![
        Broken("B15 binary", Frame::new(BINARY, br#"{"type":"ping"}"#).bytes(), 1003),
        Broken("B15 empty binary", Frame::new(BINARY, b"").bytes(), 1003),
        Broken("B12 64 KiB and a byte", Frame::new(TEXT, &[b' '; 65_537]).bytes(), 1009),
        Broken("B12 binary of 70 KB", Frame::new(BINARY, &[0; 70_000]).bytes(), 1009),
        // Only the head: what is too large is refused before it is read.
        Broken("B8 4 GiB announced", vec![0x81, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4], 1009),
    ];
    let mut huge = vec![0x81, 0xff];
    huge.extend([0xff; 12]);
    cases.push(Broken("B7 2^64 - 1 announced", huge, 1009));
    let mut parts = Frame::part(TEXT, &[b' '; 1_000]).bytes();
    for _ in 0..70 {
        parts.extend(Frame::part(CONTINUE, &[b' '; 1_000]).bytes());
    }
    cases.push(Broken("B13 fragments without end", parts, 1009));
    let mut split = Frame::part(TEXT, &[b' '; 60_000]).bytes();
    split.extend(Frame::new(CONTINUE, &[b' '; 5_537]).bytes());
    cases.push(Broken("B12 65,537 bytes in two fragments", split, 1009));
    for bytes in [
        &b"\x80"[..],
        b"\xff\xfe",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"{\"type\":\"ping\xe2\x82\"}",
    ] {
        cases.push(Broken("B10 not UTF-8", Frame::new(TEXT, bytes).bytes(), 1007));
    }
    let fragments = [Frame::part(TEXT, b"\xe2\x82"), Frame::new(CONTINUE, b"x")];
    let fragments = fragments.map(|frame| frame.bytes()).concat();
    cases.push(Broken("B11 not UTF-8 over two fragments", fragments, 1007));
    let ends_early = Frame::new(TEXT, b"{\"type\":\"ping\",\"ref\":\"\xe2\x82").bytes();
    cases.push(Broken("B10 ends inside a character", ends_early, 1007));
    cases
}

/// Says something good and the broken thing in one write; the code of the close.
async fn breaks(address: &str, user: &str, case: &Broken) -> Result<(), String> {
    let Broken(name, bytes, code) = case;
    let mut socket = Raw::ready(address, &format!("userId={user}")).await;
    let mut other = Raw::ready(address, &format!("userId={user}&device=phone")).await;
    let good = json!({"type": "message", "to": "friend", "message": "before", "ref": "r"});
    socket.write(&[raw::text(&good.to_string()), bytes.clone()].concat()).await;
    let (closed, said) = socket.closed().await;
    if closed != Some(*code) {
        return Err(format!("{name} {bytes:?}: {closed:?} after {said:?}"));
    }
    // The good one is stored, and this person's other socket has it.
    let note = other.wait_for(|said| (said["type"] == "message").then(|| said.clone())).await;
    if (&note["message"], &note["seq"]) != (&json!("before"), &json!(1)) || !other.is_open().await {
        return Err(format!("{name}: {note}"));
    }
    Ok(())
}

async fn broken_frames_close_only_their_own_socket(mut stack: Stack) {
    let calm = Bystanders::start(&stack).await;
    let memory = resident(stack.process("up").pid());
    let mut friend = stack.at("ws3", "friend").await;
    friend.catch_up().await;
    let mut cases = protocol_errors();
    cases.extend(kinds_and_sizes());
    let fronts = [stack.balancer.clone(), stack.servers["ws2"].clone()];
    let mut wrong = Vec::new();
    for (chunk, cases) in cases.chunks(8).enumerate() {
        let all = cases.iter().enumerate().flat_map(|(at, case)| {
            fronts.iter().enumerate().map(move |(front, address)| async move {
                breaks(address, &format!("breaks-{chunk}-{at}-{front}"), case).await
            })
        });
        wrong.extend(join_all(all).await.into_iter().filter_map(Result::err));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for _ in 0..cases.len() * fronts.len() {
        assert_eq!(friend.hear().await, (1, "before".to_owned()));
    }
    let grown = resident(stack.process("up").pid()).saturating_sub(memory);
    assert!(grown < 32 << 20, "{grown} bytes more");
    calm.noticed_nothing(&stack).await;
    stack.stop().await;
}

/// The rows B9, B11, B12, B18, B19 and B21, A20: unusual, and allowed.
#[tokio::test]
async fn unusual_frames_that_are_allowed_are_taken() {
    let stack = Stack::start(crate::harness::Parts::Embedded).await.unwrap();
    let calm = Bystanders::start(&stack).await;
    let mut socket = Raw::ready(&stack.balancer, "userId=unusual").await;
    let text = r#"{"type":"message","to":"unusual","message":"€ 😀","ref":"split"}"#.as_bytes();
    // Every byte a fragment of its own, characters split, pings between, an empty one at the end.
    let mut bytes = Frame::part(TEXT, &text[..1]).bytes();
    for byte in text[1..].chunks(1) {
        bytes.extend(Frame::part(CONTINUE, byte).bytes());
        bytes.extend(Frame::new(PING, byte).bytes());
    }
    bytes.extend(Frame::new(CONTINUE, b"").bytes());
    socket.write(&bytes).await;
    let sent = socket.wait_for(|said| (said["type"] == "sent").then(|| said.clone())).await;
    assert_eq!((&sent["ref"], &sent["seq"]), (&json!("split"), &json!(1)));
    let notes = stack.history("unusual", "dm:unusual:unusual").await;
    assert_eq!(notes[0]["message"], "€ 😀");
    // 64 KiB exactly, most of it blanks.
    let blanks = " ".repeat(65_536 - 15);
    socket.text(&format!(r#"{{"type":"ping"{blanks}}}"#)).await;
    socket.wait_for(|said| (said["type"] == "pong").then_some(())).await;
    // A key of zeros, and pongs that nobody asked for.
    let zeros = Frame { mask: Some([0; 4]), ..Frame::new(TEXT, br#"{"type":"ping"}"#) };
    let pong = Frame::new(raw::PONG, &[0xff; 125]).bytes();
    socket.write(&[pong, zeros.bytes()].concat()).await;
    socket.wait_for(|said| (said["type"] == "pong").then_some(())).await;
    // One byte at a time.
    for byte in raw::text(r#"{"type":"ping","ref":"slow"}"#) {
        socket.write(&[byte]).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    socket.wait_for(|said| (said["ref"] == "slow").then_some(())).await;
    // What follows a close is not stored.
    let late = raw::text(r#"{"type":"message","to":"unusual","message":"late"}"#);
    let close = Frame::new(CLOSE, &close_payload(1000, b"")).bytes();
    socket.write(&[close, late].concat()).await;
    assert_eq!(socket.closed().await.0, Some(1000));
    assert_eq!(stack.history("unusual", "dm:unusual:unusual").await.len(), 1);
    // Frames that came with the request are the first ones.
    for address in [&stack.balancer, &stack.servers["ws1"]] {
        let mut eager = Raw::dial(address).await;
        let head = raw::upgrade_head("userId=eager", "");
        let pings = (0..100).map(|n| raw::text(&format!(r#"{{"type":"ping","ref":"{n}"}}"#)));
        let frames: Vec<u8> = pings.flatten().collect();
        eager.write(&[head.as_bytes(), &frames].concat()).await;
        assert_eq!(eager.head().await.unwrap().status, 101);
        for number in 0..100 {
            let pong = |said: &serde_json::Value| {
                (said["type"] == "pong").then(|| said["ref"].as_str().unwrap().to_owned())
            };
            assert_eq!(eager.wait_for(pong).await, number.to_string());
        }
    }
    calm.noticed_nothing(&stack).await;
    stack.stop().await;
}
