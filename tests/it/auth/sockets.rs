//! What becomes of a token while its socket is open.

use std::time::{Duration, Instant};

use parlor::client::{ClientError, ServerFrame};
use parlor::protocol::Token;
use serde_json::json;

use super::{FOREIGN, Guarded, now, signed, token, with_token};
use crate::harness::{Parts, Person, SOON};
use crate::raw::{Raw, upgrade_head};

async fn closed(person: &mut Person, limit: Duration) -> (Option<u16>, Vec<String>) {
    let mut said = Vec::new();
    loop {
        match person.text_within(limit).await {
            Ok(text) => said.push(text),
            Err(ClientError::Closed { code, .. }) => return (code, said),
            Err(error) => panic!("{error}"),
        }
    }
}

async fn authed(person: &mut Person, token: &Token) -> Result<u64, String> {
    person.write(json!({"type": "auth", "token": token.reveal(), "ref": "r"}).to_string()).await;
    let answer = person.wait_for("an answer to auth", SOON, |frame| match frame {
        ServerFrame::Authed { expires_at } => Some(Ok(expires_at)),
        ServerFrame::Error { code, .. } => Some(Err(code)),
        _ => None,
    });
    answer.await
}

#[tokio::test]
async fn a_token_that_ends_closes_its_socket_after_the_leeway() {
    let guarded = Guarded::start(Parts::Embedded, &[]).await.unwrap();
    let url = guarded.stack.ws_at("ws1");
    // Within its leeway of 60 s, of which some are left.
    let ending = token("userA", json!({"exp": now() - 56}));
    let (mut ends, mut renews) = (
        Person::with(&with_token(&url, "userA", ending.clone())).await,
        Person::with(&with_token(&url, "userA", ending.clone()).device("other")).await,
    );
    renews.catch_up().await;
    let fresh = token("userA", json!({"exp": now() + 300}));
    let expires_at = authed(&mut renews, &fresh).await.unwrap();
    assert!(expires_at.abs_diff((now() + 300) * 1_000) <= 5_000, "{expires_at}");
    let begun = Instant::now();
    let (code, said) = closed(&mut ends, SOON).await;
    assert_eq!(code, Some(4_401));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert!(said.last().unwrap().contains("\"code\":\"unauthorized\""), "{said:?}");
    assert_eq!(renews.say("userB", "still here").await, 1);
    // It has ended, and does not open another.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let again = Person::try_with(&with_token(&url, "userA", ending)).await;
    assert!(matches!(again, Err(ClientError::Refused { status: 401, .. })));
    guarded.stack.stop().await;
}

#[tokio::test]
async fn only_a_right_token_of_the_same_user_renews() {
    let guarded = Guarded::start(Parts::Embedded, &[]).await.unwrap();
    let url = guarded.stack.ws();
    let mut person = Person::with(&with_token(&url, "userA", token("userA", json!({})))).await;
    person.catch_up().await;
    for bad in [
        token("userB", json!({})),
        token("UserA", json!({})),
        token("userA", json!({"exp": now() - 90})),
        token("userA", json!({"scope": "admin"})),
        signed(FOREIGN, "userA", json!({})),
        Token::new("x"),
        Token::new("x".repeat(9_000)),
    ] {
        assert_eq!(authed(&mut person, &bad).await, Err("unauthorized".to_owned()));
    }
    assert!(authed(&mut person, &token("userA", json!({}))).await.is_ok());
    assert_eq!(person.say("userB", "Hi").await, 1);
    guarded.stack.stop().await;
}

