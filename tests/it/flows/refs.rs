//! The same send again (P2): on any server, by any way, one message.

use parlor::client::{Send, To};
use serde_json::json;

use crate::harness::{Stack, on_both};

on_both!(a_repeat_is_the_same_message, after_reaches_further_back, a_repeated_post);

fn send(text: &str, reference: &str) -> Send {
    Send::new(To::User("userB".into()), text).reference(reference)
}

async fn history(stack: &Stack) -> Vec<String> {
    let history = stack.history("userA", "dm:userA:userB").await;
    history.iter().map(|message| message["message"].as_str().unwrap().to_owned()).collect()
}

/// On the same socket, on another server, after a reconnect; another body is a conflict.
async fn a_repeat_is_the_same_message(stack: Stack) {
    let mut b = stack.at("ws3", "userB").await;
    b.catch_up().await;
    let mut a = stack.at("ws1", "userA").await;
    assert_eq!(a.send(&send("one", "r1").after(0)).await, 1);
    assert_eq!(a.send(&send("one", "r1").after(0)).await, 1);
    assert_eq!(a.send(&send("two", "r2").after(0)).await, 2);
    a.leave().await;
    let mut a = stack.at("ws2", "userA").await;
    a.catch_up().await;
    assert_eq!(a.send(&send("one", "r1").after(0)).await, 1);
    assert_eq!(a.send(&send("two", "r2")).await, 2);
    assert_eq!(a.refused(&send("another", "r1").after(0)).await, "ref_conflict");
    assert_eq!(a.refused(&send("another", "r2")).await, "ref_conflict");
    // A ref is a device's own: the other device says something new.
    let phone = parlor::client::ClientOptions::new(stack.ws(), "userA").device("phone");
    let mut phone = crate::harness::Person::with(&phone).await;
    assert_eq!(phone.send(&send("from the phone", "r1")).await, 3);
    let expected = ["one", "two", "from the phone"];
    assert_eq!(history(&stack).await, expected);
    let heard = b.hear_all(3).await;
    assert_eq!(heard.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), expected);
    b.hears_nothing(200).await;
    stack.stop().await;
}

/// Without `after` a ref is found among the newest 32; with it further back, up to 1,000.
async fn after_reaches_further_back(stack: Stack) {
    let mut a = stack.at("ws1", "userA").await;
    assert_eq!(a.send(&send("first", "first").after(0)).await, 1);
    for number in 2..=40 {
        let reference = format!("r{number}");
        assert_eq!(a.send(&send(&reference, &reference)).await, number);
    }
    let mut elsewhere = stack.at("ws2", "userA").await;
    assert_eq!(elsewhere.send(&send("first", "first").after(0)).await, 1);
    assert_eq!(elsewhere.refused(&send("other", "first").after(0)).await, "ref_conflict");
    assert_eq!(elsewhere.send(&send("r20", "r20")).await, 20);
    assert_eq!(elsewhere.send(&send("first", "first")).await, 41, "said to be a new message");
    assert_eq!(history(&stack).await.len(), 41);
    stack.stop().await;
}

/// Over HTTP: 201, then 200, then 409; the key is a ref of the device `api`.
async fn a_repeated_post(stack: Stack) {
    let mut b = stack.at("ws2", "userB").await;
    b.catch_up().await;
    let api = stack.http();
    let post = async |text: &str| {
        let body = json!({"to": "userB", "message": text});
        let headers = [("Idempotency-Key", "key-1")];
        let path = "/v1/messages?userId=userA";
        api.call("POST", path, Some(&body), &headers).await.unwrap()
    };
    let first = post("Hi").await;
    assert_eq!(first.status, 201, "{first:?}");
    assert_eq!(first.body["id"], "dm:userA:userB/1");
    assert_eq!(first.body["ref"], "key-1");
    let again = post("Hi").await;
    assert_eq!((again.status, &again.body), (200, &first.body));
    let other = post("Ho").await;
    assert_eq!((other.status, &other.body["code"]), (409, &json!("ref_conflict")));
    assert_eq!(b.hear().await, (1, "Hi".to_owned()));
    b.hears_nothing(200).await;
    assert_eq!(history(&stack).await, ["Hi"]);
    stack.stop().await;
}
