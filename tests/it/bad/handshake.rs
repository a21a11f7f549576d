//! Requests that open no socket: each its own status, through the balancer and at a server itself.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parlor::protocol::ErrorCode::{self, BadRequest, NotFound, TooLarge};

use super::{Bystanders, assert_problem};
use crate::harness::{Parts, Stack};
use crate::raw::{KEY, Raw, request, upgrade_head};

/// The balancer and a server itself: both answer for `/ws`.
fn fronts(stack: &Stack) -> [String; 2] {
    [stack.balancer.clone(), stack.servers["ws2"].clone()]
}

/// An upgrade with one header line replaced; empty lines go.
fn upgrade(line: &str, by: &str) -> String {
    let head = upgrade_head("userId=a", "");
    let lines = head.trim_end().split("\r\n");
    let lines = lines.map(|old| if old.starts_with(line) { by } else { old });
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    format!("{}\r\n\r\n", lines.join("\r\n"))
}

/// The rows A2 to A6, A11, A14, A18, A19 and A21.
fn bad_heads() -> Vec<(String, u16, ErrorCode)> {
    let bad = |head: String| (head, 400, BadRequest);
    let mut cases: Vec<_> = ["GET /ws?userId=a HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()]
        .into_iter()
        .chain([
            upgrade("Upgrade", ""),
            upgrade("Upgrade", "Upgrade: h2c"),
            upgrade("Connection", "Connection: keep-alive"),
            upgrade("Sec-WebSocket-Version", ""),
            upgrade("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8"),
            upgrade("GET", "GET /ws?userId=a HTTP/1.0"),
        ])
        .map(|head| (head, 426, BadRequest))
        .collect();
    for method in ["POST", "PUT", "HEAD", "OPTIONS", "DELETE", "BREW"] {
        cases.push((upgrade("GET", &format!("{method} /ws?userId=a HTTP/1.1")), 405, BadRequest));
    }
    let twice = format!("Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Key: {KEY}");
    for key in ["", "Sec-WebSocket-Key: short", "Sec-WebSocket-Key: !!!!", &twice] {
        cases.push(bad(upgrade("Sec-WebSocket-Key", key)));
    }
    for host in ["", "Host: x\r\nHost: x", "Host : x", "Host: a\0b", "Host: a\r\n b", "\u{e9}: x"] {
        cases.push(bad(upgrade("Host", host)));
    }
    for body in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
        cases.push(bad(upgrade_head("userId=a", body)));
    }
    for garbage in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "hello\r\n\r\n",
        "\0\0\0\0\0\0\0\0",
        "GET\r\n\r\n",
        "GET /ws?userId=a HTTP/9.9\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n",
    ] {
        cases.push(bad(garbage.to_owned()));
    }
    let many = "X: y\r\n".repeat(120);
    let long = format!("X: {}\r\n", "y".repeat(8_192));
    let huge = format!("X: {}\r\n", "y".repeat(100_000));
    for more in [many, long, huge] {
        cases.push((upgrade_head("userId=a", &more), 431, TooLarge));
    }
    let url = format!("userId=a&x={}", "y".repeat(70_000));
    cases.push((upgrade_head(&url, ""), 431, TooLarge));
    cases
}

fn bad_queries() -> Vec<String> {
    let mut queries: Vec<String> = [
        "",
        "user=a",
        "userid=a",
        "userId",
        "userId=",
        "userId=a%20b",
        "userId=a+b%23c",
        "userId=%zz",
        "userId=%4",
        "userId=%00",
        "userId=%ff",
        "userId=%c3%a9",
        "userId=a/b",
        "userId=a:b",
        "userId=a&userId=b",
        "userId=a&device=",
        "userId=a&device",
        "userId=a&device=my.phone",
        "userId=a&device=x&device=y",
        "userId=a&acks=",
        "userId=a&acks=pong",
        "userId=a&catchup=0",
        "userId=a&catchup=-1",
        "userId=a&catchup=many",
        "userId=a&catchup=10001",
        "userId=a&catchup=18446744073709551616",
        "userId=a&v=0",
        "userId=a&v=2",
        "userId=a&v=1.0",
        "userId=a&v=",
    ]
    .map(str::to_owned)
    .into();
    queries.push(format!("userId={}", "a".repeat(129)));
    queries.push(format!("userId=a&device={}", "d".repeat(33)));
    queries
}

