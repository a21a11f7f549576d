//! Pages of the Message API: cursors, what exists, who may see what.

use serde_json::{Value, json};

use super::{new_user, say};
use crate::case::{get, plain, post};
use crate::fleet::Fleet;
use crate::raw::request;

const JSON: &str = "Content-Type: application/json\r\n";

async fn asked(fleet: &Fleet, target: &str) -> crate::raw::Answer {
    request(&fleet.api, get(target, "")).await.expect("an answer")
}

/// A person with three conversations, and a cursor behind the first of them.
async fn with_cursor(fleet: &Fleet) -> (String, String) {
    let (mut a, user) = new_user(fleet, "lister").await;
    for number in 0..3 {
        say(&mut a, &format!("{user}-{number}"), "hello").await;
    }
    let first = format!("/v1/users/{user}/conversations?userId={user}&limit=1");
    let page = asked(fleet, &first).await.json();
    let cursor = page["next"].as_str().expect("there is more").to_owned();
    assert_eq!(asked(fleet, &list(&user, &cursor)).await.status, 200);
    (user, cursor)
}

fn list(user: &str, cursor: &str) -> String {
    format!("/v1/users/{user}/conversations?userId={user}&limit=1&after={cursor}")
}

/// Row E1: only as it was given.
pub async fn cursors_that_are_altered(fleet: &Fleet) {
    let (user, cursor) = with_cursor(fleet).await;
    for at in 0..cursor.len() {
        let mut turned = cursor.clone().into_bytes();
        turned[at] ^= 1;
        let turned = String::from_utf8(turned).unwrap();
        asked(fleet, &list(&user, &turned)).await.is_problem(400);
        if at % 8 == 0 {
            asked(fleet, &list(&user, &cursor[..at])).await.is_problem(400);
        }
    }
}

/// Row E2: only where it was given, and only to whom.
pub async fn cursors_of_others(fleet: &Fleet) {
    let (user, cursor) = with_cursor(fleet).await;
    let (_other, other) = new_user(fleet, "another").await;
    asked(fleet, &list(&other, &cursor)).await.is_problem(400);
    let page = format!("/v1/conversations/dm:{user}:{user}-0/messages?userId={user}");
    asked(fleet, &format!("{page}&after={cursor}")).await.is_problem(400);
}

/// Row E4: what exists and is not one's own is answered as what does not exist.
pub async fn what_exists_is_not_told(fleet: &Fleet) {
    let ((mut a, one), (_b, two)) = (new_user(fleet, "a").await, new_user(fleet, "b").await);
    assert_eq!(say(&mut a, &two, "between us").await, 1);
    let target = format!("/v1/rooms?userId={one}");
    let room = request(&fleet.api, post(&target, JSON, "{}")).await.unwrap().json();
    let room = room["conversation"].as_str().unwrap().to_owned();
    let page = |id: &str| format!("/v1/conversations/{id}/messages?userId=stranger");
    let there = [format!("dm:{one}:{two}"), room];
    let mut bodies = Vec::new();
    for id in there.iter().map(String::as_str).chain(["dm:nobody:noone", "room:nowhere"]) {
        let answer = asked(fleet, &page(id)).await;
        answer.is_problem(404);
        bodies.push(answer.body);
        let body = json!({"conversation": id, "message": "BAD"}).to_string();
        let sent = post("/v1/messages?userId=stranger", JSON, &body);
        let answer = request(&fleet.api, sent).await.unwrap();
        answer.is_problem(404);
        bodies.push(answer.body);
    }
    assert!(bodies.chunks(2).all(|two| two == &bodies[..2]), "the same bytes");
}

/// Row E5: up to the leaving, and nothing of what follows; a stranger nothing at all.
pub async fn somebody_who_has_left(fleet: &Fleet) {
    let ((_a, maker), (_b, member)) = (new_user(fleet, "a").await, new_user(fleet, "b").await);
    let target = format!("/v1/rooms?userId={maker}");
    let body = json!({"members": [member]}).to_string();
    let room = request(&fleet.api, post(&target, JSON, &body)).await.unwrap().json();
    let (id, room) = (room["room"].as_str().unwrap(), room["conversation"].as_str().unwrap());
    let speak = async |text: &str| {
        let body = json!({"conversation": room, "message": text}).to_string();
        let target = format!("/v1/messages?userId={maker}");
        let answer = request(&fleet.api, post(&target, JSON, &body)).await.unwrap();
        assert_eq!(answer.status, 201, "{}", answer.text());
    };
    speak("before").await;
    let leave = format!("/v1/rooms/{id}/members/{member}?userId={member}");
    let left = request(&fleet.api, plain("DELETE", &leave, "")).await.unwrap();
    assert!([200, 201].contains(&left.status), "{}", left.text());
    speak("after").await;
    let seen = fleet.history(&member, room).await;
    let texts: Vec<&Value> = seen.iter().filter_map(|entry| entry.get("message")).collect();
    assert_eq!(texts, [&json!("before")]);
    let all = fleet.history(&maker, room).await;
    assert_eq!(all.last().unwrap()["message"], "after");
    let page = format!("/v1/conversations/{room}/messages?userId=stranger");
    asked(fleet, &page).await.is_problem(404);
}

/// Row E8: one message; another body is a conflict.
pub async fn a_key_again(fleet: &Fleet) {
    let (_a, user) = new_user(fleet, "keyed").await;
    let send = async |address: &str, message: &str| {
        let body = json!({"to": user, "message": message}).to_string();
        let more = format!("{JSON}Idempotency-Key: k1\r\n");
        let target = format!("/v1/messages?userId={user}");
        request(address, post(&target, &more, &body)).await.unwrap()
    };
    let first = send(&fleet.balancer, "once").await;
    let again = send(&fleet.api, "once").await;
    assert_eq!((first.status, again.status), (201, 200));
    assert_eq!(first.json(), again.json());
    send(&fleet.balancer, "BAD").await.is_problem(409);
    assert_eq!(fleet.history(&user, &format!("dm:{user}:{user}")).await.len(), 1);
}
