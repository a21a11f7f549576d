//! Lines that wait: trickling heads and bodies, silence, somebody who does not read.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{ask, hear, new_user, say};
use crate::case::plain;
use crate::fleet::Fleet;
use crate::raw::{Answer, CONTINUE, Frame, PING, Raw, TEXT, upgrade_head};

/// When what trickles is ended: after 10 s, and a little more where the machine is busy.
const ENDS: std::ops::Range<f64> = 9.0..15.0;
/// What bystanders and board use of a core, unoptimised.
const BESIDE: f64 = 0.15;

/// Writes a byte a second, where there is one, until it is ended: the answer, and after how long.
async fn trickles(mut socket: Raw, byte: Option<u8>) -> (Option<Answer>, f64) {
    let begun = Instant::now();
    loop {
        // What was read is kept when the second is over.
        match tokio::time::timeout(Duration::from_secs(1), socket.answer()).await {
            Ok(answer) => return (answer, begun.elapsed().as_secs_f64()),
            Err(_) => assert!(begun.elapsed().as_secs_f64() < 2.0 * ENDS.end, "it never ends"),
        }
        if let Some(byte) = byte {
            socket.write(&[byte]).await;
        }
    }
}

/// Row A12: a byte now and then; each is ended after 10 s, and meanwhile others come in at once.
pub async fn heads_that_trickle(fleet: &Fleet) {
    let half = "GET /ws?userId=slow HTTP/1.1\r\nHost: x\r\nUpgr";
    let mut waiting = Vec::new();
    let [balancer, server] = fleet.doors();
    for (address, count) in [(balancer, 500), (server, 300), (fleet.api.clone(), 200)] {
        for number in 0..count {
            let mut socket = Raw::dial(&address).await;
            // Some say nothing at all.
            if number % 4 > 0 {
                socket.write(half.as_bytes()).await;
            }
            let byte = (number % 4 == 1).then_some(b'a');
            waiting.push(tokio::spawn(trickles(socket, byte)));
        }
    }
    for _ in 0..10 {
        let come = Instant::now();
        new_user(fleet, "while-they-trickle").await;
        assert!(come.elapsed() < Duration::from_secs(2), "{:?} to come in", come.elapsed());
    }
    for ended in join_all(waiting).await {
        let (answer, after) = ended.unwrap();
        assert!(answer.is_none_or(|answer| answer.status == 408), "no socket was opened");
        assert!(ENDS.contains(&after), "after {after} s");
    }
}

/// Row A13: a head in pieces, each of them read apart, until the server has had enough. What it
/// costs does not grow with what was read before, also where each piece may be the last one: a byte
/// of a line, a line of a byte, and blank lines before there is a request.
pub async fn a_head_without_end(fleet: &Fleet) {
    let [balancer, server] = fleet.doors();
    let begins = ["GET /ws?userId=a HTTP/1.1\r\nX: ", "GET /ws?userId=a HTTP/1.1\r\n", ""];
    for address in [balancer, server, fleet.api.clone()] {
        for (begin, piece) in begins.into_iter().zip(["y", "A:\r\n", "\n"]) {
            let mut least = f64::MAX;
            for _ in 0..3 {
                let begun = Instant::now();
                let spent = head_in_pieces(fleet, &address, begin, piece).await;
                least = least.min(spent - begun.elapsed().as_secs_f64() * BESIDE);
                if least < 0.5 {
                    break;
                }
            }
            assert!(least < 0.5, "{piece:?} at {address}: {least:.2} s of the processor");
        }
    }
}

