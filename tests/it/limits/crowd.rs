//! Sockets and handshakes, of an address and of a server. This machine is no client: clients are
//! where a trusted proxy says they are.

use std::time::{Duration, Instant};

use parlor::protocol::Token;
use serde_json::{Value, json};

use super::{ADMIN, Limited, bearer, counted, met, wait};
use crate::admin;
use crate::auth::{FOREIGN, signed, token};
use crate::harness::{Parts, Stack, eventually};
use crate::proxies::Logged;
use crate::raw::{Answer, Raw, request, upgrade_head};

const TRUSTED: [&str; 2] = ["--trusted-proxy", "127.0.0.1"];

/// A socket of somebody at this address, or the whole refusal.
async fn open(address: &str, client: Option<&str>) -> Result<Raw, Answer> {
    let user = format!("user-{:08x}", rand::random::<u32>());
    show(address, client, &token(&user, json!({}))).await
}

/// The same by this token.
async fn show(address: &str, client: Option<&str>, token: &Token) -> Result<Raw, Answer> {
    let told = client.map(|client| format!("X-Forwarded-For: {client}\r\n")).unwrap_or_default();
    let mut raw = Raw::dial(address).await;
    raw.write(upgrade_head("", &format!("{told}{}", bearer(token))).as_bytes()).await;
    let answer = raw.head().await.expect("an answer");
    if answer.status == 101 { Ok(raw) } else { Err(raw.body(answer).await) }
}

/// What somebody without a good token is told.
async fn guesses(address: &str, client: &str) -> Answer {
    show(address, Some(client), &signed(FOREIGN, "a", json!({}))).await.err().expect("a refusal")
}

async fn opens(address: &str, client: Option<&str>) -> bool {
    open(address, client).await.is_ok()
}

/// The wait that a refusal with this status tells.
#[track_caller]
fn told(answer: &Answer, status: u16) -> Duration {
    assert_eq!(answer.status, status, "{}", answer.text());
    let problem = answer.json();
    let code = if status == 429 { "rate_limited" } else { "unavailable" };
    assert_eq!((&problem["code"], &problem["retryable"]), (&json!(code), &json!(true)));
    let ms = problem["retryAfterMs"].as_u64().unwrap();
    assert_eq!(answer.header("retry-after"), Some(ms.div_ceil(1_000).to_string().as_str()));
    Duration::from_millis(ms)
}

#[tokio::test]
async fn handshakes_have_a_rate_by_address() {
    let limits = [&["--handshakes-per-address", "1:20"][..], &TRUSTED].concat();
    let limited = Limited::start(&limits).await;
    let stack = &limited.guarded.stack;
    let both = [&stack.servers["ws1"], &stack.balancer];
    let begun = Instant::now();
    let (mut taken, mut refusals) = (0, Vec::new());
    for address in both.into_iter().cycle() {
        match guesses(address, "203.0.113.7").await {
            refusal if refusal.status == 401 => taken += 1,
            refusal => refusals.push(told(&refusal, 429)),
        }
        if refusals.len() == 10 {
            break;
        }
    }
    let allowed = 20 + begun.elapsed().as_secs() as usize + 1;
    assert!((20..=allowed).contains(&taken), "{taken} of {allowed}");
    let last = *refusals.last().unwrap();
    assert!(last <= Duration::from_secs(2), "{last:?}");
    // Whoever shares the address, and has a token that holds, is let in all the same.
    for address in both.into_iter().cycle().take(10) {
        assert!(opens(address, Some("203.0.113.7")).await);
    }
    wait(last).await;
    assert_eq!(guesses(both[0], "203.0.113.7").await.status, 401);
    counted(&limited, "handshakes", 10).await;
    // Others are not concerned.
    assert!(opens(both[0], Some("203.0.113.8")).await);
    assert!(opens(both[1], Some("2001:db8::1")).await);
    for _ in 0..30 {
        assert!(opens(both[0], None).await, "this machine is no client");
    }
    // A whole /64 of IPv6 is one.
    let mut taken = 0;
    for last in 0..60 {
        let client = format!("2001:db8:0:1::{last:x}");
        taken += usize::from(guesses(both[0], &client).await.status == 401);
    }
    assert!(taken < 60);
    limited.guarded.stack.stop().await;
}

