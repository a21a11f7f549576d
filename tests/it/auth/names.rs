//! By which names a listener is called where tokens are in use, and what the admin's asks for.

use std::time::Duration;

use serde_json::json;

use super::{Guarded, token};
use crate::harness::{Parts, within};
use crate::raw::{Answer, request, upgrade_head};

async fn get(address: &str, host: &str, target: &str, more: &str) -> Answer {
    let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
    request(address, head).await.expect("an answer")
}

fn bearer(scope: &str) -> String {
    let token = token("root", json!({"scope": scope}));
    format!("Authorization: Bearer {}\r\n", token.reveal())
}

/// A name that was pointed at this machine gives a page our origin, and no token.
#[tokio::test]
async fn a_token_opens_by_any_name_and_the_admins_address_by_its_own() {
    let options = ["--admin-listen", "127.0.0.1:0"];
    let guarded = Guarded::start(Parts::Embedded, &options).await.unwrap();
    let (stack, name) = (&guarded.stack, "chat.example.com");
    let admin = &stack.admin;
    for address in [&stack.api, &stack.balancer] {
        for (more, status) in [(bearer("user"), 200), (String::new(), 401)] {
            let answer = get(address, name, "/v1/users/root/conversations", &more).await;
            assert_eq!(answer.status, status, "{}", answer.text());
        }
    }
    for address in [&stack.balancer, &stack.servers["ws1"]] {
        let own = format!("Origin: http://{name}\r\n");
        let head = upgrade_head("", &format!("{own}{}", bearer("user")));
        let head = head.replace("Host: localhost", &format!("Host: {name}"));
        let mut socket = crate::raw::Raw::dial(address).await;
        socket.write(head.as_bytes()).await;
        assert_eq!(socket.head().await.expect("an answer").status, 101);
    }
    for target in ["/metrics", "/readyz", "/healthz"] {
        assert_eq!(get(admin, "localhost", target, "").await.status, 200, "{target}");
        assert_eq!(get(admin, name, target, &bearer("admin")).await.status, 421, "{target}");
    }
    let reasons = get(admin, "localhost", "/readyz", "").await.json();
    assert!(reasons["shared"].is_object(), "on loopback the reasons are told: {reasons}");
    guarded.stack.stop().await;
}

#[tokio::test]
async fn beyond_loopback_the_admins_address_asks_for_an_admin() {
    let options = ["--admin-listen", "0.0.0.0:0"];
    let guarded = Guarded::start(Parts::Embedded, &options).await.unwrap();
    let admin = guarded.stack.admin.replace("0.0.0.0", "127.0.0.1");
    for (more, status) in [
        (String::new(), 401),
        ("Authorization: Bearer x\r\n".to_owned(), 401),
        (bearer("user"), 403),
        (bearer("service"), 403),
        (bearer("admin"), 200),
    ] {
        let answer = get(&admin, "parlor.internal:9100", "/metrics", &more).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        let ready = get(&admin, "parlor.internal:9100", "/readyz", &more).await;
        assert_eq!((ready.status, &ready.json()["ready"]), (200, &json!(true)));
        assert_eq!(ready.json()["shared"].is_object(), status == 200, "{}", ready.text());
    }
    // Of the second that was taken back.
    let old = bearer("admin");
    let taken_back = guarded.stack.http().token(Some(token("other", json!({"scope": "admin"}))));
    let answer = taken_back.post("/v1/users/root/revoke", &json!({})).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    // The part that answers there hears of it from another.
    within(Duration::from_secs(2), "the token is dead there too", async || {
        let answer = get(&admin, "parlor.internal:9100", "/metrics", &old).await;
        (answer.status == 401).then_some(())
    })
    .await;
    guarded.stack.stop().await;
}
