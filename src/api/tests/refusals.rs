//! Bad input gets a clear answer, whatever it is, and a failing part is told as what it is.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::Request;
use futures_util::stream;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::super::health::{Admin, Health, serve_admin};
use super::super::{ApiOptions, serve};
use super::switched::Trouble;
use super::world::{World, user};
use crate::edge::Edge;
use crate::protocol::ConversationId;
use crate::store::{Head, Record, Store};

const HISTORY: &str = "/v1/conversations/dm:userA:userB/messages?userId=userA";

/// The rows E3 and E9.
#[tokio::test]
async fn bad_urls_are_refused() {
    let world = World::new().await;
    for query in [
        "limit=0",
        "limit=-1",
        "limit=501",
        "limit=1000000000",
        "limit=abc",
        "limit=",
        "limit=1e2",
        "before=-1",
        "before=x",
        "after=1.5",
        "after=18446744073709551616",
        "before=",
        "before=%2B1",
        "before=5&after=2",
        "limit=3&limit=3",
        "before=1&before=1",
        "userId=userA",
        "after=%zz",
        "x=%ff",
    ] {
        world.get(&format!("{HISTORY}&{query}")).await.problem(400, "bad_request");
    }
    let range = world.get(&format!("{HISTORY}&limit=0")).await;
    assert!(range.json["detail"].as_str().unwrap().contains("1 to 500"));
    for path in [
        "/v1/conversations/dm:b:a/messages?userId=a",
        "/v1/conversations/x/messages?userId=a",
        "/v1/conversations/dm:a%23:b/messages?userId=a",
        "/v1/users/a%20b/presence?userId=a",
        "/v1/users/%zz/presence?userId=a",
        "/v1/users/%00/presence?userId=a",
        "/v1/users/%FF/presence?userId=a",
        "/v1/users/%c0%80/conversations?userId=a",
        "/%",
        "/v1/users/..%2f/presence?userId=a",
        "/v1/users/b/presence",
        "/v1/users/b/presence?userId=",
        "/v1/users/b/presence?userId=a%20b",
        "/v1/users/b/presence?userid=a",
    ] {
        world.get(path).await.problem(400, "bad_request");
    }
    let nobody = world.get("/v1/users/b/presence").await;
    assert!(nobody.json["detail"].as_str().unwrap().contains("add ?userId="), "{}", nobody.json);
}

/// The rows E9 and E11.
#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let world = World::new().await;
    for path in [
        "/",
        "/v1",
        "/v2/rooms",
        "/metrics",
        "/healthz",
        "/debug",
        "/admin",
        "/v1/users/a/b/c",
        "/v1/conversations/room:x/messages/",
        "/v1/conversations//messages",
    ] {
        let answer = world.get(path).await;
        assert!(answer.status == 404 || answer.status == 400, "{path} {}", answer.status);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
    }
    for (method, path, allow) in [
        ("GET", "/v1/messages", "POST"),
        ("DELETE", "/v1/rooms", "POST"),
        ("POST", "/v1/servers", "GET,HEAD"),
        ("GET", "/v1/rooms/r/members/u", "PUT,DELETE"),
        ("OPTIONS", "/v1/messages", "POST"),
        ("BREW", "/openapi.json", "GET,HEAD"),
    ] {
        let answer = world.ask(method, path).await;
        answer.problem(405, "bad_request");
        assert_eq!(answer.headers["allow"], allow, "{path}");
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
    }
}

#[tokio::test]
async fn a_plus_in_an_id_is_a_plus() {
    let world = World::new().await;
    for id in ["a+b", "a%2Bb", "a%2bb"] {
        let answer = world.get(&format!("/v1/users/{id}/presence?userId={id}")).await;
        assert_eq!(answer.json["userId"], "a+b", "{id}");
    }
}

fn post(target: &str, media: Option<&str>, body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::builder().method("POST").uri(target);
    if let Some(media) = media {
        request = request.header("content-type", media);
    }
    request.body(body.into()).unwrap()
}