/// Over all addresses, and only where the token holds.
#[tokio::test]
async fn handshakes_have_a_rate_by_user() {
    let limits = [&["--handshakes-per-user", "1:5"][..], &TRUSTED].concat();
    let limited = Limited::start(&limits).await;
    let stack = &limited.guarded.stack;
    let both = [&stack.servers["ws1"], &stack.balancer];
    let own = token("a", json!({}));
    let mut opened = Vec::new();
    let refusal = loop {
        let client = format!("203.0.113.{}", opened.len());
        match show(both[opened.len() % 2], Some(&client), &own).await {
            Ok(socket) => opened.push(socket),
            Err(refusal) => break refusal,
        }
        assert!(opened.len() < 16);
    };
    assert!(opened.len() >= 5, "{}", opened.len());
    let last = told(&refusal, 429);
    assert!(last <= Duration::from_secs(1), "{last:?}");
    counted(&limited, "handshakes_per_user", 1).await;
    assert!(opens(both[0], Some("203.0.113.1")).await, "another user");
    wait(last).await;
    assert!(show(both[0], Some("203.0.113.9"), &own).await.is_ok());
    limited.guarded.stack.stop().await;
}

/// Tokens that do not hold are counted like handshakes, also where they are shown to the API.
#[tokio::test]
async fn an_address_can_not_try_tokens_on_and_on() {
    let limits = [&["--handshakes-per-address", "1:10"][..], &TRUSTED].concat();
    let limited = Limited::start(&limits).await;
    let api = &limited.guarded.stack.api;
    let ask = async |client: &str, secret: &str| {
        let bearer = bearer(&signed(secret, "a", json!({})));
        let head = format!(
            "GET /v1/users/a/presence HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             X-Forwarded-For: {client}\r\n{bearer}\r\n"
        );
        request(api, head).await.expect("an answer").status
    };
    let mut statuses = Vec::new();
    for _ in 0..40 {
        statuses.push(ask("203.0.113.7", FOREIGN).await);
    }
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert!(statuses[..10].iter().all(|status| *status == 401), "{statuses:?}");
    assert!(refused >= 10, "{statuses:?}");
    for _ in 0..20 {
        assert_eq!(ask("203.0.113.8", crate::auth::SECRET).await, 200, "good ones don't count");
    }
    counted(&limited, "handshakes", refused as u64).await;
    limited.guarded.stack.stop().await;
}

/// Nor on a socket that is open: what renews nothing counts as well.
#[tokio::test]
async fn an_address_can_not_try_tokens_on_an_open_socket_either() {
    let limits = [&["--handshakes-per-address", "1:10"][..], &TRUSTED].concat();
    let limited = Limited::start(&limits).await;
    let server = &limited.guarded.stack.servers["ws1"];
    let mut socket = open(server, Some("203.0.113.7")).await.unwrap();
    let welcome = socket.json().await.expect("a welcome");
    let user = welcome["userId"].as_str().unwrap().to_owned();
    let renew = async |socket: &mut Raw, secret: &str| {
        let token = signed(secret, &user, json!({}));
        socket.text(&json!({"type": "auth", "token": token.reveal()}).to_string()).await;
        let answered = |said: &Value| {
            let kind = said["type"].as_str().unwrap();
            ["authed", "error"].contains(&kind).then(|| said.clone())
        };
        socket.wait_for(answered).await
    };
    let mut tried = Vec::new();
    for _ in 0..20 {
        tried.push(renew(&mut socket, FOREIGN).await);
    }
    assert!(tried[..9].iter().all(|said| said["code"] == "unauthorized"), "{tried:?}");
    let wait = super::told(&tried[19]);
    assert!(wait <= Duration::from_secs(2), "{wait:?}");
    // They have used up the handshakes, of which there would be ten; good ones go on here.
    assert_eq!(renew(&mut socket, crate::auth::SECRET).await["type"], "authed");
    let refusal = guesses(server, "203.0.113.7").await;
    assert!(told(&refusal, 429) <= Duration::from_secs(2));
    assert!(opens(server, Some("203.0.113.7")).await, "as do those who share the address");
    // Far too many, and nothing of this address is looked at.
    let mut tries = 0..1_000;
    let refused = loop {
        tries.next().expect("an end of them");
        renew(&mut socket, FOREIGN).await;
        let said = renew(&mut socket, crate::auth::SECRET).await;
        if said["type"] != "authed" {
            break said;
        }
    };
    super::told(&refused);
    assert!(opens(server, Some("203.0.113.8")).await);
    assert!(socket.is_open().await);
    limited.guarded.stack.stop().await;
}

