//! What one person says that concerns others: who it is from, what exists, whose it is.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{ask, hear, new_user, said_meanwhile, say};
use crate::case::{get, open, post};
use crate::fleet::Fleet;
use crate::raw::{self, Raw, request, upgrade_head};
use crate::token::{claiming, headed, now};

const JSON: &str = "Content-Type: application/json\r\n";

/// Row C7: the frame that came with the head is not looked at.
pub async fn a_command_without_a_token(fleet: &Fleet) {
    let head = upgrade_head("userId=tokens", "Origin: http://localhost\r\n");
    let frame = json!({"type": "message", "to": "tokens", "message": "BAD"}).to_string();
    let mut socket = Raw::dial(&fleet.balancer).await;
    socket.write(&[head.as_bytes(), &raw::text(&frame)].concat()).await;
    assert_eq!(socket.head().await.expect("an answer").status, 101);
    let (code, said) = socket.closed().await;
    assert_eq!(code, Some(4401), "{said:?}");
    assert!(!said.iter().any(|said| said["type"] == "sent" || said["type"] == "welcome"));
    let line = format!("Authorization: Bearer {}\r\n", claiming(json!({})));
    let target = "/v1/conversations/dm:tokens:tokens/messages";
    let page = request(&fleet.api, get(target, &line)).await.unwrap().json();
    assert_eq!(page["messages"], json!([]), "nothing is stored");
}

async fn with_token(fleet: &Fleet, token: &str) -> Raw {
    let head = upgrade_head("", &format!("Authorization: Bearer {token}\r\n"));
    open(&fleet.balancer, head.as_bytes()).await
}

/// Row C8: a fresh token is taken each time, another person's is not.
pub async fn auth_twice(fleet: &Fleet) {
    let mut socket = with_token(fleet, &claiming(json!({}))).await;
    for _ in 0..2 {
        let token = claiming(json!({"exp": now() + 7_200}));
        socket.text(&json!({"type": "auth", "token": token}).to_string()).await;
        socket.wait_for(|said| (said["type"] == "authed").then_some(())).await;
    }
    let foreign = claiming(json!({"sub": "somebody-else"}));
    socket.text(&json!({"type": "auth", "token": foreign}).to_string()).await;
    let refused = |said: &Value| {
        assert_ne!(said["type"], "authed", "{said}");
        (said["type"] == "error").then(|| said["code"].clone())
    };
    let code = socket.wait_for(refused).await;
    assert!(code == "unauthorized" || code == "forbidden", "{code}");
}

/// Row F5: nobody is asked for a key, whatever a token says of where it is.
pub async fn keys_elsewhere(fleet: &Fleet) {
    let trap = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/key", trap.local_addr().unwrap());
    for (head, status) in [
        (json!({"jku": url, "kid": "x"}), 401),
        (json!({"x5u": url, "kid": "x"}), 401),
        // The secret has no name, and nothing is looked up by what a token calls it.
        (json!({"kid": url}), 200),
    ] {
        let line = format!("Authorization: Bearer {}\r\n", headed(head));
        for address in [&fleet.api, &fleet.balancer] {
            let page = get("/v1/users/tokens/conversations", &line);
            assert_eq!(request(address, page).await.expect("an answer").status, status, "{line}");
        }
        for address in fleet.doors() {
            let mut socket = Raw::dial(&address).await;
            socket.write(upgrade_head("", &line).as_bytes()).await;
            let expected = if status == 200 { 101 } else { status };
            assert_eq!(socket.head().await.expect("an answer").status, expected, "{line}");
        }
    }
    let called = tokio::time::timeout(Duration::from_millis(300), trap.accept()).await;
    assert!(called.is_err(), "somebody was asked: {called:?}");
}

/// Row F9: what has ended 30 s ago holds for its leeway, at each door.
pub async fn a_token_in_its_leeway(fleet: &Fleet) {
    let token = claiming(json!({"exp": now() - 30}));
    let line = format!("Authorization: Bearer {token}\r\n");
    for address in [&fleet.api, &fleet.balancer] {
        let page = get("/v1/users/tokens/conversations", &line);
        assert_eq!(request(address, page).await.expect("an answer").status, 200);
    }
    drop(with_token(fleet, &token).await);
}

