//! Every route and every frame, without a token, with a foreign one, an ended one, and right ones.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::{Duration, Instant};

use parlor::protocol::Sizes;
use parlor::protocol::frame::ClientFrame;
use serde_json::{Value, json};

use super::{FOREIGN, Guarded, now, signed, token};
use crate::harness::{Parts, SOON, Stack};
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
    let body = match (method, target.split('?').next().unwrap()) {
        ("POST", "/v1/rooms") => json!({"room": "walk"}),
        ("POST", _) => json!({"to": "userB", "message": "Hi"}),
        _ => Value::Null,
    };
    ask_with(address, method, target, token, &body).await
}

async fn ask_with(
    address: &str,
    method: &str,
    target: &str,
    token: Option<&str>,
    body: &Value,
) -> Answer {
    let bearer = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{bearer}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    request(address, head).await.expect("an answer")
}

fn challenged(answer: &Answer) {
    let challenge = answer.header("www-authenticate").unwrap_or_default();
    assert!(challenge.starts_with("Bearer "), "{answer:?}");
    assert_eq!(answer.json()["code"], "unauthorized");
}

/// A row of the matrix: what each of the columns gets.
async fn row(address: &str, method: &str, target: &str) -> Vec<u16> {
    let tokens = tokens();
    let mut row = Vec::new();
    for column in COLUMNS {
        let answer = ask(address, method, target, tokens[column].as_deref()).await;
        if answer.status == 401 {
            challenged(&answer);
        }
        row.push(answer.status);
    }
    row
}

/// Past the capture of the test harness: it is to be seen in every run.
fn print(name: &str, row: &[impl std::fmt::Display]) {
    let cells: String = row.iter().map(|cell| format!("{cell:>13}")).collect();
    let _ = std::io::stderr().write_all(format!("matrix: {name:<70}{cells}\n").as_bytes());
}

/// The routes that stand in the source: a line of the router is one of the API, documented or not.
fn written_routes() -> BTreeSet<(String, String)> {
    let (_, source) = include_str!("../../../src/api/mod.rs").split_once("pub fn router(").unwrap();
    let (source, _) = source.split_once("\n}\n").unwrap();
    assert!(!["merge(", "nest(", "route_service("].iter().any(|other| source.contains(other)));
    let mut routes = BTreeSet::new();
    for route in source.split(".route(").skip(1) {
        let (path, handlers) = route.split_once("\", ").expect(route);
        let handlers = handlers.split(".route(").next().unwrap();
        for method in ["get", "post", "put", "delete", "patch", "any", "head", "options"] {
            let (first, chained) = (format!("{method}("), format!(".{method}("));
            if handlers.starts_with(&first) || handlers.contains(&chained) {
                routes.insert((method.to_uppercase(), path.trim_start_matches('"').to_owned()));
            }
        }
    }
    routes
}

/// What the balancer answers itself to everybody: the page, file by file, and how it is. Every path
/// that stands in its source is one of these, or has a line of its own in the matrix.
fn open_paths() -> BTreeSet<String> {
    let web = concat!(env!("CARGO_MANIFEST_DIR"), "/web");
    let files = std::fs::read_dir(web).unwrap().map(|file| file.unwrap().file_name());
    let mut open: BTreeSet<String> =
        files.map(|name| format!("/{}", name.to_str().unwrap())).collect();
    open.extend(["/", "/healthz", "/readyz", "/openapi.json"].map(str::to_owned));
    let sources = [
        include_str!("../../../src/balancer/front.rs"),
        include_str!("../../../src/balancer/page.rs"),
    ];
    let quoted = sources.iter().flat_map(|source| source.split('"').skip(1).step_by(2));
    let written: BTreeSet<_> =
        quoted.filter(|text| text.starts_with('/')).map(str::to_owned).collect();
    let mut known = open.clone();
    known.extend(["/ws", "/v1/", "/v1/connect"].map(str::to_owned));
    assert_eq!(written, known, "each path of the balancer is in the matrix");
    open
}

/// Every route with something in the place of its parameters: those that are documented, which are
/// all that there are but for the document itself.
async fn routes(stack: &Stack) -> Vec<(String, String)> {
    let document = ask(&stack.api, "GET", "/openapi.json", None).await.json();
    let mut documented = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let methods = operations.as_object().unwrap().keys();
        documented.extend(methods.map(|method| (method.to_uppercase(), path.clone())));
    }
    let mut written = written_routes();
    assert!(written.remove(&("GET".to_owned(), "/openapi.json".to_owned())), "{written:?}");
    assert_eq!(written, documented, "each route is documented, and so in the matrix");
    let target = |path: String| {
        path.replace("{conversation}", "dm:userA:userB")
            .replace("{room}", "walk")
            .replace("{user}", "userA")
    };
    let routes = documented.into_iter().map(|(method, path)| (method, target(path)));
    let mut routes: Vec<_> = routes.collect();
    // A room must be there before somebody joins it; what ends the tokens of userA comes last.
    routes.sort_by_key(|(_, target)| (target.ends_with("/revoke"), target.contains("members")));
    routes
}

