//! Pages of other sites, and names that were pointed at this machine: they get nothing, at every
//! listener, and the answer says which option lets them in. What is let in is told so by CORS.

use std::collections::BTreeMap;

use parlor::protocol::ErrorCode::{BadRequest, Forbidden};

use crate::harness::{Parts, Stack};
use crate::raw::{Answer, request, upgrade_head};

/// An upgrade that names this host and these origins.
fn upgrade(host: &str, origins: &[&str]) -> String {
    let lines = origins.iter().map(|origin| format!("Origin: {origin}\r\n"));
    let head = upgrade_head("userId=a", &lines.collect::<String>());
    head.replace("Host: localhost\r\n", &format!("Host: {host}\r\n"))
}

async fn status(address: &str, bytes: &str) -> u16 {
    let mut raw = crate::raw::Raw::dial(address).await;
    raw.write(bytes.as_bytes()).await;
    raw.head().await.expect("an answer").status
}

async fn ask(address: &str, method: &str, target: &str, more: &str) -> Answer {
    let host = if more.starts_with("Host:") { "" } else { "Host: localhost\r\n" };
    let head = format!("{method} {target} HTTP/1.1\r\n{host}Connection: close\r\n{more}\r\n");
    request(address, head).await.expect("an answer")
}

fn is_refused(answer: &Answer, status: u16, option: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let problem = answer.json();
    assert_eq!(problem["code"], Forbidden.as_str(), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(option), "{problem}");
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_page_of_another_site_opens_no_socket() {
    let Some(stack) = Stack::start(Parts::Embedded).await else { return };
    for front in [&stack.balancer, &stack.servers["ws2"]] {
        let port = front.rsplit_once(':').unwrap().1;
        let host = format!("localhost:{port}");
        assert_eq!(status(front, &upgrade(&host, &[])).await, 101, "no browser");
        for own in [format!("http://{host}"), format!("https://{host}"), format!("HTTP://{host}")] {
            assert_eq!(status(front, &upgrade(&host, &[&own])).await, 101, "{own}");
        }
        let own = format!("http://{host}");
        for other in [
            "https://evil.example".to_owned(),
            "http://localhost".to_owned(),
            format!("http://127.0.0.1:{port}"),
            format!("{own}.evil.example"),
            format!("http://evil{host}"),
            format!("{own}/"),
            "null".to_owned(),
            "file://".to_owned(),
        ] {
            let answer = request(front, upgrade(&host, &[&other])).await.unwrap();
            is_refused(&answer, 403, "--allow-origin");
        }
        let two = request(front, upgrade(&host, &[&own, &own])).await.unwrap();
        assert_eq!((two.status, &two.json()["code"]), (400, &BadRequest.as_str().into()));
        assert_eq!(status(front, &upgrade(&host, &["http://caf\u{e9}.example"])).await, 400);
    }
    stack.stop().await;
}

#[tokio::test]
async fn what_the_list_lets_in_is_told_so_and_nobody_else_is() {
    const APP: &str = "https://app.example.com";
    let options = ["--allow-origin", APP, "--allow-origin", "http://other.example:8000"];
    let Some(stack) = Stack::start_with(Parts::Embedded, &options).await else { return };
    assert_eq!(status(&stack.balancer, &upgrade("localhost", &[APP])).await, 101);
    let other = "http://app.example.com";
    assert_eq!(status(&stack.balancer, &upgrade("localhost", &[other])).await, 403);
    let target = "/v1/users/a/conversations?userId=a";
    for address in [&stack.api, &stack.balancer] {
        let asks = "Access-Control-Request-Method: PUT\r\n";
        let asked = ask(address, "OPTIONS", target, &format!("Origin: {APP}\r\n{asks}")).await;
        assert_eq!((asked.status, asked.body.len()), (204, 0), "{asked:?}");
        assert_eq!(asked.header("access-control-allow-methods"), Some("GET, POST, PUT, DELETE"));
        let allowed = asked.header("access-control-allow-headers").unwrap();
        assert!(
            ["authorization", "content-type", "idempotency-key"]
                .iter()
                .all(|name| { allowed.split(", ").any(|allowed| allowed == *name) })
        );
        let answer = ask(address, "GET", target, &format!("Origin: {APP}\r\n")).await;
        for answer in [&asked, &answer] {
            assert_eq!(answer.header("access-control-allow-origin"), Some(APP), "{answer:?}");
            assert_eq!(answer.header("access-control-allow-credentials"), None);
            assert_eq!(answer.header("vary"), Some("origin"));
        }
        assert_eq!(answer.status, 200);
        for more in ["", asks] {
            let method = if more.is_empty() { "GET" } else { "OPTIONS" };
            let answer = ask(address, method, target, &format!("Origin: {other}\r\n{more}")).await;
            is_refused(&answer, 403, &format!("--allow-origin {other}"));
        }
        // A simple request needs no preflight, and changes nothing for all that.
        let body = r#"{"to":"b","message":"forged"}"#;
        let head = format!("Origin: https://evil.example\r\nContent-Length: {}\r\n", body.len());
        let head = format!("POST /v1/messages?userId=a HTTP/1.1\r\nHost: localhost\r\n{head}\r\n");
        is_refused(&request(address, head + body).await.unwrap(), 403, "--allow-origin");
        let page = ask(address, "GET", target, "").await;
        assert_eq!(page.json()["conversations"], serde_json::json!([]), "nothing was sent");
        assert_eq!(page.header("access-control-allow-origin"), None);
    }
    // What the balancer refuses itself can be read by that page too, and by no other.
    for (origin, told) in [(APP, Some(APP)), (other, None)] {
        let head = format!("Host: localhost\r\nOrigin: {origin}\r\nContent-Length: 70000\r\n\r\n");
        let head = format!("POST /v1/messages?userId=a HTTP/1.1\r\n{head}");
        let refused = request(&stack.balancer, head).await.unwrap();
        assert_eq!((refused.status, refused.header("access-control-allow-origin")), (413, told));
    }
    let origin = format!("Origin: {APP}\r\n");
    let connect = ask(&stack.balancer, "GET", "/v1/connect?userId=a", &origin);
    assert_eq!(connect.await.header("access-control-allow-origin"), Some(APP));
    stack.stop().await;
}

#[tokio::test]
async fn everybody_is_let_in_only_where_that_is_said() {
    let options = ["--allow-origin", "*", "--insecure-dev", "--admin-listen", "127.0.0.1:0"];
    let Some(stack) = Stack::start_with(Parts::Embedded, &options).await else { return };
    for origin in ["https://evil.example", "null"] {
        assert_eq!(status(&stack.balancer, &upgrade("localhost", &[origin])).await, 101);
        let origin = format!("Origin: {origin}\r\n");
        let answer = ask(&stack.api, "GET", "/v1/servers?userId=a", &origin).await;
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
    // The admin's address asks for no token, whoever else is let in.
    let answer = ask(&stack.admin, "GET", "/metrics", "Host: evil.example\r\n").await;
    is_refused(&answer, 421, "--allow-host");
    stack.stop().await;
}

/// The site's own name was pointed at 127.0.0.1: origin and host agree, and neither is ours.
#[tokio::test]
async fn a_name_that_was_pointed_at_this_machine_gets_nothing() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = listener.local_addr().unwrap().to_string();
    drop(listener);
    let options = ["--admin-listen", &admin, "--allow-host", "chat.test"];
    let Some(stack) = Stack::start_with(Parts::Embedded, &options).await else { return };
    let evil = "evil.example:8080";
    for front in [&stack.balancer, &stack.servers["ws1"]] {
        let answer = request(front, upgrade(evil, &[&format!("http://{evil}")])).await.unwrap();
        is_refused(&answer, 421, "--allow-host");
        assert_eq!(status(front, &upgrade(evil, &[])).await, 421, "a page's GET has no Origin");
        for own in ["localhost:1", "127.0.0.1", "[::1]:9", "chat.test", "a.localhost"] {
            assert_eq!(status(front, &upgrade(own, &[])).await, 101, "{own}");
        }
    }
    for (address, target) in [
        (&stack.api, "/v1/servers?userId=a"),
        (&stack.balancer, "/v1/servers?userId=a"),
        (&stack.balancer, "/v1/connect?userId=a"),
        (&stack.balancer, "/"),
        (&admin, "/metrics"),
    ] {
        let answer = ask(address, "GET", target, &format!("Host: {evil}\r\n")).await;
        is_refused(&answer, 421, "--allow-host");
        assert_eq!(
            ask(address, "GET", target, "Host: chat.test\r\n").await.status,
            200,
            "{target}"
        );
    }
    // Whoever watches a machine may call it by any name.
    for front in [&stack.balancer, &stack.servers["ws1"]] {
        assert_eq!(ask(front, "GET", "/readyz", &format!("Host: {evil}\r\n")).await.status, 200);
    }
    stack.stop().await;
}

/// Its page writes the headers of a proxy, and this machine's address is that of a trusted one.
#[tokio::test]
async fn such_a_name_is_not_covered_up_by_what_a_proxy_would_say() {
    let options = ["--admin-listen", "127.0.0.1:0", "--trusted-proxy", "127.0.0.1"];
    let Some(stack) = Stack::start_with(Parts::Embedded, &options).await else { return };
    let told = "X-Forwarded-Host: localhost\r\nX-Forwarded-For: 127.0.0.1\r\n";
    for front in [&stack.balancer, &stack.servers["ws1"]] {
        let head =
            upgrade_head("userId=a", told).replace("Host: localhost\r\nUp", "Host: evil\r\nUp");
        assert!(head.contains("Host: evil"));
        is_refused(&request(front, head).await.unwrap(), 421, "--allow-host");
        assert_eq!(status(front, &upgrade_head("userId=a", told)).await, 101);
    }
    for (address, target) in [
        (&stack.api, "/v1/servers?userId=a"),
        (&stack.balancer, "/v1/servers?userId=a"),
        (&stack.balancer, "/v1/connect?userId=a"),
        (&stack.balancer, "/"),
        (&stack.admin, "/metrics"),
    ] {
        let answer = ask(address, "GET", target, &format!("Host: evil.example\r\n{told}")).await;
        is_refused(&answer, 421, "--allow-host");
        let own = ask(address, "GET", target, &format!("Host: localhost:1\r\n{told}")).await;
        assert_eq!(own.status, 200, "{target}");
    }
    stack.stop().await;
}

#[tokio::test]
async fn the_page_and_the_api_say_what_browsers_may_do_with_them() {
    let Some(stack) = Stack::start(Parts::Embedded).await else { return };
    let page = ask(&stack.balancer, "GET", "/", "").await;
    let policy = page.header("content-security-policy").unwrap().to_owned();
    let policy: BTreeMap<_, _> = policy.split("; ").filter_map(|d| d.split_once(' ')).collect();
    for (directive, value) in [
        ("default-src", "'none'"),
        ("script-src", "'self'"),
        ("style-src", "'self'"),
        ("connect-src", "'self'"),
        ("frame-ancestors", "'none'"),
        ("base-uri", "'none'"),
        ("form-action", "'none'"),
        ("require-trusted-types-for", "'script'"),
    ] {
        assert_eq!(policy.get(directive), Some(&value), "{directive}: {policy:?}");
    }
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(page.header(name), Some(value), "{name}");
    }
    assert!(page.header("permissions-policy").unwrap().contains("camera=()"));
    assert_eq!(page.header("strict-transport-security"), None, "this is not TLS");
    let answer = ask(&stack.api, "GET", "/v1/servers?userId=a", "").await;
    let policy = Some("default-src 'none'; frame-ancestors 'none'");
    assert_eq!(answer.header("content-security-policy"), policy);
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    stack.stop().await;
}

#[tokio::test]
async fn an_origin_that_can_not_be_meant_is_said() {
    for bad in ["https://*.example.com", "example.com", "https://a/b", "null"] {
        let mut up = crate::harness::command();
        up.args(["up", "--memory", "--balancer-port", "0", "--api-port", "0"]);
        up.args(["--server-port", "0", "--allow-origin", bad]);
        let output = up.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{bad}: {said}");
        assert!(said.contains("--allow-origin must be like https://app.example.com"), "{said}");
    }
}
