//! The admin address, from outside: health, readiness, metrics, and what a drain looks like.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parlor::client::ServerFrame;
use serde_json::{Value, json};

use crate::harness::{Parts, Process, SOON, Stack, eventually, on_both};
use crate::raw::{Answer, Raw, request};

async fn get(address: &str, path: &str) -> Answer {
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    request(address, head).await.expect("an answer")
}

/// The samples of a Prometheus text (format 0.0.4), by name and labels; every line is checked.
fn parse_metrics(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let (mut family, mut kind) = (String::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let words: Vec<_> = rest.splitn(3, ' ').collect();
            match words[0] {
                "HELP" => assert!(words[2].len() > 3, "{line}"),
                "TYPE" => (family, kind) = (words[1].to_owned(), words[2].to_owned()),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').expect(line);
        let (bare, labels) = name.strip_suffix('}').and_then(|n| n.split_once('{')).expect(line);
        let suffix = bare.strip_prefix(&family).unwrap_or_else(|| panic!("{line} under {family}"));
        match kind.as_str() {
            "counter" => assert!(suffix.is_empty() && family.ends_with("_total"), "{line}"),
            "gauge" => assert!(suffix.is_empty(), "{line}"),
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
            _ => panic!("{line} is a {kind}"),
        }
        assert!(bare.starts_with("parlor_"), "{line}");
        let mut rest = labels;
        while !rest.is_empty() {
            let (key, after) = rest.split_once("=\"").expect(line);
            assert!(key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
            let (_, after) = after.split_once('"').expect(line);
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        let value: f64 = value.parse().expect(line);
        assert!(value >= 0.0 && value.is_finite(), "{line}");
        assert!(samples.insert(name.to_owned(), value).is_none(), "{line} stands there twice");
    }
    samples
}

/// What `/metrics` says there.
pub async fn metrics(address: &str) -> BTreeMap<String, f64> {
    let answer = get(address, "/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    parse_metrics(&answer.text())
}

/// The sum of a family's samples that carry all of these labels.
pub fn sum(samples: &BTreeMap<String, f64>, family: &str, labels: &[&str]) -> f64 {
    let of = |name: &&String| {
        name.strip_prefix(family).is_some_and(|rest| rest.starts_with('{'))
            && labels.iter().all(|label| name.contains(label))
    };
    samples.keys().filter(of).map(|name| samples[name]).sum()
}

/// Buckets only rise, and the last one is the count.
fn check_histogram(samples: &BTreeMap<String, f64>, family: &str, process: &str) {
    let label = format!("process=\"{process}\"");
    let of = |name: &str| name.starts_with(&format!("{family}_bucket{{")) && name.contains(&label);
    let mut buckets: Vec<(f64, f64)> = samples
        .iter()
        .filter(|(name, _)| of(name))
        .map(|(name, count)| {
            let (_, bound) = name.split_once("le=\"").unwrap();
            let bound = bound.split('"').next().unwrap();
            (if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() }, *count)
        })
        .collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert!(
        buckets.len() > 10 && buckets.windows(2).all(|two| two[0].1 <= two[1].1),
        "{buckets:?}"
    );
    let count = sum(samples, &format!("{family}_count"), &[&label]);
    assert_eq!(buckets.last().unwrap(), &(f64::INFINITY, count));
}

/// A stack with an admin address.
pub async fn start(parts: Parts) -> Option<(Stack, String)> {
    let stack = Stack::start_with(parts, &["--admin-listen", "127.0.0.1:0"]).await?;
    let admin = stack.admin.clone();
    Some((stack, admin))
}

on_both! {
    counters_move_with_what_happens,
}

async fn counters_move_with_what_happens(stack: Stack) {
    let real = stack.redis.is_some();
    stack.stop().await;
    let parts = if real { Parts::Real } else { Parts::Embedded };
    let (stack, admin) = start(parts).await.unwrap();
    let before = metrics(&admin).await;
    assert_eq!(sum(&before, "parlor_sockets", &[]), 0.0);
    let mut a = stack.at("ws1", "a").await;
    let mut b = stack.at("ws3", "b").await;
    b.catch_up().await;
    for seq in 1..=3 {
        assert_eq!(a.say("b", "Hi").await, seq);
        b.hear().await;
        // Who reads on answers the server's ping: a receipt for each of them.
        tokio::join!(a.told_delivered(seq), b.hears_nothing(200));
    }
    a.write("hello").await;
    let is_error = |frame: ServerFrame| matches!(frame, ServerFrame::Error { .. }).then_some(());
    a.wait_for("an error", SOON, is_error).await;
    let refused = get(&stack.api, "/v1/users/a/presence").await;
    assert_eq!(refused.status, 400);
    let after = eventually("the receipts are counted", async || {
        let now = metrics(&admin).await;
        (sum(&now, "parlor_delivery_seconds_count", &[]) >= 3.0).then_some(now)
    })
    .await;
    for (family, labels, expected) in [
        ("parlor_sockets", &["process=\"ws1\""][..], 1.0),
        ("parlor_sockets", &[], 2.0),
        ("parlor_sockets_opened_total", &[], 2.0),
        ("parlor_messages_total", &["outcome=\"stored\"", "process=\"ws1\""], 3.0),
        ("parlor_received_total", &["process=\"ws3\""], 3.0),
        ("parlor_delivery_seconds_count", &[], 3.0),
        ("parlor_refused_total", &["outcome=\"bad_request\"", "process=\"ws1\""], 1.0),
        ("parlor_refused_total", &["outcome=\"bad_request\"", "process=\"api\""], 1.0),
    ] {
        assert_eq!(sum(&after, family, labels), expected, "{family} {labels:?}");
    }
    check_histogram(&after, "parlor_delivery_seconds", "ws1");
    for family in ["parlor_redis_calls_total", "parlor_store_calls_total"] {
        let moved =
            sum(&after, family, &["outcome=\"ok\""]) - sum(&before, family, &["outcome=\"ok\""]);
        assert!(!real || moved >= 3.0, "{family}: {moved}");
    }
    for family in ["parlor_store_write_units_total", "parlor_store_read_units_total"] {
        let moved = sum(&after, family, &[]) - sum(&before, family, &[]);
        assert!(!real || moved >= 1.0, "{family}: {moved}");
        assert!(real || moved == 0.0, "{family}: {moved}, and there is no DynamoDB");
    }
    drop((a, b));
    eventually("the sockets are gone", async || {
        let now = metrics(&admin).await;
        let closed = sum(&now, "parlor_sockets_closed_total", &["outcome=\"client\""]);
        (sum(&now, "parlor_sockets", &[]) == 0.0 && closed == 2.0).then_some(())
    })
    .await;
    stack.stop().await;
}

/// Not ready, with a body that says why, while sockets are sent away with `reconnect` and 1012 and
/// a request under way is finished; then it ends, well before the limit.
#[tokio::test]
async fn a_process_that_drains_says_so_and_sends_its_sockets_away() {
    let (mut stack, admin) = start(Parts::Embedded).await.unwrap();
    let health = get(&admin, "/healthz").await;
    assert_eq!((health.status, health.json()), (200, json!({"alive": true})));
    let ready = json!({"ready": true, "stage": "ready", "local": {}, "shared": {}});
    let answer = get(&admin, "/readyz").await;
    assert_eq!((answer.status, answer.json()), (200, ready));
    assert_eq!(get(&stack.servers["ws1"], "/readyz").await.status, 200);
    let mut socket = Raw::ready(&stack.balancer, "userId=a").await;
    let mut posting = Raw::dial(&stack.api).await;
    let body = r#"{"to":"b","message":"Hi"}"#;
    let head = format!(
        "POST /v1/messages?userId=a HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    posting.write(head.as_bytes()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    stack.process("up").signal("TERM");
    let (code, said) = socket.closed().await;
    assert_eq!(code, Some(1012));
    let reconnect = said.iter().find(|said| said["type"] == "reconnect").expect("reconnect");
    assert!(reconnect["afterMs"].is_u64());
    let answer = get(&admin, "/readyz").await;
    let draining = json!({"ready": false, "stage": "draining", "local": {}, "shared": {}});
    assert_eq!((answer.status, answer.json()), (503, draining));
    assert_eq!(get(&admin, "/healthz").await.status, 200, "it lives");
    // What is under way is finished: a message that was accepted is stored.
    posting.write(body.as_bytes()).await;
    assert_eq!(posting.answer().await.unwrap().status, 201);
    assert!(stack.process("up").exited().await.success());
    assert!(begun.elapsed() < SOON, "{:?}: the drain may take 25 s, and need not", begun.elapsed());
}

/// The rows E11 and what a scraper may ask wrongly.
#[tokio::test]
async fn the_admin_address_answers_nothing_else() {
    let (stack, admin) = start(Parts::Embedded).await.unwrap();
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/v1/servers", 404),
        ("GET", "/debug/pprof", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/readyz", 405),
    ] {
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = request(&admin, head).await.unwrap();
        let code = answer.json()["status"].clone();
        assert_eq!((answer.status, code), (status, json!(status)), "{method} {path}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
    for address in [&stack.balancer, &stack.api] {
        assert_eq!(get(address, "/metrics").await.status, 404, "not where the public is");
    }
    stack.stop().await;
}

/// Trouble that all share is told in the body and takes nobody's readiness away.
#[tokio::test]
async fn redis_away_is_told_and_leaves_the_process_ready() {
    let Some((mut stack, admin)) = start(Parts::Real).await else { return };
    assert_eq!(get(&admin, "/readyz").await.json()["shared"], json!({}));
    stack.redis.as_mut().unwrap().kill();
    let told = eventually("the trouble is told", async || {
        let answer = get(&admin, "/readyz").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let shared: Value = answer.json()["shared"].clone();
        shared["redis"].as_str().map(str::to_owned)
    })
    .await;
    assert!(told.len() > 8, "{told}");
    stack.redis.as_mut().unwrap().start_again();
    eventually("it is over", async || {
        let shared = get(&admin, "/readyz").await.json()["shared"].clone();
        (shared == json!({})).then_some(())
    })
    .await;
    stack.stop().await;
}

/// Every role has one, and names it in its ready line.
#[tokio::test]
async fn a_balancer_has_an_admin_address_too() {
    let stack = Stack::start(Parts::Embedded).await.unwrap();
    let server = format!("ws1={}", stack.servers["ws1"]);
    let options = ["balancer", "--listen", "127.0.0.1:0", "--server", &server, "--admin-listen"];
    let options = options.iter().chain(&["127.0.0.1:0"]).map(|option| (*option).to_owned());
    let balancer = Process::start("balancer", &options.collect::<Vec<_>>());
    let admin = balancer.ready().await["admin"].as_str().expect("admin").to_owned();
    assert_eq!(get(&admin, "/readyz").await.status, 200);
    metrics(&admin).await;
    let begun = Instant::now();
    assert!(balancer.stop().await.success());
    assert!(begun.elapsed() < SOON);
    stack.stop().await;
}