/// What right tokens get: a user what is his own, another's the same as for what is not there, a
/// service what it names, an admin what is about the fleet. Then the same where the request names
/// userA, for whom only he himself and a service may act.
fn rightful(method: &str, target: &str) -> ([u16; 4], [u16; 4]) {
    match (method, target) {
        ("GET", "/v1/users/userA/conversations") => ([200, 404, 200, 403], [200, 403, 200, 403]),
        ("GET", "/v1/users/userA/presence") => ([200, 200, 200, 403], [200, 403, 200, 403]),
        ("GET", "/v1/conversations/dm:userA:userB/messages") => {
            ([200, 404, 404, 403], [200, 403, 200, 403])
        }
        ("POST", "/v1/messages") => ([201, 201, 201, 403], [201, 403, 201, 403]),
        // It is taken, but for who has made it.
        ("POST", "/v1/rooms") => ([201, 400, 400, 403], [201, 403, 201, 403]),
        // The creator has left a moment ago, and comes back.
        ("PUT", "/v1/rooms/walk/members/userA") => ([201, 404, 404, 403], [200, 403, 200, 403]),
        ("DELETE", "/v1/rooms/walk/members/userA") => ([200, 404, 404, 403], [200, 403, 200, 403]),
        ("GET", "/v1/servers") => ([403, 403, 200, 200], [403, 403, 200, 200]),
        _ => panic!("{method} {target} is not in the matrix: say who may ask for it"),
    }
}

#[tokio::test]
async fn nobody_gets_in_anywhere_without_a_right_token() {
    walk(Guarded::start(Parts::Embedded, &[]).await.unwrap()).await;
}

#[tokio::test]
async fn nobody_gets_into_a_fleet_without_a_right_token() {
    let Some(guarded) = Guarded::start(Parts::Fleet, &[]).await else { return };
    walk(guarded).await;
}

async fn walk(guarded: Guarded) {
    let stack = &guarded.stack;
    print("who asks", &COLUMNS);
    let routes = routes(stack).await;
    let (last, routes): (Vec<_>, Vec<_>) =
        routes.into_iter().partition(|(_, target)| target.ends_with("/revoke"));
    for (place, address) in [("API", &stack.api), ("balancer", &stack.balancer)] {
        for (method, target) in &routes {
            let (plain, named) = rightful(method, target);
            for (query, expected) in [("", plain), ("?userId=userA", named)] {
                let row = row(address, method, &format!("{target}{query}")).await;
                print(&format!("{place:<9}{method:<7}{target}{query}"), &row);
                assert_eq!(row[..3], [401, 401, 401], "{method} {target}");
                assert_eq!(row[3..], expected, "{method} {target}{query}");
            }
        }
        own_rooms(place, address).await;
    }
    let connect = row(&stack.balancer, "GET", "/v1/connect").await;
    print("balancer GET    /v1/connect", &connect);
    assert_eq!(connect, [401, 401, 401, 200, 200, 200, 200]);
    for target in open_paths() {
        let open = row(&stack.balancer, "GET", &target).await;
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
    assert!(!last.is_empty());
    for (method, target) in &last {
        // The tokens of somebody else first: those of userA are asked with twice.
        let others = target.replace("userA", "userZ");
        for (place, address, target) in
            [("balancer", &stack.balancer, &others), ("API", &stack.api, target)]
        {
            let row = row(address, method, target).await;
            print(&format!("{place:<9}{method:<7}{target}"), &row);
            assert_eq!(row, [401, 401, 401, 403, 403, 403, 200]);
        }
    }
    guarded.stack.stop().await;
}

/// Each makes a room, and brings in whom he likes: a service too, and it may for others.
async fn own_rooms(place: &str, address: &str) {
    let tokens = tokens();
    let (mut made, mut joined) = (Vec::new(), Vec::new());
    for column in COLUMNS {
        let (token, room) = (tokens[column].as_deref(), format!("{column}-{place}"));
        let body = json!({"room": room});
        made.push(ask_with(address, "POST", "/v1/rooms", token, &body).await.status);
        let member = format!("/v1/rooms/{room}/members/userB");
        joined.push(ask(address, "PUT", &member, token).await.status);
    }
    print(&format!("{place:<9}POST   /v1/rooms of one's own"), &made);
    print(&format!("{place:<9}PUT    /v1/rooms/{{own}}/members/userB"), &joined);
    assert_eq!(made, [401, 401, 401, 201, 201, 201, 403]);
    assert_eq!(joined, [401, 401, 401, 201, 201, 201, 403]);
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

/// Every kind of frame once: a new one does not compile without a line, and a line is a kind that
/// the tests ask for.
macro_rules! kinds {
    ($($kind:literal: $pattern:pat,)+) => {
        pub const KINDS: &[&str] = &[$($kind),+];

        pub fn kind(frame: &ClientFrame) -> &'static str {
            match frame {
                $($pattern => $kind,)+
            }
        }
    };
}
kinds! {
    "message": ClientFrame::Message(_),
    "ack": ClientFrame::Ack { .. },
    "read": ClientFrame::Read { .. },
    "signal": ClientFrame::Signal { .. },
    "ping": ClientFrame::Ping { .. },
    "auth": ClientFrame::Auth { .. },
}

/// The ref of the ping right behind a frame.
const BEHIND: &str = "behind";

/// What is said to it: nothing, a frame of this type, or an error of this code.
type Told = &'static str;

/// Every kind of frame, with what is told to userA, to userC, who has no part in what it is about,
/// and to a service, which is a user of its own.
fn every_frame() -> Vec<(&'static str, Value, [Told; 3])> {
    let fresh = token("userA", json!({}));
    let (ours, strangers) = ("dm:userA:userB", ["nothing", "not_found", "not_found"]);
    let place = |kind| json!({"type": kind, "conversation": ours, "seq": 1});
    vec![
        ("message", json!({"type": "message", "to": "userB", "message": "in"}), ["sent"; 3]),
        (
            "message there",
            json!({"type": "message", "conversation": ours, "message": "in"}),
            ["sent", "not_found", "not_found"],
        ),
        ("ack", place("ack"), strangers),
        ("read", place("read"), strangers),
        ("signal", json!({"type": "signal", "to": "userB", "data": {"a": 1}}), ["nothing"; 3]),
        (
            "signal there",
            json!({"type": "signal", "conversation": ours, "data": {"a": 1}}),
            strangers,
        ),
        ("ping", json!({"type": "ping"}), ["pong"; 3]),
        (
            "auth",
            json!({"type": "auth", "token": fresh.reveal()}),
            ["authed", "unauthorized", "unauthorized"],
        ),
    ]
}

/// What a socket says to a frame that came right behind its head. That nothing is said is known
/// after three pings; what is to be said is waited for.
async fn told(raw: &mut Raw, frame: &Value, expected: Told) -> String {
    // Catching up and receipts go on beside it.
    let beside =
        ["welcome", "caughtup", "message", "joined", "left", "delivered", "read", "signal"];
    let mut told = Vec::new();
    // What reads the store may be answered behind a ping, but not behind several of them, each of
    // which waits for the one before.
    let until = Instant::now() + SOON;
    for turn in 0.. {
        let waits = expected != "nothing" && told.is_empty() && Instant::now() < until;
        if turn >= 3 && !waits {
            break;
        }
        let reference = if turn == 0 { BEHIND.to_owned() } else { format!("{BEHIND}-{turn}") };
        if turn > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            raw.text(&json!({"type": "ping", "ref": reference}).to_string()).await;
        }
        loop {
            let said = raw.json().await.unwrap_or_else(|| panic!("closed by {frame}: {told:?}"));
            if said["type"] == "pong" && said["ref"] == reference {
                break;
            }
            if !beside.contains(&said["type"].as_str().unwrap()) {
                told.push(said);
            }
        }
    }
    match &told[..] {
        [] => "nothing".to_owned(),
        [one] if one["type"] == "error" => one["code"].as_str().unwrap().to_owned(),
        [one] => one["type"].as_str().unwrap().to_owned(),
        more => panic!("{frame}: {more:?}"),
    }
}

