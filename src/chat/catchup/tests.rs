//! Claim before catch-up (I5): sender or receiver sees the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::*;
use crate::chat::session::{Here, Input, Session, Unstored, Wish};
use crate::chat::testing::{Part, message, user};
use crate::directory::Directory;
use crate::hub::Event;
use crate::protocol::{DeviceId, Kind, Sizes};
use crate::store::{Head, Member, Span, Store};

fn dm() -> ConversationId {
    ConversationId::direct(&user("a"), &user("b"))
}

async fn enter(part: &Part, outbox: &Arc<Outbox>) -> Vec<ConversationId> {
    match perform(&part.chat, outbox, Work::Enter { catchup: None }).await {
        Done::Mailbox(waiting) => waiting.into_iter().map(|w| w.conversation).collect(),
        other => panic!("{other:?}"),
    }
}

async fn put(part: &Part, seq: Seq) {
    let entry = message("b", "a", seq);
    let raise = Raise { last: Some(seq), ..Raise::default() };
    part.ports.raise(&user("a"), &dm(), &raise).await.unwrap();
    assert_eq!(part.ports.append(&dm(), &[entry]).await, Ok(1));
}

#[tokio::test]
async fn the_mailbox_is_read_after_the_claim() {
    let part = Part::new().await;
    let outbox = part.enter("a", "default");
    enter(&part, &outbox).await;
    assert_eq!(part.ports.trace(), ["claim", "mailbox"]);
    perform(
        &part.chat,
        &outbox,
        Work::Reread { here: HashMap::new(), consistent: true, doubted: false },
    )
    .await;
    assert_eq!(part.ports.trace(), ["mailbox"], "claimed once");
}

#[tokio::test]
async fn a_claim_that_failed_is_repeated_and_then_the_mailbox_is_read_again() {
    let part = Part::new().await;
    let outbox = part.enter("a", "default");
    part.ports.redis_away.store(true, Ordering::Relaxed);
    put(&part, 1).await;
    assert_eq!(enter(&part, &outbox).await, [dm()], "Redis away: it catches up all the same");
    assert_eq!(part.ports.trace(), ["claim", "mailbox"]);
    part.chat.repeat_claims().await;
    assert_eq!(part.ports.trace(), ["claim"], "it fails again");
    part.ports.redis_away.store(false, Ordering::Relaxed);
    part.chat.repeat_claims().await;
    part.chat.repeat_claims().await;
    assert_eq!(part.ports.trace(), ["claim"], "it holds");
    let events = outbox.take().await;
    assert!(matches!(events.as_slices().0, [Event::Reread]), "{events:?}");
    let located = part.ports.locate(&[user("a")]).await.unwrap();
    assert_eq!(located[0].len(), 1);
    assert_eq!(located[0][0].socket_id, outbox.who.socket);
}

#[tokio::test]
async fn whatever_the_interleaving_one_sees_the_other() {
    let (mut found, mut read) = (0, 0);
    for _ in 0..300 {
        let part = Part::new().await;
        part.ports.dawdles.store(true, Ordering::Relaxed);
        let outbox = part.enter("a", "default");
        let sends = async {
            put(&part, 1).await;
            // Persist before locate (I4).
            part.ports.locate(&[user("a")]).await.unwrap()[0].len()
        };
        let (located, waiting) = tokio::join!(sends, enter(&part, &outbox));
        assert!(located == 1 || waiting == [dm()], "neither saw the other");
        found += located;
        read += waiting.len();
    }
    assert!(found > 10 && read > 10, "both orders came: {found} found, {read} read");
}

async fn is_known(part: &Part, device: &str) -> bool {
    let page = part.ports.mailbox(&user("a"), MailboxPart::Devices).await.unwrap();
    page.devices.iter().any(|known| known.device.as_str() == device)
}

