//! A connection: `X-Parlor-Server`, `welcome`, the entry of the socket map.

use parlor::client::{Client, ClientOptions, ServerFrame};

use crate::harness::{Person, Stack, on_both};

on_both!(connect, direct);

/// The first connection goes to ws1, and Redis shows where it is before `caughtup`.
async fn connect(stack: Stack) {
    let options = ClientOptions::new(stack.ws(), "userA");
    let mut client = Client::connect(&options).await.unwrap();
    assert_eq!(client.server(), Some("ws1"), "X-Parlor-Server");
    let text = client.next_text().await.unwrap();
    assert!(text.starts_with(r#"{"type":"welcome","userId":"userA","#), "{text}");
    let ServerFrame::Welcome(welcome) = ServerFrame::parse(&text).unwrap() else {
        panic!("{text}");
    };
    assert_eq!((welcome.server.as_str(), welcome.device.as_str()), ("ws1", "default"));
    assert_eq!(client.next_text().await.unwrap(), r#"{"type":"caughtup"}"#);
    if let Some(redis) = &stack.redis {
        let entry = redis.entry("userA").unwrap();
        assert_eq!(entry["socketId"], welcome.socket.as_str());
        assert_eq!(entry["server"], "ws1");
        let server = entry.as_object().unwrap();
        let fields: Vec<_> = server.keys().map(String::as_str).collect();
        assert_eq!(fields, ["claim", "device", "epoch", "server", "socketId", "v"]);
    }
    stack.stop().await;
}

/// A server can be dialled itself, and the two ways meet.
async fn direct(stack: Stack) {
    let mut b = stack.at("ws2", "userB").await;
    assert_eq!(b.server, "ws2");
    assert!(b.catch_up().await.is_empty());
    if let Some(redis) = &stack.redis {
        assert_eq!(redis.entry("userB").unwrap()["server"], "ws2");
    }
    let mut a = Person::connect(&stack.ws(), "userA").await;
    assert_eq!(a.say("userB", "Hi").await, 1);
    assert_eq!(b.hear().await, (1, "Hi".to_owned()));
    stack.stop().await;
}
