//! Where a request has its token, and what is said to one that has it wrongly.

use serde_json::json;

use super::{Guarded, token};
use crate::harness::Parts;
use crate::raw::{Answer, Raw, request, upgrade_head};

async fn asks(address: &str, more: &str) -> (Answer, Raw) {
    let mut raw = Raw::dial(address).await;
    raw.write(upgrade_head("", more).as_bytes()).await;
    (raw.head().await.expect("an answer"), raw)
}

#[tokio::test]
async fn a_refusal_says_what_a_token_would_have_to_be() {
    let guarded = Guarded::start(Parts::Embedded, &[]).await.unwrap();
    let stack = &guarded.stack;
    let good = token("userA", json!({}));
    let good = good.reveal();
    let bearer = format!("Authorization: Bearer {good}\r\n");
    let pair = format!("Sec-WebSocket-Protocol: parlor, bearer.{good}\r\n");
    let admin = token("root", json!({"scope": "admin"}));
    let admin = format!("Authorization: Bearer {}\r\n", admin.reveal());
    let twice = format!("{bearer}{pair}");
    // What a browser knows for a proxy goes along by itself.
    let basic = format!("Authorization: Basic dTpw\r\n{pair}");
    for address in [&stack.servers["ws1"], &stack.balancer] {
        for (more, status, error) in [
            (&bearer, 101, None),
            (&pair, 101, None),
            (&basic, 101, None),
            (&twice, 400, Some("invalid_request")),
            (&admin, 403, Some("insufficient_scope")),
        ] {
            let (answer, _) = asks(address, more).await;
            assert_eq!(answer.status, status, "{more}");
            let said = answer.header("www-authenticate").unwrap_or_default();
            assert_eq!(said.is_empty(), error.is_none(), "{said}");
            assert!(said.contains(error.unwrap_or_default()), "{said}");
        }
        // A script sees no status: it is told on the open socket.
        for (more, code) in [(&twice, "bad_request"), (&admin, "forbidden")] {
            let page = format!("Origin: http://localhost\r\n{more}");
            let (answer, mut raw) = asks(address, &page).await;
            assert_eq!(answer.status, 101, "{code}");
            let said = raw.wait_for(|said| (said["type"] == "error").then(|| said["code"].clone()));
            assert_eq!(said.await, code);
            assert_eq!(raw.closed().await.0, Some(4_401));
        }
        let page = format!("Origin: http://localhost\r\n{basic}");
        let (answer, mut raw) = asks(address, &page).await;
        assert_eq!(answer.status, 101);
        raw.wait_for(|said| (said["type"] == "welcome").then_some(())).await;
    }
    for address in [&stack.api, &stack.balancer] {
        let head = "GET /v1/users/userA/conversations HTTP/1.1\r\nHost: localhost\r\n";
        let head = format!("{head}Connection: close\r\n{bearer}{bearer}\r\n");
        let answer = request(address, head).await.unwrap();
        assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("bad_request")));
        let said = answer.header("www-authenticate").unwrap();
        assert!(said.contains("invalid_request"), "{said}");
    }
    guarded.stack.stop().await;
}
