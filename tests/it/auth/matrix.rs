//! Every route and every frame, without a token, with a foreign one, an ended one, and right ones.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{FOREIGN, Guarded, now, signed, token};
use crate::harness::{Parts, Stack};
use crate::raw::{Answer, Raw, request, text, upgrade_head};

/// Who asks, in the order of the columns.
const COLUMNS: [&str; 7] = ["none", "foreign", "ended", "user", "other", "service", "admin"];

fn tokens() -> BTreeMap<&'static str, Option<String>> {
    let shown = |token: parlor::protocol::Token| Some(token.reveal().to_owned());
    BTreeMap::from([
        ("none", None),
        ("foreign", shown(signed(FOREIGN, "userA", json!({})))),
        ("ended", shown(token("userA", json!({"exp": now() - 90})))),
        ("user", shown(token("userA", json!({})))),
        ("other", shown(token("userC", json!({})))),
        ("service", shown(token("backend", json!({"scope": "service"})))),
        ("admin", shown(token("root", json!({"scope": "admin"})))),
    ])
}

async fn ask(address: &str, method: &str, target: &str, token: Option<&str>) -> Answer {
    let bearer = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
    let body = match (method, target) {
        ("POST", "/v1/rooms") => json!({"room": "walk"}).to_string(),
        ("POST", _) => json!({"to": "userB", "message": "Hi"}).to_string(),
        _ => String::new(),
    };
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{bearer}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    request(address, head).await.expect("an answer")
}

/// A row of the matrix: what each of the columns gets.
async fn row(address: &str, method: &str, target: &str) -> Vec<u16> {
    let tokens = tokens();
    let mut row = Vec::new();
    for column in COLUMNS {
        let answer = ask(address, method, target, tokens[column].as_deref()).await;
        if answer.status == 401 {
            let challenge = answer.header("www-authenticate").unwrap_or_default();
            assert!(challenge.starts_with("Bearer "), "{target}: {answer:?}");
            assert_eq!(answer.json()["code"], "unauthorized");
        }
        row.push(answer.status);
    }
    row
}

fn print(name: &str, row: &[u16]) {
    let cells: String = row.iter().map(|status| format!("{status:>9}")).collect();
    println!("{name:<62}{cells}");
}

/// Every documented route with something in the place of its parameters.
async fn routes(stack: &Stack) -> Vec<(String, String)> {
    let document = ask(&stack.api, "GET", "/openapi.json", None).await.json();
    let mut routes = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let target = path
            .replace("{conversation}", "dm:userA:userB")
            .replace("{room}", "walk")
            .replace("{user}", "userA");
        for method in operations.as_object().unwrap().keys() {
            routes.push((method.to_uppercase(), target.clone()));
        }
    }
    assert!(routes.len() >= 9, "{routes:?}");
    // A room must be there before somebody joins it.
    routes.sort_by_key(|(_, target)| target.contains("members"));
    routes
}

/// What right tokens get: a user what is his own, another's the same as for what is not there, a
/// service what it names, an admin what is about the fleet.
fn rightful(method: &str, target: &str) -> [u16; 4] {
    match (method, target) {
        ("GET", "/v1/users/userA/conversations") => [200, 404, 200, 403],
        ("GET", "/v1/users/userA/presence") => [200, 200, 200, 403],
        ("GET", "/v1/conversations/dm:userA:userB/messages") => [200, 404, 404, 403],
        ("POST", "/v1/messages") => [201, 201, 201, 403],
        ("POST", "/v1/rooms") => [201, 400, 400, 403],
        // The creator has left a moment ago, and comes back.
        ("PUT", "/v1/rooms/walk/members/userA") => [201, 404, 404, 403],
        ("DELETE", "/v1/rooms/walk/members/userA") => [200, 404, 404, 403],
        ("POST", "/v1/users/userA/revoke") => [403, 403, 403, 200],
        ("GET", "/v1/servers") => [403, 403, 200, 200],
        _ => panic!("{method} {target} is not in the matrix: say who may ask for it"),
    }
}

#[tokio::test]
async fn nobody_gets_in_anywhere_without_a_right_token() {
    let guarded = Guarded::start(Parts::Embedded, &[]).await.unwrap();
    let stack = &guarded.stack;
    let columns: String = COLUMNS.iter().map(|column| format!("{column:>9}")).collect();
    println!("{:<62}{columns}", "who asks");
    let mut routes = routes(stack).await;
    // Last: it ends the tokens of userA.
    routes.sort_by_key(|(_, target)| target.ends_with("/revoke"));
    for (place, address) in [("API", &stack.api), ("balancer", &stack.balancer)] {
        for (method, target) in &routes {
            if target.ends_with("/revoke") {
                continue;
            }
            let row = row(address, method, target).await;
            print(&format!("{place:<9}{method:<7}{target}"), &row);
            assert_eq!(row[..3], [401, 401, 401], "{method} {target}");
            assert_eq!(row[3..], rightful(method, target), "{method} {target}");
        }
    }
    let connect = row(&stack.balancer, "GET", "/v1/connect").await;
    print("balancer GET    /v1/connect", &connect);
    assert_eq!(connect, [401, 401, 401, 200, 200, 200, 200]);
    for target in ["/", "/app.js", "/healthz", "/readyz", "/openapi.json"] {
        let open = row(&stack.balancer, "GET", target).await;
        print(&format!("balancer GET    {target}"), &open);
        assert_eq!(open, [200; 7], "{target} is for everybody");
    }
    for (place, address) in [("balancer", &stack.balancer), ("server", &stack.servers["ws1"])] {
        for browser in [false, true] {
            let row = sockets(address, browser).await;
            let kind = if browser { "as a browser" } else { "by header" };
            print(&format!("{place:<9}/ws    {kind}"), &row);
            let refused = if browser { 4_401 } else { 401 };
            let scope = if browser { 4_401 } else { 403 };
            assert_eq!(row, [refused, refused, refused, 101, 101, 101, scope]);
        }
    }
    frames(stack).await;
    for (method, target) in routes.iter().filter(|(_, target)| target.ends_with("/revoke")) {
        let row = row(&stack.api, method, target).await;
        print(&format!("API      {method:<7}{target}"), &row);
        assert_eq!(row, [401, 401, 401, 403, 403, 403, 200]);
    }
    guarded.stack.stop().await;
}

