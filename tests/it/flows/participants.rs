//! Only participants see content (P9): at send, at delivery and at read.

use parlor::client::{Send, To};
use serde_json::json;

use crate::harness::{Stack, on_both};

on_both!(a_stranger_sees_nothing);

async fn a_stranger_sees_nothing(stack: Stack) {
    let mut a = stack.at("ws1", "userA").await;
    let mut c = stack.at("ws1", "userC").await;
    a.catch_up().await;
    c.catch_up().await;
    assert_eq!(a.say("userB", "between us").await, 1);
    let room = json!({"room": "ours", "members": ["userB"]});
    stack.http().post("/v1/rooms?userId=userA", &room).await.unwrap().good().unwrap();
    a.send(&Send::new(To::Conversation("room:ours".into()), "among us")).await;
    for conversation in ["dm:userA:userB", "room:ours", "room:unknown", "dm:userA:userX"] {
        let send = Send::new(To::Conversation(conversation.to_owned()), "let me in");
        assert_eq!(c.refused(&send).await, "not_found", "{conversation}");
        let path = format!("/v1/conversations/{conversation}/messages?userId=userC");
        let page = stack.http().get(&path).await.unwrap();
        assert_eq!((page.status, &page.body["code"]), (404, &json!("not_found")), "{path}");
        let body = json!({"conversation": conversation, "message": "let me in"});
        let post = stack.http().post("/v1/messages?userId=userC", &body).await.unwrap();
        assert_eq!((post.status, &post.body["code"]), (404, &json!("not_found")));
    }
    c.see("dm:userA:userB", 1).await;
    assert_eq!(c.error().await, "not_found");
    c.acknowledge("dm:userA:userB", 1).await;
    assert_eq!(c.error().await, "not_found");
    c.hears_nothing(200).await;
    let list = stack.http().get("/v1/users/userC/conversations?userId=userC").await.unwrap();
    assert_eq!(list.body["conversations"], json!([]));
    let list = stack.http().get("/v1/users/userA/conversations?userId=userC").await.unwrap();
    assert!(matches!(list.status, 403 | 404), "{list:?}");
    // Nobody speaks for somebody else: `from` is the socket's person.
    let forged = r#"{"type":"message","to":"userA","from":"userB","message":"as B"}"#;
    c.write(forged).await;
    let heard = a.entry().await;
    assert_eq!((heard.from.as_str(), heard.conversation.as_str()), ("userC", "dm:userA:userC"));
    let history = stack.history("userA", "dm:userA:userB").await;
    assert_eq!(history.len(), 1, "{history:?}");
    stack.stop().await;
}
