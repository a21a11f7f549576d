//! How much a caller may ask for.

use std::time::Duration;

use serde_json::json;

use super::world::{Answer, World};
use crate::auth::testing::{SECRET, hs256};
use crate::limits::{Rate, Settings};
use crate::protocol::{Sizes, Token};

const FOREIGN: &[u8] = b"a secret of somebody else, 32 bytes and more";

const NONE: Settings = Settings {
    sockets: None,
    sockets_per_user: None,
    sockets_per_address: None,
    half_open: None,
    plain: None,
    half_open_per_address: None,
    conversations: None,
    handshakes: None,
    user_handshakes: None,
    frames: None,
    bytes: None,
    messages: None,
    signals: None,
    requests: None,
    new_conversations: None,
    sizes: Sizes::MOST,
};

fn of(sub: &str) -> Token {
    hs256(SECRET, json!({"sub": sub}))
}

fn scoped(sub: &str, scope: &str) -> Token {
    hs256(SECRET, json!({"sub": sub, "scope": scope}))
}

async fn ask(world: &World, token: &Token, body: Option<&serde_json::Value>) -> Answer {
    let bearer = format!("Bearer {}", token.reveal());
    let (method, target) = match body {
        Some(_) => ("POST", "/v1/messages"),
        None => ("GET", "/v1/users/userA/presence"),
    };
    world.with_headers(method, target, &[("authorization", &bearer)], body).await
}

/// What was told of the wait, in the body and in the header.
fn wait(answer: &Answer) -> Duration {
    answer.problem(429, "rate_limited");
    let ms = answer.json["retryAfterMs"].as_u64().unwrap();
    let seconds: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert_eq!(seconds, ms.div_ceil(1_000), "whole seconds that are enough");
    Duration::from_millis(ms)
}

fn limited(world: &World, limit: &'static str) -> u64 {
    world.chat.metrics.limited.get_or_create(&crate::telemetry::Limited { limit }).get()
}

/// Asks until it is refused: how often it was answered before, and the wait that was told.
async fn until_refused(ask: impl AsyncFn() -> Answer) -> (usize, Duration) {
    for count in 0..100 {
        let answer = ask().await;
        if !answer.status.is_success() {
            return (count, wait(&answer));
        }
    }
    panic!("a hundred are no limit");
}

#[tokio::test]
async fn requests_are_counted_by_user() {
    let world = World::limited(Settings { requests: Some(Rate::new(1, 3)), ..NONE }).await;
    let (a, b) = (of("userA"), of("userB"));
    let (count, told) = until_refused(async || ask(&world, &a, None).await).await;
    assert!(count >= 3 && told <= Duration::from_secs(1), "{count}, {told:?}");
    assert_eq!(limited(&world, "requests"), 1);
    assert_eq!(ask(&world, &b, None).await.status, 200, "another user");
    for scope in ["service", "admin user"] {
        for _ in 0..20 {
            let answer = ask(&world, &scoped("shop", scope), None).await;
            assert_eq!(answer.status, 200, "{scope} is trusted: {}", answer.json);
        }
    }
    tokio::time::sleep(told).await;
    assert_eq!(ask(&world, &a, None).await.status, 200);
}

/// A list is paid for by how much is read for it.
#[tokio::test]
async fn a_list_of_many_conversations_costs_more() {
    let world = World::limited(Settings { requests: Some(Rate::new(1, 3)), ..NONE }).await;
    for number in 0..100 {
        let by_service = json!({"from": "userA", "to": format!("u{number}"), "message": "Hi"});
        let answer = ask(&world, &scoped("shop", "service"), Some(&by_service)).await;
        assert_eq!(answer.status, 201);
    }
    let list = async |token: &Token, user: &str| {
        let bearer = format!("Bearer {}", token.reveal());
        let target = format!("/v1/users/{user}/conversations?limit=1&userId={user}");
        world.with_headers("GET", &target, &[("authorization", &bearer)], None).await
    };
    let a = of("userA");
    assert_eq!(list(&a, "userA").await.status, 200);
    let told = wait(&list(&a, "userA").await);
    assert!(told <= Duration::from_secs(1), "three were had: {told:?}");
    for _ in 0..3 {
        assert_eq!(list(&of("u1"), "u1").await.status, 200, "few cost nothing more");
        assert_eq!(list(&scoped("shop", "service"), "userA").await.status, 200);
    }
}

