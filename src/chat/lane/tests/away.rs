//! The store away, a process that may not append, and lanes that end (P1, P10, I10).

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::faulty::{Fault, What};
use super::world::{Say, World, part, socket};
use crate::chat::lane::Reply;
use crate::hub::Event;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_said_and_nothing_is_acked() {
    for known in [false, true] {
        let world = World::new();
        if known {
            world.seq(Say::to("a", "b", "first")).await;
        }
        world.store.away(true);
        let began = Instant::now();
        let answers = world.submit_all((0..5).map(|i| Say::named(&format!("r{i}"), "Hi")));
        for answer in answers {
            let error = answer.await.unwrap().unwrap_err();
            assert_eq!(error.code.as_str(), "unavailable");
            assert!(error.code.retryable() && error.retry_after_ms.is_some());
        }
        assert!((2..=4).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        assert_eq!(world.texts().await.len(), usize::from(known));
        world.store.away(false);
        assert_eq!(world.seq(Say::named("r0", "Hi")).await, 1 + u64::from(known));
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_failure_is_not_noticed() {
    let world = World::new();
    for what in [What::Log, What::Raise, What::Append] {
        world.store.plan(what, [Fault::Fail]);
    }
    assert_eq!(world.seq(Say::to("a", "b", "Hi")).await, 1);
    assert_eq!(world.texts().await, ["Hi"]);
}

#[tokio::test(start_paused = true)]
async fn a_socket_is_told_with_its_ref() {
    let (world, socket) = (World::new(), socket("default"));
    world.store.away(true);
    let Event::Refused(frame) = world.say_by(&socket, Say::named("r1", "Hi")).await else {
        panic!("not refused");
    };
    let json: serde_json::Value = serde_json::from_slice(&frame).unwrap();
    assert_eq!((&json["type"], &json["code"]), (&"error".into(), &"unavailable".into()));
    assert_eq!((&json["ref"], &json["retryable"]), (&"r1".into(), &true.into()));
    assert!(json["retryAfterMs"].is_u64());
    world.store.away(false);
    match world.say_by(&socket, Say::named("r1", "Hi")).await {
        Event::Sent { reference, seq, n, .. } => {
            assert_eq!((reference.unwrap().as_str(), seq, n), ("r1", 1, 1));
        }
        other => panic!("{other:?}"),
    }
    let handed = world.part.handed.lock().unwrap();
    assert_eq!(handed[0].sender, Some(socket.who.socket), "it gets no copy");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_may_not_append_is_refused_after_a_second() {
    let world = World::new();
    world.part.alive.store(false, Ordering::SeqCst);
    let began = Instant::now();
    assert_eq!(world.code(Say::named("r1", "Hi")).await, "unavailable");
    let took = began.elapsed().as_millis();
    assert!((1_000..1_200).contains(&took), "{took} ms");
    assert!(!world.trace().iter().any(|line| line.starts_with("put")));
    // Its beat comes within the second: nobody notices.
    let answer = world.submit(Say::named("r1", "Hi"));
    sleep(SECOND / 2).await;
    world.part.alive.store(true, Ordering::SeqCst);
    assert_eq!(answer.await.unwrap().unwrap().seq, 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_acked_by_a_process_that_fell_behind_during_the_put() {
    for beat_comes in [false, true] {
        let world = World::new();
        world.store.plan(What::Append, [Fault::Slow(SECOND)]);
        let answers = world.submit_all(["r1", "r1"].map(|name| Say::named(name, "Hi")));
        sleep(SECOND / 2).await;
        world.part.alive.store(false, Ordering::SeqCst);
        sleep(SECOND).await;
        assert_eq!(world.texts().await, ["Hi"], "the permit was given before the put");
        world.part.alive.store(beat_comes, Ordering::SeqCst);
        for answer in answers {
            let answer = answer.await.unwrap().map(|sent| sent.seq).map_err(|e| e.code.as_str());
            assert_eq!(answer, if beat_comes { Ok(1) } else { Err("unavailable") });
        }
        world.lanes.finish().await;
        assert_eq!(world.handed(), [1, 1], "whoever is told, it stands");
        world.part.alive.store(true, Ordering::SeqCst);
        assert_eq!(world.seq(Say::named("r1", "Hi")).await, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn parts_of_one_process_are_judged_one_by_one() {
    for first_alive in [true, false] {
        let world = World::new();
        let other = part(&world.store);
        world.part.alive.store(first_alive, Ordering::SeqCst);
        other.alive.store(!first_alive, Ordering::SeqCst);
        let first = world.submit(Say::to("a", "b", "first"));
        let (reply, second) = tokio::sync::oneshot::channel();
        let say = Say::to("a", "b", "second");
        world.lanes.submit(say.append(Reply::Call(reply), other.clone()));
        let answers = [first.await.unwrap(), second.await.unwrap()];
        let codes = answers.map(|answer| answer.map(|sent| sent.seq).map_err(|e| e.code.as_str()));
        let (alive, dead) = (Ok(1), Err("unavailable"));
        assert_eq!(codes, if first_alive { [alive, dead] } else { [dead, alive] });
        assert_eq!(world.texts().await, [if first_alive { "first" } else { "second" }]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_leaves_is_finished() {
    let world = World::new();
    world.store.plan(What::Append, [Fault::Slow(SECOND)]);
    drop(world.submit(Say::to("a", "b", "Hi")));
    let socket = socket("default");
    world.submit_by(&socket, Say::to("a", "b", "Ho"));
    socket.close();
    world.lanes.finish().await;
    assert_eq!(world.texts().await, ["Hi", "Ho"]);
    assert_eq!(world.handed(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn closed_lanes_finish_what_is_queued_and_take_nothing_new() {
    let world = World::new();
    world.store.plan(What::Append, [Fault::Slow(2 * SECOND)]);
    let mut answers = world.submit_all([Say::to("a", "b", "1"), Say::to("c", "b", "1")]);
    sleep(SECOND).await;
    answers.extend(world.submit_all([Say::to("a", "b", "2"), Say::to("a", "b", "3")]));
    world.lanes.close();
    assert_eq!(world.code(Say::to("a", "b", "late")).await, "unavailable");
    assert_eq!(world.code(Say::to("d", "b", "late")).await, "unavailable");
    let began = Instant::now();
    world.lanes.finish().await;
    assert!(began.elapsed() >= SECOND / 2, "it waits for the work");
    for answer in &mut answers {
        // Answered before `finish` returned.
        answer.try_recv().unwrap().unwrap();
    }
    assert_eq!(world.texts().await, ["1", "2", "3"]);
    timeout(SECOND, world.lanes.finish()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn lanes_that_are_dropped_answer_unavailable() {
    let mut world = World::new();
    world.store.plan(What::Append, [Fault::Slow(60 * SECOND)]);
    let mut answers = world.submit_all([Say::to("a", "b", "1")]);
    sleep(SECOND).await;
    answers.extend(world.submit_all([Say::to("a", "b", "2"), Say::to("a", "b", "3")]));
    let lanes = std::mem::replace(&mut world.lanes, World::new().lanes.clone());
    drop(lanes);
    for answer in answers {
        let error = timeout(SECOND, answer).await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.code.as_str(), "unavailable");
    }
    let unavailable = world.trace().iter().filter(|line| *line == "unavailable").count();
    assert_eq!(unavailable, 3, "counted once each");
}
