//! Bad HTTP, at the Message API itself and through the balancer: one shape of refusal.
//!
//! What the API says to each bad parameter stands in `src/api/tests/refusals.rs`; here is what goes
//! over real connections.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parlor::protocol::ErrorCode::{self, *};
use serde_json::json;

use super::{Bystanders, assert_problem};
use crate::harness::{Parts, Stack};
use crate::raw::{Answer, Raw, request};

/// The API itself, and the balancer that forwards to it.
fn fronts(stack: &Stack) -> [String; 2] {
    [stack.api.clone(), stack.balancer.clone()]
}

fn head(method: &str, target: &str, more: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n")
}

fn post(target: &str, more: &str, body: &str) -> String {
    let length = body.len();
    format!("{}{body}", head("POST", target, &format!("Content-Length: {length}\r\n{more}")))
}

const MESSAGES: &str = "/v1/messages?userId=userA";
const JSON: &str = "Content-Type: application/json\r\n";
const HI: &str = r#"{"to":"userB","message":"Hi"}"#;

/// The rows E1, E3, E4, E9 and E11.
fn bad_urls() -> Vec<(String, u16, ErrorCode)> {
    let history = "/v1/conversations/dm:userA:userB/messages?userId=userA";
    let mut cases = Vec::new();
    for query in [
        "limit=0",
        "limit=-1",
        "limit=1000000000",
        "limit=abc",
        "before=5&after=2",
        "before=x",
        "after=18446744073709551616",
        "limit=3&limit=3",
        "after=%zz",
    ] {
        cases.push((head("GET", &format!("{history}&{query}"), ""), 400, BadRequest));
    }
    for (target, status, code) in [
        ("/v1/users/userA/conversations?userId=userA&after=garbage", 400, BadRequest),
        ("/v1/users/a%20b/presence?userId=userA", 400, BadRequest),
        ("/v1/users/%00/presence?userId=userA", 400, BadRequest),
        ("/v1/conversations/nothing/messages?userId=userA", 400, BadRequest),
        ("/v1/conversations/dm:userB:userA/messages?userId=userA", 400, BadRequest),
        ("/v1/conversations/dm:userA:userB/messages", 400, BadRequest),
        ("/v1/conversations/room:nowhere/messages?userId=userA", 404, NotFound),
        ("/v1/conversations/dm:userB:userC/messages?userId=userA", 404, NotFound),
        ("/v1/users/userB/conversations?userId=userA", 404, NotFound),
        ("/v1/nothing", 404, NotFound),
        ("/v1/", 404, NotFound),
        ("/metrics", 404, NotFound),
        ("/debug/pprof", 404, NotFound),
        ("/../etc/passwd", 404, NotFound),
        ("/v1/users/..%2f..%2fetc/presence?userId=userA", 400, BadRequest),
    ] {
        cases.push((head("GET", target, ""), status, code));
    }
    for (method, target) in [
        ("GET", MESSAGES),
        ("DELETE", "/v1/rooms?userId=userA"),
        ("POST", "/v1/servers"),
        ("OPTIONS", MESSAGES),
        ("BREW", "/openapi.json"),
        ("PATCH", "/v1/rooms/r/members/userA?userId=userA"),
    ] {
        cases.push((head(method, target, ""), 405, BadRequest));
    }
    cases
}

