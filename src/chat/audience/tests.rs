//! Hints for rooms: they reach whom they are for, whatever the store does.

use futures_util::FutureExt;

use super::*;
use crate::chat::testing::{Part, user};
use crate::hub::Outbox;
use crate::store::{Span, Store, StoreError};

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