#[tokio::test]
async fn a_socket_that_left_before_its_mailbox_does_not_make_its_device_known() {
    let part = Part::new().await;
    put(&part, 1).await;
    let received = Raise { delivered: Some(1), ..Raise::default() };
    part.ports.raise(&user("a"), &dm(), &received).await.unwrap();
    let outbox = part.enter("a", "phone");
    let session = Session::new(Wish::default());
    part.chat.store_at_end(&outbox.who, session.finish(&outbox.who)).await;
    assert!(!is_known(&part, "phone").await);
    assert!(enter(&part, &outbox).await.is_empty(), "it starts at what the person has received");
    assert!(is_known(&part, "phone").await);
    let load = perform(&part.chat, &outbox, Work::Load(dm(), Turn::Live)).await;
    assert!(matches!(load, Done::Loaded(_, 1)), "{load:?}");
}

/// When it was last seen is stored as its socket ends, so one that stays looks long unseen.
#[tokio::test]
async fn a_device_with_a_socket_is_not_the_one_that_is_forgotten() {
    let part = Part::new().await;
    for number in 0..16 {
        let device = DeviceId::parse(&format!("d{number}")).unwrap();
        let seen = crate::store::Device { device, first_seen: number, last_seen: number };
        part.ports.write(Record::Device(user("a"), seen)).await.unwrap();
    }
    let here = part.enter("a", "d0");
    let elsewhere = crate::directory::SocketEntry {
        socket_id: crate::protocol::SocketId(9),
        server: part.chat.me.id.clone(),
        epoch: part.chat.me.epoch,
        device: DeviceId::parse("d1").unwrap(),
        claim: 1,
    };
    part.ports.claim(&user("a"), &elsewhere, &[]).await.unwrap();
    let new = part.enter("a", "new");
    enter(&part, &new).await;
    for (device, known) in [("d0", true), ("d1", true), ("d2", false), ("d3", true), ("new", true)]
    {
        assert_eq!(is_known(&part, device).await, known, "{device}");
    }
    drop(here);
}

fn damaged() -> StoreError {
    StoreError::Damaged("for a test".to_owned())
}

#[tokio::test]
async fn what_cannot_be_read_fails_alone() {
    let part = Part::new().await;
    let outbox = part.enter("a", "default");
    put(&part, 1).await;
    let raise = Raise { last: Some(9), ..Raise::default() };
    let room = ConversationId::parse("room:r").unwrap();
    part.ports.raise(&user("a"), &room, &raise).await.unwrap();
    *part.ports.failing.lock().unwrap() =
        vec![("log", room.clone(), damaged()), ("row", room.clone(), damaged())];
    assert_eq!(enter(&part, &outbox).await, [dm()], "the room is left out");
    let load = perform(&part.chat, &outbox, Work::Load(room.clone(), Turn::Live)).await;
    assert!(matches!(&load, Done::Failed(failed) if *failed == room), "{load:?}");
    let read = Work::Read { conversation: room.clone(), after: 0, limit: 9, turn: Turn::Live };
    let read = perform(&part.chat, &outbox, read).await;
    assert!(matches!(&read, Done::Failed(failed) if *failed == room), "{read:?}");
}

#[tokio::test]
async fn a_write_that_fails_is_given_back() {
    let part = Part::new().await;
    let outbox = part.enter("a", "default");
    put(&part, 1).await;
    tokio::time::pause();
    let away = StoreError::Unavailable("for a test".to_owned());
    *part.ports.failing.lock().unwrap() = vec![("raise", dm(), away)];
    let raise = Raise { delivered: Some(1), ..Raise::default() };
    let done = perform(&part.chat, &outbox, Work::Store(vec![(dm(), raise)])).await;
    assert!(
        matches!(&done, Done::Stored { stored, failed } if stored.is_empty() && *failed == [dm()])
    );
    let see = Work::See { conversation: dm(), seq: 1, n: Some(1) };
    let done = perform(&part.chat, &outbox, see).await;
    assert!(matches!(done, Done::Unseen(_, 1)), "{done:?}");
}

