//! What a lost, late or refused answer becomes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::proxy::{Fault, Proxy};
use super::{calls, dm, endpoint, entry, fresh, user};
use crate::board::dynamodb::DynamoBoard;
use crate::board::{Beat, Board, BoardRow};
use crate::chat::testing::board_row;
use crate::protocol::{ConversationId, Epoch};
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
    assert_eq!(proxy.seen(), 4);
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
    // An attempt's time, and not that of two.
    assert!(begun.elapsed() < Duration::from_millis(1_900), "{:?}", begun.elapsed());

    let begun = Instant::now();
    proxy.plan("Query", [Fault::Hang; 9]);
    let error = store.log(&dm(), LogRange::newest(32)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    // Four attempts would take as many seconds.
    assert!(begun.elapsed() < Duration::from_millis(CALL_MS_MAX + 500), "{:?}", begun.elapsed());

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
    let records = store.records(RecordPart::Head(room.clone())).await.unwrap();
    assert_eq!(records, [Record::Head(room, head(1))]);
}

#[tokio::test]
async fn a_beat_whose_answer_is_lost_is_ones_own() {
    let Some(url) = endpoint() else { return };
    let proxy = Proxy::start(&url).await;
    let (store, _) = fresh(&proxy.url).await;
    let board = DynamoBoard::new(store.link());
    let row = |epoch, beat| BoardRow { beat, ..board_row("ws1", epoch) };
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
    // Bound, so that nobody else gets it, and not listening.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", held.local_addr().unwrap());
    let metrics = Arc::new(Metrics::new("test"));
    let link = Link::new(&url, "parlor", metrics.clone()).await.unwrap();
    let store = DynamoStore { link };
    let begun = Instant::now();
    let error = store.append(&dm(), &[entry(1, "Hi")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_millis(CALL_MS_MAX));
    assert_eq!(calls(&metrics, "append", "not_sent"), 4, "one attempt and three retries");

    // The partition's retries are spent: from here on one attempt a call, behind no pause.
    for _ in 0..41 {
        assert!(store.append(&dm(), &[entry(1, "Hi")]).await.is_err());
    }
    assert_eq!(calls(&metrics, "append", "not_sent"), 10 + 42);
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_not_sent() {
    // `.invalid` is nobody's, by RFC 6761.
    let metrics = Arc::new(Metrics::new("test"));
    let link = Link::new("http://127.0.0.1:1", "parlor", metrics.clone()).await.unwrap();
    let mut link = Arc::into_inner(link).unwrap();
    let elsewhere = link.client.config().to_builder().endpoint_url("http://dynamodb.invalid:8000");
    link.client = aws_sdk_dynamodb::Client::from_conf(elsewhere.build());
    let store = DynamoStore { link: Arc::new(link) };
    let begun = Instant::now();
    let error = store.append(&dm(), &[entry(1, "Hi")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(error.to_string().contains("failed to lookup address"), "{error}");
    assert!(begun.elapsed() < Duration::from_millis(CALL_MS_MAX));
    assert!(calls(&metrics, "append", "not_sent") >= 1);
    assert!(store.log(&dm(), LogRange::newest(1)).await.is_err(), "never an empty page");
}

/// A host that lets connections wait for ever, as one does that drops packets.
#[tokio::test]
async fn a_connection_that_never_stands_is_not_sent() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    // Nobody accepts, and the queue is soon full: what comes then is not answered at all.
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let dial = tokio::net::TcpStream::connect(address);
        waiting.push(tokio::time::timeout(Duration::from_millis(50), dial).await);
    }
    assert!(waiting.last().unwrap().is_err(), "the queue is not full");
    let metrics = Arc::new(Metrics::new("test"));
    let link = Link::new(&format!("http://{address}"), "parlor", metrics.clone()).await.unwrap();
    let store = DynamoStore { link };
    let error = store.append(&dm(), &[entry(1, "Hi")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert_eq!(calls(&metrics, "append", "unknown"), 0, "nothing can have been written");
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
    assert!(read < Duration::from_millis(1_900), "the board waits for nobody: {read:?}");
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
