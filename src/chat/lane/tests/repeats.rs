//! The same ref again is the same message (P2), and a hit goes the whole way.

use std::time::Duration;

use super::faulty::{Fault, What};
use super::world::{Say, World, dm};
use crate::protocol::Seq;

#[tokio::test(start_paused = true)]
async fn a_repeated_send_is_answered_with_the_old_seq() {
    let world = World::new();
    let first = world.say(Say::named("r1", "Hi")).await.unwrap();
    assert!(!first.repeated);
    world.seq(Say::named("r2", "more")).await;
    let again = world.say(Say::named("r1", "Hi")).await.unwrap();
    assert!(again.repeated);
    let told =
        |sent: &crate::chat::Sent| (sent.seq, sent.n, sent.timestamp, sent.reference.clone());
    assert_eq!(told(&again), told(&first));
    assert_eq!(world.texts().await, ["Hi", "more"]);
}

#[tokio::test(start_paused = true)]
async fn a_hit_goes_the_whole_way() {
    let world = World::new();
    world.seq(Say::named("r1", "Hi")).await;
    // The process that stored it may have died before it raised and handed on: this one does both.
    let other = world.another();
    world.trace();
    let again = other.say(Say::named("r1", "Hi")).await.unwrap();
    assert_eq!((again.seq, again.repeated), (1, true));
    assert_eq!(world.trace(), ["log newest", "raise b 1", "repeated", "handed 1"]);
    let handed = other.part.handed.lock().unwrap()[0].clone();
    assert_eq!(*handed.entry, world.log(&dm()).await[0], "as it stands in the log");
    assert!(handed.repeated, "no socket is to take it for new");
    // Known to be raised: no second time.
    other.say(Say::named("r1", "Hi")).await.unwrap();
    assert_eq!(world.trace(), ["repeated", "handed 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_hit_whose_raise_fails_is_not_answered_sent() {
    let world = World::new();
    world.seq(Say::named("r1", "Hi")).await;
    let other = world.another();
    other.store.always(What::Raise, Fault::Fail);
    assert_eq!(other.code(Say::named("r1", "Hi")).await, "unavailable");
    other.store.always(What::Raise, Fault::Pass);
    assert_eq!(other.seq(Say::named("r1", "Hi")).await, 1);
}

#[tokio::test(start_paused = true)]
async fn another_body_is_a_conflict() {
    let world = World::new();
    let data =
        |text: &str, data: &str| Say { data: Some(data.to_owned()), ..Say::named("r1", text) };
    world.seq(data("Hi", "{}")).await;
    assert_eq!(world.code(data("Ho", "{}")).await, "ref_conflict");
    assert_eq!(world.code(data("Hi", "{ }")).await, "ref_conflict");
    assert_eq!(world.code(Say::named("r1", "Hi")).await, "ref_conflict");
    assert!(!world.say(Say::named("r1", "Hi")).await.unwrap_err().code.retryable());
    assert_eq!(world.seq(data("Hi", "{}")).await, 1);
    assert_eq!(world.texts().await, ["Hi"]);
    // After a restart as well.
    assert_eq!(world.another().code(data("Ho", "{}")).await, "ref_conflict");
}

#[tokio::test(start_paused = true)]
async fn a_ref_is_its_senders_and_devices_own() {
    let world = World::new();
    let theirs = Say { reference: Say::named("r1", "").reference, ..Say::to("b", "a", "Hi") };
    let elsewhere = Say { reference: Say::named("r1", "").reference, ..Say::to("a", "c", "Hi") };
    assert_eq!(world.seq(Say::named("r1", "Hi")).await, 1);
    assert_eq!(world.seq(Say::named("r1", "Hi").on("phone")).await, 2);
    assert_eq!(world.seq(theirs).await, 3);
    assert_eq!(world.seq(elsewhere).await, 1, "another conversation");
    assert_eq!(world.seq(Say::named("r1", "Hi").on("phone")).await, 2);
}

#[tokio::test(start_paused = true)]
async fn without_a_ref_every_send_is_a_message() {
    let world = World::new();
    assert_eq!(world.seq(Say::to("a", "b", "Hi")).await, 1);
    assert_eq!(world.seq(Say::to("a", "b", "Hi")).await, 2);
    let answers = world.submit_all([Say::to("a", "b", "Hi"), Say::to("a", "b", "Hi")]);
    for (seq, answer) in (3..).zip(answers) {
        let sent = answer.await.unwrap().unwrap();
        assert_eq!((sent.seq, sent.reference, sent.repeated), (seq, None, false));
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_ref_in_one_batch_is_one_message() {
    let world = World::new();
    let said = ["one", "one", "other", "one"];
    let answers = world.submit_all(said.map(|text| Say::named("r1", text)));
    let mut told = Vec::new();
    for answer in answers {
        let answer = answer.await.unwrap();
        told.push(answer.map(|sent| (sent.seq, sent.repeated)).map_err(|e| e.code.as_str()));
    }
    assert_eq!(told, [Ok((1, false)), Ok((1, true)), Err("ref_conflict"), Ok((1, true))]);
    assert_eq!(world.texts().await, ["one"]);
    assert_eq!(world.handed(), [1, 1, 1], "every hit is handed on");
}

#[tokio::test(start_paused = true)]
async fn a_repeat_of_what_was_refused_is_refused() {
    let world = World::new();
    world.seq(Say::to("a", "b", "first")).await;
    world.store.away(true);
    for answer in world.submit_all([Say::named("r1", "Hi"), Say::named("r1", "Hi")]) {
        assert_eq!(answer.await.unwrap().unwrap_err().code.as_str(), "unavailable");
    }
    world.store.away(false);
    assert_eq!(world.seq(Say::named("r1", "Hi")).await, 2);
}

#[tokio::test(start_paused = true)]
async fn what_another_process_stored_meanwhile_is_found() {
    let world = World::new();
    let other = world.another();
    world.seq(Say::to("a", "b", "first")).await;
    other.seq(Say::to("a", "b", "second")).await;
    // Stored there; its answer never reached the client, who comes here. This lane knows only 1.
    for i in 0..60 {
        other.seq(Say::named(&format!("x{i}"), "there")).await;
    }
    world.trace();
    let again = world.say(Say::named("x3", "there")).await.unwrap();
    assert_eq!((again.seq, again.repeated), (6, true));
    let trace = world.trace();
    assert_eq!(
        trace,
        ["raise a 2", "raise b 2", "put 2", "log after 1", "raise b 62", "repeated", "handed 6"]
    );
    assert_eq!(world.texts().await.len(), 62);
    assert_eq!(world.code(Say::named("x3", "here").after(1)).await, "ref_conflict");
}

#[tokio::test(start_paused = true)]
async fn answers_keep_the_order_of_the_sends() {
    let world = World::new();
    let socket = super::world::socket("default");
    world.seq(Say::named("old", "old").on("default")).await;
    world.store.plan(What::Append, [Fault::Slow(Duration::from_secs(1)), Fault::Lose, Fault::Mute]);
    let sends = [("r1", "1"), ("old", "old"), ("r2", "2"), ("old", "x"), ("r1", "1"), ("r3", "3")];
    for (reference, text) in sends {
        world.submit_by(&socket, Say::named(reference, text));
    }
    let mut told: Vec<(String, Option<Seq>)> = Vec::new();
    while told.len() < sends.len() {
        for event in socket.take().await {
            told.push(match event {
                crate::hub::Event::Sent { reference, seq, .. } => {
                    (reference.unwrap().to_string(), Some(seq))
                }
                crate::hub::Event::Refused(frame) => {
                    let json: serde_json::Value = serde_json::from_slice(&frame).unwrap();
                    assert_eq!(json["code"], "ref_conflict");
                    (json["ref"].as_str().unwrap().to_owned(), None)
                }
                other => panic!("{other:?}"),
            });
        }
    }
    let expected = [
        ("r1", Some(2)),
        ("old", Some(1)),
        ("r2", Some(3)),
        ("old", None),
        ("r1", Some(2)),
        ("r3", Some(4)),
    ];
    assert_eq!(told, expected.map(|(name, seq)| (name.to_owned(), seq)));
    assert_eq!(world.texts().await, ["old", "1", "2", "3"]);
}
