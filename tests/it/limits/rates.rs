//! What a user may do in a second, or an hour: over all sockets and the Message API of a process.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Limited, answer, answers, bearer, counted, message, said_to_wait, told, wait};
use crate::auth::{FOREIGN, SECRET, signed, token};
use crate::harness::Parts;
use crate::raw::{self, Answer, CONTINUE, Frame, PING, PONG, Raw, TEXT, request, upgrade_head};

/// Sends these texts in one go.
async fn burst(socket: &mut Raw, texts: impl IntoIterator<Item = String>) {
    let bytes: Vec<u8> = texts.into_iter().flat_map(|text| raw::text(&text)).collect();
    socket.write(&bytes).await;
}

fn of(kind: &str, answers: &[Value]) -> Vec<Value> {
    answers.iter().filter(|said| said["type"] == kind).cloned().collect()
}

async fn post(api: &str, target: &str, user: &str, more: Value, body: &Value) -> Answer {
    let (bearer, body) = (bearer(&token(user, more)), body.to_string());
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{bearer}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    request(api, head).await.expect("an answer")
}

/// The wait that a refusal over HTTP tells, in the body and in the header.
#[track_caller]
fn told_over_http(answer: &Answer) -> Duration {
    assert_eq!(answer.status, 429, "{}", answer.text());
    let problem = answer.json();
    assert_eq!(problem["code"], "rate_limited");
    let ms = problem["retryAfterMs"].as_u64().unwrap();
    assert_eq!(answer.header("retry-after"), Some(ms.div_ceil(1_000).to_string().as_str()));
    Duration::from_millis(ms)
}

