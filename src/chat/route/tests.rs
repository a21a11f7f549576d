//! What is handed on and not confirmed is tried again, then goes to the board (I9). Time is paused.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;

use super::*;
use crate::board::{Beat, Board};
use crate::bus::{Bus, Heard, Subscription};
use crate::chat::lane::Handed;
use crate::chat::liveness::BoardEvent;
use crate::chat::testing::{Part, board_row, message, user};
use crate::directory::Directory;
use crate::hub::Event;
use crate::protocol::{DeviceId, Epoch, Receipt, SocketId};
use crate::store::{Member, Record, Span, Store};

const SECOND: Duration = Duration::from_secs(1);

/// A part with its background, and a server ws3 that holds a socket of `b` and only listens.
struct Routed {
    part: Part,
    ws3: Subscription,
    _board: tokio::sync::mpsc::Sender<BoardEvent>,
}

impl Routed {
    async fn new() -> Self {
        let part = Part::new().await;
        let bus = part.ports.subscribe(&part.chat.me.id).await.unwrap();
        assert_eq!(part.board.beat(&board_row("ws3", 1), None).await, Ok(Beat::Written));
        part.ports.claim(&user("b"), &at_ws3(3), &[]).await.unwrap();
        let ws3 = part.ports.subscribe(&ws3()).await.unwrap();
        let (board, events) = tokio::sync::mpsc::channel(1);
        let (chat, stop) = (part.chat.clone(), part.stop.clone());
        tokio::spawn(async move { chat.keep(events, bus, stop).await });
        sleep(3 * SECOND).await;
        Self { part, ws3, _board: board }
    }

    fn hand_on(&self, seq: Seq) {
        let entry = Arc::new(message("a", "b", seq));
        let entries = vec![Handed { entry, sender: None, repeated: false }];
        self.part.chat.hand_on(HandedOn { conversation: dm(), entries, roster: None });
    }

    /// An entry of a room with these members and `a`.
    fn hand_on_room(&self, seq: Seq, members: &[&str]) {
        let entry = Arc::new(Entry { to: None, ..message("a", "b", seq) });
        let entries = vec![Handed { entry, sender: None, repeated: false }];
        let members = members.iter().chain(&["a"]).map(|name| member(name)).collect();
        let roster = Some(Arc::new(members));
        self.part.chat.hand_on(HandedOn { conversation: room(), entries, roster });
    }

    /// What ws3 has heard: `entry 1`, `hint 1`.
    fn heard(&mut self) -> Vec<String> {
        heard(&mut self.ws3)
    }

    async fn answer(&self, seq: Seq, receipt: Receipt) {
        let envelope = Envelope::Receipt {
            conversation: dm(),
            seq,
            user: Some(user("b")),
            device: Some(DeviceId::plain()),
            receipt,
            server: ws3(),
        };
        self.part.ports.publish(&self.part.chat.me.id, &[Arc::new(envelope)]).await.unwrap();
        sleep(SECOND / 10).await;
    }

    /// The hints on the board.
    async fn on_board(&self) -> Vec<Seq> {
        let hints = self.part.board.hints(&self.part.chat.me.id, 0).await.unwrap().1;
        hints.into_iter().map(|hint| hint.seq).collect()
    }
}

fn heard(subscription: &mut Subscription) -> Vec<String> {
    let mut heard = Vec::new();
    while let Ok(Heard::Batch(batch)) = subscription.try_recv() {
        heard.extend(batch.iter().filter_map(|envelope| match &**envelope {
            Envelope::Entry { entry, .. } => Some(format!("entry {}", entry.seq)),
            Envelope::Hint { seq, .. } => Some(format!("hint {seq}")),
            _ => None,
        }));
    }
    heard
}

fn room() -> ConversationId {
    ConversationId::parse("room:r").unwrap()
}

fn member(name: &str) -> Member {
    let spans = vec![Span { after: 0, until: None }];
    Member { user: user(name), role: "member".to_owned(), spans, as_of: 1 }
}

fn at_ws3(socket: u128) -> SocketEntry {
    SocketEntry {
        socket_id: SocketId(socket),
        server: ws3(),
        epoch: Epoch(1),
        device: DeviceId::plain(),
        claim: 1,
    }
}

fn ws3() -> ProcessId {
    ProcessId::parse("ws3").unwrap()
}

fn dm() -> ConversationId {
    ConversationId::direct(&user("a"), &user("b"))
}

