//! A process of a fleet whose unit file lacks the keys, behind a balancer that asks for tokens.

use serde_json::json;

use super::{SECRET, token};
use crate::harness::{Parts, Stack};
use crate::raw::{Answer, Raw, request, upgrade_head};

async fn socket(address: &str, more: &str) -> Answer {
    let mut raw = Raw::dial(address).await;
    raw.write(upgrade_head("userId=victim", more).as_bytes()).await;
    let answer = raw.head().await.expect("an answer");
    if answer.status == 101 { answer } else { raw.body(answer).await }
}

async fn conversations(address: &str, more: &str) -> Answer {
    let head = "GET /v1/users/victim/conversations?userId=victim HTTP/1.1\r\nHost: localhost";
    request(address, format!("{head}\r\nConnection: close\r\n{more}\r\n")).await.expect("an answer")
}

#[tokio::test]
async fn nobody_is_anybody_behind_a_balancer_that_asks_for_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let keys = ["--jwt-secret-file", secret.to_str().unwrap()];
    let Some(stack) = Stack::start_with(Parts::Fleet, &keys).await else { return };
    let bearer = format!("Authorization: Bearer {}\r\n", token("victim", json!({})).reveal());
    for more in ["", "X-Parlor-Tokens: off\r\n", "Connection: x-parlor-tokens\r\n", &bearer] {
        for answer in
            [socket(&stack.balancer, more).await, conversations(&stack.balancer, more).await]
        {
            answer.is_problem(503);
            assert!(answer.text().contains("no keys"), "{}", answer.text());
        }
    }
    // On this machine, and by no balancer: development mode, as ever.
    assert_eq!(socket(&stack.servers["ws1"], "").await.status, 101);
    assert_eq!(conversations(&stack.api, "").await.status, 200);
    // An older balancer says only who the client is, and may not be a trusted proxy.
    let told = "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n";
    socket(&stack.servers["ws1"], told).await.is_problem(403);
    conversations(&stack.api, told).await.is_problem(403);
    stack.stop().await;
}
