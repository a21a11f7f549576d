//! A put of unknown outcome: decided by reading, never assumed (I3).

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::faulty::{Fault, What};
use super::world::{Say, World};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn one_that_was_done_is_found() {
    let world = World::new();
    world.store.plan(What::Append, [Fault::Mute]);
    let sent = world.say(Say::named("r1", "Hi")).await.unwrap();
    assert_eq!((sent.seq, sent.repeated), (1, false));
    let expected = ["raise a 1", "raise b 1", "put 1", "log after 0", "stored", "handed 1"];
    assert_eq!(world.trace()[1..], expected);
    assert_eq!(world.texts().await, ["Hi"]);
    // Others may have read it in the log and shown it: no socket is to take it for new.
    assert!(world.part.handed.lock().unwrap()[0].repeated);
}

#[tokio::test(start_paused = true)]
async fn one_that_was_not_done_is_put_again() {
    let world = World::new();
    world.store.plan(What::Append, [Fault::Lose, Fault::Fail]);
    assert_eq!(world.seq(Say::to("a", "b", "Hi")).await, 1);
    let expected = ["put 1", "log after 0", "put 1", "log after 0", "put 1", "stored", "handed 1"];
    assert_eq!(world.trace()[3..], expected);
    assert_eq!(world.texts().await, ["Hi"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_done_while_it_is_put_again_is_ones_own() {
    let world = World::new();
    let late = Fault::Late(Duration::from_millis(200));
    world.store.plan(What::Append, [late, Fault::Slow(SECOND)]);
    let sent = world.say(Say::named("r1", "Hi")).await.unwrap();
    assert_eq!((sent.seq, sent.repeated), (1, false), "the very same entry was put");
    let log = world.log(&super::world::dm()).await;
    assert_eq!((log.len(), log[0].timestamp), (1, sent.timestamp));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_done_after_it_was_put_again_is_refused_by_the_log() {
    let world = World::new();
    world.store.plan(What::Append, [Fault::Late(5 * SECOND)]);
    assert_eq!(world.seq(Say::to("a", "b", "one")).await, 1);
    assert_eq!(world.seq(Say::to("a", "b", "two")).await, 2);
    sleep(6 * SECOND).await;
    assert_eq!(world.seq(Say::to("a", "b", "three")).await, 3);
    assert_eq!(world.texts().await, ["one", "two", "three"]);
}

#[tokio::test(start_paused = true)]
async fn one_whose_seq_another_took_goes_behind() {
    let world = World::new();
    let other = world.another();
    world.store.plan(What::Append, [Fault::Late(5 * SECOND)]);
    world.store.plan(What::Log, [Fault::Pass, Fault::Slow(SECOND)]);
    let mine = world.submit(Say::to("a", "b", "mine"));
    sleep(SECOND / 2).await;
    assert_eq!(other.seq(Say::to("a", "b", "theirs")).await, 1);
    assert_eq!(mine.await.unwrap().unwrap().seq, 2);
    sleep(6 * SECOND).await;
    assert_eq!(world.texts().await, ["theirs", "mine"]);
}

#[tokio::test(start_paused = true)]
async fn any_prefix_of_a_batch_may_have_been_put() {
    for (takes, fault) in [(2, Fault::Mute), (3, Fault::Mute), (2, Fault::Lose)] {
        let world = World::new();
        world.store.takes(takes);
        world.store.plan(What::Append, [fault]);
        let answers = world.submit_all(["1", "2", "3", "4"].map(|text| Say::to("a", "b", text)));
        for (seq, answer) in (1..).zip(answers) {
            let sent = answer.await.unwrap().unwrap();
            assert_eq!((sent.seq, sent.repeated), (seq, false));
        }
        assert_eq!(world.texts().await, ["1", "2", "3", "4"]);
        assert_eq!(world.handed(), [1, 2, 3, 4]);
    }
}

/// A lane with a first message and a second one of unknown outcome that can't be read about.
async fn blocked(fault: Fault) -> World {
    let world = World::new();
    world.seq(Say::to("a", "b", "first")).await;
    world.seq(Say::to("a", "c", "elsewhere")).await;
    world.store.plan(What::Append, [fault]);
    world.store.always(What::Log, Fault::Fail);
    let began = Instant::now();
    let queued = world.submit_all([Say::named("r1", "Hi"), Say::named("r2", "Ho")]);
    for answer in queued {
        assert_eq!(answer.await.unwrap().unwrap_err().code.as_str(), "unavailable");
    }
    assert!((2..=5).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    world
}

#[tokio::test(start_paused = true)]
async fn a_lane_is_blocked_until_it_is_decided() {
    // Whether the put was done or not: of the batch what was tried is finished by the lane.
    for fault in [Fault::Mute, Fault::Lose, Fault::Late(20 * SECOND)] {
        let world = blocked(fault).await;
        for _ in 0..3 {
            let began = Instant::now();
            assert_eq!(world.code(Say::named("r3", "more")).await, "unavailable");
            assert!(began.elapsed() < SECOND / 10, "refused at once");
            sleep(10 * SECOND).await;
        }
        assert_eq!(world.seq(Say::to("a", "c", "elsewhere")).await, 2, "other lanes go on");
        assert!(timeout(SECOND, world.lanes.finish()).await.is_err(), "there is work");
        assert_eq!(world.handed(), [1, 1, 2]);

        world.store.always(What::Log, Fault::Pass);
        timeout(5 * SECOND, world.lanes.finish()).await.unwrap();
        assert_eq!(world.texts().await[..2], ["first", "Hi"]);
        assert!(world.handed().contains(&2), "whoever left, its hint is handed on");
        let again = world.say(Say::named("r1", "Hi")).await.unwrap();
        assert_eq!((again.seq, again.repeated), (2, true));
        let second = world.say(Say::named("r2", "Ho")).await.unwrap();
        assert_eq!(world.seq(Say::named("r3", "more")).await, second.seq + 1);
        assert_eq!(world.texts().await, ["first", "Hi", "Ho", "more"], "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_blocked_lane_is_free_when_another_took_the_seq() {
    let world = blocked(Fault::Lose).await;
    let other = world.another();
    assert_eq!(other.seq(Say::to("b", "a", "theirs")).await, 2);
    world.store.always(What::Log, Fault::Pass);
    timeout(5 * SECOND, world.lanes.finish()).await.unwrap();
    assert_eq!(world.texts().await, ["first", "theirs"], "what was refused is not put late");
    let again = world.say(Say::named("r1", "Hi")).await.unwrap();
    assert_eq!((again.seq, again.repeated), (3, false));
}

#[tokio::test(start_paused = true)]
async fn a_blocked_lane_appends_nothing_for_a_process_that_may_not() {
    let world = World::new();
    world.seq(Say::to("a", "b", "first")).await;
    world.store.plan(What::Append, [Fault::Lose]);
    world.store.plan(What::Log, [Fault::Slow(SECOND)]);
    let answer = world.submit(Say::named("r1", "Hi"));
    sleep(SECOND / 2).await;
    world.part.alive.store(false, Ordering::SeqCst);
    assert_eq!(answer.await.unwrap().unwrap_err().code.as_str(), "unavailable");
    sleep(20 * SECOND).await;
    assert_eq!(world.code(Say::to("a", "b", "more")).await, "unavailable");
    assert_eq!(world.texts().await, ["first"]);
    world.part.alive.store(true, Ordering::SeqCst);
    timeout(5 * SECOND, world.lanes.finish()).await.unwrap();
    assert_eq!(world.texts().await, ["first", "Hi"]);
    assert_eq!(world.handed(), [1, 2]);
}