/// Row F8: it ends with its leeway of 60 s, not before.
pub async fn a_token_that_ends(fleet: &Fleet) {
    let mut socket = with_token(fleet, &claiming(json!({"exp": now() - 50}))).await;
    let begun = Instant::now();
    let (code, _) = socket.closed().await;
    assert_eq!(code, Some(4401));
    assert!((5..30).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

/// Row F8: whose tokens are taken back is out in a moment, and stays out.
pub async fn a_token_that_is_taken_back(fleet: &Fleet) {
    let user = format!("leaver-{}", fleet.next());
    let token = claiming(json!({"sub": user, "iat": now() - 5}));
    let mut sockets = [with_token(fleet, &token).await, with_token(fleet, &token).await];
    let admin = claiming(json!({"sub": "root", "scope": "admin"}));
    let more = format!("{JSON}Authorization: Bearer {admin}\r\n");
    let taken = post(&format!("/v1/users/{user}/revoke"), &more, "{}");
    let begun = Instant::now();
    assert_eq!(request(&fleet.api, taken).await.expect("an answer").status, 200);
    for socket in &mut sockets {
        assert_eq!(socket.closed().await.0, Some(4401));
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let line = format!("Authorization: Bearer {token}\r\n");
    let page = get(&format!("/v1/users/{user}/conversations"), &line);
    assert_eq!(request(&fleet.api, page).await.expect("an answer").status, 401);
}

/// Row C9.
pub async fn claims_of_a_client(fleet: &Fleet) {
    let ((mut a, from), (mut b, to)) = (new_user(fleet, "a").await, new_user(fleet, "b").await);
    let begun = now() * 1_000;
    let frame = json!({"type": "message", "to": to, "message": "mine", "from": "evil",
        "id": "dm:x:y/9", "seq": 99, "timestamp": 1, "conversation": null});
    let sent = ask(&mut a, &frame).await;
    let heard = hear(&mut b).await;
    assert_eq!((&sent["seq"], &heard["seq"]), (&json!(1), &json!(1)));
    assert_eq!((&heard["from"], &heard["to"]), (&json!(from), &json!(to)));
    assert_eq!(heard["id"], format!("dm:{from}:{to}/1"));
    assert!(heard["timestamp"].as_u64().unwrap() >= begun, "{heard}");
}

async fn room_of(fleet: &Fleet, maker: &str) -> String {
    let answer = post(&format!("/v1/rooms?userId={maker}"), JSON, "{}");
    let answer = request(&fleet.api, answer).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["conversation"].as_str().unwrap().to_owned()
}

/// The quicker quarter: what else the machine does makes answers slower, never quicker.
fn usual(mut took: Vec<Duration>) -> Duration {
    took.sort();
    took[took.len() / 4]
}

/// Row C10: for a stranger what exists is answered as what does not, by bytes and by time.
pub async fn what_exists_is_not_told(fleet: &Fleet) {
    let ((mut a, one), (_b, two)) = (new_user(fleet, "a").await, new_user(fleet, "b").await);
    assert_eq!(say(&mut a, &two, "between us").await, 1);
    let room = room_of(fleet, &one).await;
    let (mut stranger, _) = new_user(fleet, "stranger").await;
    let pairs = [(format!("dm:{one}:{two}"), "dm:nobody:noone"), (room, "room:nowhere-at-all")];
    for (there, nowhere) in pairs {
        let (mut answers, mut times) = (Vec::new(), Vec::new());
        for round in 0..32 {
            let conversation = if round % 2 == 0 { there.as_str() } else { nowhere };
            let begun = Instant::now();
            let frame = json!({"type": "message", "conversation": conversation, "message": "BAD"});
            answers.push(ask(&mut stranger, &frame).await.to_string());
            times.push((round % 2, begun.elapsed()));
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        assert!(answers[0].contains("\"not_found\""), "{}", answers[0]);
        // A place in it: in a room nobody is told anything, between two it is what does not exist.
        for kind in ["ack", "read"] {
            let mut answers = Vec::new();
            for conversation in [there.as_str(), nowhere] {
                let frame = json!({"type": kind, "conversation": conversation, "seq": 1});
                stranger.text(&frame.to_string()).await;
                answers.push(said_meanwhile(&mut stranger, 50).await);
            }
            assert_eq!(answers[0], answers[1], "{kind}");
            let told = answers[0].iter().map(|said| said["code"].as_str().unwrap_or("no error"));
            let expected = if there.starts_with("room:") { vec![] } else { vec!["not_found"] };
            assert_eq!(told.collect::<Vec<_>>(), expected, "{kind} in {there}");
        }
        let of = |kind| usual(times.iter().filter(|t| t.0 == kind).map(|t| t.1).collect());
        let (known, unknown) = (of(0), of(1));
        let ratio = known.as_secs_f64() / unknown.as_secs_f64();
        assert!((0.2..5.0).contains(&ratio), "{there}: {known:?}, {nowhere}: {unknown:?}");
    }
}

/// Row C11.
pub async fn the_same_ref(fleet: &Fleet) {
    let ((mut a, _), (_b, to)) = (new_user(fleet, "a").await, new_user(fleet, "b").await);
    let frame = |text: &str| json!({"type": "message", "to": to, "message": text, "ref": "once"});
    let first = ask(&mut a, &frame("once")).await;
    assert_eq!(ask(&mut a, &frame("once")).await, first);
    assert_eq!(ask(&mut a, &frame("BAD")).await["code"], "ref_conflict");
    assert_eq!(say(&mut a, &to, "next").await, 2);
}

/// Row C13: stored and shown byte for byte, as JSON that no browser takes for a page; the run looks
/// through the logs at its end.
pub async fn odd_texts_stay_as_they_are(fleet: &Fleet) {
    let ((mut a, from), (mut b, to)) = (new_user(fleet, "a").await, new_user(fleet, "b").await);
    let texts = [
        "\u{0}NUL \u{202e}bidi\u{202c} \u{1b}[31mred\u{1b}[0m \u{feff}\r\nFORGED line",
        "<script>alert(1)</script></textarea>${7*7}{{7*7}}",
        "e\u{301} is not \u{e9}, \u{1f468}\u{200d}\u{1f469} is one",
        "canary-of-a-message",
    ];
    for text in texts {
        say(&mut a, &to, text).await;
        assert_eq!(hear(&mut b).await["message"], text);
    }
    let target = format!("/v1/conversations/dm:{from}:{to}/messages?userId={to}");
    for address in [&fleet.api, &fleet.balancer] {
        let answer = request(address, get(&target, "")).await.unwrap();
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let page = answer.json();
        let kept: Vec<_> = page["messages"].as_array().unwrap().iter().collect();
        let kept: Vec<_> = kept.iter().map(|m| m["message"].as_str().unwrap()).collect();
        assert_eq!(kept, texts);
    }
}

/// Row C14: beyond the end it counts up to the end; in another's conversation it is refused; less
/// than before changes nothing.
pub async fn acks_that_are_wrong(fleet: &Fleet) {
    let ((mut a, one), (_b, two)) = (new_user(fleet, "a").await, new_user(fleet, "b").await);
    let conversation = format!("dm:{one}:{two}");
    for seq in 1..=3 {
        assert_eq!(say(&mut a, &two, "read this").await, seq);
    }
    let query = format!("userId={two}&device=app&acks=app");
    let mut app = Raw::ready(&fleet.balancer, &query).await;
    let mark = |kind: &str, seq: u64| {
        json!({"type": kind, "conversation": conversation, "seq": seq}).to_string()
    };
    for frame in [mark("read", 1_000), mark("ack", 1_000), mark("read", 1), mark("ack", 1)] {
        app.text(&frame).await;
    }
    let told = |said: &Value| {
        let seq = said["seq"].as_u64().unwrap_or(0);
        assert!(seq <= 3, "beyond the end: {said}");
        (said["type"] == "read").then_some(seq)
    };
    assert_eq!(a.wait_for(told).await, 3);
    said_meanwhile(&mut app, 200).await;
    let target = format!("/v1/users/{two}/conversations?userId={two}");
    let list = fleet.http().get(&target).await.unwrap().body;
    let row = list["conversations"][0].clone();
    assert_eq!((&row["read"], &row["unread"]), (&json!(3), &json!(0)), "it does not go back");
    let (mut stranger, _) = new_user(fleet, "stranger").await;
    for kind in ["ack", "read"] {
        stranger.text(&mark(kind, 2)).await;
        let code = stranger.wait_for(|said| said.get("code").cloned()).await;
        assert_eq!(code, "not_found");
    }
}

/// Row C16: each joins once.
pub async fn members_twice(fleet: &Fleet) {
    let (_maker, user) = new_user(fleet, "maker").await;
    let body = json!({"members": ["m1", "m2", "m1", user, "m2"]}).to_string();
    let target = format!("/v1/rooms?userId={user}");
    let made = request(&fleet.api, post(&target, JSON, &body)).await.unwrap().json();
    let entries = fleet.history(&user, made["conversation"].as_str().unwrap()).await;
    let mut joined: Vec<_> = entries.iter().map(|entry| entry["to"].as_str().unwrap()).collect();
    joined.sort_unstable();
    assert_eq!(joined, ["m1", "m2", user.as_str()]);
}

/// Row D4: nobody gets what is another's, however alike the names are; order is never an id's.
pub async fn ids_that_are_almost_the_same(fleet: &Fleet) {
    let (mut a, from) = new_user(fleet, "a").await;
    let unique = fleet.next();
    let names = [
        format!("Abc{unique}"),
        format!("abc{unique}"),
        format!("ABC{unique}"),
        format!("abc{unique}."),
        format!("00000000-0000-0000-0000-{unique:012}"),
        // A UUID of version 7, dated 2099.
        format!("03b7f9c1-a400-7000-8000-{unique:012}"),
    ];
    let mut sockets = Vec::new();
    for name in &names {
        sockets.push(Raw::ready(&fleet.balancer, &format!("userId={name}")).await);
    }
    for name in names.iter().rev() {
        assert_eq!(say(&mut a, name, name).await, 1, "a conversation of its own");
    }
    for (socket, name) in sockets.iter_mut().zip(&names) {
        assert_eq!(hear(socket).await["message"], json!(name));
        let others = said_meanwhile(socket, 0).await;
        assert!(others.iter().all(|said| said["type"] != "message"), "{others:?}");
    }
    let page = fleet.http().get(&format!("/v1/users/{from}/conversations?userId={from}")).await;
    let page = page.unwrap().body;
    let listed = page["conversations"].as_array().unwrap().iter();
    let listed: Vec<_> = listed.map(|c| c["with"].as_str().unwrap().to_owned()).collect();
    assert_eq!(listed, names, "newest first, whatever the ids say");
}
