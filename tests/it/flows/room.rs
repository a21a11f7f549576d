//! Rooms: one order for all members, joined and left as entries, nothing for who was removed.

use parlor::client::{EntryFrame, Send, ServerFrame, To};
use serde_json::{Value, json};

use crate::harness::{Person, Stack, on_both};

on_both!(one_order_for_all, an_offline_member_gets_it_on_return, who_is_removed_gets_nothing);

const ROOM: &str = "room:general";

/// Three members on three servers, and the room's log so far: three `joined`.
async fn room_of_three(stack: &Stack) -> [Person; 3] {
    let mut people = [
        stack.at("ws1", "userA").await,
        stack.at("ws2", "userB").await,
        stack.at("ws3", "userC").await,
    ];
    for person in &mut people {
        assert!(person.catch_up().await.is_empty());
    }
    let body = json!({"room": "general", "title": "General", "members": ["userB", "userC"]});
    let made = stack.http().post("/v1/rooms?userId=userA", &body).await.unwrap();
    assert_eq!((made.status, &made.body["conversation"]), (201, &json!(ROOM)));
    // Each hears of the joins that come after the own one; nobody's own is missing.
    for person in &mut people {
        let joined = until(person, 3).await;
        assert!(joined.iter().all(|entry| entry.kind == "joined" && entry.from == "userA"));
        let names: Vec<_> = joined.iter().map(|entry| entry.to.clone().unwrap()).collect();
        assert!(names.contains(&person.user), "{names:?}");
        assert!(joined.is_sorted_by_key(|entry| entry.seq), "{joined:?}");
    }
    people
}

/// The entries up to this seq.
async fn until(person: &mut Person, seq: u64) -> Vec<EntryFrame> {
    let mut entries = vec![person.entry().await];
    while entries.last().unwrap().seq < seq {
        entries.push(person.entry().await);
    }
    entries
}

fn say(text: &str) -> Send {
    Send::new(To::Conversation(ROOM.to_owned()), text)
}

async fn history(stack: &Stack, user: &str) -> Vec<(u64, String)> {
    let shown = |entry: &Value| {
        let what = match entry["type"].as_str().unwrap() {
            "message" => entry["message"].as_str().unwrap().to_owned(),
            kind => format!("{kind} {}", entry["to"].as_str().unwrap()),
        };
        (entry["seq"].as_u64().unwrap(), what)
    };
    stack.history(user, ROOM).await.iter().map(shown).collect()
}

/// The ten own sends by their answers, and what the two others said.
async fn ten_each(mut person: Person) -> Vec<(u64, String)> {
    let text = |number: u64| format!("{} {number}", person.user);
    let send = |number| say(&text(number)).reference(text(number).replace(' ', "-")).frame();
    person.write_all((1..=10).map(send).collect()).await;
    let mut view = Vec::new();
    while view.len() < 30 {
        match person.next().await {
            ServerFrame::Sent { reference, seq, .. } => {
                view.push((seq, reference.unwrap().replace('-', " ")));
            }
            ServerFrame::Entry(entry) => view.push((entry.seq, entry.message)),
            frame => panic!("{frame:?}"),
        }
    }
    let heard = view.iter().filter(|(_, text)| !text.starts_with(&person.user));
    assert!(heard.is_sorted_by_key(|(seq, _)| *seq), "{view:?}");
    person.hears_nothing(100).await;
    view.sort();
    view
}

/// All three talk at once; each gets all, once, and the same order.
async fn one_order_for_all(stack: Stack) {
    let views = room_of_three(&stack).await.map(|person| tokio::spawn(ten_each(person)));
    let mut logs = Vec::new();
    for view in views {
        logs.push(view.await.unwrap());
    }
    assert!(logs[0].iter().map(|(seq, _)| *seq).eq(4..=33), "dense: {:?}", logs[0]);
    assert!(logs[1] == logs[0] && logs[2] == logs[0], "{logs:?}");
    let joined = ["userA", "userB", "userC"].map(|user| format!("joined {user}"));
    let all = joined.into_iter().zip(1..).map(|(text, seq)| (seq, text)).chain(logs.remove(0));
    assert_eq!(history(&stack, "userA").await, all.collect::<Vec<_>>());
    stack.stop().await;
}

