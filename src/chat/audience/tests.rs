//! Hints for rooms: they reach whom they are for, whatever the store does. Entries of large rooms.

use std::sync::atomic::Ordering;

use futures_util::FutureExt;

use super::*;
use crate::bus::{Bus, Heard};
use crate::chat::testing::{Part, message, user};
use crate::hub::Outbox;
use crate::protocol::Envelope;
use crate::store::{Record, Span, Store, StoreError};

fn room() -> ConversationId {
    ConversationId::parse("room:r").unwrap()
}

async fn join(part: &Part, name: &str, until: Option<Seq>) -> Arc<Outbox> {
    let (role, spans) = ("member".to_owned(), vec![Span { after: 0, until }]);
    let member = Member { user: user(name), role, spans, as_of: until.unwrap_or(1) };
    part.ports.write(Record::Member(room(), member)).await.unwrap();
    part.enter(name, "default")
}

async fn first(outbox: &Outbox) -> Option<Event> {
    let taken = tokio::time::timeout(Duration::from_secs(60), outbox.take()).await;
    taken.ok()?.pop_front()
}

#[tokio::test]
async fn a_hint_reaches_who_left_before_the_newest_entry() {
    let part = Part::new().await;
    let (left, other) = (join(&part, "b", Some(10)).await, part.enter("c", "default"));
    part.chat.hint_local_members(room(), 12);
    let event = first(&left).await;
    assert!(matches!(event, Some(Event::Hint { seq: 12, .. })), "{event:?}");
    assert!(other.take().now_or_never().is_none(), "never a member");
}

#[tokio::test]
async fn a_hint_outlasts_a_store_that_is_away() {
    let part = Part::new().await;
    let member = join(&part, "b", None).await;
    let away = StoreError::Unavailable("for a test".to_owned());
    part.ports.failing.lock().unwrap().push(("roster", room(), away));
    part.chat.hint_local_members(room(), 3);
    tokio::time::sleep(Duration::from_millis(100)).await;
    part.ports.failing.lock().unwrap().clear();
    let event = first(&member).await;
    assert!(matches!(event, Some(Event::Hint { seq: 3, .. })), "{event:?}");
}

#[tokio::test(start_paused = true)]
async fn where_the_roster_stays_unread_everybody_reads_the_mailbox_once() {
    let part = Part::new().await;
    let (member, other) = (join(&part, "b", None).await, part.enter("c", "default"));
    let away = StoreError::Unavailable("for a test".to_owned());
    part.ports.failing.lock().unwrap().push(("roster", room(), away));
    (1..5).for_each(|seq| part.chat.hint_local_members(room(), seq));
    for outbox in [member, other] {
        let event = first(&outbox).await;
        assert!(matches!(event, Some(Event::Reread)), "{event:?}");
    }
}

fn hear(part: &Part, seq: Seq, roster: Seq) {
    let entry = Arc::new(Entry { to: None, ..message("a", "b", seq) });
    let via = ProcessId::parse("ws3").unwrap();
    part.chat.hear_room_entry(&room(), &entry, &via, Some(roster));
}

fn reads(part: &Part) -> usize {
    part.ports.trace().iter().filter(|call| *call == "roster").count()
}

/// Time is paused: it goes on once all have asked.
#[tokio::test(start_paused = true)]
async fn a_roster_is_read_once_for_all_who_ask_together() {
    let part = Part::new().await;
    let member = join(&part, "b", None).await;
    part.ports.reads_take_ms.store(10, Ordering::Relaxed);
    (2..102).for_each(|seq| hear(&part, seq, 1));
    (102..202).for_each(|seq| part.chat.hint_local_members(room(), seq));
    let mut seqs = Vec::new();
    while seqs.len() < 200 {
        let events = tokio::time::timeout(Duration::from_secs(10), member.take()).await;
        seqs.extend(events.unwrap().into_iter().filter_map(|event| match event {
            Event::Text { seq, .. } | Event::Hint { seq, .. } => Some(seq),
            _ => None,
        }));
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (2..202).collect::<Vec<_>>());
    assert_eq!(reads(&part), 2, "the first one's, and that of all others");
}

/// The item of somebody who left follows the entry that says so.
#[tokio::test]
async fn a_roster_that_is_behind_shows_nobody_anything() {
    let part = Part::new().await;
    let mut ws3 = part.ports.subscribe(&ProcessId::parse("ws3").unwrap()).await.unwrap();
    let leaves = join(&part, "b", None).await;
    hear(&part, 6, 5);
    assert!(tokio::time::timeout(Duration::from_secs(1), leaves.take()).await.is_err());
    assert!(ws3.try_recv().is_err(), "not answered: it is tried again");
    let (stays, leaves) = (join(&part, "c", None).await, join(&part, "b", Some(5)).await);
    hear(&part, 6, 5);
    let event = first(&stays).await;
    assert!(matches!(event, Some(Event::Text { seq: 6, .. })), "{event:?}");
    assert!(leaves.take().now_or_never().is_none(), "gone since 5");
    let Ok(Heard::Batch(batch)) = ws3.try_recv() else { panic!("it is answered") };
    let have = |envelope: &Envelope| {
        matches!(envelope, Envelope::Receipt { seq: 6, receipt: Receipt::Have, .. })
    };
    assert!(have(&batch[0]), "{batch:?}");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_rosters_is_bounded() {
    let part = Part::new().await;
    let mut ws3 = part.ports.subscribe(&ProcessId::parse("ws3").unwrap()).await.unwrap();
    let member = join(&part, "b", None).await;
    let most = part.chat.rosters.waiting.clone().try_acquire_many_owned(WAITING_MAX as u32);
    hear(&part, 2, 1);
    part.chat.hint_local_members(room(), 3);
    let event = first(&member).await;
    assert!(matches!(event, Some(Event::Reread)), "whom hints are for: {event:?}");
    assert!(ws3.try_recv().is_err(), "an entry is not answered, and so tried again");
    assert_eq!(reads(&part), 0);
    drop(most);
    part.chat.hint_local_members(room(), 4);
    let event = first(&member).await;
    assert!(matches!(event, Some(Event::Hint { seq: 4, .. })), "{event:?}");
}