#[tokio::test]
async fn messages_have_a_rate_over_all_sockets_of_a_user() {
    let limited = Limited::start(&["--user-messages", "1:20"]).await;
    let (mut one, mut two) = (limited.at("ws1", "a").await, limited.at("ws2", "a").await);
    let begun = Instant::now();
    let named = |who: &str, number: usize| message("b", "Hi", &format!("{who}{number}"));
    burst(&mut one, (0..15).map(|number| named("one-", number))).await;
    let mut all = answers(&mut one, 15).await;
    burst(&mut two, (0..15).map(|number| named("two-", number))).await;
    all.extend(answers(&mut two, 15).await);
    let (sent, refused) = (of("sent", &all), of("error", &all));
    let allowed = 20 + begun.elapsed().as_secs() as usize + 1;
    assert!((20..=allowed).contains(&sent.len()), "{} of {allowed}", sent.len());
    for refusal in &refused {
        assert!(told(refusal) <= Duration::from_secs(1), "{refusal}");
        assert!(refusal["ref"].as_str().unwrap().starts_with("two-"), "{refusal}");
    }
    counted(&limited, "messages", refused.len() as u64).await;
    // Another user is not concerned, and neither is what is no message.
    let mut other = limited.at("ws1", "c").await;
    other.text(&message("a", "Hi", "c-1")).await;
    assert_eq!(answer(&mut other).await["type"], "sent");
    two.text(r#"{"type":"ping","ref":"p"}"#).await;
    assert_eq!(answer(&mut two).await["type"], "pong");
    // Who comes too early is refused again, and told the rest; who waits is not.
    let last = refused.last().unwrap()["ref"].as_str().unwrap().to_owned();
    two.text(&message("b", "Hi", &last)).await;
    let early = answer(&mut two).await;
    if early["type"] == "error" {
        wait(told(&early)).await;
        two.text(&message("b", "Hi", &last)).await;
        let late = answer(&mut two).await;
        assert_eq!((&late["type"], &late["ref"]), (&json!("sent"), &json!(last)), "{late}");
    }
    // The API of this process is a way round it for nobody but a service.
    let body = json!({"to": "b", "message": "Hi"});
    let api = &limited.guarded.stack.api;
    let mut refusal = None;
    for _ in 0..20 {
        let answer = post(api, "/v1/messages", "a", json!({}), &body).await;
        if answer.status == 429 {
            refusal = Some(told_over_http(&answer));
            break;
        }
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    wait(refusal.expect("a refusal")).await;
    assert_eq!(post(api, "/v1/messages", "a", json!({}), &body).await.status, 201);
    for _ in 0..5 {
        let body = json!({"from": "a", "to": "b", "message": "Hi"});
        let scope = json!({"scope": "service"});
        assert_eq!(post(api, "/v1/messages", "shop", scope, &body).await.status, 201);
    }
    limited.guarded.stack.stop().await;
}

/// Over the rate a frame is refused, and the socket is not read until there is room again.
#[tokio::test]
async fn frames_have_a_rate_and_a_socket_that_is_over_it_is_not_read() {
    let limited = Limited::start(&["--user-frames", "10:20"]).await;
    let (mut socket, mut other) = (limited.at("ws1", "a").await, limited.at("ws1", "b").await);
    let begun = Instant::now();
    burst(&mut socket, (0..60).map(|n| format!(r#"{{"type":"ping","ref":"{n}"}}"#))).await;
    let answering = answers(&mut socket, 60);
    let calm = async {
        other.text(r#"{"type":"ping","ref":"calm"}"#).await;
        assert_eq!(answer(&mut other).await["ref"], "calm");
        begun.elapsed()
    };
    let (all, calm) = tokio::join!(answering, calm);
    let took = begun.elapsed();
    let (pongs, refused) = (of("pong", &all), of("error", &all));
    assert_eq!(pongs.len() + refused.len(), 60, "one answer each");
    let refs: Vec<_> = all.iter().map(|said| said["ref"].as_str().unwrap().to_owned()).collect();
    assert_eq!(refs, (0..60).map(|number| number.to_string()).collect::<Vec<_>>(), "in order");
    assert!(pongs.len() >= 20 && refused.len() >= 10, "{} and {}", pongs.len(), refused.len());
    assert!(refused.iter().all(|refusal| told(refusal) <= Duration::from_millis(100)));
    // Each refusal was followed by its wait: as many frames as refusals could come back.
    let waits = Duration::from_millis(80) * refused.len() as u32;
    assert!(took >= waits, "{} refusals in {took:?}", refused.len());
    assert!(calm < took / 2, "{calm:?}: another socket of that server is read all the while");
    counted(&limited, "frames", refused.len() as u64).await;
    wait(told(refused.last().unwrap())).await;
    assert!(socket.is_open().await);
    limited.guarded.stack.stop().await;
}

#[tokio::test]
async fn bytes_have_a_rate() {
    let limited = Limited::start(&["--user-bytes", "4K:32K"]).await;
    let mut socket = limited.at("ws1", "a").await;
    let text = "x".repeat(12_000);
    let named = |number: usize| message("b", &text, &number.to_string());
    burst(&mut socket, (0..3).map(named)).await;
    let mut all = answers(&mut socket, 3).await;
    all.sort_by_key(|said| said["ref"].as_str().unwrap().to_owned());
    assert_eq!([&all[0]["type"], &all[1]["type"]], ["sent", "sent"], "{all:?}");
    let told = told(&all[2]);
    // A good 36,000 bytes are 4 K too many, and 4 K come back in a second.
    assert!(told <= Duration::from_millis(1_100), "{told:?}");
    counted(&limited, "bytes", 1).await;
    wait(told).await;
    socket.text(&named(2)).await;
    assert_eq!(answer(&mut socket).await["type"], "sent");
    let mut other = limited.at("ws1", "c").await;
    other.text(&named(0)).await;
    assert_eq!(answer(&mut other).await["type"], "sent");
    limited.guarded.stack.stop().await;
}

/// A text in fragments of this length, with a ping between each two.
fn fragments(text: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = Frame::part(TEXT, &text[..length]).bytes();
    for part in text[length..].chunks(length) {
        bytes.extend(Frame::part(CONTINUE, part).bytes());
    }
    bytes.extend(Frame::new(PING, b"").bytes());
    bytes.extend(Frame::new(CONTINUE, b"").bytes());
    bytes
}

/// Fragments without an end.
fn endless(part: &[u8], count: usize) -> Vec<u8> {
    let more = std::iter::repeat_n(Frame::part(CONTINUE, part).bytes(), count).flatten();
    Frame::part(TEXT, b"").bytes().into_iter().chain(more).collect()
}

/// A ping whose text is as long as is asked for.
pub(super) fn long_ping(bytes: usize) -> Vec<u8> {
    let mut text = br#"{"type":"ping","ref":"p"}"#.to_vec();
    text.resize(bytes, b' ');
    text
}

/// What a message is cut into counts, and not only what it says.
#[tokio::test]
async fn fragments_cost_what_they_take() {
    let limited = Limited::start(&["--user-bytes", "4K:32K"]).await;
    let mut a = limited.at("ws1", "a").await;
    // Few fragments are as good as none.
    a.write(&fragments(message("b", &"x".repeat(8_000), "r").as_bytes(), 2_000)).await;
    assert_eq!(answer(&mut a).await["type"], "sent");
    // 500 bytes in 500 fragments are 3,500 and more.
    let mut b = limited.at("ws1", "b").await;
    let crumbs = fragments(&long_ping(500), 1);
    for _ in 0..12 {
        b.write(&crumbs).await;
    }
    let all = answers(&mut b, 12).await;
    let pongs = of("pong", &all).len();
    assert!((7..=10).contains(&pongs), "{pongs} of 12 in 32 KiB");
    counted(&limited, "bytes", 1).await;
    limited.guarded.stack.stop().await;
}

#[tokio::test]
async fn fragments_without_end_close_the_socket_and_touch_nobody() {
    let limited = Limited::start(&[]).await;
    let mut calm = limited.at("ws1", "calm").await;
    for (number, bytes) in [
        endless(b"", 20_000),
        endless(b"x", 20_000),
        // With an end: 2,000 bytes, of which each is a frame.
        fragments(&long_ping(2_000), 1),
    ]
    .into_iter()
    .enumerate()
    {
        let mut socket = limited.at("ws1", &format!("eager-{number}")).await;
        socket.write(&bytes).await;
        assert_eq!(socket.closed().await.0, Some(1009), "{number}");
        assert!(calm.is_open().await);
    }
    limited.guarded.stack.stop().await;
}

/// The receipts that the server asks for are as many as others wish.
#[tokio::test]
async fn whoever_is_written_to_can_still_write() {
    let limited = Limited::start(&["--user-frames", "1:12"]).await;
    let api = &limited.guarded.stack.api;
    let scope = || json!({"scope": "service"});
    for (user, query) in [("pongs", ""), ("acks", "acks=app")] {
        let mut socket = Raw::dial(&limited.guarded.stack.servers["ws1"]).await;
        let head = upgrade_head(query, &bearer(&token(user, json!({}))));
        socket.write(head.as_bytes()).await;
        assert_eq!(socket.head().await.expect("an answer").status, 101);
        socket.wait_for(|said| (said["type"] == "caughtup").then_some(())).await;
        for seq in 1..=40 {
            let body = json!({"from": "shop", "to": user, "message": "news"});
            assert_eq!(post(api, "/v1/messages", "shop", scope(), &body).await.status, 201);
            socket.wait_for(|said| (said["type"] == "message").then_some(())).await;
            if user == "acks" {
                let conversation = format!("dm:{user}:shop");
                let ack = json!({"type": "ack", "conversation": conversation, "seq": seq});
                socket.text(&ack.to_string()).await;
            }
        }
        let mut own = 0;
        for _ in 0..10 {
            socket.text(r#"{"type":"ping","ref":"p"}"#).await;
            own += usize::from(answer(&mut socket).await["type"] == "pong");
        }
        assert_eq!(own, 10, "{user}: none was spent on receipts");
        // What nobody asked for counts as ever.
        let unasked = std::iter::repeat_n(Frame::new(PONG, b"12345678").bytes(), 20);
        socket.write(&unasked.flatten().collect::<Vec<u8>>()).await;
        let before = limited.met("frames").await;
        counted(&limited, "frames", before + 1).await;
    }
    limited.guarded.stack.stop().await;
}

/// A small burst does not lower the rate: 20 at once and 400 a second are 400 a second.
#[tokio::test]
async fn a_small_burst_leaves_the_rate_as_it_is() {
    let limited = Limited::start(&["--user-frames", "400:20"]).await;
    let mut socket = limited.at("ws1", "a").await;
    let begun = Instant::now();
    burst(&mut socket, (0..600).map(|n| format!(r#"{{"type":"ping","ref":"{n}"}}"#))).await;
    let all = answers(&mut socket, 600).await;
    let (pongs, took) = (of("pong", &all).len(), begun.elapsed());
    // By rests of 100 ms it would be 200 a second at the most.
    let slow = took.as_secs_f64() * 200.0 + 20.0;
    assert!(pongs as f64 > slow, "{pongs} of 600 in {took:?}");
    limited.guarded.stack.stop().await;
}

#[tokio::test]
async fn signals_have_a_rate() {
    let limited = Limited::start(&["--user-signals", "1:5"]).await;
    let (mut a, mut b) = (limited.at("ws1", "a").await, limited.at("ws3", "b").await);
    let signal = |number: usize| {
        json!({"type": "signal", "to": "b", "data": {"n": number}, "ref": number.to_string()})
            .to_string()
    };
    let begun = Instant::now();
    burst(&mut a, (0..20).map(signal)).await;
    a.text(&message("b", "after them", "m")).await;
    let mut refused = Vec::new();
    loop {
        let said = answer(&mut a).await;
        if said["type"] == "sent" {
            break;
        }
        refused.push(said);
    }
    let heard = async {
        let mut heard = 0;
        loop {
            match b.json().await.expect("it is open") {
                said if said["type"] == "signal" => heard += 1,
                said if said["type"] == "message" => return heard,
                _ => {}
            }
        }
    };
    let heard: usize = heard.await;
    let allowed = 5 + begun.elapsed().as_secs() as usize + 1;
    assert!(heard >= 1 && heard <= allowed, "{heard} of {allowed}");
    assert!(refused.len() >= 20 - allowed && refused.len() <= 15, "{}", refused.len());
    counted(&limited, "signals", refused.len() as u64).await;
    wait(told(refused.last().unwrap())).await;
    a.text(&signal(99)).await;
    let again = b.wait_for(|said| (said["type"] == "signal").then(|| said["data"].clone())).await;
    assert_eq!(again, json!({"n": 99}));
    limited.guarded.stack.stop().await;
}

#[tokio::test]
async fn new_conversations_have_a_rate_for_whoever_opens_them() {
    // Three at once, and then one every five seconds.
    let limited = Limited::start(&["--new-conversations", "720:3"]).await;
    let mut a = limited.at("ws1", "a").await;
    let mut opens = async |to: &str, reference: &str| {
        a.text(&message(to, "Hi", reference)).await;
        answer(&mut a).await
    };
    for friend in ["b", "c", "d"] {
        assert_eq!(opens(friend, friend).await["type"], "sent");
    }
    let refusal = opens("e", "e").await;
    assert!(told(&refusal) <= Duration::from_secs(5), "{refusal}");
    assert_eq!(refusal["ref"], "e");
    counted(&limited, "new_conversations", 1).await;
    assert_eq!(opens("b", "more").await["type"], "sent", "what is open goes on");
    // The other one opens it, and nobody is kept from answering.
    let mut f = limited.at("ws2", "f").await;
    f.text(&message("a", "Hi", "f-1")).await;
    assert_eq!(answer(&mut f).await["type"], "sent");
    assert_eq!(opens("f", "back").await["type"], "sent");
    // Over the API and as a room it is the same.
    let api = &limited.guarded.stack.api;
    let (body, none) = (json!({"to": "g", "message": "Hi"}), json!({}));
    let mut refusals = 0;
    for (target, body) in [("/v1/messages", &body), ("/v1/rooms", &none)] {
        let answer = post(api, target, "a", json!({}), body).await;
        if answer.status == 429 {
            refusals += 1;
            assert!(told_over_http(&answer) <= Duration::from_secs(5));
        }
    }
    assert!(refusals >= 1, "one may have come back meanwhile, two can't");
    let scope = || json!({"scope": "service"});
    for number in 0..5 {
        let body = json!({"from": "a", "to": format!("s{number}"), "message": "Hi"});
        assert_eq!(post(api, "/v1/messages", "shop", scope(), &body).await.status, 201);
    }
    let refusal = opens("e", "e").await;
    if refusal["type"] == "error" {
        wait(told(&refusal)).await;
        assert_eq!(opens("e", "e").await["type"], "sent");
    }
    limited.guarded.stack.stop().await;
}

/// Each person who is brought into a room is a conversation opened; trying again is none.
#[tokio::test]
async fn bringing_people_into_rooms_has_the_same_rate() {
    let limited = Limited::start(&["--new-conversations", "6:6"]).await;
    let api = &limited.guarded.stack.api;
    let room = json!({"room": "r", "members": ["b", "c", "d"]});
    for _ in 0..3 {
        let answer = post(api, "/v1/rooms", "mallory", json!({}), &room).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    let put = async |who: &str, user: &str| {
        let head = format!(
            "PUT /v1/rooms/r/members/{user} HTTP/1.1\r\nHost: localhost\r\n\
             Connection: close\r\nContent-Length: 0\r\n{}\r\n",
            bearer(&token(who, json!({})))
        );
        request(api, head).await.expect("an answer").status
    };
    for (user, status) in [("b", 200), ("e", 201), ("e", 200), ("f", 201), ("g", 429), ("b", 200)] {
        assert_eq!(put("mallory", user).await, status, "{user}");
    }
    let taken = post(api, "/v1/rooms", "b", json!({}), &room).await;
    assert_eq!(taken.status, 400, "an id that is taken, and of its own");
    // Those who were brought in have all of theirs.
    let body = json!({"members": ["v", "w", "x", "y", "z"]});
    assert_eq!(post(api, "/v1/rooms", "b", json!({}), &body).await.status, 201);
    limited.guarded.stack.stop().await;
}

async fn conversations_have_an_end(parts: Parts) {
    let limits = ["--conversations-per-user", "3"];
    let Some(limited) = Limited::start_on(parts, &limits).await else { return };
    let (mut a, mut z) = (limited.at("ws1", "a").await, limited.at("ws2", "z").await);
    let say = async |socket: &mut Raw, to: &str| {
        socket.text(&message(to, "Hi", &format!("{to}-{}", rand::random::<u32>()))).await;
        answer(socket).await
    };
    for friend in ["b", "c", "d"] {
        assert_eq!(say(&mut a, friend).await["type"], "sent");
    }
    // Neither by a nor for a; both know it on whatever server.
    for refusal in [say(&mut a, "e").await, say(&mut z, "a").await] {
        assert_eq!(said_to_wait(&refusal), Duration::from_secs(3_600));
        let detail = refusal["detail"].as_str().unwrap();
        assert!(!detail.contains("try again"), "{refusal}");
    }
    assert_eq!(say(&mut a, "b").await["type"], "sent", "what there is goes on");
    assert_eq!(say(&mut z, "b").await["type"], "sent", "others have room");
    counted(&limited, "conversations", 2).await;
    limited.guarded.stack.stop().await;
}

#[tokio::test]
async fn a_user_has_so_many_conversations() {
    conversations_have_an_end(Parts::Embedded).await;
}

#[tokio::test]
async fn a_user_has_so_many_conversations_on_real_parts() {
    conversations_have_an_end(Parts::Real).await;
}

#[tokio::test]
async fn requests_have_a_rate() {
    let limited = Limited::start(&["--api-requests", "1:5"]).await;
    let ask = async |address: &str, user: &str, more: Value| {
        let bearer = bearer(&token(user, more));
        let head = format!(
            "GET /v1/users/{user}/presence HTTP/1.1\r\nHost: localhost\r\n\
             Connection: close\r\n{bearer}\r\n"
        );
        request(address, head).await.expect("an answer")
    };
    let stack = &limited.guarded.stack;
    let mut refusal = None;
    // Through the balancer and at the API itself: one user.
    for address in [&stack.balancer, &stack.api].into_iter().cycle().take(40) {
        let answer = ask(address, "a", json!({})).await;
        if answer.status == 429 {
            refusal = Some(told_over_http(&answer));
            break;
        }
        assert_eq!(answer.status, 200);
    }
    let told = refusal.expect("a refusal");
    assert!(told <= Duration::from_secs(1), "{told:?}");
    assert_eq!(ask(&stack.api, "b", json!({})).await.status, 200, "another user");
    for _ in 0..10 {
        let scope = json!({"scope": "service"});
        assert_eq!(ask(&stack.api, "shop", scope).await.status, 200);
    }
    wait(told).await;
    assert_eq!(ask(&stack.api, "a", json!({})).await.status, 200);
    counted(&limited, "requests", 1).await;
    limited.guarded.stack.stop().await;
}

/// Somebody else at the address guesses on and on: whose token holds goes on all the same, and who
/// reads what is for everybody is told to wait.
#[tokio::test]
async fn a_good_token_is_served_while_the_address_is_over_its_rate() {
    let limits = ["--handshakes-per-address", "1:10", "--trusted-proxy", "127.0.0.1"];
    let limited = Limited::start(&limits).await;
    let api = &limited.guarded.stack.api;
    let ask = async |path: &str, secret: &str| {
        let bearer = bearer(&signed(secret, "a", json!({})));
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             X-Forwarded-For: 203.0.113.7\r\n{bearer}\r\n"
        );
        request(api, head).await.expect("an answer").status
    };
    let (own, document) = ("/v1/users/a/presence", "/openapi.json");
    assert_eq!(ask(document, FOREIGN).await, 200);
    let mut refused = 0;
    for _ in 0..25 {
        refused += usize::from(ask(own, FOREIGN).await == 429);
    }
    assert!(refused >= 10, "{refused}");
    for _ in 0..5 {
        assert_eq!(ask(own, SECRET).await, 200, "the token holds");
    }
    assert_eq!(ask(document, FOREIGN).await, 429);
    limited.guarded.stack.stop().await;
}

/// On one connection: who is told to wait and asks on is told more slowly.
#[tokio::test]
async fn whoever_asks_on_is_answered_once_a_second() {
    let limited = Limited::start(&["--api-requests", "1:1"]).await;
    let bearer = bearer(&token("a", json!({})));
    for address in [&limited.guarded.stack.api, &limited.guarded.stack.balancer] {
        let mut raw = Raw::dial(address).await;
        let head = format!("GET /v1/users/a/presence HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\n");
        let (begun, mut refused) = (Instant::now(), 0);
        for _ in 0..200 {
            raw.write(head.as_bytes()).await;
            let answer = raw.answer().await.expect("an answer");
            refused = if answer.status == 429 { refused + 1 } else { 0 };
            if refused == 9 {
                break;
            }
        }
        assert_eq!(refused, 9, "in a row");
        assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    limited.guarded.stack.stop().await;
}

/// Bounds of the protocol, which no option moves: each is counted by its own name.
#[tokio::test]
async fn what_is_too_long_is_counted_by_its_bound() {
    let limited = Limited::start(&[]).await;
    let stack = &limited.guarded.stack;
    let mut socket = limited.at("ws1", "a").await;
    let with = |data: &str| {
        format!(r#"{{"type":"message","to":"b","message":"Hi","ref":"r","data":{data}}}"#)
    };
    let long = format!(r#"{{"k":"{}"}}"#, "x".repeat(4 << 10));
    let deep = format!(r#"{{"k":{}{}}}"#, "[".repeat(40), "]".repeat(40));
    for (frame, code, bound) in [
        (message("b", &"x".repeat((16 << 10) + 1), "r"), "too_large", "message_bytes"),
        (with(&long), "too_large", "data_bytes"),
        (with(&deep), "bad_request", "json_depth"),
    ] {
        socket.text(&frame).await;
        assert_eq!(answer(&mut socket).await["code"], code, "{bound}");
        counted(&limited, bound, 1).await;
    }
    let body = json!({"to": "b", "message": "x".repeat((16 << 10) + 1)});
    assert_eq!(post(&stack.api, "/v1/messages", "a", json!({}), &body).await.status, 413);
    counted(&limited, "message_bytes", 2).await;
    socket.text(&"x".repeat((64 << 10) + 1)).await;
    counted(&limited, "frame_bytes", 1).await;
    let mut raw = Raw::dial(&stack.servers["ws1"]).await;
    raw.write(upgrade_head("", &format!("X-Long: {}\r\n", "x".repeat(9 << 10))).as_bytes()).await;
    assert_eq!(raw.head().await.expect("an answer").status, 431);
    counted(&limited, "head_bytes", 1).await;
    let _silent = Raw::dial(&stack.servers["ws1"]).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    counted(&limited, "head_time", 1).await;
    limited.guarded.stack.stop().await;
}

/// `?userId=` is believed on one's own machine, and nothing has a rate there.
#[tokio::test]
async fn in_development_mode_there_are_no_rates() {
    let stack = crate::harness::Stack::start(Parts::Embedded).await.unwrap();
    let mut socket = Raw::ready(&stack.servers["ws1"], "userId=a").await;
    burst(&mut socket, (0..1_500).map(|n| format!(r#"{{"type":"ping","ref":"{n}"}}"#))).await;
    let all = answers(&mut socket, 1_500).await;
    assert_eq!(of("pong", &all).len(), 1_500);
    let friends = (0..120).map(|number| message(&format!("friend-{number}"), "Hi", "r"));
    burst(&mut socket, friends).await;
    let all = answers(&mut socket, 120).await;
    assert_eq!(of("sent", &all).len(), 120, "{:?}", of("error", &all));
    stack.stop().await;
}
