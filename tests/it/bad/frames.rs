//! Frames that are not what the protocol allows: an `error` each, and the socket stays open.

use futures_util::future::join_all;
use parlor::protocol::ErrorCode::{self, BadRequest, NotFound, TooLarge};
use serde_json::{Value, json};

use super::Bystanders;
use crate::harness::{Person, Stack, on_both};
use crate::raw::{self, Raw};

on_both! {
    refused_frames_get_an_error_and_the_socket_stays_open,
    odd_frames_that_are_allowed_are_stored_byte_for_byte,
}

/// A frame, its error's code and ref, and what its sentence says.
struct Bad(String, ErrorCode, Option<&'static str>, &'static str);

fn bad(text: impl Into<String>, says: &'static str) -> Bad {
    Bad(text.into(), BadRequest, None, says)
}

/// A frame with `"ref":"r-1"`, which its error names.
fn named(fields: &str, says: &'static str) -> Bad {
    Bad(format!(r#"{{"ref":"r-1",{fields}}}"#), BadRequest, Some("r-1"), says)
}

/// The rows C1 to C5: what is no command at all.
fn no_commands() -> Vec<Bad> {
    let object = "a frame is one JSON object with a \"type\"";
    let mut cases: Vec<Bad> = ["", " ", "hello", "{", "{}{}", "\u{feff}{}", "NaN", "{'type':1}"]
        .map(|text| bad(text, object))
        .into();
    cases.extend(["null", "[]", "[1,2]", "1", "-0", "1e400", "\"x\"", "true"].map(|text| {
        // Another shape is told as such, a number that is none as what it is.
        bad(text, object)
    }));
    cases.push(bad(r#"["message","friend",null,"x",null,null,null,null,null]"#, object));
    cases.push(bad("[".repeat(10_000), object));
    cases.push(bad("{\"a\":".repeat(10_000), object));
    cases.push(bad(r#"{"type":"message","type":"ping"}"#, "duplicate field"));
    cases.push(bad("{\"type\":\"ping\",\"ref\":\"a\u{0}b\"}", object));
    cases.push(bad("{}", "\"type\" is missing"));
    cases.push(bad(r#"{"type":null}"#, "\"type\" is missing"));
    for kind in ["1", "{}", "[\"ping\"]", "true"] {
        cases.push(bad(format!(r#"{{"type":{kind}}}"#), "\"type\""));
    }
    cases.push(named(r#""type":"shout""#, "unknown type \"shout\""));
    cases.push(named(r#""type":"MESSAGE""#, "unknown type"));
    cases.push(named(r#""type":"welcome""#, "unknown type"));
    cases.push(named(&format!(r#""type":"{}""#, "x".repeat(60_000)), "unknown type \"xxx"));
    let closes = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    cases.push(named(&format!(r#""type":"nested","new":{closes}"#), "unknown type"));
    cases
}

/// The rows C6, C12, D1 to D3: fields that are missing or wrong.
fn bad_fields() -> Vec<Bad> {
    let message = |fields: &str, says| named(&format!(r#""type":"message",{fields}"#), says);
    let mut cases = vec![
        message(r#""message":"x""#, "say whom it is for"),
        message(r#""to":"friend""#, "\"message\" is missing"),
        message(r#""to":"friend","message":null"#, "\"message\" is missing"),
        message(r#""to":"friend","message":7"#, "\"message\""),
        message(r#""to":"friend","message":["x"]"#, "\"message\""),
        message(r#""to":"friend","message":"""#, "\"message\" is empty"),
        message(r#""to":"friend","message":" \n\t""#, "\"message\" is empty"),
        message(r#""to":"friend","message":"\ud800""#, "\"message\""),
        message(r#""to":"friend","message":"\udc00\ud800""#, "\"message\""),
        message(r#""to":"friend","conversation":"room:r","message":"x""#, "not both"),
        message(r#""to":7,"message":"x""#, "\"to\""),
        message(r#""to":"friend","message":"x","data":[1]"#, "\"data\""),
        message(r#""to":"friend","message":"x","data":"y""#, "\"data\""),
        message(r#""to":"friend","message":"x","after":-1"#, "\"after\""),
        message(r#""to":"friend","message":"x","after":1.5"#, "\"after\""),
        message(r#""to":"friend","message":"x","after":"1""#, "\"after\""),
        message(r#""to":"friend","message":"x","after":1e400"#, "\"after\""),
        message(r#""to":"friend","message":"x","after":18446744073709551616"#, "\"after\""),
        named(r#""type":"ack","seq":1"#, "\"conversation\" is missing"),
        named(r#""type":"read","conversation":"dm:friend:me""#, "\"seq\" is missing"),
        named(r#""type":"read","conversation":"dm:z:a","seq":1"#, "\"conversation\""),
        named(r#""type":"signal","to":"friend""#, "\"data\" is missing"),
        named(r#""type":"signal","data":{}"#, "say whom it is for"),
        named(r#""type":"auth""#, "\"token\" is missing"),
        named(r#""type":"auth","token":"x""#, "tokens are not in use"),
    ];
    let long = "\\\"".repeat(20_000);
    for field in ["seq", "conversation"] {
        let fields = format!(r#""type":"read","conversation":"dm:a:b","{field}":"{long}""#);
        let fields =
            fields.replacen(r#""conversation":"dm:a:b","conversation""#, "\"conversation\"", 1);
        cases.push(named(&fields, field));
    }
    cases.push(message(&format!(r#""to":"friend","message":"x","after":"{long}""#), "after"));
    for id in ["", "a b", "a#b", "user:1", "{tag}", "*", "../", "%2e", "é", "а", "a\\u200b", "a/b"]
    {
        cases.push(message(&format!(r#""to":"{id}","message":"x""#), "a user id must match"));
    }
    let long = "x".repeat(129);
    cases.push(message(&format!(r#""to":"{long}","message":"x""#), "a user id must match"));
    for id in ["friend", "room:", "room:a b", "dm:a", "dm:b:a", "dm:a:b:c", "DM:a:b", "dm:a:"] {
        let fields = format!(r#""conversation":"{id}","message":"x""#);
        cases.push(message(&fields, "a conversation must match"));
    }
    for name in ["\"\"", "\"a b\"", "7", "\"~1\"", &format!("\"{}\"", "x".repeat(65))] {
        let text = format!(r#"{{"type":"message","to":"friend","message":"x","ref":{name}}}"#);
        let shown = if name == "\"~1\"" { Some("~1") } else { None };
        cases.push(Bad(text, BadRequest, shown, "ref"));
    }
    cases
}

/// The row C12 and the sizes of `data`; C10: what one has no part in, or is not there.
fn too_large_and_not_there() -> Vec<Bad> {
    let send = |message: &str, data: Value| {
        json!({"type": "message", "to": "friend", "message": message, "data": data, "ref": "r-1"})
            .to_string()
    };
    let large = |text: String, says| Bad(text, TooLarge, Some("r-1"), says);
    let data = json!({"k": "x".repeat(4_096 - 7)});
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(32), "]".repeat(32));
    let nested = format!(r#""type":"message","to":"friend","message":"x","data":{deep}"#);
    let signal = format!(r#""type":"signal","to":"friend","data":{data}"#);
    let mut cases = vec![
        large(send(&"x".repeat(16_385), Value::Null), "16385 bytes, 16384 are allowed"),
        large(send(&format!("{}x", "€".repeat(5_462)), Value::Null), "16387 bytes"),
        large(send(&"😀".repeat(4_097), Value::Null), "16388 bytes"),
        large(send("x", data), "4097 bytes, 4096 are allowed"),
        named(&nested, "nested"),
        Bad(format!(r#"{{"ref":"r-1",{signal}}}"#), TooLarge, Some("r-1"), "4097 bytes"),
    ];
    for conversation in ["dm:other:somebody", "room:nowhere"] {
        let text =
            json!({"type": "message", "conversation": conversation, "message": "x", "ref": "r-1"});
        cases.push(Bad(text.to_string(), NotFound, Some("r-1"), "no such conversation, or you"));
        for (kind, field) in [("ack", "seq"), ("read", "seq"), ("signal", "data")] {
            let value = if field == "seq" { json!(1) } else { json!({"typing": true}) };
            let mut frame = json!({"type": kind, "conversation": conversation, "ref": "r-1"});
            frame[field] = value;
            // Nobody is told whether a room exists: an `ack` or `read` there moves nothing.
            if conversation.starts_with("dm:") || kind == "signal" {
                let says = "no such conversation, or you";
                cases.push(Bad(frame.to_string(), NotFound, Some("r-1"), says));
            }
        }
    }
    cases
}

/// One person says something good, the bad thing and something good in one write.
async fn misbehave(address: &str, user: &str, case: &Bad) -> Result<(), String> {
    let Bad(text, code, reference, says) = case;
    let shown: String = text.chars().take(120).collect();
    let mut socket = Raw::ready(address, &format!("userId={user}")).await;
    let good = |word: &str| {
        let frame = json!({"type": "message", "to": "friend", "message": word, "ref": word});
        raw::text(&frame.to_string())
    };
    socket.write(&[good("before"), raw::text(text), good("after")].concat()).await;
    let (mut sent, mut errors) = (Vec::new(), Vec::new());
    while sent.len() < 2 || errors.is_empty() {
        let said = socket.json().await.ok_or_else(|| format!("{shown}: closed"))?;
        match said["type"].as_str() {
            Some("sent") => sent.push((said["ref"].clone(), said["seq"].clone())),
            Some("error") => errors.push(said),
            Some("delivered") => {}
            _ => return Err(format!("{shown}: {said}")),
        }
    }
    let detail = errors[0]["detail"].as_str().unwrap_or_default().to_owned();
    let mut expected = json!({"type": "error", "code": code.as_str(), "detail": detail});
    expected["retryable"] = json!(false);
    if let Some(reference) = reference {
        expected["ref"] = json!(reference);
    }
    let good = [(json!("before"), json!(1)), (json!("after"), json!(2))];
    // A sentence that says what to do, whatever was sent.
    let sentence = detail.contains(says) && (8..400).contains(&detail.len());
    if errors != [expected] || sent != good || !sentence || !socket.is_open().await {
        let said: String = errors[0].to_string().chars().take(500).collect();
        return Err(format!("{shown}: {said}"));
    }
    Ok(())
}

async fn refused_frames_get_an_error_and_the_socket_stays_open(stack: Stack) {
    let calm = Bystanders::start(&stack).await;
    let mut friend = stack.at("ws3", "friend").await;
    friend.catch_up().await;
    let cases = [no_commands(), bad_fields(), too_large_and_not_there()].concat_all();
    let fronts = [stack.balancer.clone(), stack.servers["ws2"].clone()];
    let mut wrong = Vec::new();
    for (chunk, cases) in cases.chunks(8).enumerate() {
        let all = cases.iter().enumerate().flat_map(|(at, case)| {
            fronts.iter().enumerate().map(move |(front, address)| async move {
                misbehave(address, &format!("bad-{chunk}-{at}-{front}"), case).await
            })
        });
        wrong.extend(join_all(all).await.into_iter().filter_map(Result::err));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mut heard = std::collections::BTreeMap::<String, Vec<(u64, String)>>::new();
    while heard.values().map(Vec::len).sum::<usize>() < cases.len() * fronts.len() * 2 {
        let (from, seq, text) = hear_from(&mut friend).await;
        heard.entry(from).or_default().push((seq, text));
    }
    for (from, heard) in heard {
        let expected = [(1, "before".to_owned()), (2, "after".to_owned())];
        assert_eq!(heard, expected, "{from}: both good ones, once, and nothing of the bad one");
    }
    calm.noticed_nothing(&stack).await;
    stack.stop().await;
}

async fn hear_from(person: &mut Person) -> (String, u64, String) {
    use parlor::client::ServerFrame::{Entry, Signal};
    loop {
        match person.next().await {
            Entry(entry) => return (entry.from, entry.seq, entry.message),
            Signal { from, .. } => panic!("a signal from {from}"),
            _ => {}
        }
    }
}

trait ConcatAll {
    fn concat_all(self) -> Vec<Bad>;
}

impl<const N: usize> ConcatAll for [Vec<Bad>; N] {
    fn concat_all(self) -> Vec<Bad> {
        self.into_iter().flatten().collect()
    }
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
