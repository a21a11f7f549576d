//! `kill -9` of one server of a fleet: its users go on elsewhere, and nothing acked is lost.

use std::time::Duration;

use parlor::client::{Send, ServerFrame, To};
use serde_json::Value;

use crate::harness::{Lasting, Parts, Person, Stack, texts, within};

/// A death is noticed within 16 s, and mailboxes are read again 20 s later.
const NOTICED: Duration = Duration::from_secs(30);
const READ_AGAIN: Duration = Duration::from_secs(60);

async fn history(stack: &Stack, a: &str, b: &str) -> Vec<(u64, String)> {
    let text = |entry: &Value| {
        (entry["seq"].as_u64().unwrap(), entry["message"].as_str().unwrap().to_owned())
    };
    stack.history(a, &format!("dm:{a}:{b}")).await.iter().map(text).collect()
}

/// Two talk through the balancer, both on ws2 at first, while it is killed.
#[tokio::test]
async fn its_users_go_on_elsewhere() {
    let Some(mut stack) = Stack::start(Parts::Fleet).await else { return };
    let a = Lasting::start(&stack.ws(), "userA").await;
    let dying = a.log().servers[0].clone();
    let b = on(&stack, &dying).await;
    let lost = stack.at(&dying, "userC").await;
    for number in 1..=300 {
        a.say("userB", &format!("message {number}")).await;
        if number == 100 {
            a.until("some are acked", |log| log.sent.len() >= 20).await;
            stack.kill(&dying);
        }
    }
    a.until("all are acked", |log| log.sent.len() == 300).await;
    b.until("all are heard", |log| log.heard.len() >= 300).await;
    let expected: Vec<_> = (1..=300).map(|number| format!("message {number}")).collect();
    let log = history(&stack, "userA", "userB").await;
    assert_eq!(log.iter().map(|(_, text)| text.clone()).collect::<Vec<_>>(), expected);
    for (send, seq) in &a.log().sent {
        assert_eq!(log[*seq as usize - 1], (*seq, send.message.clone()), "what was acked stands");
    }
    assert_eq!(b.log().texts(), log, "each once, in the order of the log");
    for talker in [&a, &b] {
        let log = talker.log();
        assert!(log.failed.is_empty(), "{:?}", log.failed);
        assert!(log.servers.len() > 1 && log.servers[1] != dying, "{:?}", log.servers);
    }
    drop(lost);
    let alive: Vec<String> = stack.servers.keys().filter(|id| **id != dying).cloned().collect();
    not_believed(&stack, &dying, &alive).await;
    stack.stop().await;
}

/// userB on this server too, as the balancer deals.
async fn on(stack: &Stack, server: &str) -> Lasting {
    loop {
        let b = Lasting::start(&stack.ws(), "userB").await;
        let it_is = b.log().servers[0] == server;
        if it_is {
            return b;
        }
    }
}

/// userC was on the dead server, and the entry still says so: it is not believed.
async fn not_believed(stack: &Stack, dead: &str, alive: &[String]) {
    let redis = stack.redis.as_ref().unwrap();
    let stale = redis.entry("userC").unwrap();
    assert_eq!(stale["server"], dead, "nobody removes another's entry");
    let mut a = stack.at(&alive[0], "userA2").await;
    assert_eq!(a.say("userC", "one").await, 1);
    let offline = async || {
        let answer = stack.http().get("/v1/users/userC/presence?userId=u1").await.unwrap();
        (answer.body["online"] == false).then_some(())
    };
    within(NOTICED, "userC counts as offline", offline).await;
    assert_eq!(redis.entry("userC").unwrap(), stale);
    assert_eq!(a.say("userC", "two").await, 2);
    let two = [(1, "one".to_owned()), (2, "two".to_owned())];
    let sent = stack.history("userA2", "dm:userA2:userC").await;
    assert!(sent.iter().all(|message| message["status"] == "sent"), "{sent:?}");
    let mut c = stack.at(&alive[1], "userC").await;
    assert_eq!(texts(&c.catch_up().await), two);
    a.told_delivered(2).await;
    let entry = redis.entry("userC").unwrap();
    assert_eq!(entry["server"], alive[1].as_str(), "the newest stands first");
    assert_eq!(a.say("userC", "three").await, 3);
    assert_eq!(c.hear().await, (3, "three".to_owned()));
}

/// What the dead server had stored, acked or not, reaches somebody who never lost the socket (P11).
#[tokio::test]
async fn what_it_had_stored_is_found() {
    let Some(mut stack) = Stack::start(Parts::Fleet).await else { return };
    let mut b = stack.at("ws1", "userB").await;
    let mut others = Vec::new();
    for number in 0..8 {
        let mut other = stack.at("ws3", &format!("other{number}")).await;
        other.catch_up().await;
        others.push(other);
    }
    b.catch_up().await;
    let mut a = stack.at("ws2", "userA").await;
    a.catch_up().await;
    let send = |number: u64| {
        let send = Send::new(To::User("userB".into()), format!("message {number}"));
        send.reference(format!("ref-{number}")).after(0).frame()
    };
    a.write_all((1..=50).map(send).collect()).await;
    // To many at once: some of it is surely between the store and Redis when the server dies.
    let to_others = (0..8).map(|n| Send::new(To::User(format!("other{n}")), "Hi").frame());
    a.write_all(to_others.collect()).await;
    let acked = first_acked(&mut a).await;
    stack.kill("ws2");
    let log = history(&stack, "userA", "userB").await;
    assert!(log.len() as u64 >= acked, "{acked} were acked, {} stand", log.len());
    let mut heard = Vec::new();
    while heard.len() < log.len() {
        let entry = b.entry_within(READ_AGAIN).await;
        heard.push((entry.seq, entry.message));
    }
    assert_eq!(heard, log);
    for (number, other) in others.iter_mut().enumerate() {
        let name = format!("other{number}");
        let path = format!("/v1/conversations/dm:{name}:userA/messages?userId={name}");
        let page = stack.http().get(&path).await.unwrap().good().unwrap();
        if page["messages"].as_array().is_some_and(|messages| !messages.is_empty()) {
            assert_eq!(other.entry_within(READ_AGAIN).await.message, "Hi");
        }
    }
    stack.stop().await;
}

/// The seq of the first answer of that conversation.
async fn first_acked(person: &mut Person) -> u64 {
    loop {
        match person.next().await {
            ServerFrame::Sent { seq, conversation, .. } if conversation == "dm:userA:userB" => {
                return seq;
            }
            _ => {}
        }
    }
}
