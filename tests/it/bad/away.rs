//! Parts that are away: the answer says so, and that it may be tried again; what was not promised
//! is not there, and what is sent again is there once.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::Bystanders;
use crate::harness::{Parts, Process, SOON, Stack};
use crate::raw::{self, Raw, request, upgrade_head};

fn strings(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

/// A balancer of its own before a server, with this API behind it.
async fn balancer(server: &str, api: &str) -> (Process, String) {
    let (server, api) = (format!("ws1={server}"), format!("http://{api}"));
    let options = ["balancer", "--listen", "127.0.0.1:0", "--server", &server, "--api", &api];
    let process = Process::start("balancer", &strings(&options));
    let address = process.ready().await["balancer"].as_str().unwrap().to_owned();
    (process, address)
}

#[tokio::test]
async fn an_api_that_is_away_or_hangs_is_told_as_such() {
    let stack = Stack::start(Parts::Embedded).await.unwrap();
    let calm = Bystanders::start(&stack).await;
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (away, away_at) = balancer(&stack.servers["ws1"], "127.0.0.1:1").await;
    let hangs_at = hanging.local_addr().unwrap().to_string();
    let (hangs, hangs_at) = balancer(&stack.servers["ws1"], &hangs_at).await;
    let begun = Instant::now();
    let late = tokio::spawn({
        let address = hangs_at.clone();
        async move { request(&address, get("/v1/servers")).await.unwrap() }
    });
    for path in ["/v1/servers", "/v1/users/a/presence?userId=a", "/openapi.json"] {
        let answer = request(&away_at, get(path)).await.unwrap();
        answer.is_problem(502);
    }
    assert!(begun.elapsed() < SOON, "nobody waits for a port that is closed");
    // Sockets, and the page, don't need it.
    for address in [&away_at, &hangs_at] {
        assert!(Raw::ready(address, "userId=a").await.is_open().await);
        assert_eq!(request(address, get("/")).await.unwrap().status, 200);
    }
    late.await.unwrap().is_problem(504);
    calm.noticed_nothing(&stack).await;
    stack.stop().await;
    // Nor is there a server now: seen at once for a new socket, and after a check for the rest.
    let answer = request(&away_at, upgrade_head("userId=a", "")).await.unwrap();
    answer.is_problem(503);
    let until = Instant::now() + SOON;
    loop {
        let answer = request(&away_at, get("/v1/connect?userId=a")).await.unwrap();
        if answer.status == 503 {
            break answer.is_problem(503);
        }
        assert!(Instant::now() < until, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for process in [away, hangs] {
        assert!(process.stop().await.success());
    }
}

/// `parlor up` whose database another process can lock.
struct Lockable {
    up: Process,
    folder: tempfile::TempDir,
    servers: Vec<String>,
    api: String,
}

impl Lockable {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut arguments = strings(&["up", "--balancer-port", "0", "--server-port", "0"]);
        arguments.extend(strings(&["--api-port", "0", "--data"]));
        arguments.push(folder.path().to_str().unwrap().to_owned());
        let up = Process::start("up", &arguments);
        let ready = up.ready().await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let servers = ready["servers"].as_object().unwrap().values().map(text).collect();
        Self { up, folder, servers, api: text(&ready["api"]) }
    }

    /// Nothing can be written until the lock is dropped.
    fn lock(&self) -> rusqlite::Connection {
        let database =
            rusqlite::Connection::open(self.folder.path().join("parlor.sqlite")).unwrap();
        database.busy_timeout(SOON).unwrap();
        database.execute_batch("BEGIN IMMEDIATE").unwrap();
        database
    }

    async fn history(&self, target: &str) -> Vec<Value> {
        let answer = request(&self.api, get(target)).await.unwrap();
        answer.json()["messages"].as_array().unwrap().clone()
    }
}

fn message(to: &str, reference: &str) -> Value {
    json!({"type": "message", "to": to, "message": "Hi", "ref": reference})
}

fn post(user: &str, reference: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST /v1/messages?userId={user} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nIdempotency-Key: {reference}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn is_answer(said: &Value) -> bool {
    said["type"] == "sent" || said["type"] == "error"
}

/// P10: no `sent`, a retryable error, the socket stays open, reads go on; the same again succeeds.
#[tokio::test]
async fn a_store_that_does_not_answer_is_unavailable_and_nothing_is_promised() {
    let up = Lockable::start().await;
    let mut a = Raw::ready(&up.servers[0], "userId=a").await;
    let mut b = Raw::ready(&up.servers[2], "userId=b").await;
    a.text(&message("b", "r1").to_string()).await;
    a.wait_for(|said| is_answer(said).then_some(())).await;
    b.wait_for(|said| (said["type"] == "message").then_some(())).await;
    let lock = up.lock();
    a.text(&message("b", "r2").to_string()).await;
    let posting = tokio::spawn({
        let (api, body) = (up.api.clone(), json!({"to": "a", "message": "Hi"}));
        async move { request(&api, post("c", "r3", &body)).await.unwrap() }
    });
    let answer = a.wait_for(|said| is_answer(said).then(|| said.clone())).await;
    let detail = answer["detail"].as_str().unwrap().to_owned();
    let after = answer["retryAfterMs"].as_u64().unwrap();
    let expected = json!({"type": "error", "code": "unavailable", "detail": detail, "ref": "r2",
        "retryable": true, "retryAfterMs": after});
    assert_eq!(answer, expected);
    let refused = posting.await.unwrap();
    refused.is_problem(503);
    let target = "/v1/conversations/dm:a:b/messages?userId=a";
    assert_eq!(up.history(target).await.len(), 1, "what is there is read all the same");
    assert!(a.is_open().await && b.is_open().await);
    drop(lock);
    let until = Instant::now() + SOON * 2;
    let sent = loop {
        a.text(&message("b", "r2").to_string()).await;
        let answer = a.wait_for(|said| is_answer(said).then(|| said.clone())).await;
        if answer["type"] == "sent" {
            break answer;
        }
        assert!(answer["retryable"] == true && Instant::now() < until, "{answer}");
        tokio::time::sleep(Duration::from_millis(after)).await;
    };
    assert_eq!(sent["seq"], 2, "once, whatever became of the first try");
    let heard = b.wait_for(|said| (said["type"] == "message").then(|| said["seq"].clone())).await;
    assert_eq!(heard, 2);
    assert_eq!(up.history(target).await.len(), 2);
    assert!(up.up.stop().await.success());
}

/// More than a conversation takes: `rate_limited` at once, and the rest is not lost.
#[tokio::test]
async fn a_conversation_that_is_too_busy_is_rate_limited() {
    let up = Lockable::start().await;
    let mut sockets = Vec::new();
    for (user, to, count) in [("a", "b", 16), ("b", "a", 8)] {
        for number in 0..count {
            let query = format!("userId={user}&device=d{number}");
            sockets.push((to, number, Raw::ready(&up.servers[0], &query).await));
        }
    }
    let lock = up.lock();
    let frames = |to: &str, number: usize| -> Vec<u8> {
        let of = |n| raw::text(&message(to, &format!("{to}-{number}-{n}")).to_string());
        (0..64).flat_map(of).collect()
    };
    for (to, number, socket) in &mut sockets {
        socket.write(&frames(to, *number)).await;
    }
    let begun = Instant::now();
    let answers = sockets.iter_mut().map(|(to, number, socket)| async move {
        let answers = socket.flood(&[], 64, is_answer).await;
        let mut refs: Vec<_> = answers.iter().map(|said| said["ref"].clone()).collect();
        refs.sort_by_key(|name| name.as_str().map(|n| (n.len(), n.to_owned())));
        let expected: Vec<Value> = (0..64).map(|n| json!(format!("{to}-{number}-{n}"))).collect();
        assert_eq!(refs, expected, "one answer each");
        answers
    });
    let answers: Vec<Value> = join_all(answers).await.into_iter().flatten().collect();
    drop(lock);
    assert!(begun.elapsed() < SOON * 2);
    let limited: Vec<_> = answers.iter().filter(|said| said["code"] == "rate_limited").collect();
    assert!(limited.len() > 64, "{} of {}", limited.len(), answers.len());
    for said in limited {
        let retry = (&said["retryable"], said["retryAfterMs"].is_u64());
        assert_eq!(retry, (&json!(true), true), "{said}");
    }
    let sent = answers.iter().filter(|said| said["type"] == "sent").count();
    // Unanswered puts are decided within seconds; what was refused is not there.
    let target = "/v1/conversations/dm:a:b/messages?userId=a&limit=500";
    let until = Instant::now() + SOON;
    while up.history(target).await.len() < sent.min(500) {
        assert!(Instant::now() < until, "{sent} were promised");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for (_, _, socket) in &mut sockets {
        assert!(socket.is_open().await);
    }
    assert!(up.up.stop().await.success());
}

/// A ref with another body, and one whose first try may lie too far back.
#[tokio::test]
async fn refs_that_conflict_or_are_too_old_are_refused() {
    let stack = Stack::start(Parts::Embedded).await.unwrap();
    let mut socket = Raw::ready(&stack.balancer, "userId=a").await;
    let frames = (0..1_140).flat_map(|n| raw::text(&message("b", &n.to_string()).to_string()));
    let bytes: Vec<u8> = frames.collect();
    let answers = socket.flood(&bytes, 1_140, is_answer).await;
    assert!(answers.iter().all(|said| said["type"] == "sent"));
    for (reference, message, after, code, status) in [
        ("1139", "Ho", None, "ref_conflict", 201),
        ("200", "Ho", Some(150), "ref_conflict", 201),
        ("new", "Hi", Some(1), "ref_expired", 410),
    ] {
        let frame = json!({"type": "message", "to": "b", "message": message, "ref": reference,
            "after": after});
        socket.text(&frame.to_string()).await;
        let answer = socket.wait_for(|said| is_answer(said).then(|| said.clone())).await;
        let said = (&answer["code"], &answer["ref"], &answer["retryable"]);
        assert_eq!(said, (&json!(code), &json!(reference), &json!(false)), "{answer}");
        let body = json!({"to": "b", "message": message, "after": after});
        // Another device, so only what is too old is refused over HTTP as well.
        let answer = request(&stack.api, post("a", reference, &body)).await.unwrap();
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    assert!(socket.is_open().await);
    stack.stop().await;
}