#[tokio::test]
async fn messages_are_counted_by_user_too() {
    let world = World::limited(Settings { messages: Some(Rate::new(1, 2)), ..NONE }).await;
    let (a, body) = (of("userA"), json!({"to": "userB", "message": "Hi"}));
    let (count, told) = until_refused(async || ask(&world, &a, Some(&body)).await).await;
    assert!(count >= 2 && told <= Duration::from_secs(1), "{count}, {told:?}");
    assert_eq!(limited(&world, "messages"), 1);
    let by_service = json!({"from": "userA", "to": "userB", "message": "Hi"});
    for _ in 0..9 {
        let answer = ask(&world, &scoped("shop", "service"), Some(&by_service)).await;
        assert_eq!(answer.status, 201, "a service speaks for many");
    }
    tokio::time::sleep(told).await;
    assert_eq!(ask(&world, &a, Some(&body)).await.status, 201);
}

#[tokio::test]
async fn bytes_of_bodies_are_counted_by_user_too() {
    let world = World::limited(Settings { bytes: Some(Rate::new(2_000, 3_000)), ..NONE }).await;
    let (a, long) = (of("userA"), json!({"to": "userB", "message": "x".repeat(2_000)}));
    let (count, told) = until_refused(async || ask(&world, &a, Some(&long)).await).await;
    assert!(count >= 1 && told <= Duration::from_millis(600), "{count}, {told:?}");
    assert_eq!(ask(&world, &a, None).await.status, 200, "what has no body costs none");
    tokio::time::sleep(told).await;
    assert_eq!(ask(&world, &a, Some(&long)).await.status, 201);
    assert_eq!(limited(&world, "bytes"), 1);
}

#[tokio::test]
async fn rooms_and_first_messages_are_new_conversations() {
    let rate = Some(Rate::new(2, 2));
    let world = World::limited(Settings { new_conversations: rate, ..NONE }).await;
    let to = |user: &str| json!({"to": user, "message": "Hi"});
    let room = async |token: &Token| {
        let bearer = format!("Bearer {}", token.reveal());
        let headers = [("authorization", bearer.as_str())];
        world.with_headers("POST", "/v1/rooms", &headers, Some(&json!({}))).await
    };
    let a = of("userA");
    assert_eq!(ask(&world, &a, Some(&to("userB"))).await.status, 201);
    assert_eq!(room(&a).await.status, 201);
    for refused in [room(&a).await, ask(&world, &a, Some(&to("userC"))).await] {
        let told = wait(&refused);
        assert!((1_700..=1_800).contains(&told.as_secs()), "half an hour: {told:?}");
    }
    assert_eq!(limited(&world, "new_conversations"), 2);
    assert_eq!(ask(&world, &a, Some(&to("userB"))).await.status, 201, "it is open");
    assert_eq!(room(&scoped("shop", "service")).await.status, 201);
}

/// Who has no good token is counted by where he is.
#[tokio::test]
async fn bad_tokens_are_tried_so_often_from_an_address() {
    let world = World::limited(Settings { handshakes: Some(Rate::new(1, 5)), ..NONE }).await;
    let bad = hs256(FOREIGN, json!({"sub": "userA"}));
    let (here, there) = ("203.0.113.7", "203.0.113.8");
    let ask = async |from: &str, token: &Token| world.from(from, token).await;
    for _ in 0..20 {
        assert_eq!(ask(here, &of("userA")).await.status, 200, "good ones are not counted");
    }
    let mut tried = 0;
    let told = loop {
        let answer = ask(here, &bad).await;
        if answer.status != 401 {
            break wait(&answer);
        }
        tried += 1;
        assert!(tried < 100);
    };
    assert!(tried >= 5 && told <= Duration::from_secs(2), "{tried}, {told:?}");
    assert_eq!(limited(&world, "handshakes"), 1);
    ask(there, &bad).await.problem(401, "unauthorized");
    for _ in 0..20 {
        ask("127.0.0.1", &bad).await.problem(401, "unauthorized");
    }
    tokio::time::sleep(told).await;
    ask(here, &bad).await.problem(401, "unauthorized");
}