/// The rows E6 and E7, C1 to C6 and C12.
#[tokio::test]
async fn bad_bodies_are_refused() {
    let world = World::new().await;
    let target = "/v1/messages?userId=userA";
    let good = json!({"to": "userB", "message": "Hi"}).to_string();
    for media in [None, Some("text/plain"), Some("application/jsonx"), Some("multipart/form-data")]
    {
        world.call(post(target, media, good.clone())).await.problem(415, "bad_request");
    }
    let mut zipped = post(target, Some("application/json"), good.clone());
    zipped.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    world.call(zipped).await.problem(415, "bad_request");
    let json = Some("application/json; charset=utf-8");
    for body in [
        "",
        "hello",
        "null",
        "[]",
        "1",
        "{}",
        "{}{}",
        "{",
        r#"{"to":"userB"}"#,
        r#"{"to":"userB","message":""}"#,
        r#"{"to":"userB","message":"  "}"#,
        r#"{"to":"userB","message":7}"#,
        r#"{"to":"a b","message":"x"}"#,
        r#"{"message":"x"}"#,
        r#"[null,"userB",null,"x",null,null,null,null,null]"#,
        r#"{"to":"userB","conversation":"room:x","message":"x"}"#,
        r#"{"to":"userB","to":"userB","message":"x"}"#,
        r#"{"to":"userB","message":"x","after":-1}"#,
        r#"{"to":"userB","message":"x","data":[]}"#,
        r#"{"to":"userB","message":"\ud800"}"#,
        &"[".repeat(60_000),
    ] {
        world.call(post(target, json, body.to_owned())).await.problem(400, "bad_request");
    }
    world.call(post(target, json, &b"\xff\xfe"[..])).await.problem(400, "bad_request");
    let long = json!({"to": "userB", "message": "x".repeat(16_385)}).to_string();
    world.call(post(target, json, long)).await.problem(413, "too_large");
    let endless =
        stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 4_096])));
    let endless = Body::from_stream(endless);
    world.call(post(target, json, endless)).await.problem(413, "too_large");
    world.call(post(target, json, " ".repeat(65_537))).await.problem(413, "too_large");
    let foreign = json!({"from": "userC", "to": "userB", "message": "Hi"}).to_string();
    world.call(post(target, json, foreign)).await.problem(403, "forbidden");
}

#[tokio::test]
async fn bad_keys_and_rooms_are_refused() {
    let world = World::new().await;
    let good = json!({"to": "userB", "message": "Hi"}).to_string();
    for key in ["", "a b", "~1", &"x".repeat(65), "\"", "é"] {
        let mut request = post("/v1/messages?userId=userA", Some("application/json"), good.clone());
        let value = axum::http::HeaderValue::from_bytes(key.as_bytes()).unwrap();
        request.headers_mut().insert("idempotency-key", value);
        world.call(request).await.problem(400, "bad_request");
    }
    let rooms = "/v1/rooms?userId=userA";
    let many: Vec<String> = (0..257).map(|n| format!("u{n}")).collect();
    for body in [
        json!([]),
        json!(["r", "Room", false, []]),
        json!({"room": "a b"}),
        json!({"members": ["a b"]}),
        json!({"public": "yes"}),
        json!({"members": many}),
        json!({"title": 1}),
    ] {
        world.post(rooms, None, &body).await.problem(400, "bad_request");
    }
    let title = json!({"title": "x".repeat(257)});
    world.post(rooms, None, &title).await.problem(413, "too_large");
}

/// The row E10, and what fails in the process itself.
#[tokio::test]
async fn a_failing_part_is_never_an_empty_list() {
    let limit = Duration::from_millis(200);
    let options = ApiOptions { request_timeout: limit, ..ApiOptions::default() };
    let world = World::with(options.clone()).await;
    world.put("userA", "userB", "Hi").await;
    let targets = [
        HISTORY,
        "/v1/users/userA/conversations?userId=userA",
        "/v1/users/userB/presence?userId=userA",
    ];
    for target in targets {
        world.store.switch.set(Trouble::Down);
        world.get(target).await.problem(503, "unavailable");
        world.store.switch.set(Trouble::Hang);
        world.get(target).await.problem(503, "unavailable");
        world.store.switch.set(Trouble::Panic);
        world.get(target).await.problem(500, "unavailable");
        world.store.switch.set(Trouble::None);
        assert_eq!(world.get(target).await.status, 200);
    }
    let never = stream::pending::<Result<Bytes, std::io::Error>>();
    let slow =
        post("/v1/messages?userId=userA", Some("application/json"), Body::from_stream(never));
    world.call(slow).await.problem(408, "bad_request");
    let refused = super::super::exposition(std::slice::from_ref(&world.chat.metrics));
    assert!(refused.contains("parlor_refused_total{process=\"api-1\",outcome=\"unavailable\"} 9"));
}

