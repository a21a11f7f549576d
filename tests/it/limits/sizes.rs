//! How large what a client writes may be, where that was set lower than the protocol's own.

use serde_json::{Value, json};

use super::rates::long_ping;
use super::{Limited, answer, bearer, counted, message};
use crate::auth::token;
use crate::raw::{Answer, CONTINUE, Frame, Raw, TEXT, request, upgrade_head};

const FRAME: usize = 11 * 1_024;
const LOWER: [&str; 8] = [
    "--message-bytes=100",
    "--data-bytes=50",
    "--data-depth=3",
    "--frame-bytes=11K",
    "--user-bytes=off",
    "--user-frames=off",
    "--user-messages=off",
    "--user-signals=off",
];

async fn post(limited: &Limited, body: &str) -> Answer {
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        bearer(&token("a", json!({}))),
        body.len()
    );
    request(&limited.guarded.stack.api, head).await.expect("an answer")
}

/// What the socket says to a frame, and the Message API to the same body: codes.
async fn said(limited: &Limited, socket: &mut Raw, frame: &Value) -> (Value, Value) {
    socket.text(&frame.to_string()).await;
    let by_socket = answer(socket).await;
    let by_http = post(limited, &frame.to_string()).await;
    assert_eq!(by_http.status == 201, by_socket["type"] == "sent", "{by_socket}");
    (by_socket["code"].clone(), by_http.json()["code"].clone())
}

/// A `POST` of a good message, with blanks behind it up to so many bytes.
fn padded(bytes: usize) -> String {
    format!("{:bytes$}", json!({"to": "b", "message": "x"}).to_string())
}

/// The same, whose length nobody tells.
fn chunked(bytes: usize) -> String {
    format!(
        "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
         {bytes:x}\r\n{}\r\n0\r\n\r\n",
        bearer(&token("a", json!({}))),
        padded(bytes)
    )
}

/// A ping in two frames.
fn in_two(bytes: usize) -> Vec<u8> {
    let ping = long_ping(bytes);
    let (one, two) = ping.split_at(bytes / 2);
    [Frame::part(TEXT, one).bytes(), Frame::new(CONTINUE, two).bytes()].concat()
}

#[tokio::test]
async fn lower_sizes_of_what_is_said_hold_at_sockets_and_over_http_and_are_told() {
    let limited = Limited::start(&LOWER).await;
    let mut socket = Raw::dial(&limited.guarded.stack.servers["ws1"]).await;
    socket.write(upgrade_head("", &bearer(&token("a", json!({})))).as_bytes()).await;
    assert_eq!(socket.head().await.expect("an answer").status, 101);
    let welcome = |said: &Value| (said["type"] == "welcome").then(|| said["limits"].clone());
    let told = json!({"messageBytes": 100, "dataBytes": 50, "dataDepth": 3, "frameBytes": FRAME,
        "socketsPerUser": 16});
    assert_eq!(socket.wait_for(welcome).await, told);

    let long = |bytes: usize| json!({"type": "message", "to": "b", "message": "x".repeat(bytes)});
    let data = |data: Value| json!({"type": "message", "to": "b", "message": "x", "data": data});
    let (large, bad) = (json!("too_large"), json!("bad_request"));
    let (most, over) = ("x".repeat(42), "x".repeat(43));
    for (frame, code) in [
        (long(100), Value::Null),
        (long(101), large.clone()),
        (data(json!({"k": most})), Value::Null),
        (data(json!({"k": over})), large.clone()),
        (data(json!({"k": [[]]})), Value::Null),
        (data(json!({"k": [[[]]]})), bad.clone()),
    ] {
        assert_eq!(said(&limited, &mut socket, &frame).await, (code.clone(), code), "{frame}");
    }
    for (data, code) in [(json!({"k": over}), large), (json!({"k": [[[]]]}), bad)] {
        socket.text(&json!({"type": "signal", "to": "b", "data": data}).to_string()).await;
        assert_eq!(answer(&mut socket).await["code"], code);
    }
    for (limit, times) in [("message_bytes", 2), ("data_bytes", 3), ("json_depth", 3)] {
        counted(&limited, limit, times).await;
    }
    limited.guarded.stack.stop().await;
}

#[tokio::test]
async fn a_lower_size_of_frames_is_that_of_messages_in_many_and_of_bodies() {
    let limited = Limited::start(&LOWER).await;
    let stack = &limited.guarded.stack;
    assert_eq!(post(&limited, &padded(FRAME)).await.status, 201);
    let refused = post(&limited, &padded(FRAME + 1)).await;
    assert_eq!((refused.status, refused.json()["code"].clone()), (413, json!("too_large")));
    for door in [&stack.api, &stack.balancer] {
        for (bytes, status) in [(FRAME, 201), (FRAME + 1, 413)] {
            let answer = request(door, chunked(bytes)).await.expect("an answer");
            assert_eq!(answer.status, status, "{door} {bytes}: {}", answer.text());
        }
    }

    let whole = |bytes: usize| Frame::new(TEXT, &long_ping(bytes)).bytes();
    for frames in [whole, in_two] {
        let mut socket = limited.at("ws1", "a").await;
        socket.write(&frames(FRAME)).await;
        assert_eq!(answer(&mut socket).await["type"], "pong");
        socket.write(&frames(FRAME + 1)).await;
        assert_eq!(socket.closed().await.0, Some(1009));
    }
    counted(&limited, "frame_bytes", 2).await;

    // What others may say has not changed.
    let mut other = limited.at("ws2", "c").await;
    other.text(&message("a", "Hi", "r")).await;
    assert_eq!(answer(&mut other).await["type"], "sent");
    limited.guarded.stack.stop().await;
}
