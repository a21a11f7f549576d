//! Who may ask for what with which token.

use std::sync::Arc;

use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};

use super::super::health::{Admin, Health, admin_router};
use super::switched::Trouble;
use super::world::{Answer, World, user};
use crate::auth::Verifier;
use crate::auth::testing::{SECRET, by_secret, hs256};
use crate::chat::Chat;
use crate::edge::Edge;
use crate::protocol::Token;
use crate::telemetry::Metrics;

const HISTORY: &str = "/v1/conversations/dm:userA:userB/messages";

struct Asking {
    world: World,
}

impl Asking {
    async fn new() -> Self {
        let world = World::guarded().await;
        world.put("userA", "userB", "Hi").await;
        Self { world }
    }

    async fn ask(
        &self,
        method: &str,
        target: &str,
        token: &Token,
        more: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Answer {
        let bearer = format!("Bearer {}", token.reveal());
        let headers = [&[("authorization", bearer.as_str())], more].concat();
        self.world.with_headers(method, target, &headers, body).await
    }

    async fn get(&self, target: &str, token: &Token) -> Answer {
        self.ask("GET", target, token, &[], None).await
    }

    async fn send(&self, token: &Token, more: &[(&str, &str)], body: Value) -> Answer {
        self.ask("POST", "/v1/messages", token, more, Some(&body)).await
    }
}

fn of(sub: &str) -> Token {
    hs256(SECRET, json!({"sub": sub}))
}

fn scoped(sub: &str, scope: &str) -> Token {
    hs256(SECRET, json!({"sub": sub, "scope": scope}))
}

#[tokio::test]
async fn without_a_good_token_nothing_is_answered_but_the_document() {
    let asking = Asking::new().await;
    let good = of("userA");
    let challenged = |answer: &Answer, invalid: bool| {
        answer.problem(401, "unauthorized");
        let challenge = answer.headers["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with("Bearer realm=\"parlor\""), "{challenge}");
        assert_eq!(challenge.contains("invalid_token"), invalid, "{challenge}");
        assert_eq!(answer.headers["cache-control"], "no-store");
        let text = String::from_utf8_lossy(&answer.bytes).into_owned() + challenge;
        assert!(!text.contains("eyJ"), "no token in an answer: {text}");
    };
    for target in [HISTORY, "/v1/users/userA/conversations", "/v1/servers", "/v1/nowhere", "/"] {
        challenged(&asking.world.get(target).await, false);
        challenged(&asking.world.get(&format!("{target}?userId=userA")).await, false);
        let in_url = format!("{target}?token={0}&access_token={0}", good.reveal());
        challenged(&asking.world.get(&in_url).await, false);
        challenged(
            &asking.get(target, &hs256(b"a foreign secret of 32 bytes, at least", json!({}))).await,
            true,
        );
        challenged(&asking.get(target, &hs256(SECRET, json!({"exp": 1}))).await, true);
    }
    let basic = asking.world.with_headers("GET", HISTORY, &[("authorization", "Basic dTpw")], None);
    challenged(&basic.await, false);
    let bearer = format!("Bearer {}", good.reveal());
    let twice = [("authorization", bearer.as_str()), ("authorization", bearer.as_str())];
    let twice = asking.world.with_headers("GET", HISTORY, &twice, None).await;
    twice.problem(400, "bad_request");
    // No body is read for nobody.
    let huge = json!({"to": "userB", "message": "x".repeat(80_000)});
    let huge = asking.world.with_headers("POST", "/v1/messages", &[], Some(&huge)).await;
    challenged(&huge, false);
    assert_eq!(asking.world.get("/openapi.json").await.status, 200);
    let forged = hs256(b"a foreign secret of 32 bytes, at least", json!({}));
    assert_eq!(asking.get("/openapi.json", &forged).await.status, 200, "it is not looked at");
    assert_eq!(asking.get(HISTORY, &good).await.status, 200);
}