#[tokio::test]
async fn a_token_that_was_taken_back_renews_nothing_and_a_services_may() {
    let guarded = Guarded::start(Parts::Embedded, &[]).await.unwrap();
    let (stack, url) = (&guarded.stack, guarded.stack.ws());
    let revoke = async |user: &str| {
        let api = stack.http().token(Some(token("root", json!({"scope": "admin"}))));
        api.post(&format!("/v1/users/{user}/revoke"), &json!({})).await.unwrap().good().unwrap();
    };
    revoke("userA").await;
    let old = token("userA", json!({"iat": now() - 5}));
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let mut person = Person::with(&with_token(&url, "userA", token("userA", json!({})))).await;
    person.catch_up().await;
    assert_eq!(authed(&mut person, &old).await, Err("unauthorized".to_owned()));
    assert_eq!(person.say("userB", "as before").await, 1);
    let service = token("shop", json!({"scope": "service", "iat": now() - 5}));
    assert!(authed(&mut person, &service).await.is_ok());
    assert_eq!(person.say("userB", "by a service").await, 2);
    // It stands by that token from now on, and falls with it.
    revoke("shop").await;
    let (code, said) = closed(&mut person, SOON).await;
    assert_eq!(code, Some(4_401), "{said:?}");
    let mut person = Person::with(&with_token(&url, "userA", token("userA", json!({})))).await;
    person.catch_up().await;
    assert_eq!(authed(&mut person, &service).await, Err("unauthorized".to_owned()));
    assert_eq!(person.say("userB", "as before").await, 3);
    guarded.stack.stop().await;
}

#[tokio::test]
async fn the_query_names_nobody_but_for_a_service() {
    let guarded = Guarded::start(Parts::Embedded, &[]).await.unwrap();
    let address = guarded.stack.servers["ws1"].clone();
    let open = async |query: &str, token: &Token| {
        let mut raw = Raw::dial(&address).await;
        let bearer = format!("Authorization: Bearer {}\r\n", token.reveal());
        raw.write(upgrade_head(query, &bearer).as_bytes()).await;
        let status = raw.head().await.expect("an answer").status;
        let user = match status {
            101 => raw.json().await.unwrap()["userId"].as_str().unwrap().to_owned(),
            _ => String::new(),
        };
        (status, user)
    };
    let (user, service) =
        (token("userA", json!({})), token("backend", json!({"scope": "service"})));
    assert_eq!(open("", &user).await, (101, "userA".to_owned()));
    assert_eq!(open("userId=userA", &user).await, (101, "userA".to_owned()));
    for other in ["userId=userB", "userId=usera", "userId=userA%2e"] {
        assert_eq!(open(other, &user).await.0, 403, "{other}");
    }
    assert_eq!(open("userId=userB", &service).await, (101, "userB".to_owned()));
    assert_eq!(open("", &service).await, (101, "backend".to_owned()));
    // A token in the URL is none.
    let in_url = format!("token={0}&access_token={0}", user.reveal());
    let answer = crate::raw::request(&address, upgrade_head(&in_url, "")).await.unwrap();
    assert_eq!(answer.status, 401);
    assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"));
    let twice =
        format!("Authorization: Bearer {0}\r\nAuthorization: Bearer {0}\r\n", user.reveal());
    let answer = crate::raw::request(&address, upgrade_head("", &twice)).await.unwrap();
    assert_eq!(answer.status, 400);
    guarded.stack.stop().await;
}

#[tokio::test]
async fn strangers_to_a_conversation_may_be_kept_out() {
    let guarded = Guarded::start(Parts::Embedded, &["--dm", "existing"]).await.unwrap();
    let stack = &guarded.stack;
    let url = stack.ws();
    let mut a = Person::with(&with_token(&url, "userA", token("userA", json!({})))).await;
    let mut b = Person::with(&with_token(&url, "userB", token("userB", json!({})))).await;
    a.catch_up().await;
    b.catch_up().await;
    let hi = parlor::client::Send::new(parlor::client::To::User("userB".to_owned()), "Hi");
    assert_eq!(a.refused(&hi).await, "forbidden");
    a.write(r#"{"type":"signal","to":"userB","data":{"typing":true}}"#).await;
    assert_eq!(a.error().await, "forbidden");
    b.hears_nothing(300).await;
    let post = async |token: &Token, from: &str| {
        let api = stack.http().token(Some(token.clone()));
        let body = json!({"from": from, "to": "userB", "message": "opened"});
        api.post("/v1/messages", &body).await.unwrap().status
    };
    assert_eq!(post(&token("userA", json!({})), "userA").await, 403);
    assert_eq!(post(&token("shop", json!({"scope": "service"})), "userA").await, 201);
    assert_eq!(a.send(&hi).await, 2);
    guarded.stack.stop().await;
}
