//! What a lost, late or refused answer becomes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::proxy::{Fault, Proxy};
use super::{calls, dm, endpoint, entry, fresh, user};
use crate::board::dynamodb::DynamoBoard;
use crate::board::{Beat, Board, BoardRow, Role};
use crate::protocol::{ConversationId, Epoch, ProcessId};
use crate::store::dynamodb::client::REQUESTS_MAX;
use crate::store::dynamodb::{DynamoStore, Link};
use crate::store::{
    CALL_MS_MAX, Head, LogRange, MailboxPart, Raise, Record, RecordPart, Store, StoreError,
};
use crate::telemetry::Metrics;

#[tokio::test]
async fn a_throttled_append_is_tried_again() {
    let Some(url) = endpoint() else { return };
    let proxy = Proxy::start(&url).await;
    let (store, metrics) = fresh(&proxy.url).await;
    proxy.plan("PutItem", [Fault::Throttle, Fault::Throttle]);
    assert_eq!(store.append(&dm(), &[entry(1, "Hi")]).await, Ok(1));
    assert_eq!((proxy.seen(), calls(&metrics, "append", "throttled")), (3, 2));
}

#[tokio::test]
async fn throttling_without_end_is_unavailable_in_time() {
    let Some(url) = endpoint() else { return };
    let proxy = Proxy::start(&url).await;
    let (store, _) = fresh(&proxy.url).await;
    proxy.plan("PutItem", [Fault::Throttle; 1_000]);
    let begun = Instant::now();
    let error = store.append(&dm(), &[entry(1, "Hi")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_millis(CALL_MS_MAX));
    assert!((3..60).contains(&proxy.seen()), "{}", proxy.seen());
}

#[tokio::test]
async fn a_500_on_append_is_unknown_and_not_repeated() {
    let Some(url) = endpoint() else { return };
    let proxy = Proxy::start(&url).await;
    let (store, metrics) = fresh(&proxy.url).await;
    proxy.plan("PutItem", [Fault::Error500]);
    let error = store.append(&dm(), &[entry(1, "Hi")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unknown(_)), "{error}");
    assert_eq!((proxy.seen(), calls(&metrics, "append", "unknown")), (1, 1));
}

#[tokio::test]
async fn an_append_whose_answer_is_lost_is_unknown_and_there() {
    let Some(url) = endpoint() else { return };
    let proxy = Proxy::start(&url).await;
    let (store, _) = fresh(&proxy.url).await;
    proxy.plan("PutItem", [Fault::DropAnswer]);
    let error = store.append(&dm(), &[entry(1, "Hi")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unknown(_)), "{error}");
    assert_eq!(proxy.seen(), 1);
    let page = store.log(&dm(), LogRange::newest(32)).await.unwrap();
    assert_eq!(page.entries, [entry(1, "Hi")]);
}

#[tokio::test]
async fn an_answer_that_does_not_come_ends_the_call_in_time() {
    let Some(url) = endpoint() else { return };
    let proxy = Proxy::start(&url).await;
    let (store, _) = fresh(&proxy.url).await;
    let begun = Instant::now();
    proxy.plan("PutItem", [Fault::Hang]);
    let error = store.append(&dm(), &[entry(1, "Hi")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unknown(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_millis(1_500), "{:?}", begun.elapsed());

    let begun = Instant::now();
    proxy.plan("Query", [Fault::Hang; 9]);
    let error = store.log(&dm(), LogRange::newest(32)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_millis(CALL_MS_MAX), "{:?}", begun.elapsed());

    proxy.plan("Query", [Fault::Hang]);
    assert_eq!(store.log(&dm(), LogRange::newest(32)).await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn a_raise_whose_answer_is_lost_succeeds() {
    let Some(url) = endpoint() else { return };
    let proxy = Proxy::start(&url).await;
    let (store, metrics) = fresh(&proxy.url).await;
    proxy.plan("UpdateItem", [Fault::DropAnswer, Fault::Error500]);
    let raise = Raise { last: Some(7), ..Raise::default() };
    assert_eq!(store.raise(&user("userB"), &dm(), &raise).await, Ok(()));
    // Lost, 500, then the condition that the first one had met already.
    assert_eq!((proxy.seen(), calls(&metrics, "raise", "condition")), (3, 1));
    let page = store.mailbox(&user("userB"), MailboxPart::Row(dm())).await.unwrap();
    assert_eq!(page.rows[0].last, 7);
}

#[tokio::test]
async fn a_record_whose_answer_is_lost_is_ones_own() {
    let Some(url) = endpoint() else { return };
    let proxy = Proxy::start(&url).await;
    let (store, _) = fresh(&proxy.url).await;
    let room = ConversationId::parse("room:general").unwrap();
    let head = |created| Head {
        floor: 0,
        title: Some("General".to_owned()),
        creator: Some(user("userA")),
        public: false,
        created,
    };
    proxy.plan("PutItem", [Fault::DropAnswer]);
    assert_eq!(store.write(Record::Head(room.clone(), head(1))).await, Ok(true));
    assert_eq!(proxy.seen(), 2);
    assert_eq!(store.write(Record::Head(room.clone(), head(2))).await, Ok(false));
    let records = store.records(RecordPart::Roster(room.clone())).await.unwrap();
    assert_eq!(records, [Record::Head(room, head(1))]);
}

#[tokio::test]
async fn a_beat_whose_answer_is_lost_is_ones_own() {
    let Some(url) = endpoint() else { return };
    let proxy = Proxy::start(&url).await;
    let (store, _) = fresh(&proxy.url).await;
    let board = DynamoBoard::new(store.link());
    let row = |epoch, beat| BoardRow {
        id: ProcessId::parse("ws1").unwrap(),
        epoch: Epoch(epoch),
        beat,
        role: Role::Server,
        address: "127.0.0.1:3001".to_owned(),
        public_url: None,
        sockets: 0,
        accepting: true,
        hints: 0,
        deaf: false,
    };
    proxy.plan("PutItem", [Fault::DropAnswer]);
    assert_eq!(board.beat(&row(1, 5), None).await, Ok(Beat::Written));
    // A beat that was on its way for long does not undo a later one.
    assert_eq!(board.beat(&row(1, 4), None).await, Ok(Beat::Written));
    assert_eq!(board.read().await.unwrap(), [row(1, 5)]);
    assert_eq!(board.beat(&row(2, 1), None).await, Ok(Beat::Taken));
    assert_eq!(board.beat(&row(2, 1), Some((Epoch(1), 4))).await, Ok(Beat::Taken));
    proxy.plan("PutItem", [Fault::DropAnswer]);
    assert_eq!(board.beat(&row(2, 1), Some((Epoch(1), 5))).await, Ok(Beat::Written));
    assert_eq!(board.read().await.unwrap(), [row(2, 1)]);
}

#[tokio::test]
async fn nobody_listening_is_not_sent() {
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let metrics = Arc::new(Metrics::new("test"));
    let link = Link::new(&url, "parlor", metrics.clone()).await.unwrap();
    let store = DynamoStore { link };
    let begun = Instant::now();
    let error = store.append(&dm(), &[entry(1, "Hi")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_millis(CALL_MS_MAX));
    let first = calls(&metrics, "append", "not_sent");
    assert!(first > 3, "{first}");

    // The budget of retries is spent: from here on one attempt a call, and at once.
    let calls_now = async || {
        let before = calls(&metrics, "append", "not_sent");
        assert!(store.append(&dm(), &[entry(1, "Hi")]).await.is_err());
        calls(&metrics, "append", "not_sent") - before
    };
    let mut tries = futures_util::future::join_all((0..40).map(|_| calls_now())).await;
    tries.clear();
    assert_eq!(calls_now().await, 1);
    let total = calls(&metrics, "append", "not_sent");
    assert_eq!(total, 100 + 42, "100 retries and one attempt for each of 42 calls");
}

#[tokio::test]
async fn a_slow_store_takes_a_bounded_number_of_connections() {
    let Some(url) = endpoint() else { return };
    let proxy = Proxy::start(&url).await;
    let (store, _) = fresh(&proxy.url).await;
    let board = DynamoBoard::new(store.link());
    proxy.plan("PutItem", [Fault::Swallow; 3_000]);
    let sends = (0..3 * REQUESTS_MAX).map(|i| {
        let log = ConversationId::parse(&format!("room:{i}")).unwrap();
        let store = &store;
        async move { store.append(&log, &[entry(1, "Hi")]).await }
    });
    let watch = async {
        // Less than an attempt takes: the first 256 still hold all connections.
        tokio::time::sleep(Duration::from_millis(800)).await;
        let begun = Instant::now();
        assert_eq!(board.read().await, Ok(vec![]));
        (proxy.seen(), begun.elapsed())
    };
    let (errors, (seen, read)) = tokio::join!(futures_util::future::join_all(sends), watch);
    // On a busy machine some have been tried twice by then, but unbounded they all had come.
    assert!(seen <= 2 * REQUESTS_MAX, "{seen}");
    // Behind two rounds of waiting sends it would take two attempts' time.
    assert!(read < Duration::from_millis(1_500), "the board waits for nobody: {read:?}");
    let unknown = |e: &&Result<usize, StoreError>| matches!(e, Err(StoreError::Unknown(_)));
    assert!(errors.iter().filter(unknown).count() >= REQUESTS_MAX, "what was sent is unknown");
    assert!(errors.iter().all(|e| e.as_ref().is_err_and(StoreError::retryable)));
}

#[tokio::test]
async fn a_missing_table_says_what_to_do() {
    let Some(url) = endpoint() else { return };
    let metrics = Arc::new(Metrics::new("test"));
    let store = DynamoStore { link: Link::new(&url, "absent", metrics).await.unwrap() };
    let refused = |error| matches!(error, StoreError::Refused(t) if t.contains("table create"));
    assert!(refused(store.append(&dm(), &[entry(1, "Hi")]).await.unwrap_err()));
    assert!(refused(store.log(&dm(), LogRange::newest(1)).await.unwrap_err()));
}