#[tokio::test]
async fn answers_are_kept_by_no_cache() {
    let world = World::new().await;
    for target in [HISTORY, "/nowhere", "/openapi.json"] {
        let answer = world.get(target).await;
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    }
}

async fn talk(stream: &mut TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(5), read).await.expect("the server closes").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_real_listener_bounds_connections_in_number_and_time() {
    let options = ApiOptions {
        header_timeout: Duration::from_millis(300),
        connections_max: 2,
        ..ApiOptions::default()
    };
    let world = World::with(options.clone()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(world.chat.clone(), None, listener, options, stop.clone()));
    // Two half requests hold both places; the third is served once their time is over.
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /v1/servers HTTP/1.1\r\nHost: x\r\n").await.unwrap();
        slow.push(stream);
    }
    let mut third = TcpStream::connect(address).await.unwrap();
    let request = "GET /v1/servers HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert!(talk(&mut third, request).await.starts_with("HTTP/1.1 200 OK"));
    let mut garbage = TcpStream::connect(address).await.unwrap();
    assert!(talk(&mut garbage, "\x16\x03\x01 hello\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    let mut long = TcpStream::connect(address).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(8_192));
    let answer = talk(&mut long, &head).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), serving).await.expect("stops").unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_admin_address_tells_health_and_metrics() {
    let world = World::new().await;
    let health = Health::new(vec![world.chat.metrics.clone()]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let admin = Admin { edge: Edge::open(), auth: None, chat: None };
    let serving = tokio::spawn(serve_admin(listener, health.clone(), admin, stop.clone()));
    let get = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        talk(&mut stream, &request).await
    };
    assert!(get("/healthz").await.starts_with("HTTP/1.1 200 OK"));
    assert!(get("/readyz").await.starts_with("HTTP/1.1 503"));
    health.ready();
    health.shared("redis", Some("no answer in 250 ms".into()));
    let ready = get("/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200 OK") && ready.contains("no answer in 250 ms"));
    health.draining();
    assert!(get("/readyz").await.starts_with("HTTP/1.1 503"));
    let metrics = get("/metrics").await;
    assert!(metrics.contains("text/plain; version=0.0.4"));
    assert!(metrics.contains("\nparlor_sockets{process=\"api-1\"} 0\n"), "{metrics}");
    assert!(get("/nowhere").await.contains("application/problem+json"));
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), serving).await.expect("stops").unwrap();
}

/// A first try may end between the head and the joins: its creator makes good for it.
#[tokio::test]
async fn the_making_of_a_room_may_be_repeated() {
    let world = World::new().await;
    let conversation = ConversationId::parse("room:half").unwrap();
    let (creator, title) = (Some(user("userA")), Some("Half".to_owned()));
    let head = Head { floor: 0, title, creator, public: false, created: 5 };
    world.store.write(Record::Head(conversation, head)).await.unwrap();
    let body = json!({"room": "half", "title": "Half", "members": ["userB"]});
    for _ in 0..2 {
        let made = world.post("/v1/rooms?userId=userA", None, &body).await;
        assert_eq!(made.status, 201, "{}", made.json);
        assert_eq!(made.json["created"], 5);
    }
    let page = world.get("/v1/conversations/room:half/messages?userId=userA").await;
    let joined = page.json["messages"].as_array().unwrap();
    assert_eq!(joined.len(), 2, "{joined:?}");
    assert!(joined.iter().all(|entry| entry["type"] == "joined"), "{joined:?}");
    let other = json!({"room": "half", "title": "Whole"});
    world.post("/v1/rooms?userId=userA", None, &other).await.problem(400, "bad_request");
    world.post("/v1/rooms?userId=userB", None, &body).await.problem(400, "bad_request");
}