/// Frames that come right behind a refused request, as a browser's script might send them: nothing
/// of it is heard. With a right token each is answered as whoever has sent it may expect.
async fn frames(stack: &Stack) {
    let stored = async || {
        let good = token("userB", json!({}));
        let target = "/v1/conversations/dm:userA:userB/messages";
        let page = ask(&stack.api, "GET", target, Some(good.reveal())).await.json();
        page["messages"].as_array().unwrap().len()
    };
    let tokens = tokens();
    let (before, mut kinds) = (stored().await, BTreeSet::new());
    for (name, frame, [user, other, service]) in every_frame() {
        kinds.insert(kind(&ClientFrame::parse(&frame.to_string(), &Sizes::MOST).unwrap()));
        let mut row = Vec::new();
        for column in COLUMNS {
            let token = tokens[column].as_deref();
            let mut raw = Raw::dial(&stack.servers["ws1"]).await;
            let mut bytes = upgrade_head("device=walk", &carried(token, true)).into_bytes();
            bytes.extend(text(&frame.to_string()));
            bytes.extend(text(&json!({"type": "ping", "ref": BEHIND}).to_string()));
            raw.write(&bytes).await;
            assert_eq!(raw.head().await.expect("an answer").status, 101);
            if ["none", "foreign", "ended", "admin"].contains(&column) {
                let (code, said) = raw.closed().await;
                assert_eq!((code, said.len()), (Some(4_401), 1), "{name} {column}: {said:?}");
                row.push("4401".to_owned());
                continue;
            }
            let expected = match column {
                "user" => user,
                "other" => other,
                _ => service,
            };
            row.push(told(&mut raw, &frame, expected).await);
        }
        print(&format!("server   frame  {name}"), &row);
        assert_eq!(row, ["4401", "4401", "4401", user, other, service, "4401"], "{name}");
    }
    assert_eq!(kinds, KINDS.iter().copied().collect(), "each kind of frame is in the matrix");
    assert_eq!(stored().await, before + 2, "the user's own two messages, and no other");
}