#[tokio::test]
async fn a_browser_asks_first_without_a_token_and_reads_the_refusal() {
    let asking = Asking::new().await;
    let own = "http://chat.test";
    let first = [("host", "chat.test"), ("origin", own), ("access-control-request-method", "GET")];
    let allowed = asking.world.with_headers("OPTIONS", HISTORY, &first, None).await;
    assert_eq!((allowed.status.as_u16(), allowed.bytes.len()), (204, 0));
    assert_eq!(allowed.headers["access-control-allow-origin"], own);
    let names = allowed.headers["access-control-allow-headers"].to_str().unwrap();
    assert!(names.contains("authorization") && names.contains("on-behalf-of"), "{names}");
    let refused = asking.world.with_headers("GET", HISTORY, &first[..2], None).await;
    refused.problem(401, "unauthorized");
    assert_eq!(refused.headers["access-control-allow-origin"], own);
    // Without the question it is no preflight, and a page of another site is not even asked.
    let plain = asking.world.with_headers("OPTIONS", HISTORY, &first[..2], None).await;
    plain.problem(401, "unauthorized");
    let evil = [("host", "chat.test"), ("origin", "http://evil.test"), first[2]];
    let evil = asking.world.with_headers("OPTIONS", HISTORY, &evil, None).await;
    evil.problem(403, "forbidden");
    assert!(!evil.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_user_acts_for_himself_alone() {
    let asking = Asking::new().await;
    let (a, c) = (of("userA"), of("userC"));
    assert_eq!(asking.get(HISTORY, &a).await.status, 200);
    assert_eq!(asking.get(&format!("{HISTORY}?userId=userA"), &a).await.status, 200);
    // Another's conversation is answered like one that does not exist.
    let foreign = asking.get(HISTORY, &c).await;
    let unknown = asking.get("/v1/conversations/dm:nobody:noone/messages", &c).await;
    foreign.problem(404, "not_found");
    assert_eq!(foreign.bytes, unknown.bytes);
    let list = asking.get("/v1/users/userA/conversations", &c).await;
    list.problem(404, "not_found");
    let nobody = asking.get("/v1/users/nobody/conversations", &c).await;
    assert_eq!(list.bytes, nobody.bytes);
    // Naming somebody else does not make one of him, in whatever way.
    let named = asking.get(&format!("{HISTORY}?userId=userA"), &c).await;
    named.problem(403, "forbidden");
    let header = asking.ask("GET", HISTORY, &c, &[("on-behalf-of", "userA")], None).await;
    header.problem(403, "forbidden");
    let from = json!({"from": "userA", "to": "userB", "message": "forged"});
    asking.send(&c, &[], from.clone()).await.problem(403, "forbidden");
    assert_eq!(asking.send(&a, &[], from).await.status, 201);
    for near in ["usera", "USERA", "userA%20", "us%C3%A9rA", "userA%00"] {
        let answer = asking.get(&format!("{HISTORY}?userId={near}"), &a).await;
        assert!([400, 403].contains(&answer.status.as_u16()), "{near}: {}", answer.json);
    }
    asking.get(HISTORY, &of("UserA")).await.problem(404, "not_found");
    asking.ask("POST", "/v1/users/userB/revoke", &a, &[], None).await.problem(403, "forbidden");
    asking.get("/v1/servers", &a).await.problem(403, "forbidden");
}

#[tokio::test]
async fn a_service_acts_for_whom_it_names() {
    let asking = Asking::new().await;
    let service = scoped("backend", "service");
    let (query, header) = (format!("{HISTORY}?userId=userA"), [("on-behalf-of", "userB")]);
    assert_eq!(asking.get(&query, &service).await.status, 200);
    assert_eq!(asking.ask("GET", HISTORY, &service, &header, None).await.status, 200);
    assert_eq!(asking.get("/v1/users/userA/conversations", &service).await.status, 200);
    asking.get(HISTORY, &service).await.problem(404, "not_found");
    asking.ask("GET", &query, &service, &header, None).await.problem(400, "bad_request");
    let twice = [("on-behalf-of", "userA"), ("on-behalf-of", "userA")];
    asking.ask("GET", HISTORY, &service, &twice, None).await.problem(400, "bad_request");
    let bad = [("on-behalf-of", "a b")];
    asking.ask("GET", HISTORY, &service, &bad, None).await.problem(400, "bad_request");
    let from = json!({"from": "userB", "to": "userA", "message": "by a service"});
    assert_eq!(asking.send(&service, &[], from.clone()).await.status, 201);
    assert_eq!(asking.send(&service, &header, from.clone()).await.status, 201);
    let other = [("on-behalf-of", "userC")];
    asking.send(&service, &other, from).await.problem(403, "forbidden");
    let page = asking.get(&query, &service).await.json;
    let last = page["messages"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["from"], &last["message"]), (&json!("userB"), &json!("by a service")));
    assert_eq!(asking.get("/v1/servers", &service).await.status, 200);
    asking.ask("POST", "/v1/users/a/revoke", &service, &[], None).await.problem(403, "forbidden");
}

#[tokio::test]
async fn an_admin_administers_and_nothing_more() {
    let asking = Asking::new().await;
    let admin = scoped("root", "admin");
    let refused = asking.get(HISTORY, &admin).await;
    refused.problem(403, "forbidden");
    let challenge = refused.headers["www-authenticate"].to_str().unwrap();
    assert!(challenge.contains("insufficient_scope"), "{challenge}");
    let revoked = asking.ask("POST", "/v1/users/userA/revoke", &admin, &[], None).await;
    assert_eq!((revoked.status.as_u16(), &revoked.json["userId"]), (200, &json!("userA")));
    let both = scoped("userA", "user admin");
    // Revoked a moment ago: the clock of the tests is far behind that of tokens.
    assert_eq!(asking.get(HISTORY, &both).await.status, 200);
    let world = World::new().await;
    world.ask("POST", "/v1/users/userA/revoke").await.problem(403, "forbidden");
}

#[tokio::test]
async fn what_was_taken_back_is_dead_from_then_on() {
    let asking = Asking::new().await;
    let now = jsonwebtoken::get_current_timestamp();
    let made = |iat: Value| hs256(SECRET, json!({"iat": iat}));
    let (old, timeless) = (made(json!(now - 100)), made(json!(null)));
    assert_eq!(asking.get(HISTORY, &old).await.status, 200);
    let until = (now - 50) * 1_000 + 999;
    let record = crate::store::Record::Revoked(user("userA"), until);
    crate::store::Store::write(&*asking.world.store, record).await.unwrap();
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_millis(2_100)).await;
    tokio::time::resume();
    for (token, status) in [
        (&old, 401),
        (&timeless, 401),
        (&made(json!(now - 51)), 401),
        (&made(json!(now - 50)), 401),
        (&made(json!(now - 49)), 200),
        (&hs256(SECRET, json!({"sub": "userB", "iat": now - 100})), 200),
    ] {
        let answer = asking.get(HISTORY, token).await;
        assert_eq!(answer.status, status, "{}", answer.json);
    }
    assert!(asking.get(HISTORY, &old).await.json["detail"].as_str().unwrap().contains("revoked"));
}

