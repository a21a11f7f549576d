//! Sockets as a whole: what came with the head, what follows the end, how many there are.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{hear, new_user, said_meanwhile, say};
use crate::fleet::Fleet;
use crate::harness::{Person, SOON};
use crate::raw::{self, CLOSE, Frame, Raw, close_payload, upgrade_head};

/// Row A20.
pub async fn frames_with_the_head(fleet: &Fleet) {
    for address in fleet.doors() {
        let mut eager = Raw::dial(&address).await;
        let head = upgrade_head("userId=eager", "");
        let pings = (0..100).map(|n| raw::text(&format!(r#"{{"type":"ping","ref":"{n}"}}"#)));
        let frames: Vec<u8> = pings.flatten().collect();
        eager.write(&[head.as_bytes(), &frames].concat()).await;
        assert_eq!(eager.head().await.unwrap().status, 101);
        for number in 0..100 {
            let pong = |said: &Value| {
                (said["type"] == "pong").then(|| said["ref"].as_str().unwrap().to_owned())
            };
            assert_eq!(eager.wait_for(pong).await, number.to_string(), "in order, none lost");
        }
    }
}

/// Row A22: sixteen sockets of a person stay; one more, and the oldest is told to stop. On one
/// server and over all of them.
pub async fn a_seventeenth_socket(fleet: &Fleet) {
    for address in [&fleet.servers["ws2"], &fleet.balancer] {
        let user = format!("many-{}", fleet.next());
        let mut sockets = Vec::new();
        for number in 0..16 {
            let query = format!("userId={user}&device=d{number}");
            sockets.push(Raw::ready(address, &query).await);
        }
        for socket in &mut sockets {
            assert!(socket.is_open().await, "sixteen are allowed");
        }
        for number in 16..18 {
            let query = format!("userId={user}&device=d{number}");
            sockets.push(Raw::ready(address, &query).await);
            let begun = Instant::now();
            assert_eq!(sockets.remove(0).closed().await.0, Some(4001), "the oldest one");
            assert!(begun.elapsed() < SOON);
        }
        let (mut other, _) = new_user(fleet, "other").await;
        assert_eq!(say(&mut other, &user, "to all of them").await, 1);
        for socket in &mut sockets {
            assert_eq!(hear(socket).await["message"], "to all of them");
            assert!(socket.is_open().await, "the sixteen newest ones stay");
        }
    }
}

/// Row B11: a text that comes byte by byte is the same text.
pub async fn a_byte_at_a_time(fleet: &Fleet) {
    let (mut socket, user) = new_user(fleet, "bytes").await;
    let text = json!({"type": "message", "to": user, "message": "€ 😀"}).to_string();
    for byte in raw::text(&text) {
        socket.write(&[byte]).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let sent = socket.wait_for(|said| (said["type"] == "sent").then(|| said["seq"].clone())).await;
    assert_eq!(sent, 1);
    let kept = fleet.history(&user, &format!("dm:{user}:{user}")).await;
    assert_eq!(kept[0]["message"], "€ 😀");
}

/// Row A22: a server on its way out takes nobody in; through the balancer people come in elsewhere.
pub async fn a_server_that_drains(fleet: &Fleet) {
    let parts = fleet.parts();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let id = format!("drains-{}", fleet.next());
    let own = ["server", "--listen", "127.0.0.1:0", "--drain-seconds", "4", "--id", &id];
    let (process, ready) = fleet.spare(&[&own[..], &parts].concat()).await;
    let address = ready["servers"][&id].as_str().unwrap().to_owned();
    // One that is there, and has not said yet what it wants.
    let mut early = Raw::dial(&address).await;
    // Enough sockets that it takes its time.
    let mut people = Vec::new();
    for number in 0..40 {
        let user = format!("draining-{number}");
        people.push(Person::connect(&format!("ws://{address}/ws"), &user).await);
    }
    process.signal("TERM");
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Who comes in the moment before it listens no more is not let in either.
    let until = Instant::now() + Duration::from_secs(2);
    while let Ok(stream) = TcpStream::connect(&address).await {
        assert!(Instant::now() < until, "it still listens");
        let mut late = Raw::over(stream);
        late.write(upgrade_head("userId=late", "").as_bytes()).await;
        if let Some(answer) = late.answer().await {
            answer.is_problem(503);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    early.write(upgrade_head("userId=early", "").as_bytes()).await;
    early.answer().await.expect("an answer").is_problem(503);
    for _ in 0..4 {
        new_user(fleet, "late").await;
    }
    drop(people);
    assert!(process.stop().await.success());
}

/// Row A23: a socket that says nothing is a reader; it hears what is said to it.
pub async fn open_and_silent(fleet: &Fleet) {
    let (mut silent, user) = new_user(fleet, "silent").await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    let (mut other, _) = new_user(fleet, "other").await;
    assert_eq!(say(&mut other, &user, "still there?").await, 1);
    assert_eq!(hear(&mut silent).await["message"], "still there?");
}

/// Row B8: what is announced costs nothing, neither memory nor a place for it, and no time.
pub async fn much_announced(fleet: &Fleet) {
    let mut sockets = Vec::new();
    for number in 0..64 {
        sockets.push(Raw::ready(&fleet.balancer, &format!("userId=much-{number}")).await);
    }
    let (before, reserved) = (fleet.memory().await.values().sum::<u64>(), fleet.reserved());
    let begun = Instant::now();
    for socket in &mut sockets {
        socket.write(&[0x81, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4]).await;
    }
    for socket in &mut sockets {
        assert_eq!(socket.closed().await.0, Some(1009));
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?} and not at once", begun.elapsed());
    // An allocator takes 64 MiB of addresses at a time for a thread; 4 GiB would be seen once.
    let reserved = fleet.reserved().saturating_sub(reserved);
    assert!(reserved < 1 << 30, "{reserved} bytes of address space more");
    let after: u64 = fleet.memory().await.values().sum();
    let grown = after.saturating_sub(before);
    assert!(grown < 64 * (64 << 10), "{grown} bytes more");
}

/// Row B18: what follows a close is neither stored nor answered.
pub async fn after_the_close(fleet: &Fleet) {
    let (mut socket, user) = new_user(fleet, "late").await;
    let late = json!({"type": "message", "to": user, "message": "BAD"}).to_string();
    let close = Frame::new(CLOSE, &close_payload(1000, b"")).bytes();
    socket.write(&[close, raw::text(&late)].concat()).await;
    let begun = Instant::now();
    let (code, said) = socket.closed().await;
    assert_eq!((code, said), (Some(1000), Vec::new()));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?} to the end", begun.elapsed());
    assert!(fleet.history(&user, &format!("dm:{user}:{user}")).await.is_empty());
    let mut back = Raw::ready(&fleet.balancer, &format!("userId={user}")).await;
    assert!(said_meanwhile(&mut back, 50).await.is_empty());
}