/// What the fleet spent while such a head came in, in seconds.
async fn head_in_pieces(fleet: &Fleet, address: &str, begin: &str, piece: &str) -> f64 {
    let before = fleet.cpu_seconds();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(begin.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    let reading = async { reader.read_to_end(&mut answer).await };
    let writing = async {
        for _ in 0..20_000_000 {
            if writer.write_all(piece.as_bytes()).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = reading => {}
        () = writing => {}
    }
    let refused = ["HTTP/1.1 431", "HTTP/1.1 400"].map(str::as_bytes);
    let refused = refused.iter().any(|status| answer.starts_with(status));
    assert!(answer.is_empty() || refused, "{answer:?}");
    fleet.cpu_seconds() - before
}

/// Row B14: half a message, and a client that is there. It costs what was said, and nothing comes
/// of it.
pub async fn half_a_message(fleet: &Fleet) {
    let (mut socket, user) = new_user(fleet, "half").await;
    let text = json!({"type": "message", "to": user, "message": "both halves"}).to_string();
    let (first, second) = text.as_bytes().split_at(20);
    socket.write(&Frame::part(TEXT, first).bytes()).await;
    for _ in 0..12 {
        socket.write(&Frame::new(PING, b"here").bytes()).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    socket.write(&Frame::new(CONTINUE, second).bytes()).await;
    let sent = socket.wait_for(|said| (said["type"] == "sent").then(|| said.clone())).await;
    assert_eq!(sent["seq"], 1);
}

/// Row B19: no answer to our pings, two of them, 25 s apart.
pub async fn no_pong(fleet: &Fleet) {
    let (mut silent, _) = new_user(fleet, "silent").await;
    tokio::time::sleep(Duration::from_secs(105)).await;
    let (code, said) = silent.closed().await;
    assert_eq!((code, said.len()), (Some(4509), 0));
}

/// Row B20: 1 MiB for somebody who does not read. Closed with 4508, and all of it is there when he
/// comes back.
pub async fn never_reads(fleet: &Fleet) {
    let closed = ["outcome=\"too slow, reconnect and catch up\""];
    let told = async || {
        let mut sum = 0.0;
        for part in ["ws1", "ws2", "ws3"] {
            sum += fleet.counted(part, "parlor_sockets_closed_total", &closed).await;
        }
        sum
    };
    let before = told().await;
    let (mut sender, from) = new_user(fleet, "talker").await;
    let (mut deaf, user) = new_user(fleet, "deaf").await;
    let text = "x".repeat(16_384);
    for seq in 1..=70 {
        assert_eq!(say(&mut sender, &user, &text).await, seq);
    }
    let until = Instant::now() + Duration::from_secs(90);
    while told().await < before + 1.0 {
        assert!(Instant::now() < until, "closed within 30 s, a tick and a little");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let (code, _) = deaf.closed().await;
    assert!(matches!(code, Some(4508) | None), "{code:?}");
    let mut back = Raw::open(&fleet.balancer, &format!("userId={user}")).await;
    for seq in 1..=70 {
        let heard = hear(&mut back).await;
        assert_eq!((&heard["seq"], &heard["from"]), (&json!(seq), &json!(from)));
    }
}

/// Row E7: a byte of a body a second. 408 after 10 s, and meanwhile others are answered.
pub async fn bodies_that_trickle(fleet: &Fleet) {
    let more = "Content-Length: 29\r\nContent-Type: application/json\r\n";
    let head = plain("POST", "/v1/messages?userId=slow", more);
    let mut slow = Vec::new();
    for address in [&fleet.api, &fleet.balancer] {
        for _ in 0..50 {
            let mut socket = Raw::dial(address).await;
            socket.write(head.as_bytes()).await;
            slow.push(tokio::spawn(trickles(socket, Some(b' '))));
        }
    }
    let (mut quick, user) = new_user(fleet, "quick").await;
    let note = json!({"type": "message", "to": user, "message": "meanwhile"});
    assert_eq!(ask(&mut quick, &note).await["seq"], 1);
    for ended in join_all(slow).await {
        let (answer, after) = ended.unwrap();
        answer.expect("an answer").is_problem(408);
        assert!(ENDS.contains(&after), "after {after} s");
    }
    // The same at the door of sockets: a body that never comes opens none.
    let head = upgrade_head("userId=slow", "Content-Length: 29\r\n");
    let mut socket = Raw::dial(&fleet.balancer).await;
    socket.write(head.as_bytes()).await;
    socket.answer().await.expect("an answer").is_problem(400);
}
