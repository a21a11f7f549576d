//! Too much at once: every frame gets its one answer, memory stays bounded, nobody else waits.

use parlor::client::ServerFrame;
use serde_json::{Value, json};

use super::Bystanders;
use crate::harness::{Parts, Stack};
use crate::raw::{self, Frame, PING, Raw};

const FRAMES: usize = 10_000;
/// What a flood may cost the server in memory.
const MEMORY_MAX: u64 = 64 << 20;

/// Every fifth frame is a bad one.
fn is_bad(number: usize) -> bool {
    number % 5 == 4
}

fn is_answer(said: &Value) -> bool {
    said["type"] == "sent" || said["type"] == "error"
}

#[tokio::test]
async fn ten_thousand_frames_at_once_get_one_answer_each_in_order() {
    let mut stack = Stack::start(Parts::Embedded).await.unwrap();
    let calm = Bystanders::start(&stack).await;
    let memory = stack.process("up").memory("VmRSS");
    let mut friend = stack.at("ws3", "friend").await;
    friend.catch_up().await;
    let mut socket = Raw::ready(&stack.balancer, "userId=eager").await;
    let good = (0..FRAMES).filter(|number| !is_bad(*number)).count();
    let hearing = tokio::spawn(async move {
        for seq in 1..=good as u64 {
            assert_eq!(friend.hear().await.0, seq, "all of them, once, in order");
        }
    });
    let frame = |number| {
        let to = if is_bad(number) { "nobody at all" } else { "friend" };
        let message = format!("number {number} of a flood, some words long, as people write them");
        json!({"type": "message", "to": to, "message": message, "ref": number.to_string()})
    };
    let bytes: Vec<u8> = (0..FRAMES).flat_map(|n| raw::text(&frame(n).to_string())).collect();
    let answers = socket.flood(&bytes, FRAMES, is_answer).await;
    let refs = |kind: &str| -> Vec<usize> {
        let of_kind = answers.iter().filter(|said| said["type"] == kind);
        of_kind.map(|said| said["ref"].as_str().unwrap().parse().unwrap()).collect()
    };
    assert_eq!(refs("sent"), (0..FRAMES).filter(|n| !is_bad(*n)).collect::<Vec<_>>());
    assert_eq!(refs("error"), (0..FRAMES).filter(|n| is_bad(*n)).collect::<Vec<_>>());
    let seqs = answers.iter().filter(|said| said["type"] == "sent");
    let seqs: Vec<u64> = seqs.map(|said| said["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=good as u64).collect::<Vec<_>>());
    hearing.await.unwrap();
    assert!(socket.is_open().await);
    let grown = stack.process("up").memory("VmRSS").saturating_sub(memory);
    assert!(grown < MEMORY_MAX, "{grown} bytes more");
    calm.noticed_nothing(&stack).await;
    stack.stop().await;
}

/// The row B19, and what is never stored.
#[tokio::test]
async fn floods_that_store_nothing_are_bounded_too() {
    let mut stack = Stack::start(Parts::Embedded).await.unwrap();
    let calm = Bystanders::start(&stack).await;
    let mut friend = stack.at("ws3", "friend").await;
    friend.catch_up().await;
    let mut socket = Raw::ready(&stack.balancer, "userId=eager").await;
    let memory = stack.process("up").memory("VmRSS");
    let mut bytes = Vec::new();
    for number in 0..FRAMES {
        let text = match number % 5 {
            0 => format!(r#"{{"type":"ping","ref":"{number}"}}"#),
            1 => json!({"type": "signal", "to": "friend", "data": {"n": number}}).to_string(),
            2 => json!({"type": "read", "conversation": "dm:eager:friend", "seq": number})
                .to_string(),
            3 => {
                json!({"type": "ack", "conversation": "dm:eager:friend", "seq": number}).to_string()
            }
            _ => {
                bytes.extend(Frame::new(PING, &[b'x'; 125]).bytes());
                continue;
            }
        };
        bytes.extend(raw::text(&text));
    }
    let pongs = socket.flood(&bytes, FRAMES / 5, |said| said["type"] == "pong").await;
    let refs: Vec<usize> =
        pongs.iter().map(|pong| pong["ref"].as_str().unwrap().parse().unwrap()).collect();
    assert_eq!(refs, (0..FRAMES).step_by(5).collect::<Vec<_>>());
    assert!(socket.is_open().await);
    // Nothing was said, so nothing can have been seen: the message that comes now is unread.
    socket.text(r#"{"type":"message","to":"friend","message":"hello","ref":"x"}"#).await;
    socket.wait_for(|said| (said["type"] == "sent").then_some(())).await;
    let mut signals = 0;
    loop {
        match friend.next().await {
            ServerFrame::Signal { from, .. } if from == "eager" => signals += 1,
            ServerFrame::Entry(entry) => {
                break assert_eq!((entry.seq, &*entry.message), (1, "hello"));
            }
            ServerFrame::Read { .. } => panic!("nothing can have been read"),
            _ => {}
        }
    }
    assert!(signals <= FRAMES / 5, "{signals}: at most once");
    let kept = stack.history("eager", "dm:eager:friend").await;
    assert_eq!((kept.len(), &kept[0]["seq"]), (1, &json!(1)));
    let grown = stack.process("up").memory("VmRSS").saturating_sub(memory);
    assert!(grown < MEMORY_MAX, "{grown} bytes more");
    calm.noticed_nothing(&stack).await;
    stack.stop().await;
}
