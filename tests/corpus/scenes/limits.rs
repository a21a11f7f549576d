//! Limits of rate and number, on a fleet with tokens: development mode has none.

use serde_json::{Value, json};

use crate::case::{get, is_problem};
use crate::fleet::Fleet;
use crate::raw::{self, Frame, PING, Raw, request, upgrade_head};
use crate::token::{claiming, headed};

fn head_of(user: &str) -> String {
    let token = claiming(json!({"sub": user}));
    upgrade_head("", &format!("Authorization: Bearer {token}\r\n"))
}

async fn open(fleet: &Fleet, user: &str) -> Raw {
    crate::case::open(&fleet.balancer, head_of(user).as_bytes()).await
}

/// Row A22: one address opens sockets until it is told that these are enough.
pub async fn sockets_of_an_address(fleet: &Fleet) {
    let mut sockets = Vec::new();
    for number in 0..2_000 {
        let mut socket = Raw::dial(&fleet.balancer).await;
        socket.write(head_of(&format!("crowd-{number}")).as_bytes()).await;
        match socket.head().await {
            Some(answer) if answer.status == 101 => sockets.push(socket),
            Some(answer) => {
                assert_eq!(answer.status, 429, "{answer:?}");
                assert!(answer.header("retry-after").is_some(), "{answer:?}");
                return;
            }
            None => panic!("no answer after {}", sockets.len()),
        }
    }
    panic!("{} sockets of one address are no limit", sockets.len());
}

/// Row B19: pings without end.
pub async fn pings(fleet: &Fleet) {
    let mut socket = open(fleet, "pings").await;
    let bytes = Frame::new(PING, b"x").bytes().repeat(5_000);
    socket.write(&bytes).await;
    let (code, _) = socket.closed().await;
    assert!(code.is_some_and(|code| (4_500..5_000).contains(&code)), "{code:?}: back off");
}

/// Row C15: more messages at once than anybody writes.
pub async fn commands(fleet: &Fleet) {
    let mut socket = open(fleet, "eager").await;
    let frame = json!({"type": "message", "to": "nobody-here", "message": "again"}).to_string();
    socket.write(&raw::text(&frame).repeat(500)).await;
    let limited = |said: &Value| {
        assert!(["sent", "error", "delivered"].contains(&said["type"].as_str().unwrap()), "{said}");
        (said["code"] == "rate_limited").then(|| said.clone())
    };
    let said = socket.wait_for(limited).await;
    assert_eq!(said["retryable"], true);
    assert!(said["retryAfterMs"].as_u64().is_some_and(|ms| ms > 0), "{said}");
}

/// Row F7: who guesses is told to wait.
pub async fn bad_tokens(fleet: &Fleet) {
    for _ in 0..200 {
        let line = format!("Authorization: Bearer {}x\r\n", headed(json!({})));
        let target = "/v1/users/tokens/conversations";
        let answer = request(&fleet.api, get(target, &line)).await.expect("an answer");
        if answer.status == 429 {
            return is_problem(&answer, 429);
        }
        is_problem(&answer, 401);
    }
    panic!("200 bad tokens are no limit");
}
