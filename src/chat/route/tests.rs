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
use crate::protocol::Seq;
use crate::protocol::{DeviceId, Epoch, Receipt, SocketId};

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
        let entry = SocketEntry {
            socket_id: SocketId(3),
            server: ws3(),
            epoch: Epoch(1),
            device: DeviceId::plain(),
            claim: 1,
        };
        part.ports.claim(&user("b"), &entry, &[]).await.unwrap();
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

    /// What ws3 has heard: `entry 1`, `hint 1`.
    fn heard(&mut self) -> Vec<String> {
        let mut heard = Vec::new();
        while let Ok(Heard::Batch(batch)) = self.ws3.try_recv() {
            heard.extend(batch.iter().filter_map(|envelope| match &**envelope {
                Envelope::Entry { entry, .. } => Some(format!("entry {}", entry.seq)),
                Envelope::Hint { seq, .. } => Some(format!("hint {seq}")),
                _ => None,
            }));
        }
        heard
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
