//! A server that stands still for a while (SIGSTOP, a machine that slept) and wakes up: it is taken
//! for dead meanwhile, goes on with the sockets that it has, and gives way to another life.

use std::time::Duration;

use parlor::client::{ClientError, ServerFrame};

use crate::harness::{Parts, Person, Process, SOON, Stack, eventually, within};

/// A row that does not move is dead after 15 s, and rows are read every 2 s.
const TAKEN_FOR_DEAD: Duration = Duration::from_secs(30);
/// After it wakes up: a beat, claims, and a reading.
const AWAKE: Duration = Duration::from_secs(20);

async fn is_on_the_board(stack: &Stack, id: &str) -> bool {
    let servers = stack.http().get("/v1/servers?userId=u1").await.unwrap().body.to_string();
    servers.contains(id)
}

#[tokio::test]
async fn it_claims_again_reads_once_and_closes_nothing() {
    let Some(mut stack) = Stack::start(Parts::Fleet).await else { return };
    let mut a = stack.at("ws1", "userA").await;
    let mut b = stack.at("ws2", "userB").await;
    let mut through = on(&stack, "ws2").await;
    a.catch_up().await;
    b.catch_up().await;
    through.catch_up().await;
    a.say("userB", "before").await;
    assert_eq!(b.hear().await, (1, "before".to_owned()));
    let redis = stack.redis.as_ref().unwrap();
    let claim = |entry: serde_json::Value| entry["claim"].as_str().unwrap().parse::<u64>().unwrap();
    let before = redis.entry("userB").unwrap();
    stack.process("ws2").signal("STOP");
    a.say("userB", "meanwhile").await;
    let dead = async || (!is_on_the_board(&stack, "ws2").await).then_some(());
    within(TAKEN_FOR_DEAD, "ws2 counts as dead", dead).await;
    a.say("userB", "to the dead").await;
    a.say(&through.user, "to the dead").await;
    stack.process("ws2").signal("CONT");
    // On the sockets that they had, in order.
    let heard = [b.entry_within(AWAKE).await, b.entry_within(AWAKE).await];
    assert_eq!(
        heard.map(|entry| (entry.seq, entry.message)),
        [(2, "meanwhile".to_owned()), (3, "to the dead".to_owned())]
    );
    assert_eq!(through.entry_within(AWAKE).await.message, "to the dead");
    let redis = stack.redis.as_ref().unwrap();
    let claimed = async || {
        let entry = redis.entry("userB")?;
        assert_eq!(entry["socketId"], before["socketId"]);
        (claim(entry) > claim(before.clone())).then_some(())
    };
    eventually("it is claimed again", claimed).await;
    let alive = async || is_on_the_board(&stack, "ws2").await.then_some(());
    within(AWAKE, "ws2 is alive", alive).await;
    // It appends again.
    b.say("userA", "an answer").await;
    assert_eq!(a.hear().await, (4, "an answer".to_owned()));
    a.say("userB", "and live").await;
    assert_eq!(b.hear().await, (5, "and live".to_owned()));
    stack.stop().await;
}

/// Somebody on this server, through the balancer.
async fn on(stack: &Stack, server: &str) -> Person {
    for number in 0.. {
        let person = stack.person(&format!("dealt{number}")).await;
        if person.server == server {
            return person;
        }
    }
    unreachable!("the balancer deals to all")
}

#[tokio::test]
async fn another_life_under_its_name_makes_it_exit() {
    let Some(mut stack) = Stack::start(Parts::Fleet).await else { return };
    let mut b = stack.at("ws2", "userB").await;
    b.catch_up().await;
    stack.process("ws2").signal("STOP");
    let own = ["server", "--listen", "127.0.0.1:0", "--id", "ws2"].map(str::to_owned);
    let second = Process::start("ws2", &[&own[..], &stack.real_parts()].concat());
    let ready = second.ready().await;
    let ws = format!("ws://{}/ws", ready["servers"]["ws2"].as_str().unwrap());
    let mut a = stack.at("ws1", "userA").await;
    a.say("userB", "one").await;
    stack.process("ws2").signal("CONT");
    let (mut told, mut heard) = (false, false);
    let code = loop {
        match b.text_within(SOON).await {
            Ok(text) => match ServerFrame::parse(&text) {
                Ok(ServerFrame::Reconnect { .. }) => told = true,
                Ok(ServerFrame::Entry(_)) => heard = true,
                _ => {}
            },
            Err(ClientError::Closed { code, .. }) => break code,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(told && code == Some(1012), "told: {told}, {code:?}");
    let status = stack.process("ws2").exited().await;
    assert_eq!(status.code(), Some(1), "its name is another's: {status}");
    // The other one is not harmed by the end of the first.
    let mut b = Person::connect(&ws, "userB").await;
    // The old life may have found its subscription before the board, and handed the text on.
    let waited = crate::harness::texts(&b.catch_up().await);
    assert!(waited == [(1, "one".to_owned())] || heard && waited.is_empty(), "{waited:?}");
    assert_eq!(a.say("userB", "two").await, 2);
    assert_eq!(b.hear().await, (2, "two".to_owned()));
    assert!(is_on_the_board(&stack, "ws2").await);
    assert_eq!(second.stop().await.code(), Some(0));
    stack.stop_dead("ws2");
    stack.stop().await;
}
