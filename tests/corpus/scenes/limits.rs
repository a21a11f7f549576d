//! Limits of rate and number, on a fleet with tokens: development mode has none.

use std::time::{Duration, Instant};

use parlor::limits::Settings;
use serde_json::{Value, json};

use crate::case::get;
use crate::fleet::{ADDRESS_HANDSHAKES, ADDRESS_SOCKETS, Fleet};
use crate::raw::{self, Frame, PING, Raw, request, upgrade_head};
use crate::token::{claiming, headed};

fn head_of(user: &str, more: &str) -> String {
    let token = claiming(json!({"sub": user}));
    upgrade_head("", &format!("Authorization: Bearer {token}\r\n{more}"))
}

async fn open(fleet: &Fleet, user: &str) -> Raw {
    crate::case::open(&fleet.balancer, head_of(user, "").as_bytes()).await
}

/// Where a client is that was nowhere before: what one has used up is given back slowly.
fn elsewhere(fleet: &Fleet) -> String {
    let number = fleet.next();
    format!("X-Forwarded-For: 198.18.{}.{}\r\n", number / 256 % 256, number % 256)
}

async fn limited(fleet: &Fleet, part: &str, limit: &str) -> f64 {
    let limit = format!("limit=\"{limit}\"");
    fleet.counted(part, "parlor_limited_total", &[&limit]).await
}

/// Row A22: one address opens sockets at a server until it is told that these are enough, by the
/// limit of sockets and by no other.
pub async fn sockets_of_an_address(fleet: &Fleet) {
    let mut sockets = Vec::new();
    let (at, before) = (elsewhere(fleet), limited(fleet, "ws2", "sockets_per_address").await);
    for number in 0..2 * ADDRESS_SOCKETS {
        let mut socket = Raw::dial(&fleet.servers["ws2"]).await;
        let head = head_of(&format!("crowd-{number}"), &at);
        socket.write(head.as_bytes()).await;
        match socket.head().await {
            Some(answer) if answer.status == 101 => sockets.push(socket),
            Some(answer) => {
                assert_eq!(answer.status, 429, "{answer:?}");
                assert!(answer.header("retry-after").is_some(), "{answer:?}");
                assert_eq!(sockets.len(), ADDRESS_SOCKETS);
                let after = limited(fleet, "ws2", "sockets_per_address").await;
                return assert!(after > before, "{answer:?}");
            }
            None => panic!("no answer after {}", sockets.len()),
        }
    }
    panic!("{} sockets of one address are no limit", sockets.len());
}

/// Row B19: pings without end are taken as fast as frames may come, and no faster.
pub async fn pings(fleet: &Fleet) {
    let rate = Settings::USUAL.frames.unwrap();
    let count = rate.burst as usize + 800;
    let mut socket = open(fleet, "pings").await;
    let begun = Instant::now();
    socket.write(&Frame::new(PING, b"x").bytes().repeat(count)).await;
    // It waits its turn behind them, and may be one too many itself.
    let answers = |said: &Value| {
        (said["type"] == "pong" || said["code"] == "rate_limited").then(|| said.clone())
    };
    loop {
        socket.text(r#"{"type":"ping","ref":"last"}"#).await;
        let said = socket.wait_for(answers).await;
        let Some(wait) = said["retryAfterMs"].as_u64() else { break };
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
    // What is over the rate is not counted, and followed by its wait: twice as many get through.
    let least = (count - rate.burst as usize) as f64 / f64::from(2 * rate.rate);
    assert!(begun.elapsed().as_secs_f64() > least * 0.9, "{:?}", begun.elapsed());
}

fn is_limited(said: &Value) -> bool {
    if said["code"] != "rate_limited" {
        return false;
    }
    assert_eq!(said["retryable"], true);
    assert!(said["retryAfterMs"].as_u64().is_some_and(|ms| ms > 0), "{said}");
    true
}

/// Row C15: more at once than anybody says. Signals cost the store nothing, so they are always too
/// many; messages are where it takes them faster than somebody may send them.
pub async fn commands(fleet: &Fleet) {
    const COUNT: usize = 500;
    // Of a user who has said nothing yet, or it would be told of that first.
    let mut socket = open(fleet, &format!("eager-{}", fleet.next())).await;
    let signal = json!({"type": "signal", "to": "nobody-here", "data": {}}).to_string();
    socket.write(&raw::text(&signal).repeat(COUNT)).await;
    socket.wait_for(|said| is_limited(said).then_some(())).await;
    let mut socket = open(fleet, &format!("eager-{}", fleet.next())).await;
    let frame = json!({"type": "message", "to": "nobody-here", "message": "again"}).to_string();
    let (begun, mut sent) = (Instant::now(), 0);
    socket.write(&raw::text(&frame).repeat(COUNT)).await;
    while sent < COUNT {
        let said = socket.json().await.expect("the socket stays open");
        if is_limited(&said) {
            return;
        }
        assert!(
            ["sent", "delivered", "caughtup"].contains(&said["type"].as_str().unwrap()),
            "{said}"
        );
        sent += usize::from(said["type"] == "sent");
    }
    let rate = Settings::USUAL.messages.unwrap();
    let least = (COUNT - rate.burst as usize) as f64 / f64::from(rate.rate);
    assert!(begun.elapsed().as_secs_f64() > least * 0.9, "{:?}", begun.elapsed());
}

/// Row F7: who guesses is told to wait, after as many tries as an address has.
pub async fn bad_tokens(fleet: &Fleet) {
    let (at, before) = (elsewhere(fleet), limited(fleet, "api", "handshakes").await);
    for number in 0..4 * ADDRESS_HANDSHAKES {
        let token = headed(json!({}));
        let line = format!("Authorization: Bearer {token}x\r\n{at}");
        let target = "/v1/users/tokens/conversations";
        let answer = request(&fleet.api, get(target, &line)).await.expect("an answer");
        if answer.status == 429 {
            assert!(number >= ADDRESS_HANDSHAKES, "after {number} tries");
            assert!(limited(fleet, "api", "handshakes").await > before);
            return answer.is_problem(429);
        }
        answer.is_problem(401);
    }
    panic!("{} bad tokens are no limit", 4 * ADDRESS_HANDSHAKES);
}
