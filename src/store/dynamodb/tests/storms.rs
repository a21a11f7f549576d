//! Throttling of one partition and of all, and pages that are not what they seem: what is sent, and
//! what is answered.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::proxy::{Fault, Proxy};
use super::{calls, endpoint, entry, fresh, user};
use crate::planted::{Bug, plant};
use crate::protocol::{ConversationId, Entry, Seq};
use crate::store::dynamodb::DynamoStore;
use crate::store::{
    CALL_MS_MAX, LogRange, MailboxPart, Member, Order, Raise, Record, RecordPart, Span, Store,
    StoreError,
};
use crate::telemetry::{Metrics, Outcome};

fn room(name: &str) -> ConversationId {
    ConversationId::parse(&format!("room:{name}")).unwrap()
}

fn retries(metrics: &Metrics, outcome: &'static str) -> u64 {
    metrics.store_retries.get_or_create(&Outcome { outcome }).get()
}

async fn fill(store: &DynamoStore, log: &ConversationId, count: Seq) -> Vec<Entry> {
    let entries: Vec<_> = (1..=count).map(|seq| entry(seq, "Hi")).collect();
    for one in &entries {
        assert_eq!(store.append(log, std::slice::from_ref(one)).await, Ok(1));
    }
    entries
}

#[tokio::test]
async fn one_throttled_partition_is_no_storm_and_nobody_elses() {
    let Some(url) = endpoint() else { return };
    let proxy = Proxy::start(&url).await;
    let (store, metrics) = fresh(&proxy.url).await;
    let hot = room("hot");
    proxy.throttle("room:hot", 100);
    // 40 at a time, five times over: what a hot conversation of 200 senders would be.
    for _ in 0..5 {
        let sends = (1..=40).map(|seq| {
            let (store, hot) = (&store, &hot);
            async move { store.append(hot, &[entry(seq, "Hi")]).await }
        });
        for answer in join_all(sends).await {
            let error = answer.unwrap_err();
            assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        }
    }
    let told = metrics.store_trouble.lately().unwrap();
    assert!(told.contains("throttled"), "/readyz tells it: {told}");
    let sent = proxy.naming("room:hot");
    assert!((201..=210).contains(&sent), "200 calls and 10 retries at most: {sent}");
    assert_eq!(retries(&metrics, "sent"), sent as u64 - 200);
    // The others have their retries: each is throttled twice, and succeeds.
    proxy.throttle("room:hot", 100);
    proxy.plan("PutItem", [Fault::Throttle, Fault::ThrottleControl]);
    let begun = Instant::now();
    assert_eq!(store.append(&room("cold"), &[entry(1, "Hi")]).await, Ok(1));
    assert_eq!(proxy.naming("room:cold"), 3);
    assert!(begun.elapsed() < Duration::from_millis(CALL_MS_MAX / 2), "{:?}", begun.elapsed());
    // Recovery needs no retry, so no bucket: the next call succeeds.
    proxy.heal();
    let begun = Instant::now();
    assert_eq!(store.append(&hot, &[entry(1, "Hi")]).await, Ok(1));
    assert!(begun.elapsed() < Duration::from_millis(CALL_MS_MAX / 2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_general_outage_is_sent_about_once_a_call() {
    let Some(url) = endpoint() else { return };
    let proxy = Proxy::start(&url).await;
    let (store, _) = fresh(&proxy.url).await;
    proxy.throttle("room:", 100);
    let logs: Vec<_> = (0..500).map(|i| room(&format!("x{i}"))).collect();
    let begun = Instant::now();
    let lines = [entry(1, "Hi")];
    for chunk in logs.chunks(100) {
        let sends = chunk.iter().map(|log| store.append(log, &lines));
        assert!(join_all(sends).await.iter().all(|answer| answer.is_err()));
    }
    let sent = proxy.naming("room:x");
    assert!((500..=600).contains(&sent), "500 calls and the link's 100 retries: {sent}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    proxy.heal();
    let sends = logs[..50].iter().map(|log| store.append(log, &lines));
    assert!(join_all(sends).await.iter().all(|answer| *answer == Ok(1)), "all at once again");
}

#[tokio::test]
async fn partial_throttling_is_amplified_by_a_fifth_at_most() {
    let Some(url) = endpoint() else { return };
    let proxy = Proxy::start(&url).await;
    let (store, metrics) = fresh(&proxy.url).await;
    proxy.throttle("room:hot", 30);
    let (hot, mut stored) = (room("hot"), 0_u64);
    for _ in 0..300 {
        match store.append(&hot, &[entry(stored + 1, "Hi")]).await {
            Ok(count) => stored += count as u64,
            Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error}"),
        }
    }
    let sent = proxy.naming("room:hot") as u64;
    let bound = 300 + 10 + stored / 5 + 1;
    assert!(sent <= bound, "{sent} requests for 300 calls, {stored} stored");
    assert!(stored >= 220, "most succeed, a third of the retries at once: {stored}");
    let attempts = calls(&metrics, "append", "ok") + calls(&metrics, "append", "throttled");
    assert_eq!(attempts, sent);
}

/// What each trouble of a put and of a read becomes.
#[tokio::test]
async fn every_trouble_has_its_outcome_and_ends_in_time() {
    let Some(url) = endpoint() else { return };
    let proxy = Proxy::start(&url).await;
    let (store, _) = fresh(&proxy.url).await;
    use Fault::*;
    for (number, (fault, stored, unknown)) in [
        (Throttle, false, false),
        (ThrottleControl, false, false),
        (Error500, false, true),
        (Error503, false, true),
        (AppliedThen500, true, true),
        (DropAnswer, true, true),
        (DropRequest, false, true),
    ]
    .into_iter()
    .enumerate()
    {
        let log = room(&format!("trouble-{number}"));
        proxy.plan("PutItem", [fault; 20]);
        let begun = Instant::now();
        let error = store.append(&log, &[entry(1, "Hi")]).await.unwrap_err();
        assert_eq!(matches!(error, StoreError::Unknown(_)), unknown, "{fault:?}: {error}");
        assert!(error.retryable(), "{fault:?}");
        assert!(begun.elapsed() < Duration::from_millis(CALL_MS_MAX));
        proxy.plan("PutItem", []);
        let page = store.log(&log, LogRange::newest(1)).await.unwrap();
        assert_eq!(page.entries.len(), usize::from(stored), "{fault:?}");
        // A read that meets the same is an error, never an empty page.
        proxy.plan("Query", [fault; 20]);
        let error = store.log(&log, LogRange::newest(1)).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{fault:?}: {error}");
        proxy.plan("Query", [fault]);
        let page = store.log(&log, LogRange::newest(1)).await.unwrap();
        assert_eq!(page.entries.len(), usize::from(stored), "{fault:?}, once");
    }
}

/// Seqs of a log, everything of a mailbox, and the members of a room, read through cut pages.
async fn everything(store: &DynamoStore) -> (Vec<Seq>, Vec<Seq>, usize, usize, usize) {
    let read = async |range| {
        let page = store.log(&room("general"), range).await.unwrap();
        assert!(!page.more, "{range:?}");
        page.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>()
    };
    let ascending = read(LogRange::following(0, 500)).await;
    let range = LogRange { after: 2, before: Some(9), order: Order::Descending, limit: 100 };
    let descending = read(range).await;
    let (mut rows, mut devices, mut after) = (0, 0, None);
    loop {
        let part = MailboxPart::Page { after, consistent: true };
        let page = store.mailbox(&user("userB"), part).await.unwrap();
        (rows, devices) = (rows + page.rows.len(), devices + page.devices.len());
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let members = store.records(RecordPart::Roster(room("general"))).await.unwrap().len();
    (ascending, descending, rows, devices, members)
}

async fn a_little_of_everything(store: &DynamoStore) {
    fill(store, &room("general"), 11).await;
    for number in 0..7 {
        let raise = Raise { last: Some(1), ..Raise::default() };
        store.raise(&user("userB"), &room(&format!("r{number}")), &raise).await.unwrap();
        let name = format!("user{number}");
        let spans = vec![Span { after: 0, until: None }];
        let member = Member { user: user(&name), role: "member".into(), spans, as_of: 1 };
        store.write(Record::Member(room("general"), member)).await.unwrap();
    }
    let device = crate::store::Device {
        device: crate::protocol::DeviceId::plain(),
        first_seen: 1,
        last_seen: 2,
    };
    store.write(Record::Device(user("userB"), device)).await.unwrap();
}

#[tokio::test]
async fn pages_that_end_early_or_are_empty_are_followed() {
    let Some(url) = endpoint() else { return };
    let proxy = Proxy::start(&url).await;
    let (store, _) = fresh(&proxy.url).await;
    a_little_of_everything(&store).await;
    let whole = everything(&store).await;
    assert_eq!((whole.0.len(), whole.1.len(), whole.2, whole.3, whole.4), (11, 6, 7, 1, 7));
    for items in [1, 3] {
        proxy.cut_pages(items);
        assert_eq!(everything(&store).await, whole, "{items} items a page");
    }
    plant(Some(Bug::PageIsAll));
    let cut = everything(&store).await;
    plant(None);
    assert!(cut.0.len() < 11 && cut.1.len() < 6 && cut.2 < 7 && cut.4 < 7, "{cut:?}");
}

#[tokio::test]
async fn history_is_never_an_old_snapshot() {
    let Some(url) = endpoint() else { return };
    let proxy = Proxy::start(&url).await;
    let (store, _) = fresh(&proxy.url).await;
    proxy.serve_stale();
    let log = room("general");
    let newest = async || store.log(&log, LogRange::newest(32)).await.unwrap().entries.len();
    fill(&store, &log, 1).await;
    assert_eq!(newest().await, 1);
    assert_eq!(store.append(&log, &[entry(2, "and")]).await, Ok(1));
    assert_eq!(newest().await, 2);
    plant(Some(Bug::StaleHistory));
    assert_eq!(newest().await, 2, "the first that is not consistent");
    assert_eq!(store.append(&log, &[entry(3, "more")]).await, Ok(1));
    let stale = newest().await;
    plant(None);
    assert_eq!(stale, 2, "the planted bug shows here");
    assert_eq!(newest().await, 3);
}
