//! HTTP through the balancer: the same as at the Message API itself.
//!
//! What the API says to each bad parameter stands in `src/api/tests/refusals.rs`, what goes over
//! real connections in `tests/corpus`.

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
    conflict.is_problem(409);
    assert_eq!(stack.history("userA", "dm:userA:userB").await.len(), 1);
    // Several requests on one connection, the second one bad.
    for address in fronts(&stack) {
        let mut raw = Raw::dial(&address).await;
        let keep = |bytes: String| bytes.replace("Connection: close\r\n", "");
        raw.write(keep(head("GET", "/v1/servers", "")).as_bytes()).await;
        assert_eq!(raw.answer().await.unwrap().status, 200);
        raw.write(keep(head("GET", "/v1/nothing", "")).as_bytes()).await;
        raw.answer().await.unwrap().is_problem(404);
        raw.write(keep(head("GET", "/v1/servers", "")).as_bytes()).await;
        assert_eq!(raw.answer().await.unwrap().status, 200);
    }
    stack.stop().await;
}