/// `GET /ws` that is no upgrade, another method, a long head, bytes that are no HTTP.
#[tokio::test]
async fn bad_requests_get_their_status() {
    let stack = Stack::start(Parts::Embedded).await.unwrap();
    let calm = Bystanders::start(&stack).await;
    for address in fronts(&stack) {
        let mut all = bad_heads();
        all.extend(bad_queries().iter().map(|q| (upgrade_head(q, ""), 400, BadRequest)));
        let asked = all.into_iter().map(|(head, status, code)| {
            let address = address.clone();
            async move {
                let answer = request(&address, &head).await.unwrap_or_else(|| panic!("{head:?}"));
                let case: String = head.chars().take(150).collect();
                if head.starts_with("HEAD") {
                    return assert_eq!(answer.status, status, "{case}");
                }
                assert_problem(&case, &answer, status, code);
                let allow = (status == 405).then_some("GET");
                assert_eq!(answer.header("allow"), allow, "{case}");
                let version = (status == 426).then_some("13");
                assert_eq!(answer.header("sec-websocket-version"), version, "{case}");
                assert_eq!(answer.header("connection"), Some("close"), "{case}");
            }
        });
        join_all(asked).await;
    }
    // Another path: the server opens sockets at /ws only, the balancer has a page.
    for address in fronts(&stack) {
        for path in ["/socket", "/ws/", "/ws/x", "//ws", "/WS", "/..%2fws"] {
            let head = upgrade("GET", &format!("GET {path}?userId=a HTTP/1.1"));
            let head = head.replace("Connection: Upgrade", "Connection: Upgrade, close");
            let answer = request(&address, head).await.unwrap();
            assert_problem(path, &answer, 404, NotFound);
        }
    }
    calm.noticed_nothing(&stack).await;
    stack.stop().await;
}

/// The rows A1 and A15, and what a proxy on the way may add.
#[tokio::test]
async fn odd_requests_that_are_allowed_open_a_socket() {
    let stack = Stack::start(Parts::Embedded).await.unwrap();
    let odd_case = "gEt /ws?userId=a HTTP/1.1";
    let long_id = "a".repeat(128);
    for address in fronts(&stack) {
        for head in [
            upgrade("Connection", "connection: keep-alive, UPGRADE"),
            upgrade("Upgrade", "uPgRaDe: WebSocket"),
            upgrade_head("userId=a", "Content-Length: 0\r\nX-Forwarded-For: 203.0.113.1\r\n"),
            upgrade_head("userId=a", "Sec-WebSocket-Extensions: permessage-deflate; x=99\r\n"),
            upgrade_head("&&x=%20&userId=auth0%7C5f%2B&device=d_-&acks=app&catchup=1&v=1&", ""),
            upgrade_head(&format!("userId={long_id}"), ""),
        ] {
            let mut socket = Raw::dial(&address).await;
            socket.write(head.as_bytes()).await;
            let answer = socket.head().await.unwrap();
            assert_eq!(answer.status, 101, "{head}: {answer:?}");
            assert!(answer.header("x-parlor-server").is_some_and(|name| name.starts_with("ws")));
            assert!(answer.header("sec-websocket-extensions").is_none(), "nothing is agreed to");
            assert_eq!(socket.json().await.unwrap()["type"], "welcome", "{head}");
            assert!(socket.is_open().await, "{head}");
        }
        let answer = request(&address, upgrade("GET", odd_case)).await.unwrap();
        assert_eq!(answer.status, 405, "methods are written in capitals");
    }
    stack.stop().await;
}

/// The rows A12, A13 and A19: heads that never end, slow ones, and clients that speak TLS.
#[tokio::test]
async fn half_a_handshake_ends_by_itself_and_keeps_nobody_out() {
    let stack = Stack::start(Parts::Embedded).await.unwrap();
    let calm = Bystanders::start(&stack).await;
    let begun = Instant::now();
    let half = "GET /ws?userId=a HTTP/1.1\r\nHost: x\r\nUpgr";
    let addresses = [fronts(&stack).to_vec(), vec![stack.api.clone()]].concat();
    let mut waiting = Vec::new();
    for address in &addresses {
        for number in 0..200 {
            let mut socket = Raw::dial(address).await;
            // Some say nothing at all.
            if number % 4 > 0 {
                socket.write(half.as_bytes()).await;
            }
            waiting.push((number % 4 == 1, socket));
        }
    }
    // Nobody else waits for them.
    for address in fronts(&stack) {
        let tls_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
        let answer = request(&address, tls_hello).await.unwrap();
        assert_problem("TLS", &answer, 400, BadRequest);
        let random: Vec<u8> = (0..65_536).map(|_| rand::random::<u8>()).collect();
        let answer = request(&address, [b"\x01", &random[..]].concat()).await.unwrap();
        assert_problem("noise", &answer, 400, BadRequest);
        for number in 0..20 {
            Raw::ready(&address, &format!("userId=new-{number}")).await;
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}: too busy", begun.elapsed());
    let ends = waiting.into_iter().map(|(slow, mut socket)| async move {
        // A byte now and then gives no more time.
        while slow && begun.elapsed() < Duration::from_secs(14) {
            socket.write(b"a").await;
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        let answer = socket.answer().await;
        assert!(answer.is_none_or(|answer| answer.status == 408), "no socket was opened");
    });
    join_all(ends).await;
    let took = begun.elapsed();
    assert!((9..18).contains(&took.as_secs()), "{took:?}");
    calm.noticed_nothing(&stack).await;
    stack.stop().await;
}