#[tokio::test(start_paused = true)]
async fn what_is_not_confirmed_is_tried_twice_and_goes_to_the_board() {
    let mut routed = Routed::new().await;
    routed.hand_on(1);
    sleep(SECOND).await;
    assert_eq!(routed.heard(), ["entry 1"]);
    assert_eq!(routed.on_board().await, [0; 0]);
    sleep(2 * SECOND).await;
    assert_eq!(routed.heard(), ["hint 1"]);
    sleep(2 * SECOND).await;
    assert_eq!(routed.heard(), ["hint 1"]);
    sleep(3 * SECOND).await;
    assert_eq!(routed.heard(), [""; 0]);
    assert_eq!(routed.on_board().await, [1]);
    assert!(routed.part.chat.router.pending.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_receipt_confirms_it_and_the_sender_is_told() {
    let mut routed = Routed::new().await;
    let sender = routed.part.enter("a", "phone");
    routed.hand_on(1);
    sleep(SECOND).await;
    sender.take().now_or_never();
    routed.answer(1, Receipt::Delivered).await;
    let events = sender.take().await;
    let told = answer::delivered(&dm(), 1, &user("b"));
    assert!(matches!(&events[0], Event::Frame(frame) if *frame == told), "{events:?}");
    // The sender's own phone has not confirmed its copy: only that is tried again.
    sleep(10 * SECOND).await;
    assert_eq!(routed.heard(), ["entry 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_receipt_from_here_does_not_stand_for_a_server_that_is_yet_to_be_located() {
    let mut routed = Routed::new().await;
    let here = routed.part.enter("b", "phone");
    routed.part.ports.map_takes_ms.store(100, Ordering::Relaxed);
    routed.hand_on(1);
    let me = routed.part.chat.me.id.clone();
    routed.part.chat.received(&here.who, &dm(), 1, Some(&me), Receipt::Delivered);
    sleep(SECOND).await;
    assert_eq!(routed.heard(), ["entry 1"]);
    sleep(3 * SECOND).await;
    assert_eq!(routed.heard(), ["hint 1"], "ws3 has not confirmed");
}

#[tokio::test(start_paused = true)]
async fn who_is_gone_from_there_is_located_anew() {
    let mut routed = Routed::new().await;
    routed.hand_on(1);
    sleep(SECOND / 10).await;
    routed.part.ports.release(&user("b"), SocketId(3), 1).await.unwrap();
    routed.answer(1, Receipt::Gone).await;
    assert!(routed.part.chat.router.pending.is_empty(), "offline: it waits in the store");
    sleep(10 * SECOND).await;
    assert_eq!(routed.heard(), ["entry 1"]);
    assert_eq!(routed.on_board().await, [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_gone_is_not_asked_again_though_the_map_still_shows_it() {
    let mut routed = Routed::new().await;
    routed.hand_on(1);
    for _ in 0..20 {
        sleep(SECOND / 10).await;
        routed.answer(1, Receipt::Gone).await;
    }
    assert_eq!(routed.heard(), ["entry 1"], "once");
    assert!(routed.part.chat.router.pending.is_empty());
    routed.hand_on(2);
    sleep(SECOND).await;
    assert_eq!(routed.heard(), ["entry 2"], "what is newer is handed to it again");
}

#[tokio::test(start_paused = true)]
async fn what_is_unconfirmed_when_redis_hangs_is_on_the_board_soon() {
    let routed = Routed::new().await;
    let (pending, now) = (&routed.part.chat.router.pending, Instant::now());
    for number in 0..2_000 {
        let to = user(&format!("user-{number}"));
        let conversation = ConversationId::direct(&user("a"), &to);
        let key = Key { conversation, user: Some(to) };
        assert!(pending.open(&key, 1, false, now));
        pending.located(&key, &[ws3()], &[]);
    }
    routed.part.ports.map_takes_ms.store(250, Ordering::Relaxed);
    routed.part.ports.redis_away.store(true, Ordering::Relaxed);
    sleep(4 * SECOND).await;
    assert_eq!(routed.on_board().await.len(), 2_000);
    assert!(pending.is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_redis_it_goes_to_the_board_at_once() {
    let mut routed = Routed::new().await;
    routed.part.ports.redis_away.store(true, Ordering::Relaxed);
    routed.hand_on(1);
    sleep(SECOND).await;
    assert_eq!(routed.on_board().await, [1, 1], "the recipient's and the sender's own sockets'");
    assert_eq!(routed.heard(), [""; 0]);
    assert!(routed.part.chat.router.pending.is_empty());
}

#[tokio::test(start_paused = true)]
async fn while_somebody_is_deaf_everything_goes_to_the_board_as_well() {
    let mut routed = Routed::new().await;
    let deaf = crate::board::BoardRow { deaf: true, ..board_row("ws4", 1) };
    routed.part.board.beat(&deaf, None).await.unwrap();
    sleep(3 * SECOND).await;
    routed.hand_on(1);
    sleep(SECOND).await;
    assert_eq!(routed.on_board().await, [1, 1]);
    assert_eq!(routed.heard(), ["entry 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_rooms_entry_that_finds_nobody_leaves_the_record_of_the_next_one() {
    let mut routed = Routed::new().await;
    let map_takes = |ms| routed.part.ports.map_takes_ms.store(ms, Ordering::Relaxed);
    // The first looks before `b` comes, the second when `b` is there.
    routed.part.ports.release(&user("b"), SocketId(3), 1).await.unwrap();
    map_takes(100);
    routed.hand_on_room(7, &["b"]);
    map_takes(300);
    routed.part.ports.bus_loses.store(true, Ordering::Relaxed);
    routed.hand_on_room(8, &["b"]);
    map_takes(0);
    sleep(SECOND / 5).await;
    routed.part.ports.claim(&user("b"), &at_ws3(4), &[]).await.unwrap();
    sleep(SECOND / 5).await;
    routed.part.ports.bus_loses.store(false, Ordering::Relaxed);
    assert_eq!(routed.heard(), [""; 0], "the bus has lost it");
    sleep(2 * SECOND).await;
    assert_eq!(routed.heard(), ["hint 8"]);
}

#[tokio::test(start_paused = true)]
async fn who_can_not_be_located_does_not_end_what_was_handed_on_since() {
    let mut routed = Routed::new().await;
    routed.part.ports.map_takes_ms.store(100, Ordering::Relaxed);
    routed.hand_on(1);
    routed.part.ports.map_takes_ms.store(0, Ordering::Relaxed);
    routed.part.ports.bus_loses.store(true, Ordering::Relaxed);
    routed.hand_on(2);
    routed.part.ports.redis_away.store(true, Ordering::Relaxed);
    sleep(SECOND).await;
    assert_eq!(routed.heard(), [""; 0], "the bus has lost it");
    assert_eq!(routed.on_board().await, [2, 2]);
}

#[tokio::test(start_paused = true)]
async fn copies_for_own_devices_go_the_slow_way_where_there_is_no_room() {
    let mut routed = Routed::new().await;
    routed.part.ports.claim(&user("a"), &at_ws3(4), &[]).await.unwrap();
    let (pending, now) = (&routed.part.chat.router.pending, Instant::now());
    for number in 1..crate::chat::pending::RECORDS_MAX {
        let conversation = ConversationId::parse(&format!("room:{number}")).unwrap();
        assert!(pending.open(&Key { conversation, user: None }, 1, true, now));
    }
    routed.hand_on(1);
    sleep(SECOND).await;
    assert_eq!(routed.heard(), ["entry 1"]);
    let hints = routed.part.board.hints(&routed.part.chat.me.id, 0).await.unwrap().1;
    let users: Vec<_> = hints.into_iter().map(|hint| hint.user).collect();
    assert_eq!(users, [Some(user("a"))], "there was room for one record, that of b");
}

#[tokio::test(start_paused = true)]
async fn a_room_is_asked_again_at_servers_only_and_here_without_the_bus() {
    let mut routed = Routed::new().await;
    let api = crate::board::BoardRow { role: Role::Api, ..board_row("api", 1) };
    routed.part.board.beat(&api, None).await.unwrap();
    let mut api = routed.part.ports.subscribe(&api.id).await.unwrap();
    routed.part.ports.write(Record::Member(room(), member("c"))).await.unwrap();
    let here = routed.part.enter("c", "default");
    sleep(3 * SECOND).await;
    routed.hand_on_room(1, &["b", "c"]);
    sleep(SECOND).await;
    here.take().now_or_never();
    assert_eq!(routed.heard(), ["entry 1"]);
    sleep(2 * SECOND).await;
    assert_eq!(routed.heard(), ["hint 1"]);
    assert_eq!(heard(&mut api), [""; 0], "it holds no sockets");
    here.take().now_or_never();
    routed.part.ports.bus_loses.store(true, Ordering::Relaxed);
    sleep(2 * SECOND).await;
    let events = here.take().now_or_never().unwrap_or_default();
    assert!(matches!(events.front(), Some(Event::Hint { seq: 1, .. })), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_part_that_stops_waits_for_what_is_being_located() {
    let mut routed = Routed::new().await;
    let here = routed.part.enter("b", "phone");
    routed.part.ports.map_takes_ms.store(100, Ordering::Relaxed);
    routed.hand_on(1);
    let chat = routed.part.chat.clone();
    chat.received(&here.who, &dm(), 1, Some(&chat.me.id.clone()), Receipt::Delivered);
    assert!(chat.router.pending.is_empty(), "ws3 is not located yet");
    let settled = tokio::time::timeout(3 * SECOND / 2, chat.hints_settled()).await;
    assert!(settled.is_err(), "ws3 has not answered");
    assert_eq!(routed.heard(), ["entry 1"]);
    routed.answer(1, Receipt::Delivered).await;
    let settled = tokio::time::timeout(SECOND, chat.hints_settled()).await;
    assert!(settled.is_ok());
}