#[tokio::test]
async fn what_a_person_had_seen_is_stored_and_told_at_the_end() {
    let part = Part::new().await;
    let (desk, other) = (part.enter("a", "default"), part.enter("b", "default"));
    enter(&part, &desk).await;
    put(&part, 1).await;
    let sees = vec![(dm(), 1)];
    let left = || Unstored { entered: true, sees: sees.clone(), ..Unstored::default() };
    part.chat.store_at_end(&desk.who, left()).await;
    let rows = part.ports.mailbox(&user("a"), MailboxPart::Row(dm())).await.unwrap().rows;
    assert_eq!((rows[0].read, rows[0].read_n), (1, 1));
    let events = other.take().await;
    let Event::Frame(status) = &events[0] else { panic!("{events:?}") };
    let status = std::str::from_utf8(status).unwrap();
    assert_eq!(status, r#"{"type":"read","conversation":"dm:a:b","seq":1,"userId":"a"}"#);
}

/// Each call takes seconds while the store is away, and others wait for their turn.
#[tokio::test]
async fn a_store_that_is_away_is_asked_once_for_a_sockets_end() {
    let part = Part::new().await;
    let desk = part.enter("a", "default");
    enter(&part, &desk).await;
    let away = StoreError::Unavailable("for a test".to_owned());
    *part.ports.failing.lock().unwrap() = vec![("raise", dm(), away)];
    let raise = || Raise { last: Some(1), ..Raise::default() };
    let elsewhere = ConversationId::direct(&user("a"), &user("c"));
    let raises = vec![(dm(), raise()), (elsewhere.clone(), raise())];
    let sees = vec![(elsewhere.clone(), 1)];
    let left = Unstored { entered: true, raises, sees, ..Unstored::default() };
    part.ports.trace();
    part.chat.store_at_end(&desk.who, left).await;
    let row = part.ports.mailbox(&user("a"), MailboxPart::Row(elsewhere)).await.unwrap();
    assert!(row.rows.is_empty(), "{row:?}");
}

/// The lane took its answer for heard, and raises the sender's row no more.
#[tokio::test]
async fn an_answer_left_in_the_outbox_raises_the_own_row() {
    let part = Part::new().await;
    let (desk, phone) = (part.enter("a", "default"), part.enter("a", "phone"));
    enter(&part, &desk).await;
    let answer =
        |seq| Event::Sent { reference: None, conversation: dm(), seq, n: seq, timestamp: 1 };
    [3, 4].into_iter().for_each(|seq| desk.push(answer(seq)));
    part.chat.metrics.sockets.inc();
    part.chat.clone().end(desk.clone(), Unstored::default()).await;
    let rows = part.ports.mailbox(&user("a"), MailboxPart::Row(dm())).await.unwrap().rows;
    assert_eq!(rows.iter().map(|row| row.last).collect::<Vec<_>>(), [4]);
    let events = phone.take().await;
    assert!(matches!(&events[0], Event::Hint { seq: 4, .. }), "{events:?}");
    assert!(!desk.offer(Event::Reread) && part.chat.hub.of(&user("a")).len() == 1, "it has left");
    assert_eq!(part.ports.locate(&[user("a")]).await.unwrap(), [vec![]; 1]);
    assert_eq!(part.chat.metrics.sockets.get(), 0);
}

#[tokio::test]
async fn a_lazy_raise_is_told_to_the_other_sockets_of_the_person() {
    let part = Part::new().await;
    let (desk, phone) = (part.enter("a", "default"), part.enter("a", "phone"));
    part.chat.hint_own(&desk.who, &dm(), 3);
    let events = phone.take().await;
    assert!(matches!(&events[0], Event::Hint { seq: 3, via: None, .. }), "{events:?}");
    assert!(futures_util::FutureExt::now_or_never(desk.take()).is_none(), "not to itself");
}

fn room() -> ConversationId {
    ConversationId::parse("room:r").unwrap()
}

/// A room with 500 entries in which `a` has these spans.
async fn in_room(part: &Part, spans: &[(Seq, Option<Seq>)], last: Seq) {
    let entry = |seq| Entry {
        seq,
        kind: Kind::Message,
        from: user("b"),
        to: None,
        message: Some("Hi".into()),
        data: None,
        reference: None,
        device: DeviceId::plain(),
        timestamp: 1,
        n: seq,
    };
    let entries: Vec<_> = (1..=500).map(entry).collect();
    assert_eq!(part.ports.append(&room(), &entries).await, Ok(500));
    let spans = spans.iter().map(|&(after, until)| Span { after, until }).collect();
    let member = Member { user: user("a"), role: "member".to_owned(), spans, as_of: last };
    part.ports.write(Record::Member(room(), member)).await.unwrap();
    let raise = Raise { last: Some(last), ..Raise::default() };
    part.ports.raise(&user("a"), &room(), &raise).await.unwrap();
}

#[tokio::test]
async fn a_member_reads_from_where_there_is_something_to_see() {
    let part = Part::new().await;
    let outbox = part.enter("a", "default");
    in_room(&part, &[(100, Some(110)), (400, None)], 401).await;
    let waiting = |cursor, start| Waiting { conversation: room(), cursor, start, end: 500 };
    for (catchup, start) in [(None, 100), (Some(9), 491), (Some(800), 100)] {
        let done = perform(&part.chat, &outbox, Work::Enter { catchup }).await;
        assert!(matches!(&done, Done::Mailbox(all) if *all == [waiting(100, start)]), "{done:?}");
    }
    let load = perform(&part.chat, &outbox, Work::Load(room(), Turn::Live)).await;
    assert!(matches!(load, Done::Loaded(_, 100)), "{load:?}");
    let read = Work::Read { conversation: room(), after: 100, limit: 128, turn: Turn::Live };
    let read = perform(&part.chat, &outbox, read).await;
    let Done::Page { entries, skip: 400, more: true, .. } = read else { panic!("{read:?}") };
    assert_eq!(entries.iter().filter(|(_, entry)| entry.is_some()).count(), 10);
}

#[tokio::test]
async fn a_former_member_does_not_walk_what_came_later() {
    let part = Part::new().await;
    let outbox = part.enter("a", "default");
    in_room(&part, &[(100, Some(110))], 110).await;
    assert_eq!(enter(&part, &outbox).await, [room()]);
    let read = Work::Read { conversation: room(), after: 100, limit: 128, turn: Turn::Live };
    let read = perform(&part.chat, &outbox, read).await;
    assert!(matches!(read, Done::Page { more: false, .. }), "{read:?}");
    let cursors = vec![(DeviceId::plain(), 110)];
    let raise = Raise { delivered: Some(110), cursors, ..Raise::default() };
    part.ports.raise(&user("a"), &room(), &raise).await.unwrap();
    assert!(enter(&part, &outbox).await.is_empty(), "nothing follows");
}

#[tokio::test]
async fn who_has_just_joined_sees_it_before_the_item_tells() {
    joins_before_the_item_tells("c", roster::MEMBER).await;
    joins_before_the_item_tells("a", roster::OWNER).await;
}

async fn joins_before_the_item_tells(creator: &str, role: &str) {
    let part = Part::new().await;
    let (creator, floor, title) = (Some(user(creator)), 0, None);
    let head = Head { floor, title, creator, public: false, created: 1 };
    part.ports.write(Record::Head(room(), head)).await.unwrap();
    let outbox = part.enter("a", "default");
    let (kind, to) = (Kind::Joined, Some(user("a")));
    let (from, device, message) = (user("b"), DeviceId::plain(), None);
    let (data, reference) = (None, None);
    let joined =
        Entry { seq: 1, kind, from, to, message, data, reference, device, timestamp: 1, n: 0 };
    assert_eq!(part.ports.append(&room(), &[joined]).await, Ok(1));
    let read = Work::Read { conversation: room(), after: 0, limit: 128, turn: Turn::Live };
    let read = perform(&part.chat, &outbox, read).await;
    let Done::Page { entries, .. } = read else { panic!("{read:?}") };
    assert!(matches!(&entries[..], [(1, Some(_))]), "{entries:?}");
    let items = part.ports.records(RecordPart::Member(room(), user("a"))).await.unwrap();
    let item = items.into_iter().find_map(Record::into_member);
    let item = item.map(|item| (item.role, item.spans, item.as_of));
    let since = Span { after: 0, until: None };
    assert_eq!(
        item,
        Some((role.to_owned(), vec![since], 1)),
        "whoever was to write it may be dead"
    );
}

#[tokio::test]
async fn a_reread_compares_with_what_this_socket_has() {
    let part = Part::new().await;
    let outbox = part.enter("a", "default");
    enter(&part, &outbox).await;
    put(&part, 1).await;
    put(&part, 2).await;
    // The other tab has received both.
    let cursors = vec![(DeviceId::plain(), 2)];
    let raise = Raise { delivered: Some(2), cursors, ..Raise::default() };
    part.ports.raise(&user("a"), &dm(), &raise).await.unwrap();
    for (here, waits) in [(None, 0), (Some(2), 0), (Some(1), 1)] {
        let here = here.map(|seq| (dm(), seq)).into_iter().collect();
        let done =
            perform(&part.chat, &outbox, Work::Reread { here, consistent: true, doubted: false })
                .await;
        assert!(matches!(&done, Done::Mailbox(all) if all.len() == waits), "{done:?}");
    }
}

/// Retention has raised the floor and removed what lay below it.
#[tokio::test]
async fn a_read_goes_on_at_the_floor_and_never_turns_in_circles() {
    let part = Part::new().await;
    let outbox = part.enter("a", "default");
    let kept: Vec<_> = (10..=12).map(|seq| message("b", "a", seq)).collect();
    assert_eq!(part.ports.append(&dm(), &kept).await, Ok(3));
    let raise = Raise { last: Some(12), ..Raise::default() };
    part.ports.raise(&user("a"), &dm(), &raise).await.unwrap();
    let read = || Work::Read { conversation: dm(), after: 4, limit: 128, turn: Turn::CatchingUp };
    let done = perform(&part.chat, &outbox, read()).await;
    assert!(matches!(done, Done::Failed(_)), "a hole that nothing accounts for: {done:?}");

    let head = Head { floor: 10, title: None, creator: None, public: false, created: 1 };
    part.ports.write(Record::Head(dm(), head)).await.unwrap();
    let (server, now) = (&part.chat.me.id, tokio::time::Instant::now());
    let here =
        Here { who: &outbox.who, server, sockets_per_user: 16, sizes: Sizes::MOST, clock: 1, now };
    let (mut session, mut out) = (Session::new(Wish::default()), Default::default());
    session.start(&here, &mut out);
    for work in 0.. {
        let Some(asked) = out.work.take() else { break };
        assert!(work < 5, "{asked:?}");
        let done = perform(&part.chat, &outbox, asked).await;
        session.step(Input::Done(done), &here, &mut out);
    }
    let kinds = |text: &crate::protocol::Text| {
        let frame: serde_json::Value = serde_json::from_slice(text).unwrap();
        (frame["type"].as_str().unwrap().to_owned(), frame["seq"].as_u64())
    };
    let frames: Vec<_> = out.frames.iter().map(kinds).collect();
    let said = |kind: &str, seq| (kind.to_owned(), seq);
    let expected = [
        said("welcome", None),
        said("message", Some(10)),
        said("message", Some(11)),
        said("message", Some(12)),
        said("caughtup", None),
    ];
    assert_eq!(frames, expected);
}