#[tokio::test]
async fn an_address_has_so_many_sockets_on_a_process() {
    let limits = [&["--sockets-per-address", "3"][..], &TRUSTED].concat();
    let limited = Limited::start(&limits).await;
    let stack = &limited.guarded.stack;
    let client = Some("203.0.113.7");
    let mut open_ones = Vec::new();
    for server in ["ws1", "ws2", "ws3"] {
        open_ones.push(open(&stack.servers[server], client).await.unwrap());
    }
    for address in [&stack.balancer, &stack.servers["ws1"]] {
        let refusal = open(address, client).await.err().expect("one too many");
        assert!((5..10).contains(&told(&refusal, 429).as_secs()), "not all at once");
    }
    assert!(opens(&stack.balancer, Some("203.0.113.8")).await);
    assert!(opens(&stack.balancer, None).await);
    counted(&limited, "sockets_per_address", 2).await;
    open_ones.pop();
    let free = async || opens(&stack.servers["ws2"], client).await.then_some(());
    eventually("a place is free again", free).await;
    for raw in &mut open_ones {
        assert!(raw.is_open().await, "who is in stays");
    }
    limited.guarded.stack.stop().await;
}

/// The oldest of a user's sockets gives way to one more, on one server and over all of them; also
/// where there may be more than are usual.
async fn a_user_has_so_many_sockets(parts: Parts, most: usize) {
    let count = most.to_string();
    let options = [&["--sockets-per-user", &count][..], &ADMIN].concat();
    let Some(stack) = Stack::start_with(parts, &options).await else { return };
    let (one, all) = (vec!["ws1"], vec!["ws1", "ws2", "ws3"]);
    for (user, servers) in [("on-one", one), ("on-all", all)] {
        let open = async |number: usize| {
            let address = &stack.servers[servers[number % servers.len()]];
            let mut socket = Raw::dial(address).await;
            socket.write(upgrade_head(&format!("userId={user}"), "").as_bytes()).await;
            assert_eq!(socket.head().await.expect("an answer").status, 101);
            let welcome = socket.json().await.expect("a welcome");
            assert_eq!(welcome["limits"]["socketsPerUser"], most);
            socket.wait_for(|said| (said["type"] == "caughtup").then_some(())).await;
            socket
        };
        let mut sockets = Vec::new();
        for number in 0..most {
            sockets.push(open(number).await);
        }
        for socket in &mut sockets {
            assert!(socket.is_open().await, "{most} are allowed {user}");
        }
        for number in most..most + 2 {
            sockets.push(open(number).await);
            assert_eq!(sockets.remove(0).closed().await.0, Some(4001), "the oldest {user}");
        }
        for socket in &mut sockets {
            assert!(socket.is_open().await, "the {most} newest {user} stay");
        }
    }
    // One that two newer ones have seen to is counted by both.
    eventually("each is counted", async || {
        (met(&stack.admin, "sockets_per_user").await >= 4).then_some(())
    })
    .await;
    stack.stop().await;
}

#[tokio::test]
async fn a_user_has_as_many_sockets_as_are_set() {
    a_user_has_so_many_sockets(Parts::Embedded, 1).await;
    a_user_has_so_many_sockets(Parts::Embedded, 3).await;
    a_user_has_so_many_sockets(Parts::Embedded, 64).await;
}

#[tokio::test]
async fn on_real_parts_a_user_has_as_many_sockets_as_are_set() {
    a_user_has_so_many_sockets(Parts::Real, 1).await;
    a_user_has_so_many_sockets(Parts::Real, 40).await;
}