/// What becomes of a socket: 101 once `welcome` is there, the status, or the code of the close.
async fn sockets(address: &str, browser: bool) -> Vec<u16> {
    let tokens = tokens();
    let mut row = Vec::new();
    for column in COLUMNS {
        let token = tokens[column].as_deref();
        let mut raw = Raw::dial(address).await;
        raw.write(upgrade_head("device=walk", &carried(token, browser)).as_bytes()).await;
        let answer = raw.head().await.expect("an answer");
        if answer.status != 101 {
            row.push(answer.status);
            continue;
        }
        if browser {
            assert_eq!(answer.header("sec-websocket-protocol"), Some("parlor"), "{answer:?}");
        }
        let first = raw.json().await.expect("a first frame");
        if first["type"] == "welcome" {
            row.push(101);
            continue;
        }
        assert_eq!(first["type"], "error");
        let code = if column == "admin" { "forbidden" } else { "unauthorized" };
        assert_eq!(first["code"], code, "{column}");
        row.push(raw.closed().await.0.expect("a close frame"));
    }
    row
}

fn carried(token: Option<&str>, browser: bool) -> String {
    match (token, browser) {
        (None, false) => String::new(),
        (Some(token), false) => format!("Authorization: Bearer {token}\r\n"),
        (None, true) => "Origin: http://localhost\r\nSec-WebSocket-Protocol: parlor\r\n".to_owned(),
        (Some(token), true) => format!(
            "Origin: http://localhost\r\nSec-WebSocket-Protocol: parlor, bearer.{token}\r\n"
        ),
    }
}

/// Every kind of frame, with what a socket answers to it that may say such things.
fn every_frame() -> Vec<(&'static str, Value, &'static str)> {
    let fresh = token("userA", json!({}));
    let conversation = "dm:userA:userB";
    vec![
        ("message", json!({"type": "message", "to": "userB", "message": "in", "ref": "m"}), "sent"),
        ("ack", json!({"type": "ack", "conversation": conversation, "seq": 1, "ref": "a"}), "pong"),
        ("read", json!({"type": "read", "conversation": conversation, "seq": 1}), "pong"),
        ("signal", json!({"type": "signal", "to": "userB", "data": {"a": 1}}), "pong"),
        ("ping", json!({"type": "ping", "ref": "p"}), "pong"),
        ("auth", json!({"type": "auth", "token": fresh.reveal()}), "authed"),
    ]
}

/// Frames that come right behind a refused request, as a browser's script might send them: nothing
/// of it is heard. With a right token each is taken.
async fn frames(stack: &Stack) {
    let stored = async || {
        let good = token("userB", json!({}));
        let target = "/v1/conversations/dm:userA:userB/messages";
        let page = ask(&stack.api, "GET", target, Some(good.reveal())).await.json();
        page["messages"].as_array().unwrap().len()
    };
    let tokens = tokens();
    let before = stored().await;
    for (name, frame, answer) in every_frame() {
        let mut row = Vec::new();
        for column in COLUMNS {
            let token = tokens[column].as_deref();
            let mut raw = Raw::dial(&stack.servers["ws1"]).await;
            let mut bytes = upgrade_head("device=walk", &carried(token, true)).into_bytes();
            bytes.extend(text(&frame.to_string()));
            bytes.extend(text(&json!({"type": "ping", "ref": "behind"}).to_string()));
            raw.write(&bytes).await;
            assert_eq!(raw.head().await.expect("an answer").status, 101);
            if ["none", "foreign", "ended", "admin"].contains(&column) {
                let (code, said) = raw.closed().await;
                assert_eq!((code, said.len()), (Some(4_401), 1), "{name} {column}: {said:?}");
                row.push(4_401);
                continue;
            }
            let mut kinds = Vec::new();
            while let Some(said) = raw.json().await {
                kinds.push(said["type"].as_str().unwrap().to_owned());
                // What reads the store may be answered behind the ping.
                let both = kinds.iter().any(|kind| kind == "pong")
                    && (column != "user" || kinds.iter().any(|kind| kind == answer));
                if both {
                    break;
                }
            }
            row.push(200);
        }
        print(&format!("frame    {name}"), &row);
        assert_eq!(row, [4_401, 4_401, 4_401, 200, 200, 200, 4_401]);
    }
    assert_eq!(stored().await, before + 1, "one message by the user's own frame, and no other");
}