#[tokio::test]
async fn a_store_that_does_not_answer_lets_nobody_in() {
    let asking = Asking::new().await;
    asking.world.store.switch.set(Trouble::Down);
    asking.get(HISTORY, &of("userA")).await.problem(503, "unavailable");
    asking.get(HISTORY, &hs256(SECRET, json!({"exp": 1}))).await.problem(401, "unauthorized");
}

/// Asks at an admin's address.
async fn ask_admin(
    health: &Arc<Health>,
    (auth, chat): (Option<Verifier>, Option<Arc<Chat>>),
    path: &str,
    token: Option<&Token>,
) -> (u16, String) {
    let mut request = axum::http::Request::get(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {}", token.reveal()));
    }
    let request = request.body(axum::body::Body::empty()).unwrap();
    let admin = Admin { edge: Edge::open(), auth, chat };
    let service = TowerToHyperService::new(admin_router(health.clone(), admin));
    let answer = hyper::service::Service::call(&service, request).await.unwrap();
    let status = answer.status().as_u16();
    let body = axum::body::to_bytes(axum::body::Body::new(answer.into_body()), 65_536).await;
    (status, String::from_utf8(body.unwrap().to_vec()).unwrap())
}

#[tokio::test]
async fn an_admin_who_was_taken_back_reads_no_metrics() {
    let asking = Asking::new().await;
    let health = Health::new(vec![Arc::new(Metrics::new("test"))]);
    let now = jsonwebtoken::get_current_timestamp();
    let made = |iat: u64| hs256(SECRET, json!({"sub": "root", "scope": "admin", "iat": iat}));
    let record = crate::store::Record::Revoked(user("root"), (now - 50) * 1_000);
    crate::store::Store::write(&*asking.world.store, record).await.unwrap();
    for (iat, metrics, told) in [(now - 60, 401, false), (now - 40, 200, true)] {
        let knows = || (asking.world.chat.clone(), made(iat));
        let ask = async |path| {
            let (chat, token) = knows();
            ask_admin(&health, (Some(by_secret().await), Some(chat)), path, Some(&token)).await
        };
        assert_eq!(ask("/metrics").await.0, metrics);
        assert_eq!(ask("/readyz").await.1.contains("stage"), told);
    }
}

