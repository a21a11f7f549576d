//! `kill -9` of the whole process while it is busy, and a start on the same data (P1, P2).

use serde_json::Value;

use crate::harness::{Lasting, Stack, on_both};

on_both!(what_was_acked_survives_kill_9);

const MESSAGES: usize = 400;

async fn what_was_acked_survives_kill_9(mut stack: Stack) {
    let a = Lasting::start(&stack.ws(), "userA").await;
    let b = Lasting::start(&stack.ws(), "userB").await;
    for number in 1..=MESSAGES {
        a.say("userB", &format!("message {number}")).await;
        if number == 100 || number == 250 {
            let least = number / 2;
            a.until("some are acked", |log| log.sent.len() >= least).await;
            stack.kill("up");
            let acked = a.log().sent.len();
            stack.start_up().await;
            let log = log(&stack).await;
            assert!(log.len() >= acked, "{acked} were acked, {} stand", log.len());
        }
    }
    a.until("all are acked", |log| log.sent.len() == MESSAGES).await;
    b.until("all are heard", |log| log.heard.len() >= MESSAGES).await;
    let log = log(&stack).await;
    let expected = (1..).zip((1..=MESSAGES).map(|number| format!("message {number}")));
    assert_eq!(log, expected.collect::<Vec<_>>(), "each once, in the order of saying");
    assert_eq!(b.log().texts(), log);
    let sent = std::mem::take(&mut a.log().sent);
    assert!(a.log().failed.is_empty() && b.log().failed.is_empty());
    drop(a);
    // The same sends again, as they were: the same seqs, and nothing new. (The very first one was
    // made without knowing of any entry, so only the newest 32 are searched for it.)
    let mut again = stack.at("ws3", "userA").await;
    again.catch_up().await;
    for (send, seq) in sent.iter().filter(|(send, _)| send.after.is_some()).step_by(20) {
        assert_eq!(log[*seq as usize - 1].1, send.message);
        assert_eq!(again.send(send).await, *seq, "{send:?}");
    }
    assert_eq!(self::log(&stack).await.len(), MESSAGES);
    stack.stop().await;
}

async fn log(stack: &Stack) -> Vec<(u64, String)> {
    let text = |entry: &Value| {
        (entry["seq"].as_u64().unwrap(), entry["message"].as_str().unwrap().to_owned())
    };
    stack.history("userA", "dm:userA:userB").await.iter().map(text).collect()
}
