//! Frames that look wrong and are not. Those that are refused stand in `tests/corpus`.

use serde_json::{Value, json};

use super::Bystanders;
use crate::harness::{Stack, on_both};
use crate::raw::Raw;

on_both! {
    odd_frames_that_are_allowed_are_stored_byte_for_byte,
}

/// What stands in the fields of a `message` frame, and the message and data that are to be kept.
fn odd_frames() -> Vec<(String, String, Option<Value>)> {
    let plain = |text: &str| (json!(text).to_string(), text.to_owned(), None);
    let full = "x".repeat(16_384);
    let mut cases: Vec<_> = [
        plain(&full),
        plain(&"é".repeat(8_192)),
        plain(&"😀".repeat(4_096)),
        plain("\u{0}NUL \u{202e}bidi\u{202c} \u{1b}[31mred <script>alert(1)</script> \u{feff}"),
        plain("e\u{301} is not \u{e9}"),
        plain(" blanks around stay "),
        (r#""\u0041\ud83d\ude00\u0000\/""#.to_owned(), "A😀\u{0}/".to_owned(), None),
        (r#""x","ref":null,"data":null,"after":null"#.to_owned(), "x".to_owned(), None),
        (r#""x","after":18446744073709551615,"ref":"z""#.to_owned(), "x".to_owned(), None),
        (r#""x","after":0,"ref":"y""#.to_owned(), "x".to_owned(), None),
        (r#""x","from":"evil","id":{},"seq":1e400,"timestamp":[]"#.to_owned(), "x".into(), None),
    ]
    .into();
    let nested = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    cases.push((format!(r#""x","new":{nested}"#), "x".to_owned(), None));
    let data = format!("{{\"k\":\"{}\"}}", "x".repeat(4_096 - 8));
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(31), "]".repeat(31));
    let numbers = r#"{"a":1,"b":[1.50,-0,18446744073709551615]}"#.to_owned();
    for data in [data, deep, numbers] {
        let kept = serde_json::from_str(&data).unwrap();
        cases.push((format!(r#""x","data":{data}"#), "x".to_owned(), Some(kept)));
    }
    cases
}

async fn odd_frames_that_are_allowed_are_stored_byte_for_byte(stack: Stack) {
    let calm = Bystanders::start(&stack).await;
    let mut friend = stack.at("ws3", "friend").await;
    friend.catch_up().await;
    let mut socket = Raw::ready(&stack.balancer, "userId=odd").await;
    for (number, (fields, text, data)) in odd_frames().into_iter().enumerate() {
        let frame = format!(" {{\"type\":\"message\",\"to\":\"friend\",\"message\":{fields}}}\n");
        socket.text(&frame).await;
        let shown: String = frame.chars().take(100).collect();
        let seq = socket.wait_for(|said| match said["type"].as_str() {
            Some("sent") => said["seq"].as_u64(),
            Some("error") => panic!("{shown}: {said}"),
            _ => None,
        });
        assert_eq!(seq.await, number as u64 + 1, "{shown}");
        assert_eq!(friend.hear().await, (number as u64 + 1, text.clone()), "{shown}");
        let kept = &stack.history("odd", "dm:friend:odd").await[number];
        assert_eq!((&kept["message"], &kept["from"]), (&json!(text), &json!("odd")), "{shown}");
        assert_eq!(kept.get("data"), data.as_ref(), "{shown}");
    }
    // A note to oneself: stored, answered, on one's other devices; the sending socket has no copy.
    let mut other = Raw::ready(&stack.servers["ws2"], "userId=odd&device=phone").await;
    socket.text(r#"{"type":"message","to":"odd","message":"milk","ref":"n"}"#).await;
    let sent = socket.wait_for(|said| (said["type"] == "sent").then(|| said.clone())).await;
    assert_eq!(sent["conversation"], "dm:odd:odd");
    let note = other.wait_for(|said| (said["type"] == "message").then(|| said.clone())).await;
    assert_eq!((&note["message"], &note["ref"]), (&json!("milk"), &json!("n")));
    assert_eq!(stack.history("odd", "dm:odd:odd").await.len(), 1);
    assert!(socket.is_open().await);
    calm.noticed_nothing(&stack).await;
    stack.stop().await;
}