#[tokio::test]
async fn a_margin_is_a_few_minutes_at_most() {
    let asking = Asking::new().await;
    let admin = scoped("root", "admin");
    let revoke = async |query: &str| {
        let target = format!("/v1/users/userC/revoke{query}");
        asking.ask("POST", &target, &admin, &[], None).await
    };
    let until = async |query: &str| revoke(query).await.json["until"].as_u64().unwrap();
    let (now, later) = (until("").await, until("?margin=300").await);
    assert!((300_000..310_000).contains(&(later - now)), "{now} {later}");
    for bad in ["?margin=301", "?margin=-1", "?margin=+1", "?margin=", "?margin=1&margin=1"] {
        revoke(bad).await.problem(400, "bad_request");
    }
}

#[tokio::test]
async fn metrics_are_for_admins_where_others_can_ask() {
    let health = Health::new(vec![Arc::new(Metrics::new("test"))]);
    health.ready();
    health.shared("redis", Some("no answer".into()));
    let ask = async |auth: Option<Verifier>, path: &str, token: Option<&Token>| {
        ask_admin(&health, (auth, None), path, token).await
    };
    let status = async |auth, path, token| ask(auth, path, token).await.0;
    let guarded = by_secret().await;
    let (admin, user) = (scoped("root", "admin"), of("userA"));
    for path in ["/healthz", "/readyz"] {
        assert_eq!(status(Some(guarded.clone()), path, None).await, 200, "{path}");
    }
    let forged = hs256(b"a foreign secret of 32 bytes, at least", json!({"scope": "admin"}));
    let callers =
        [(None, false), (Some(&user), false), (Some(&forged), false), (Some(&admin), true)];
    for (token, told) in callers {
        let (status, body) = ask(Some(guarded.clone()), "/readyz", token).await;
        assert_eq!((status, body.contains("no answer")), (200, told), "{body}");
        assert!(body.contains("\"ready\":true"), "{body}");
    }
    for (token, expected) in [(None, 401), (Some(&user), 403), (Some(&admin), 200)] {
        assert_eq!(status(Some(guarded.clone()), "/metrics", token).await, expected);
    }
    assert_eq!(status(None, "/metrics", None).await, 200, "on loopback");
}

/// Whether a private room is there is told to nobody: byte for byte.
#[tokio::test]
async fn a_private_room_looks_like_none_at_all() {
    let asking = Asking::new().await;
    let made = json!({"room": "vault-1", "public": false});
    let made = asking.ask("POST", "/v1/rooms", &of("userA"), &[], Some(&made)).await;
    assert_eq!(made.status.as_u16(), 201, "{:?}", String::from_utf8_lossy(&made.bytes));
    let hi = |room: &str| json!({"conversation": format!("room:{room}"), "message": "Hi"});
    let mut answers = Vec::new();
    for room in ["vault-1", "vault-2"] {
        let log = format!("/v1/conversations/room:{room}/messages");
        let member = |user: &str| format!("/v1/rooms/{room}/members/{user}");
        let stranger = of("stranger");
        answers.push([
            asking.get(&log, &stranger).await,
            asking.send(&stranger, &[], hi(room)).await,
            asking.ask("PUT", &member("stranger"), &stranger, &[], None).await,
            asking.ask("DELETE", &member("userA"), &stranger, &[], None).await,
        ]);
    }
    for (there, missing) in answers[0].iter().zip(&answers[1]) {
        there.problem(404, "not_found");
        let text =
            |answer: &Answer| String::from_utf8_lossy(&answer.bytes).replace("vault-2", "vault-1");
        assert_eq!(text(there), text(missing));
        assert_eq!((there.status, &there.headers), (missing.status, &missing.headers));
    }
}
