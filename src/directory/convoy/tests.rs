//! Convoys to a real server, and to one that hangs.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::time::sleep;

use super::super::CALL_MS_MAX;
use super::super::link::Target;
use super::super::testing::{FakeRedis, NOT_TWO, Server, prefix, quick, shared_url};
use super::*;
use crate::telemetry::{Call, Metrics};

async fn convoy(url: &str) -> Arc<Convoy> {
    let target = Target::parse(url).unwrap();
    let link = Link::connect(target, Arc::new(Metrics::new("test"))).await.unwrap();
    Convoy::on(&Arc::new(link), "locate").unwrap()
}

fn counted(convoy: &Convoy, outcome: &'static str) -> u64 {
    convoy.link.counted(&Call { operation: "locate", outcome })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_one_moment_share_a_pipeline_and_each_hears_its_own() {
    let Some(url) = shared_url() else { return };
    let (convoy, prefix) = (convoy(&url).await, prefix());
    let calls = (0..400_u32).map(|number| {
        let (convoy, key) = (convoy.clone(), format!("{prefix}{number}"));
        let mut set = redis::cmd("SET");
        set.arg(&key).arg(number).arg("EX").arg(60);
        let rest = (0..number % 3).map(|_| Cmd::get(&key));
        let commands = [set].into_iter().chain(rest).collect();
        tokio::spawn(async move { convoy.call(commands).await })
    });
    let calls: Vec<_> = calls.collect();
    for (number, call) in (0..400_u32).zip(calls) {
        let values = call.await.unwrap().unwrap();
        assert_eq!(values.len(), 1 + (number % 3) as usize);
        let expected = Value::BulkString(number.to_string().into_bytes());
        assert!(values[1..].iter().all(|value| *value == expected), "{number}: {values:?}");
    }
    let pipelines = counted(&convoy, "ok");
    println!("400 calls left in {pipelines} pipelines");
    assert!((2..100).contains(&pipelines), "{pipelines}");
    assert!(!convoy.lock().driven && convoy.lock().waiting.is_empty());
}

#[tokio::test]
async fn an_error_is_that_of_its_own_call() {
    let Some(url) = shared_url() else { return };
    let (convoy, key) = (convoy(&url).await, prefix());
    let mut list = redis::cmd("RPUSH");
    list.arg(&key).arg("no text");
    let mut expires = redis::cmd("EXPIRE");
    expires.arg(&key).arg(60);
    convoy.call(vec![list, expires]).await.unwrap();
    let none = || Cmd::get(format!("{key}none"));
    let (before, bad, behind) = tokio::join!(
        convoy.call(vec![none()]),
        convoy.call(vec![none(), Cmd::get(&key)]),
        convoy.call(vec![none(), none()]),
    );
    assert_eq!((before, behind), (Ok(vec![Value::Nil]), Ok(vec![Value::Nil, Value::Nil])));
    assert!(bad.unwrap_err().contains("WRONGTYPE"));
    assert_eq!(counted(&convoy, "error"), 1, "a pipeline with a trouble in it");
}

#[tokio::test]
async fn what_waits_is_bounded_and_who_leaves_is_not_waited_for() {
    let redis = FakeRedis::start().await;
    let convoy = convoy(&redis.url).await;
    // On this one thread nothing is sent before all of them have joined.
    let mut calls: Vec<_> = (0..WAITING_MAX)
        .map(|_| {
            let convoy = convoy.clone();
            Box::pin(async move { convoy.call(vec![Cmd::get("a")]).await })
        })
        .collect();
    assert!(calls.iter_mut().all(|call| call.now_or_never().is_none()));
    assert!(convoy.call(vec![Cmd::get("a")]).await.is_err());
    assert_eq!(counted(&convoy, "overflow"), 1);
    calls.truncate(1_000);
    assert!(join_all(calls).await.iter().all(|answer| *answer == Ok(vec![Value::Nil])));
    let until = Instant::now() + Duration::from_secs(5);
    while convoy.lock().driven {
        assert!(Instant::now() < until, "it never ends");
        sleep(Duration::from_millis(5)).await;
    }
    assert!(convoy.call(vec![Cmd::get("a")]).await.is_ok(), "there is room again");
    // Who left is asked once, or not at all where that was too late.
    let asked = redis.asked();
    assert!((1_001..=WAITING_MAX + 1).contains(&asked), "{asked}");
}

/// A pipeline is judged by the time of its first call: one that nobody waits for any more would
/// make a Redis that answers look like one that does not.
#[tokio::test]
async fn what_has_waited_too_long_is_not_sent() {
    let redis = FakeRedis::start().await;
    let convoy = convoy(&redis.url).await;
    let call = || {
        let convoy = convoy.clone();
        Box::pin(async move { convoy.call(vec![Cmd::get("a")]).await })
    };
    let mut late: Vec<_> = (0..5).map(|_| call()).collect();
    assert!(late.iter_mut().all(|call| call.now_or_never().is_none()));
    // Nothing else runs on this thread meanwhile.
    std::thread::sleep(Duration::from_millis(CALL_MS_MAX + 50));
    let (late, fresh) = tokio::join!(join_all(late), call());
    assert!(late.iter().all(Result::is_err), "{late:?}");
    assert_eq!(fresh, Ok(vec![Value::Nil]));
    assert_eq!((redis.asked(), counted(&convoy, "timeout"), counted(&convoy, "ok")), (1, 0, 1));
}

/// A signal to a large room asks for hundreds of people at once.
#[tokio::test]
async fn a_large_call_goes_by_itself_whatever_waits() {
    let Some(url) = shared_url() else { return };
    let (convoy, prefix) = (convoy(&url).await, prefix());
    let large = || (0..WAITING_MAX + 1).map(|_| Cmd::get(&prefix)).collect();
    let mut small = Box::pin(convoy.call(vec![Cmd::get(&prefix)]));
    assert!((&mut small).now_or_never().is_none());
    let (several, one) = tokio::join!(convoy.call(large()), small);
    assert_eq!((several.map(|all| all.len()), one), (Ok(WAITING_MAX + 1), Ok(vec![Value::Nil])));
    assert_eq!(counted(&convoy, "ok"), 2, "the small one did not wait for it");
}

/// Nobody waits for the pipeline before his and then for his own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_hangs_calls_wait_beside_each_other() {
    if quick() {
        return;
    }
    let server = Server::start(&[]);
    let convoy = convoy(&server.url()).await;
    convoy.call(vec![Cmd::get("a")]).await.unwrap();
    server.signal("STOP");
    let mut calls = Vec::new();
    for _ in 0..100 {
        let convoy = convoy.clone();
        calls.push(tokio::spawn(async move {
            let begun = Instant::now();
            assert!(convoy.call(vec![Cmd::get("a")]).await.is_err());
            begun.elapsed()
        }));
        sleep(Duration::from_millis(2)).await;
    }
    let mut took: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    took.sort();
    // Whoever waited for the pipeline before would take some 400 ms in the median, which a machine
    // that stands still for a moment does not move.
    assert!(took[50] < Duration::from_millis(CALL_MS_MAX * 3 / 2), "{took:?}");
    assert!(took[99] < NOT_TWO, "{took:?}");
    // Enough of them to know that it hangs.
    assert!(counted(&convoy, "timeout") > 10, "{}", counted(&convoy, "timeout"));
    let begun = Instant::now();
    for _ in 0..100 {
        assert!(convoy.call(vec![Cmd::get("a")]).await.is_err());
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    server.signal("CONT");
}

/// The runtime of the driver may end before those of others that wait.
#[test]
fn a_driver_that_is_dropped_leaves_nobody_waiting() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let redis = second.block_on(FakeRedis::start());
    let convoy = second.block_on(convoy(&redis.url));
    let mut driven = Box::pin(convoy.call(vec![Cmd::get("a")]));
    // The driver begins on the first runtime, which is never run.
    first.block_on(async { assert!((&mut driven).now_or_never().is_none()) });
    drop(first);
    let answered = second.block_on(async { timeout(Duration::from_secs(5), driven).await });
    assert!(answered.expect("it waits for nobody").is_err());
    assert!(second.block_on(convoy.call(vec![Cmd::get("a")])).is_ok(), "it is driven again");
}
