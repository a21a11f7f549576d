//! The classic holes, from outside: smuggling through the balancer, climbing out of the page,
//! reaching into Redis by an id.
//!
//! Elsewhere: what is forged or heard again on the bus (`it::bus_key`), slow heads, bodies and
//! frames, deep JSON, offered compression, lines for the log, ids that differ by case or form of
//! Unicode (`tests/corpus`).

use std::time::Duration;

use parlor::protocol::{Ref, Token};
use serde_json::json;

use crate::auth::{Guarded, token};
use crate::harness::{Listening, Parts, Stack, eventually};
use crate::raw::{Answer, Raw, request, upgrade_head};

const VICTIM: &str = "victim";
const JSON: &str = "Content-Type: application/json\r\n";

/// What must not be done: a message in the victim's name.
fn smuggled() -> String {
    let body = json!({"to": VICTIM, "message": "smuggled"}).to_string();
    let length = body.len();
    format!(
        "POST /v1/messages?userId={VICTIM} HTTP/1.1\r\nHost: localhost\r\n{JSON}\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// A fleet where real parts are there, so that the balancer dials; else everything in one process.
async fn stack() -> Stack {
    match Stack::start(Parts::Fleet).await {
        Some(stack) => stack,
        None => Stack::start(Parts::Embedded).await.unwrap(),
    }
}

/// All answers on a connection until it ends or rests.
async fn answers(address: &str, bytes: &[u8]) -> Vec<Answer> {
    let mut raw = Raw::dial(address).await;
    raw.write(bytes).await;
    let mut all = Vec::new();
    let resting = async {
        while let Some(answer) = raw.answer().await {
            all.push(answer);
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(3), resting).await;
    all
}

/// Lengths that two readers could understand in two ways: refused, or what follows is a body.
fn disputed_lengths() -> Vec<String> {
    let inner = smuggled();
    let inside = format!("0\r\n\r\n{inner}");
    let all = inside.len();
    let both = |first: &str, second: &str| format!("{first}\r\n{second}\r\n");
    let length = format!("Content-Length: {all}");
    let mut cases = vec![
        both(&length, "Transfer-Encoding: chunked"),
        both("Transfer-Encoding: chunked", &length),
        both("Content-Length: 0", &length),
        both(&length, "Content-Length: 0"),
        format!("Content-Length: {all}, 0\r\n"),
        format!("Content-Length: +{all}\r\n"),
        format!("Content-Length: 0x{all:x}\r\n"),
        "Content-Length: -1\r\n".to_owned(),
        "Content-Length:\r\n".to_owned(),
        "Content-Length: 0\r\nContent-Length : 5\r\n".to_owned(),
    ];
    for coding in ["xchunked", "chunked, identity", "identity", "chunked\u{b}", "\"chunked\"", "x"]
    {
        cases.push(both(&length, &format!("Transfer-Encoding: {coding}")));
        cases.push(format!("Transfer-Encoding: {coding}\r\n"));
    }
    cases.push(both("Transfer-Encoding : chunked", &length));
    cases.push(both("Transfer-Encoding: chunked", "Transfer-Encoding: identity"));
    cases.push(both("X: y\rTransfer-Encoding: chunked", &length));
    cases.push(both("Transfer_Encoding: chunked", &length));
    let head = |lines: &str| {
        format!(
            "POST /v1/messages?userId=attacker HTTP/1.1\r\nHost: localhost\r\n{JSON}{lines}\r\n"
        )
    };
    let whole = cases.iter().map(|lines| format!("{}{inside}", head(lines)));
    let mut whole: Vec<String> = whole.collect();
    // A chunk whose length is disputed.
    for chunk in
        ["0;a=b\r\n\r\n", "00000000000000000\r\n\r\n", "0x0\r\n\r\n", "-1\r\n\r\n", "0\n\n"]
    {
        whole.push(format!("{}{chunk}{inner}", head("Transfer-Encoding: chunked\r\n")));
    }
    whole
}

/// Request in request: one answer, and nothing is done that the balancer did not see as a request
/// of its own.
#[tokio::test]
async fn nothing_is_smuggled_through_the_balancer() {
    let stack = stack().await;
    for case in disputed_lengths() {
        let head = case.split("\r\n\r\n").next().unwrap().to_owned();
        let all = answers(&stack.balancer, case.as_bytes()).await;
        assert!(
            !all.is_empty() && all.iter().all(|answer| answer.status != 201),
            "{head}: {all:?}"
        );
        let kept = stack.history(VICTIM, &format!("dm:{VICTIM}:{VICTIM}")).await;
        assert!(kept.is_empty(), "{head}: {all:?}");
    }
    // The same request by itself is a good one, or the above would mean nothing.
    let plain = request(&stack.balancer, smuggled()).await.unwrap();
    assert_eq!(plain.status, 201, "{plain:?}");
    stack.stop().await;
}

/// What stands behind an upgrade that is refused is read by nobody, and what stands behind one that
/// is not is frames, for both. An upgrade of anything but `/ws` is none.
#[tokio::test]
async fn what_follows_an_upgrade_is_no_request() {
    let stack = stack().await;
    let inner = smuggled();
    let ready = "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let refused = upgrade_head("userId=a", "").replace("Version: 13", "Version: 12");
    for behind in [inner.as_str(), ready] {
        let all = answers(&stack.balancer, format!("{refused}{behind}").as_bytes()).await;
        assert_eq!(all.iter().map(|a| a.status).collect::<Vec<_>>(), [426], "{all:?}");
        let mut open = Raw::dial(&stack.balancer).await;
        open.write(format!("{}{behind}", upgrade_head("userId=a", "")).as_bytes()).await;
        assert_eq!(open.head().await.unwrap().status, 101);
        assert_eq!(open.closed().await.0, Some(1002), "these are no frames");
    }
    // A page first, then an upgrade on the same connection: the balancer deals no second time, and
    // a client that comes back, by a connection of its own, gets in.
    let page = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let second = format!("{page}{}", upgrade_head("userId=a", ""));
    let all = answers(&stack.balancer, second.as_bytes()).await;
    assert_eq!(all.iter().map(|a| a.status).collect::<Vec<_>>(), [200, 503], "{all:?}");
    assert_eq!(all[1].header("connection"), Some("close"), "{all:?}");
    // An upgrade of what the API answers: it sees a plain request, and nothing is spliced.
    for target in ["/v1/servers", "/openapi.json", "/v1/connect?userId=a", "/"] {
        let head = upgrade_head("", "").replace("/ws?", target);
        let all = answers(&stack.balancer, format!("{head}{inner}").as_bytes()).await;
        assert!(all[0].status == 200 && all.iter().all(|a| a.status != 101), "{target}: {all:?}");
        assert!(all[0].header("upgrade").is_none(), "{target}: {all:?}");
    }
    let h2c = "GET /v1/servers HTTP/1.1\r\nHost: localhost\r\n\
               Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
               HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    let all = answers(&stack.balancer, h2c.as_bytes()).await;
    assert_eq!(all.iter().map(|a| a.status).collect::<Vec<_>>(), [200], "{all:?}");
    stack.stop().await;
}

/// A target with a host in it goes where every other goes: the balancer fetches nothing for others.
#[tokio::test]
async fn the_balancer_is_nobodys_proxy() {
    let stack = stack().await;
    let trap = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = trap.local_addr().unwrap();
    for (method, target) in [
        ("GET", format!("http://{at}/v1/servers")),
        ("GET", format!("//{at}/v1/servers")),
        ("GET", format!("/v1/@{at}/servers")),
        ("GET", format!("@{at}/v1/servers")),
        ("GET", format!("/v1/servers@{at}")),
        ("CONNECT", at.to_string()),
        ("GET", format!("/v1/..//{at}/")),
    ] {
        let line = format!("{method} {target} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
        for answer in answers(&stack.balancer, line.as_bytes()).await {
            assert!([200, 400, 404, 405].contains(&answer.status), "{target}: {answer:?}");
        }
    }
    let called = tokio::time::timeout(Duration::from_millis(200), trap.accept()).await;
    assert!(called.is_err(), "somebody was called: {called:?}");
    stack.stop().await;
}

/// Paths are names: nothing of the machine, and nothing that is not of the page.
#[tokio::test]
async fn nobody_climbs_out_of_the_page() {
    let stack = Stack::start(Parts::Embedded).await.unwrap();
    for path in [
        "/../Cargo.toml",
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/..%5c..%5cetc%5cpasswd",
        "/%252e%252e/etc/passwd",
        "//etc/passwd",
        "/etc/passwd",
        "/./app.js",
        "/app.js/",
        "/app.js%00.html",
        "/app.js/../style.css",
        "/style.css/../../etc/passwd",
        "/web/app.js",
        "/.git/config",
        "/APP.JS",
        "/index.html/..",
        "/proc/self/environ",
        "/v1/../app.js",
        "/parlor-data/parlor.sqlite",
        "/;/app.js",
        "/app.js;x",
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = request(&stack.balancer, head).await.expect(path);
        assert!([400, 404].contains(&answer.status), "{path}: {answer:?}");
        let media = answer.header("content-type");
        assert_eq!(media, Some("application/problem+json"), "{path}: {answer:?}");
        assert!(!answer.text().contains(path), "what was asked for is not written back");
    }
    stack.stop().await;
}

/// Compression is offered by both sides' means, and never taken up.
#[tokio::test]
async fn nothing_is_compressed() {
    let stack = Stack::start(Parts::Embedded).await.unwrap();
    for target in ["/", "/app.js", "/v1/servers", "/openapi.json"] {
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\n\
             Accept-Encoding: gzip, br, zstd\r\nTE: gzip\r\nConnection: close, TE\r\n\r\n"
        );
        let answer = request(&stack.balancer, head).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-encoding"), None, "{target}");
        assert_eq!(answer.header("transfer-encoding"), None, "{target}");
    }
    stack.stop().await;
}

/// Ids that would be part of a command, a pattern, a slot or another's key.
const INJECTIONS: [&str; 14] = [
    "INJ:a",
    "INJ a",
    "{INJ}a",
    "INJ*",
    "INJ?",
    "INJ[a]",
    "INJ#a",
    "INJ/a",
    "INJ\r\nSET pwned 1\r\n",
    "INJ\nFLUSHALL\n",
    "INJ\0a",
    "INJ\"]}",
    "INJ\u{e9}",
    "INJ\\u0000",
];

fn encoded(id: &str) -> String {
    id.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

#[tokio::test]
async fn no_id_reaches_into_redis() {
    let Some(stack) = Stack::start(Parts::Real).await else { return };
    no_id_reaches(stack, "").await;
}

#[tokio::test]
async fn no_id_reaches_into_redis_behind_a_prefix() {
    let options = ["--redis-prefix", "chat:"];
    let Some(stack) = Stack::start_with(Parts::Real, &options).await else { return };
    no_id_reaches(stack, "chat:").await;
}

/// Each id at each door: refused, and Redis has heard nothing of it, nor has the table.
async fn no_id_reaches(stack: Stack, prefix: &str) {
    let redis = stack.redis.as_ref().unwrap();
    let heard = redis.listen(&["MONITOR"]);
    let mut socket = Raw::ready(&stack.balancer, "userId=attacker").await;
    let long = format!("INJ{}", "x".repeat(20_000));
    for id in INJECTIONS.into_iter().chain([long.as_str()]) {
        let short = if id.len() > 4_000 { &id[..4_000] } else { id };
        let url = encoded(&short[..short.len().min(2_000)]);
        for target in [
            format!("/v1/users/{url}/presence?userId=attacker"),
            format!("/v1/users/attacker/conversations?userId={url}"),
            format!("/v1/conversations/room:{url}/messages?userId=attacker"),
            format!("/v1/connect?userId={url}"),
        ] {
            let head =
                format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            let answer = request(&stack.balancer, head).await.unwrap();
            assert_eq!(answer.status, 400, "{id:?} at {target}: {}", answer.text());
        }
        for query in [format!("userId={url}"), format!("userId=attacker&device={url}")] {
            let answer = request(&stack.balancer, upgrade_head(&query, "")).await.unwrap();
            assert_eq!(answer.status, 400, "{id:?} as {query}");
        }
        for body in [
            json!({"to": id, "message": "x"}),
            json!({"conversation": format!("room:{id}"), "message": "x"}),
            json!({"conversation": format!("dm:{id}:{id}"), "message": "x"}),
        ] {
            let mut frame = body.clone();
            frame["type"] = json!("message");
            socket.text(&frame.to_string()).await;
            let code = socket.wait_for(|said| said.get("code").cloned()).await;
            assert_eq!(code, "bad_request", "{id:?} as {frame}");
            posted(&stack, "/v1/messages", &body.to_string(), 400).await;
        }
        let members = json!({"members": [short]}).to_string();
        posted(&stack, "/v1/rooms", &members, 400).await;
        posted(&stack, "/v1/rooms", &json!({"room": short}).to_string(), 400).await;
        // Some of them are refs like any other.
        if Ref::parse(id).is_err() {
            let frame = json!({"type": "message", "to": "attacker", "message": "x", "ref": id});
            socket.text(&frame.to_string()).await;
            let code = socket.wait_for(|said| said.get("code").cloned()).await;
            assert_eq!(code, "bad_request", "{id:?} as a ref");
            let body = json!({"to": "attacker", "message": "x"}).to_string();
            let more = format!("Idempotency-Key: {short}\r\n");
            posted_with(&stack, "/v1/messages", &more, &body, 400).await;
        }
    }
    nothing_reached(&stack, &heard).await;
    // What is allowed stays within its own key, whatever a pattern would make of it.
    let odd = "a+b=c~d@e.f|g-h_i";
    let _open = Raw::ready(&stack.balancer, &format!("userId={}", encoded(odd))).await;
    let key = format!("{prefix}user:{odd}");
    let claimed = async || redis.cli(&["GET", &key]).contains("\"server\":").then_some(());
    eventually("it has its own entry", claimed).await;
    let keys = redis.cli(&["KEYS", "*"]);
    assert!(keys.lines().all(|key| key.starts_with(&format!("{prefix}user:"))), "{keys}");
    stack.stop().await;
}

/// Nothing of it came to Redis, which `heard` has listened to, nor into the table.
async fn nothing_reached(stack: &Stack, heard: &Listening) {
    let redis = stack.redis.as_ref().unwrap();
    redis.settle(heard);
    let said = heard.with(&["INJ"]);
    assert!(said.is_empty(), "{said:?}");
    assert_eq!(redis.cli(&["EXISTS", "pwned"]), "0");
    // The board's rows and the attacker's own are there, or this would look in the wrong place.
    let items = stack.all_items().await.unwrap();
    assert!(items.iter().any(|item| format!("{item:?}").contains("attacker")), "{items:?}");
    let reached: Vec<_> = items.iter().filter(|item| format!("{item:?}").contains("INJ")).collect();
    assert!(reached.is_empty(), "{reached:?}");
}

/// The same by what comes with tokens: whom one names, whom a service acts for, whose tokens an
/// admin takes back.
#[tokio::test]
async fn no_id_of_a_token_reaches_into_redis() {
    let Some(guarded) = Guarded::start(Parts::Real, &[]).await else { return };
    let stack = &guarded.stack;
    let redis = stack.redis.as_ref().unwrap();
    let heard = redis.listen(&["MONITOR"]);
    let bearer = |token: Token| format!("Authorization: Bearer {}\r\n", token.reveal());
    let own = bearer(token("attacker", json!({})));
    let service = bearer(token("backend", json!({"scope": "service"})));
    let admin = bearer(token("root", json!({"scope": "admin"})));
    let plain = |method: &str, target: &str, more: &str| {
        format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n")
    };
    let mine = "/v1/users/attacker/conversations";
    for id in INJECTIONS {
        let sub = bearer(token(id, json!({})));
        for address in [&stack.api, &stack.balancer] {
            let answer = request(address, plain("GET", mine, &sub)).await.unwrap();
            assert_eq!(answer.status, 401, "{id:?} as sub: {}", answer.text());
            let revoke = format!("/v1/users/{}/revoke", encoded(id));
            let more = format!("{admin}{JSON}Content-Length: 2\r\n");
            let answer = request(address, plain("POST", &revoke, &more) + "{}").await.unwrap();
            assert_eq!(answer.status, 400, "{id:?} is taken back: {}", answer.text());
            let more = format!("{service}On-Behalf-Of: {id}\r\n");
            let answer = request(address, plain("GET", mine, &more)).await.unwrap();
            assert_eq!(answer.status, 400, "for {id:?}: {}", answer.text());
        }
        for address in [&stack.balancer, &stack.servers["ws1"]] {
            let answer = request(address, upgrade_head("", &sub)).await.unwrap();
            assert_eq!(answer.status, 401, "{id:?} as sub of a socket: {}", answer.text());
        }
    }
    let open = opened(&stack.balancer, &own).await;
    nothing_reached(stack, &heard).await;
    drop(open);
    guarded.stack.stop().await;
}

/// A socket by these lines of its head.
async fn opened(address: &str, lines: &str) -> Raw {
    let mut raw = Raw::dial(address).await;
    raw.write(upgrade_head("", lines).as_bytes()).await;
    assert_eq!(raw.head().await.unwrap().status, 101);
    while raw.json().await.expect("caughtup")["type"] != "caughtup" {}
    raw
}

async fn posted(stack: &Stack, path: &str, body: &str, status: u16) {
    posted_with(stack, path, "", body, status).await;
}

async fn posted_with(stack: &Stack, path: &str, more: &str, body: &str, status: u16) {
    let length = body.len();
    let head = format!(
        "POST {path}?userId=attacker HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{JSON}\
         {more}Content-Length: {length}\r\n\r\n{body}"
    );
    let answer = request(&stack.api, head).await.unwrap();
    let case: String = body.chars().take(80).collect();
    assert_eq!(answer.status, status, "{case}: {}", answer.text());
}
