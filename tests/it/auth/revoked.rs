//! Tokens that are taken back: every server ends the user's sockets, and a restart forgets nothing.

use std::time::{Duration, Instant};

use parlor::client::ClientError;
use parlor::client::ServerFrame::Pong;
use parlor::protocol::Token;
use serde_json::json;

use super::{Guarded, now, token, with_token};
use crate::harness::{Parts, Person, Stack, eventually};
use crate::raw::Raw;

/// How long the sockets of a user may live on.
const WITHIN: Duration = Duration::from_secs(2);

async fn revoke(stack: &Stack, user: &str) -> u64 {
    let admin = token("root", json!({"scope": "admin"}));
    let api = stack.http().token(Some(admin));
    let answer = api.post(&format!("/v1/users/{user}/revoke"), &json!({})).await.unwrap();
    answer.good().unwrap()["until"].as_u64().unwrap()
}

async fn ended(person: &mut Person) -> Option<u16> {
    loop {
        match person.text_within(WITHIN * 3).await {
            Ok(_) => {}
            Err(ClientError::Closed { code, .. }) => return code,
            Err(error) => panic!("{error}"),
        }
    }
}

/// How a socket and the API take a token.
async fn dead(stack: &Stack, old: &Token) {
    let api = stack.http().token(Some(old.clone()));
    let page = api.get("/v1/users/userA/conversations").await.unwrap();
    assert_eq!(page.status, 401, "{page:?}");
    for server in ["ws1", "ws2", "ws3"] {
        let options = with_token(&stack.ws_at(server), "userA", old.clone()).device("again");
        // A server that does not know yet learns it from the mailbox, and knows from then on.
        if let Ok(mut person) = Person::try_with(&options).await {
            person.write(r#"{"type":"message","to":"userB","message":"by a dead token"}"#).await;
            assert_eq!(ended(&mut person).await, Some(4_401), "{server}");
        }
        let again = Person::try_with(&options).await;
        assert!(matches!(again, Err(ClientError::Refused { status: 401, .. })), "{server}");
    }
    let service = token("backend", json!({"scope": "service"}));
    let history = stack.http().token(Some(service));
    let page = history.history("userB", "dm:userA:userB", None, 50).await.unwrap();
    let texts: Vec<_> = page["messages"].as_array().unwrap().iter().collect();
    assert!(texts.iter().all(|text| text["message"] == "before"), "{texts:?}");
}

async fn take_back(parts: Parts) {
    let Some(mut guarded) = Guarded::start(parts, &[]).await else { return };
    let old = token("userA", json!({"iat": now() - 5}));
    let mut sockets = Vec::new();
    for server in ["ws1", "ws2", "ws3"] {
        let url = guarded.stack.ws_at(server);
        let options = with_token(&url, "userA", old.clone()).device(server);
        let mut person = Person::with(&options).await;
        person.catch_up().await;
        sockets.push(person);
    }
    let url = guarded.stack.ws();
    let mut other = Person::with(&with_token(&url, "userB", token("userB", json!({})))).await;
    other.catch_up().await;
    sockets[0].say("userB", "before").await;
    let begun = Instant::now();
    let until = revoke(&guarded.stack, "userA").await;
    assert!(until.abs_diff(now() * 1_000) < 5_000);
    for person in &mut sockets {
        assert_eq!(ended(person).await, Some(4_401));
    }
    let took = begun.elapsed();
    println!("all sockets of the user ended within {took:?}");
    assert!(took < WITHIN, "{took:?}");
    dead(&guarded.stack, &old).await;
    let api = guarded.stack.http().token(Some(token("userB", json!({}))));
    assert_eq!(api.get("/v1/users/userB/conversations").await.unwrap().status, 200);
    // A login since then is another matter; tokens tell their time in seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let fresh = token("userA", json!({}));
    let mut again = Person::with(&with_token(&url, "userA", fresh.clone())).await;
    again.catch_up().await;
    // The store remembers, whoever restarts.
    guarded.stack.kill("up");
    if let Some(redis) = &mut guarded.stack.redis {
        redis.kill();
        redis.start_again();
    }
    guarded.stack.start_up().await;
    dead(&guarded.stack, &old).await;
    let url = guarded.stack.ws();
    Person::with(&with_token(&url, "userA", fresh)).await.catch_up().await;
    guarded.stack.stop().await;
}

/// A socket that a service opens for somebody.
async fn for_somebody(url: &str, user: &str, service: &Token) -> Person {
    let mut person = Person::with(&with_token(url, user, service.clone())).await;
    person.catch_up().await;
    person
}

/// What has ended within this time of a revocation.
async fn ends(stack: &Stack, user: &str, sockets: Vec<&mut Person>, limit: Duration) {
    let begun = Instant::now();
    revoke(stack, user).await;
    for person in sockets {
        assert_eq!(ended(person).await, Some(4_401), "{user}");
    }
    let took = begun.elapsed();
    println!("{user}: ended within {took:?}");
    assert!(took < limit, "{took:?}");
}

/// What a service has opened ends with the service's tokens, and with those of whose it is.
async fn take_back_a_service(parts: Parts, redis_dies: bool) {
    let Some(mut guarded) = Guarded::start(parts, &[]).await else { return };
    let [one, two, three] = ["ws1", "ws2", "ws3"].map(|server| guarded.stack.ws_at(server));
    let service = |sub| token(sub, json!({"scope": "service", "iat": now() - 5}));
    let (shop, depot) = (service("shop"), service("depot"));
    let mut of_shop = for_somebody(&one, "userA", &shop).await;
    let mut of_depot = for_somebody(&two, "userA", &depot).await;
    let mut for_b = for_somebody(&two, "userB", &depot).await;
    let own = token("userA", json!({"iat": now() - 5}));
    let mut own = Person::with(&with_token(&three, "userA", own).device("own")).await;
    own.catch_up().await;
    let limit = match &mut guarded.stack.redis {
        Some(redis) if redis_dies => {
            redis.kill();
            // By the board alone, on a machine that is busy.
            WITHIN * 2
        }
        _ => WITHIN,
    };
    ends(&guarded.stack, "shop", vec![&mut of_shop], limit).await;
    let again = with_token(&three, "userA", shop);
    let refused = Person::try_with(&again).await;
    assert!(matches!(refused, Err(ClientError::Refused { status: 401, .. })));
    for person in [&mut of_depot, &mut for_b, &mut own] {
        person.write(r#"{"type":"ping","ref":"here"}"#).await;
        person.wait_for("a pong", WITHIN, |frame| matches!(frame, Pong { .. }).then_some(())).await;
    }
    ends(&guarded.stack, "userA", vec![&mut of_depot, &mut own], limit).await;
    for_b.write(r#"{"type":"ping","ref":"here"}"#).await;
    for_b.wait_for("a pong", WITHIN, |frame| matches!(frame, Pong { .. }).then_some(())).await;
    if redis_dies {
        guarded.stack.redis.as_mut().unwrap().start_again();
    }
    guarded.stack.stop().await;
}

#[tokio::test]
async fn a_services_sockets_end_with_its_tokens() {
    take_back_a_service(Parts::Embedded, false).await;
}

#[tokio::test]
async fn a_services_sockets_end_with_its_tokens_in_other_processes() {
    take_back_a_service(Parts::Fleet, false).await;
}

#[tokio::test]
async fn a_services_sockets_end_with_its_tokens_while_redis_is_dead() {
    take_back_a_service(Parts::Fleet, true).await;
}

/// What a person's tokens have opened ends in every process.
#[tokio::test]
async fn a_persons_sockets_end_with_the_tokens_in_other_processes() {
    let Some(guarded) = Guarded::start(Parts::Fleet, &[]).await else { return };
    let old = token("userA", json!({"iat": now() - 5}));
    let mut sockets = Vec::new();
    for server in ["ws1", "ws2", "ws3"] {
        let options = with_token(&guarded.stack.ws_at(server), "userA", old.clone()).device(server);
        let mut person = Person::with(&options).await;
        person.catch_up().await;
        sockets.push(person);
    }
    ends(&guarded.stack, "userA", sockets.iter_mut().collect(), WITHIN).await;
    let page = guarded.stack.http().token(Some(old.clone()));
    assert_eq!(page.get("/v1/users/userA/conversations").await.unwrap().status, 401);
    for server in ["ws1", "ws2", "ws3"] {
        let again = with_token(&guarded.stack.ws_at(server), "userA", old.clone());
        let refused = Person::try_with(&again).await;
        assert!(matches!(refused, Err(ClientError::Refused { status: 401, .. })), "{server}");
    }
    guarded.stack.stop().await;
}

/// A request is under way from its head on, and its token may be taken back before its end.
#[tokio::test]
async fn a_token_that_dies_before_the_body_is_whole_does_nothing() {
    let guarded = Guarded::start(Parts::Embedded, &[]).await.unwrap();
    let old = token("userA", json!({"iat": now() - 5}));
    let body = r#"{"to":"userB","message":"by a dead token"}"#;
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\
         Authorization: Bearer {}\r\n\r\n",
        body.len(),
        old.reveal()
    );
    let mut answers = Vec::new();
    for takes_back in [false, true] {
        let mut raw = Raw::dial(&guarded.stack.api).await;
        raw.write(head.as_bytes()).await;
        for (at, byte) in body.bytes().enumerate() {
            if at == 20 && takes_back {
                revoke(&guarded.stack, "userA").await;
                let api = guarded.stack.http().token(Some(old.clone()));
                let dead = async || {
                    let page = api.get("/v1/users/userA/conversations").await.unwrap();
                    (page.status == 401).then_some(())
                };
                eventually("it is known there", dead).await;
            }
            raw.write(&[byte]).await;
        }
        answers.push(raw.answer().await.expect("an answer").status);
    }
    assert_eq!(answers, [201, 401]);
    let service = token("backend", json!({"scope": "service"}));
    let history = guarded.stack.http().token(Some(service));
    let page = history.history("userB", "dm:userA:userB", None, 50).await.unwrap();
    assert_eq!(page["messages"].as_array().unwrap().len(), 1, "{page}");
    guarded.stack.stop().await;
}

#[tokio::test]
async fn taking_back_ends_all_sockets_and_outlives_a_restart() {
    take_back(Parts::Embedded).await;
}

#[tokio::test]
async fn taking_back_ends_all_sockets_and_outlives_a_restart_on_real_parts() {
    take_back(Parts::Real).await;
}
