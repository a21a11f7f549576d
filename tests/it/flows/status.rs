//! sent → delivered → read, and never back (P6).

use parlor::client::ClientOptions;
use serde_json::Value;

use crate::harness::{Person, Stack, eventually, on_both};

on_both!(status_moves_forward, the_application_acknowledges);

async fn statuses(stack: &Stack) -> Vec<String> {
    let history = stack.history("userA", "dm:userA:userB").await;
    let status = |message: &Value| message["status"].as_str().unwrap().to_owned();
    history.iter().map(status).collect()
}

async fn become_so(stack: &Stack, expected: &[&str]) {
    let so = async || (statuses(stack).await == expected).then_some(());
    eventually(&format!("history says {expected:?}"), so).await;
}

async fn status_moves_forward(stack: Stack) {
    let mut a = stack.at("ws1", "userA").await;
    a.catch_up().await;
    assert_eq!((a.say("userB", "one").await, a.say("userB", "two").await), (1, 2));
    assert_eq!(statuses(&stack).await, ["sent", "sent"]);
    let mut b = stack.at("ws2", "userB").await;
    b.catch_up().await;
    a.told_delivered(2).await;
    become_so(&stack, &["delivered", "delivered"]).await;
    b.see("dm:userA:userB", 1).await;
    a.told_read(1).await;
    become_so(&stack, &["read", "delivered"]).await;
    b.see("dm:userA:userB", 2).await;
    a.told_read(2).await;
    become_so(&stack, &["read", "read"]).await;
    // Neither an older `read`, nor a reconnect, nor a new message takes anything back.
    b.see("dm:userA:userB", 1).await;
    b.leave().await;
    assert_eq!(a.say("userB", "three").await, 3);
    assert_eq!(statuses(&stack).await, ["read", "read", "sent"]);
    let mut b = stack.at("ws3", "userB").await;
    assert_eq!(b.hear().await, (3, "three".to_owned()));
    become_so(&stack, &["read", "read", "delivered"]).await;
    let shown = stack.shown("dm:userA:userB").await;
    let of_line = |line: &String| line.split(' ').nth(4).unwrap().to_owned();
    let shown: Vec<_> = shown.iter().map(of_line).collect();
    assert_eq!(shown, ["read", "read", "delivered"]);
    let list = stack.http().get("/v1/users/userB/conversations?userId=userB").await.unwrap();
    assert_eq!(list.body["unreadTotal"], 1, "{list:?}");
    stack.stop().await;
}

/// With `acks=app` a text on the socket proves nothing: only the `ack` frame does.
async fn the_application_acknowledges(stack: Stack) {
    let mut a = stack.at("ws1", "userA").await;
    a.catch_up().await;
    let options = ClientOptions::new(stack.ws_at("ws2"), "userB").acks_app();
    let mut b = Person::with(&options).await;
    b.catch_up().await;
    assert_eq!(a.say("userB", "one").await, 1);
    assert_eq!(b.hear().await, (1, "one".to_owned()));
    a.hears_nothing(500).await;
    assert_eq!(statuses(&stack).await, ["sent"]);
    b.leave().await;
    // Never acknowledged, so it comes again.
    let mut b = Person::with(&options).await;
    assert_eq!(b.hear().await, (1, "one".to_owned()));
    b.acknowledge("dm:userA:userB", 1).await;
    a.told_delivered(1).await;
    b.leave().await;
    become_so(&stack, &["delivered"]).await;
    let mut b = Person::with(&options).await;
    assert!(b.catch_up().await.is_empty());
    stack.stop().await;
}