/// The rows E6 to E8.
fn bad_bodies() -> Vec<(String, u16, ErrorCode)> {
    let mut cases = Vec::new();
    for (more, body, status, code) in [
        ("", HI, 415, BadRequest),
        ("Content-Type: text/plain\r\n", HI, 415, BadRequest),
        ("Content-Type: application/json\r\nContent-Encoding: gzip\r\n", HI, 415, BadRequest),
        (JSON, "", 400, BadRequest),
        (JSON, "not json", 400, BadRequest),
        (JSON, "[]", 400, BadRequest),
        (JSON, r#"{"to":"userB"}"#, 400, BadRequest),
        (JSON, r#"{"to":"user B","message":"Hi"}"#, 400, BadRequest),
        (JSON, r#"{"to":"userB","message":""}"#, 400, BadRequest),
        (JSON, r#"{"from":"userC","to":"userB","message":"Hi"}"#, 403, Forbidden),
        (JSON, r#"{"conversation":"room:nowhere","message":"Hi"}"#, 404, NotFound),
        (JSON, r#"{"conversation":"dm:x:y","message":"Hi"}"#, 404, NotFound),
        ("Content-Type: application/json\r\nIdempotency-Key: a b\r\n", HI, 400, BadRequest),
        ("Content-Type: application/json\r\nIdempotency-Key: ~1\r\n", HI, 400, BadRequest),
        ("Content-Type: application/json\r\nIdempotency-Key:\r\n", HI, 400, BadRequest),
    ] {
        cases.push((post(MESSAGES, more, body), status, code));
    }
    let twice = format!("{JSON}Idempotency-Key: a\r\nIdempotency-Key: b\r\n");
    cases.push((post(MESSAGES, &twice, HI), 400, BadRequest));
    let long = json!({"to": "userB", "message": "x".repeat(16_385)}).to_string();
    cases.push((post(MESSAGES, JSON, &long), 413, TooLarge));
    cases.push((post(MESSAGES, JSON, &" ".repeat(65_537)), 413, TooLarge));
    // What is announced as too large is not waited for.
    let announced = head("POST", MESSAGES, &format!("Content-Length: 9999999999\r\n{JSON}"));
    cases.push((announced, 413, TooLarge));
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000)).repeat(5);
    let chunked = head("POST", MESSAGES, &format!("Transfer-Encoding: chunked\r\n{JSON}"));
    cases.push((format!("{chunked}{chunk}"), 413, TooLarge));
    cases
}

/// `POST` of a text, a media type, a key, a body that the API does not take; a bad path or query.
#[tokio::test]
async fn bad_requests_get_a_problem() {
    let stack = Stack::start(Parts::Embedded).await.unwrap();
    let calm = Bystanders::start(&stack).await;
    for address in fronts(&stack) {
        let cases = bad_urls().into_iter().chain(bad_bodies());
        let asked = cases.map(|(bytes, status, code)| {
            let address = address.clone();
            async move {
                let answer = request(&address, &bytes).await;
                let case: String = bytes.chars().take(200).collect();
                let answer = answer.unwrap_or_else(|| panic!("no answer: {case}"));
                assert_problem(&case, &answer, status, code);
                assert_eq!(answer.header("allow").is_some(), status == 405, "{case}");
                assert!(answer.header("access-control-allow-origin").is_none());
            }
        });
        join_all(asked).await;
        let unknown = "/v1/conversations/room:nowhere/messages?userId=userA";
        let foreign = "/v1/conversations/dm:userB:userC/messages?userId=userA";
        let [unknown, foreign] = [unknown, foreign].map(|target| head("GET", target, ""));
        let unknown = request(&address, unknown).await.unwrap();
        let foreign = request(&address, foreign).await.unwrap();
        assert_eq!(unknown.body, foreign.body, "the two are not told apart");
    }
    // Nothing of it was kept, and what is good still is.
    assert!(stack.history("userA", "dm:userA:userB").await.is_empty());
    for (address, seq) in fronts(&stack).iter().zip(1..) {
        let answer = request(address, post(MESSAGES, JSON, HI)).await.unwrap();
        assert_eq!((answer.status, &answer.json()["seq"]), (201, &json!(seq)));
    }
    calm.noticed_nothing(&stack).await;
    stack.stop().await;
}

/// What stands in an answer whoever gives it.
fn same(answer: &Answer) -> (u16, Option<&str>, Option<&str>, bool) {
    let length = answer.header("content-length");
    (answer.status, answer.header("content-type"), length, answer.body.is_empty())
}

/// HEAD answers as GET without the body; a key again is the same message, also through the other.
#[tokio::test]
async fn the_balancer_forwards_what_the_api_says() {
    let stack = Stack::start(Parts::Embedded).await.unwrap();
    let [api, balancer] = fronts(&stack);
    for target in ["/openapi.json", "/v1/users/userB/presence?userId=userA", "/v1/nothing"] {
        let get = request(&api, head("GET", target, "")).await.unwrap();
        let forwarded = request(&balancer, head("GET", target, "")).await.unwrap();
        assert_eq!((same(&get), &get.body), (same(&forwarded), &forwarded.body), "{target}");
        for address in [&api, &balancer] {
            let mut raw = Raw::dial(address).await;
            raw.write(head("HEAD", target, "").as_bytes()).await;
            let answer = raw.head().await.unwrap();
            let expected = (get.status, get.header("content-type"), get.header("content-length"));
            let (status, media, length, _) = same(&answer);
            assert_eq!((status, media, length), expected, "{target} at {address}");
        }
    }
    let keyed =
        |key: &str, body: &str| post(MESSAGES, &format!("{JSON}Idempotency-Key: {key}\r\n"), body);
    let first = request(&balancer, keyed("k1", HI)).await.unwrap();
    let again = request(&api, keyed("k1", HI)).await.unwrap();
    assert_eq!((first.status, again.status), (201, 200));
    assert_eq!(first.json(), again.json());
    let other = keyed("k1", r#"{"to":"userB","message":"Ho"}"#);
    let conflict = request(&balancer, other).await.unwrap();
    assert_problem("another body", &conflict, 409, RefConflict);
    assert_eq!(stack.history("userA", "dm:userA:userB").await.len(), 1);
    // Several requests on one connection, the second one bad.
    for address in fronts(&stack) {
        let mut raw = Raw::dial(&address).await;
        let keep = |bytes: String| bytes.replace("Connection: close\r\n", "");
        raw.write(keep(head("GET", "/v1/servers", "")).as_bytes()).await;
        assert_eq!(raw.answer().await.unwrap().status, 200);
        raw.write(keep(head("GET", "/v1/nothing", "")).as_bytes()).await;
        assert_problem("the second", &raw.answer().await.unwrap(), 404, NotFound);
        raw.write(keep(head("GET", "/v1/servers", "")).as_bytes()).await;
        assert_eq!(raw.answer().await.unwrap().status, 200);
    }
    stack.stop().await;
}

/// Heads that are no HTTP/1.1, and too long ones. At the API these are answered below its routes,
/// without a body.
#[tokio::test]
async fn what_is_no_request_is_refused() {
    let stack = Stack::start(Parts::Embedded).await.unwrap();
    let long = head("GET", "/v1/servers", &format!("X: {}\r\n", "y".repeat(9_000)));
    let many = head("GET", "/v1/servers", &"X: y\r\n".repeat(120));
    for (bytes, status, code) in [
        ("hello\r\n\r\n".to_owned(), 400, BadRequest),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0".to_owned(), 400, BadRequest),
        (head("GET", "/v1/servers", "X : y\r\n"), 400, BadRequest),
        (long, 431, TooLarge),
        (many, 431, TooLarge),
    ] {
        let case: String = bytes.chars().take(60).collect();
        let answer = request(&stack.balancer, &bytes).await.unwrap();
        assert_problem(&case, &answer, status, code);
        let answer = request(&stack.api, &bytes).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (status, 0), "{case}");
    }
    for address in fronts(&stack) {
        let both = format!("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n{JSON}");
        let smuggled = format!("{}0\r\n\r\n{}", head("POST", MESSAGES, &both), HI);
        let answer = request(&address, smuggled).await.unwrap();
        assert_eq!(answer.status, 400, "two lengths: {answer:?}");
    }
    assert!(stack.history("userA", "dm:userA:userB").await.is_empty());
    stack.stop().await;
}

/// The rows E7 and A12: bodies and heads that trickle are ended after 10 s, and keep nobody out.
#[tokio::test]
async fn slow_requests_are_ended_and_keep_nobody_out() {
    let stack = Stack::start(Parts::Embedded).await.unwrap();
    let calm = Bystanders::start(&stack).await;
    let begun = Instant::now();
    let slow_head = "GET /v1/servers HTTP/1.1\r\nHost: x\r\nX: ".to_owned();
    let slow_body = head("POST", MESSAGES, &format!("Content-Length: 29\r\n{JSON}"));
    let mut slow = Vec::new();
    for address in fronts(&stack) {
        for number in 0..100 {
            let (bytes, body) = match number % 2 {
                0 => (&slow_head, false),
                _ => (&slow_body, true),
            };
            let mut raw = Raw::dial(&address).await;
            raw.write(bytes.as_bytes()).await;
            slow.push((body, raw));
        }
    }
    for address in fronts(&stack) {
        let answer = request(&address, post(MESSAGES, JSON, HI)).await.unwrap();
        assert_eq!(answer.status, 201);
    }
    let ended = slow.into_iter().map(|(body, mut raw)| async move {
        while begun.elapsed() < Duration::from_secs(9) {
            raw.write(if body { b" " } else { b"y" }).await;
            tokio::time::sleep(Duration::from_millis(900)).await;
        }
        match (body, raw.answer().await) {
            (true, Some(answer)) => {
                assert_problem("a slow body", &answer, 408, BadRequest);
            }
            (false, answer) => assert!(answer.is_none_or(|answer| answer.status == 408)),
            (true, None) => panic!("a slow body is answered"),
        }
    });
    join_all(ended).await;
    let took = begun.elapsed();
    assert!((9..18).contains(&took.as_secs()), "{took:?}");
    assert_eq!(stack.history("userA", "dm:userA:userB").await.len(), 2);
    calm.noticed_nothing(&stack).await;
    stack.stop().await;
}