/// What was said meanwhile comes first and in order, then `caughtup`, then live messages.
async fn an_offline_member_gets_it_on_return(stack: Stack) {
    let [mut a, mut b, c] = room_of_three(&stack).await;
    c.leave().await;
    assert_eq!(a.send(&say("one")).await, 4);
    assert_eq!(b.hear().await, (4, "one".to_owned()));
    assert_eq!(b.send(&say("two")).await, 5);
    assert_eq!(a.hear().await, (5, "two".to_owned()));
    let mut c = stack.at("ws1", "userC").await;
    let missed = crate::harness::texts(&c.catch_up().await);
    // The joins may come again where the goodbye was faster than their receipts.
    let said: Vec<_> = missed.into_iter().filter(|(seq, _)| *seq > 3).collect();
    assert_eq!(said, [(4, "one".to_owned()), (5, "two".to_owned())]);
    assert_eq!(a.send(&say("three")).await, 6);
    assert_eq!(c.hear().await, (6, "three".to_owned()));
    assert_eq!(b.hear().await, (6, "three".to_owned()));
    stack.stop().await;
}

/// `left` is an entry; what is said after it is neither pushed nor shown to who was removed.
async fn who_is_removed_gets_nothing(stack: Stack) {
    let [mut a, mut b, mut c] = room_of_three(&stack).await;
    assert_eq!(a.send(&say("before")).await, 4);
    assert_eq!(c.hear().await, (4, "before".to_owned()));
    assert_eq!(b.hear().await, (4, "before".to_owned()));
    let member = "/v1/rooms/general/members/userC?userId=";
    let by_stranger = stack.http().call("DELETE", &format!("{member}userB"), None, &[]).await;
    assert_eq!(by_stranger.unwrap().status, 403, "only the creator's right, or one's own");
    let removed = stack.http().call("DELETE", &format!("{member}userA"), None, &[]).await;
    let removed = removed.unwrap();
    assert_eq!((removed.status, &removed.body["seq"]), (200, &json!(5)), "{removed:?}");
    for person in [&mut a, &mut b] {
        let left = person.entry().await;
        assert_eq!((left.kind.as_str(), left.to.as_deref()), ("left", Some("userC")));
    }
    assert_eq!(a.send(&say("after")).await, 6);
    assert_eq!(b.hear().await, (6, "after".to_owned()));
    assert_eq!(c.refused(&say("still here?")).await, "not_found");
    gets_nothing_after(&mut c, 5).await;
    c.leave().await;
    let seen = history(&stack, "userC").await;
    assert_eq!(seen.last(), Some(&(5, "left userC".to_owned())), "{seen:?}");
    let mut c = stack.at("ws1", "userC").await;
    let missed = crate::harness::texts(&c.catch_up().await);
    assert!(missed.iter().all(|(seq, _)| *seq <= 5), "{missed:?}");
    let log: Vec<_> = history(&stack, "userA").await.into_iter().skip(3).collect();
    let expected = ["before", "left userC", "after"].map(str::to_owned);
    assert_eq!(log, (4..).zip(expected).collect::<Vec<_>>());
    // Added again: from then on, and the gap stays closed.
    let added = stack.http().call("PUT", &format!("{member}userA"), None, &[]).await.unwrap();
    assert_eq!((added.status, &added.body["seq"]), (201, &json!(7)));
    let joined = c.entry().await;
    assert_eq!((joined.seq, joined.kind.as_str()), (7, "joined"));
    assert_eq!(a.send(&say("welcome back")).await, 8);
    assert_eq!(c.hear().await, (8, "welcome back".to_owned()));
    let seen = history(&stack, "userC").await;
    assert!(!seen.iter().any(|(_, text)| text == "after"), "{seen:?}");
    stack.stop().await;
}

async fn gets_nothing_after(person: &mut Person, seq: u64) {
    while let Ok(text) = person.text_within(std::time::Duration::from_millis(300)).await {
        if let ServerFrame::Entry(entry) = ServerFrame::parse(&text).unwrap() {
            assert!(entry.seq <= seq, "{entry:?}");
        }
    }
}
