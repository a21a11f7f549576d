//! One order for everybody (P4), first in first out for each sender (P5), and history is exactly
//! what was accepted (P8).

use parlor::client::{Send, ServerFrame, To};
use serde_json::Value;

use crate::harness::{Person, Stack, on_both, texts};

on_both!(a_burst_keeps_its_order, two_talk_at_once);

/// Sent in one write, without waiting for answers.
async fn a_burst_keeps_its_order(stack: Stack) {
    const BURST: u64 = 200;
    let mut a = stack.at("ws1", "userA").await;
    let mut b = stack.at("ws3", "userB").await;
    a.catch_up().await;
    b.catch_up().await;
    let send = |number: u64| {
        let send = Send::new(To::User("userB".into()), format!("message {number}"));
        send.reference(format!("ref-{number}")).frame()
    };
    a.write_all((1..=BURST).map(send).collect()).await;
    let answers = tokio::spawn(async move {
        let mut answers = Vec::new();
        while answers.len() < BURST as usize {
            if let ServerFrame::Sent { reference, seq, .. } = a.next().await {
                answers.push((seq, reference.unwrap()));
            }
        }
        answers
    });
    let expected = |prefix: &str| -> Vec<(u64, String)> {
        (1..=BURST).map(|number| (number, format!("{prefix}{number}"))).collect()
    };
    assert_eq!(b.hear_all(BURST as usize).await, expected("message "));
    assert_eq!(answers.await.unwrap(), expected("ref-"));
    pages_show_it_all(&stack, &expected("message ")).await;
    stack.stop().await;
}

/// Pages of any size, from both ends and for both people, show the same log.
async fn pages_show_it_all(stack: &Stack, expected: &[(u64, String)]) {
    for (user, limit) in [("userA", 1), ("userA", 500), ("userB", 33)] {
        let (mut shown, mut after) = (Vec::new(), 0);
        loop {
            let page = stack.http().history(user, "dm:userA:userB", Some(after), limit).await;
            let page = page.unwrap();
            let messages = page["messages"].as_array().unwrap();
            shown.extend(messages.iter().map(as_text));
            if page["hasMore"] == false {
                break;
            }
            after = shown.last().unwrap().0;
            // A page of one is one request each: enough of them.
            if limit == 1 && after == 10 {
                break;
            }
        }
        let count = if limit == 1 { 10 } else { expected.len() };
        assert_eq!(shown, expected[..count], "{user}, by {limit}");
    }
    let path = "/v1/conversations/dm:userA:userB/messages?userId=userB&before=101&limit=100";
    let page = stack.http().get(path).await.unwrap().good().unwrap();
    let shown: Vec<_> = page["messages"].as_array().unwrap().iter().map(as_text).collect();
    assert_eq!(shown, expected[..100]);
    assert_eq!(page["hasMore"], false);
}

fn as_text(message: &Value) -> (u64, String) {
    (message["seq"].as_u64().unwrap(), message["message"].as_str().unwrap().to_owned())
}

/// What one has of a conversation: what was heard, and the own sends by their answers.
async fn whole_view(mut person: Person, to: &str, own: u64, theirs: u64) -> Vec<(u64, String)> {
    let send = |number: u64| {
        let text = format!("{} {number}", person.user);
        Send::new(To::User(to.to_owned()), &text).reference(text.replace(' ', "-")).frame()
    };
    person.write_all((1..=own).map(send).collect()).await;
    let mut view = Vec::new();
    while view.len() < (own + theirs) as usize {
        match person.next().await {
            ServerFrame::Sent { reference, seq, .. } => {
                view.push((seq, reference.unwrap().replace('-', " ")));
            }
            ServerFrame::Entry(entry) => view.push((entry.seq, entry.message)),
            _ => {}
        }
    }
    let heard: Vec<_> = view.iter().filter(|(_, text)| text.starts_with(to)).collect();
    assert!(heard.is_sorted_by_key(|(seq, _)| *seq), "{heard:?}");
    view.sort();
    person.leave().await;
    view
}

/// On two servers at once: both see one log without holes, and the history is that log.
async fn two_talk_at_once(stack: Stack) {
    let mut a = stack.at("ws1", "userA").await;
    let mut b = stack.at("ws2", "userB").await;
    assert_eq!((texts(&a.catch_up().await), texts(&b.catch_up().await)), (vec![], vec![]));
    let (a, b) = (whole_view(a, "userB", 50, 50), whole_view(b, "userA", 50, 50));
    let (a, b) = tokio::join!(tokio::spawn(a), tokio::spawn(b));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a, b);
    assert!(a.iter().map(|(seq, _)| *seq).eq(1..=100), "dense: {a:?}");
    for user in ["userA", "userB"] {
        let of_user = a.iter().filter(|(_, text)| text.starts_with(user));
        let in_turn: Vec<_> = of_user.map(|(_, text)| text.clone()).collect();
        let said: Vec<_> = (1..=50).map(|number| format!("{user} {number}")).collect();
        assert_eq!(in_turn, said, "first in, first out");
        let history = stack.history(user, "dm:userA:userB").await;
        assert_eq!(history.iter().map(as_text).collect::<Vec<_>>(), a);
    }
    stack.stop().await;
}
