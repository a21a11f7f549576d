//! Tokens that are taken back: every server ends the user's sockets, and a restart forgets nothing.

use std::time::{Duration, Instant};

use parlor::client::ClientError;
use parlor::protocol::Token;
use serde_json::json;

use super::{Guarded, now, token, with_token};
use crate::harness::{Parts, Person, Stack};

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

#[tokio::test]
async fn taking_back_ends_all_sockets_and_outlives_a_restart() {
    take_back(Parts::Embedded).await;
}

#[tokio::test]
async fn taking_back_ends_all_sockets_and_outlives_a_restart_on_real_parts() {
    take_back(Parts::Real).await;
}
