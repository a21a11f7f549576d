//! Somebody who is not there: stored, shown as `sent`, pushed in order on return, and only once.

use parlor::client::ServerFrame;

use crate::harness::{Person, Stack, eventually, on_both, texts};

on_both!(offline_and_back_online, never_seen, offline_messages_come_first);

fn numbered(range: std::ops::RangeInclusive<u64>) -> Vec<(u64, String)> {
    range.map(|number| (number, format!("message {number}"))).collect()
}

async fn statuses(stack: &Stack) -> Vec<String> {
    let history = stack.history("userA", "dm:userA:userB").await;
    history.iter().map(|message| message["status"].as_str().unwrap().to_owned()).collect()
}

/// The close takes the entry out of the map; what is said then waits.
async fn offline_and_back_online(stack: Stack) {
    let mut a = stack.at("ws1", "userA").await;
    let mut b = stack.at("ws2", "userB").await;
    a.catch_up().await;
    b.catch_up().await;
    b.leave().await;
    if let Some(redis) = &stack.redis {
        let gone = async || (redis.cli(&["EXISTS", "user:userB"]) == "0").then_some(());
        eventually("user:userB is gone", gone).await;
    }
    for (number, text) in numbered(1..=3) {
        assert_eq!(a.say("userB", &text).await, number);
    }
    a.hears_nothing(300).await;
    assert_eq!(statuses(&stack).await, ["sent"; 3]);
    let shown = stack.shown("dm:userA:userB").await;
    assert_eq!(shown.len(), 3, "{shown:?}");
    for (line, (number, text)) in shown.iter().zip(numbered(1..=3)) {
        let start = format!("{number} userA → userB sent ");
        assert!(line.starts_with(&start) && line.ends_with(&text), "{line}");
    }
    // On another server: the map is updated, what waited comes in order, then live messages.
    let mut b = stack.at("ws3", "userB").await;
    assert_eq!(texts(&b.catch_up().await), numbered(1..=3));
    if let Some(redis) = &stack.redis {
        let entry = redis.entry("userB").unwrap();
        assert_eq!(entry["server"], "ws3");
        assert!(entry["others"].is_null(), "{entry}");
    }
    a.told_delivered(3).await;
    assert_eq!(a.say("userB", "message 4").await, 4);
    assert_eq!(b.hear().await, (4, "message 4".to_owned()));
    a.told_delivered(4).await;
    b.leave().await;
    let delivered = async || (statuses(&stack).await == ["delivered"; 4]).then_some(());
    eventually("the stored status follows", delivered).await;
    for server in ["ws1", "ws2", "ws3"] {
        let mut b = stack.at(server, "userB").await;
        assert!(b.catch_up().await.is_empty(), "nothing is pushed again on {server}");
        b.hears_nothing(100).await;
        b.leave().await;
    }
    stack.stop().await;
}

/// A message to somebody who never connected waits for the first connection.
async fn never_seen(stack: Stack) {
    let mut a = stack.at("ws1", "userA").await;
    for (number, text) in numbered(1..=2) {
        assert_eq!(a.say("stranger", &text).await, number);
    }
    let presence = stack.http().get("/v1/users/stranger/presence?userId=userA").await.unwrap();
    assert_eq!(presence.body["online"], false, "{presence:?}");
    let mut stranger = stack.person("stranger").await;
    assert_eq!(texts(&stranger.catch_up().await), numbered(1..=2));
    a.told_delivered(2).await;
    assert_eq!(stranger.say("userA", "who are you?").await, 3);
    assert_eq!(a.hear().await, (3, "who are you?".to_owned()));
    stack.stop().await;
}

/// While one catches up, the other goes on talking: what waited still comes first, all in order.
async fn offline_messages_come_first(stack: Stack) {
    let mut a = stack.at("ws1", "userA").await;
    for (number, text) in numbered(1..=60) {
        assert_eq!(a.say("userB", &text).await, number);
    }
    let talking = tokio::spawn(async move {
        for (number, text) in numbered(61..=120) {
            assert_eq!(a.say("userB", &text).await, number);
        }
        a
    });
    let mut b = Person::connect(&stack.ws_at("ws2"), "userB").await;
    let (mut heard, mut caught_up_after) = (Vec::new(), None);
    while heard.len() < 120 || caught_up_after.is_none() {
        match b.next().await {
            ServerFrame::Entry(entry) => heard.push((entry.seq, entry.message)),
            ServerFrame::CaughtUp => caught_up_after = Some(heard.len()),
            frame => panic!("{frame:?}"),
        }
    }
    assert_eq!(heard, numbered(1..=120));
    assert!(caught_up_after.is_some_and(|count| count >= 60), "{caught_up_after:?}");
    let mut a = talking.await.unwrap();
    a.told_delivered(120).await;
    stack.stop().await;
}