/// The seventh of six: by `parlor up`, where the balancer and the servers are one process.
#[tokio::test]
async fn a_full_server_says_so_and_the_balancer_deals_elsewhere() {
    let options = [&["--max-sockets", "2"][..], &ADMIN].concat();
    let stack = Stack::start_with(Parts::Embedded, &options).await.unwrap();
    let admin = stack.admin.clone();
    let ready = async |address: &str| {
        let head = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        request(address, head).await.expect("an answer").status
    };
    // ws1 is full, and the balancer knows at once.
    let mut sockets = Vec::new();
    for user in ["a", "b"] {
        sockets.push(Raw::open(&stack.servers["ws1"], &format!("userId={user}")).await);
    }
    assert_eq!(ready(&stack.servers["ws1"]).await, 503);
    assert_eq!([ready(&stack.servers["ws2"]).await, ready(&admin).await], [200, 200]);
    let full = request(&stack.servers["ws1"], upgrade_head("userId=c", "")).await.unwrap();
    assert!((5..10).contains(&told(&full, 503).as_secs()));
    for number in 0..4 {
        sockets.push(Raw::open(&stack.balancer, &format!("userId=d{number}")).await);
    }
    let full = request(&stack.balancer, upgrade_head("userId=e", "")).await.unwrap();
    assert!((5..10).contains(&told(&full, 503).as_secs()));
    assert!((5_000..10_000).contains(&full.json()["retryAfterMs"].as_u64().unwrap()));
    assert_eq!(ready(&admin).await, 503, "all of its servers are full");
    assert_eq!(met(&admin, "sockets").await, 2);
    let samples = crate::admin::metrics(&admin).await;
    assert_eq!(crate::admin::sum(&samples, "parlor_sockets_max", &["process=\"ws1\""]), 2.0);
    for socket in &mut sockets {
        assert!(socket.is_open().await);
    }
    drop(sockets.pop());
    eventually("a place is free again", async || {
        let answer = request(&stack.balancer, upgrade_head("userId=e", ""));
        // The socket itself is dropped with the answer to its upgrade.
        let status = tokio::time::timeout(Duration::from_secs(1), answer).await;
        (!matches!(status, Ok(Some(answer)) if answer.status == 503)).then_some(())
    })
    .await;
    stack.stop().await;
}

/// A balancer in a process of its own hears of it by the 503, before it looks again.
#[tokio::test]
async fn between_processes_one_other_server_is_asked() {
    let up = Logged::up(&["--max-sockets", "1"]).await;
    let servers = up.ready["servers"].as_object().unwrap();
    let named = |id: &str| format!("{id}={}", servers[id].as_str().unwrap());
    let (one, two) = (named("ws1"), named("ws2"));
    let options = ["--server", &one, "--server", &two];
    let balancer = Logged::balancer(&options).await;
    let mut full = Raw::open(servers["ws1"].as_str().unwrap(), "userId=a").await;
    // Round robin begins with ws1, which has just become full.
    let mut through = Raw::open(balancer.front(), "userId=b").await;
    assert!(through.is_open().await && full.is_open().await);
    let answer = request(balancer.front(), upgrade_head("userId=c", "")).await.unwrap();
    assert!((5..10).contains(&told(&answer, 503).as_secs()));
    drop((full, through));
    eventually("there is room again", async || {
        let mut raw = Raw::dial(balancer.front()).await;
        raw.write(upgrade_head("userId=c", "").as_bytes()).await;
        (raw.head().await?.status == 101).then_some(())
    })
    .await;
}

/// A balancer's own places, and its clients' addresses.
#[tokio::test]
async fn a_balancer_has_limits_of_its_own() {
    let open = ["--insecure-dev"];
    let up = Logged::up(&[&TRUSTED[..], &open].concat()).await;
    let server = format!("ws1={}", up.server());
    let limits = ["--max-sockets", "3", "--sockets-per-address", "2", "--server", &server];
    let more = ["--handshakes-per-address", "1:10"];
    let balancer = Logged::balancer(&[&limits[..], &more, &ADMIN, &TRUSTED, &open].concat()).await;
    let admin = balancer.ready["admin"].as_str().unwrap();
    let opens = async |client: &str| {
        let mut raw = Raw::dial(balancer.front()).await;
        let told = format!("X-Forwarded-For: {client}\r\n");
        raw.write(upgrade_head("userId=a", &told).as_bytes()).await;
        (raw.head().await.expect("an answer").status, raw)
    };
    let mut held = Vec::new();
    for (client, expected) in [
        ("203.0.113.7", 101),
        ("203.0.113.7", 101),
        ("203.0.113.7", 429),
        ("203.0.113.8", 101),
        ("203.0.113.9", 503),
    ] {
        let (status, raw) = opens(client).await;
        assert_eq!(status, expected, "{client}");
        held.push(raw);
    }
    assert_eq!([met(admin, "sockets_per_address").await, met(admin, "sockets").await], [1, 1]);
    let readyz = async || {
        let head = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        request(balancer.front(), head.to_owned()).await.expect("an answer").status
    };
    let sockets = async || admin::sum(&admin::metrics(admin).await, "parlor_sockets", &[]) as u64;
    assert_eq!((readyz().await, sockets().await), (503, 3), "others are to be dealt to");
    drop(held);
    eventually("a place is free", async || (readyz().await == 200).then_some(())).await;
    eventually("they have left", async || (sockets().await == 0).then_some(())).await;
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(opens("203.0.113.7").await.0);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    assert!(met(admin, "handshakes").await >= 1);
    balancer.says("if this is a load balancer, name it by --trusted-proxy").await;
}
