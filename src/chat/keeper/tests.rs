//! What the background does when the board or Redis has something to tell. Time is paused.

use std::collections::VecDeque;

use futures_util::FutureExt;

use super::*;
use crate::board::{Board, SlowHint};
use crate::bus::{Bus, Heard};
use crate::chat::reads::{InTurn, Turn};
use crate::chat::testing::{Part, user};
use crate::directory::Directory;
use crate::hub::Who;
use crate::protocol::{ConversationId, DeviceId, Epoch, ProcessId, SocketId};
use crate::store::MailboxPart;

const SECOND: Duration = Duration::from_secs(1);

/// A part with its background and a claimed socket of `a`.
struct Kept {
    part: Part,
    board: mpsc::Sender<BoardEvent>,
    keeping: tokio::task::JoinHandle<bool>,
    outbox: Arc<Outbox>,
}

impl Kept {
    async fn new() -> Self {
        let part = Part::new().await;
        let bus = part.ports.subscribe(&part.chat.me.id).await.unwrap();
        Self::hearing(part, bus).await
    }

    async fn hearing(part: Part, bus: Subscription) -> Self {
        let outbox = part.enter("a", "default");
        assert!(part.chat.claim(&outbox).await.is_some());
        let (board, events) = mpsc::channel(8);
        let (chat, stop) = (part.chat.clone(), part.stop.clone());
        let keeping = tokio::spawn(async move { chat.keep(events, bus, stop).await });
        sleep(SECOND / 10).await;
        part.ports.trace();
        Self { part, board, keeping, outbox }
    }

    /// What the board tells.
    async fn tell(&self, event: BoardEvent) {
        self.board.send(event).await.unwrap();
        sleep(SECOND / 10).await;
    }

    /// How often the session was asked to read its mailbox again; nothing else was said.
    fn rereads(&self) -> usize {
        rereads(&self.outbox)
    }

    async fn claimed(&self) -> bool {
        !self.part.ports.locate(&[user("a")]).await.unwrap()[0].is_empty()
    }
}

fn events(outbox: &Outbox) -> VecDeque<Event> {
    outbox.take().now_or_never().unwrap_or_default()
}

fn rereads(outbox: &Outbox) -> usize {
    let events = events(outbox);
    assert!(events.iter().all(|event| matches!(event, Event::Reread)), "{events:?}");
    events.len()
}

#[tokio::test(start_paused = true)]
async fn after_a_death_mailboxes_are_read_at_once_and_20_s_later() {
    let kept = Kept::new().await;
    kept.tell(BoardEvent::Death(ProcessId::parse("ws2").unwrap())).await;
    assert_eq!(kept.rereads(), 1);
    sleep(SECOND_READ_AFTER - SECOND).await;
    assert_eq!(kept.rereads(), 0);
    sleep(2 * SECOND).await;
    assert_eq!(kept.rereads(), 1);
    sleep(60 * SECOND).await;
    assert_eq!(kept.rereads(), 0);
}

#[tokio::test(start_paused = true)]
async fn many_mailboxes_are_read_at_a_bounded_rate() {
    let kept = Kept::new().await;
    let outboxes: Vec<_> =
        (0..950).map(|i| kept.part.enter(&format!("user-{i}"), "default")).collect();
    kept.board.send(BoardEvent::ReadAgain).await.unwrap();
    sleep(SECOND / 5 + SECOND / 100).await;
    let asked: usize = outboxes.iter().map(|outbox| rereads(outbox)).sum();
    assert!((150..=300).contains(&asked), "{asked} after a fifth of a second");
    sleep(SECOND).await;
    let asked = asked + outboxes.iter().map(|outbox| rereads(outbox)).sum::<usize>();
    assert_eq!(asked, 950, "each once");
}

/// A session that waits for its turn to read its mailbox again reads nothing that comes live.
#[tokio::test(start_paused = true)]
async fn no_more_mailboxes_are_asked_for_than_the_store_reads() {
    let kept = Kept::new().await;
    let outboxes: Vec<_> =
        (0..200).map(|i| kept.part.enter(&format!("user-{i}"), "default")).collect();
    let asked = || outboxes.iter().map(|outbox| rereads(outbox)).sum::<usize>();
    kept.part.ports.reads_take_ms.store(5_000, Ordering::Relaxed);
    let (ports, reads) = (kept.part.ports.clone(), kept.part.chat.reads.clone());
    for _ in 0..100 {
        let (ports, reads) = (ports.clone(), reads.clone());
        tokio::spawn(async move {
            let store = InTurn::new(&*ports, &reads, Turn::Again);
            let part = MailboxPart::Page { after: None, consistent: true };
            store.mailbox(&user("b"), part).await.unwrap();
        });
    }
    sleep(SECOND / 10).await;
    kept.board.send(BoardEvent::ReadAgain).await.unwrap();
    sleep(10 * SECOND).await;
    assert!((1..=REREAD_STEP).contains(&asked()), "16 are read at a time, and 50 still wait");
    sleep(10 * SECOND).await;
    assert!(asked() >= 150, "the store has come so far");
}

#[tokio::test(start_paused = true)]
async fn hints_of_the_board_come_to_whom_they_are_for() {
    let kept = Kept::new().await;
    let stranger = kept.part.enter("c", "default");
    let conversation = ConversationId::direct(&user("a"), &user("b"));
    let hint =
        |name| SlowHint { user: Some(user(name)), conversation: conversation.clone(), seq: 7 };
    kept.tell(BoardEvent::Hints(vec![hint("a"), hint("b")])).await;
    let events = events(&kept.outbox);
    assert!(matches!(&events.as_slices().0, [Event::Hint { seq: 7, via: None, .. }]), "{events:?}");
    assert_eq!(rereads(&stranger), 0);
}

#[tokio::test(start_paused = true)]
async fn a_hint_of_all_that_was_lost_reads_all_and_many_of_them_share_a_run() {
    let kept = Kept::new().await;
    let conversation = ConversationId::direct(&user("b"), &user("c"));
    let lost = SlowHint { user: Some(user("b")), conversation, seq: 0 };
    kept.tell(BoardEvent::Hints(vec![lost; 9])).await;
    sleep(SECOND).await;
    assert!((1..=2).contains(&kept.rereads()));
}

#[tokio::test(start_paused = true)]
async fn a_part_that_was_late_claims_all_again_and_reads_again() {
    let kept = Kept::new().await;
    kept.tell(BoardEvent::Revived).await;
    assert_eq!(kept.part.ports.trace(), ["claim"]);
    assert_eq!(kept.rereads(), 1);
    assert!(kept.claimed().await);
}

#[tokio::test(start_paused = true)]
async fn a_part_that_was_late_appends_once_all_is_claimed_again() {
    let kept = Kept::new().await;
    let liveness = &kept.part.chat.liveness;
    tokio::time::advance(crate::chat::liveness::BEAT_COUNTS + SECOND).await;
    while liveness.recovering().is_none() {
        assert!(!liveness.may_append());
        tokio::task::yield_now().await;
    }
    kept.part.ports.map_takes_ms.store(1_000, Ordering::Relaxed);
    kept.board.send(BoardEvent::Revived).await.unwrap();
    sleep(SECOND * 9 / 10).await;
    assert!(!liveness.may_append(), "it claims");
    sleep(SECOND / 2).await;
    assert!(liveness.may_append() && liveness.recovering().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_gap_of_the_bus_starts_over() {
    let part = Part::new().await;
    let (bus, heard) = mpsc::channel(8);
    let kept = Kept::hearing(part, heard).await;
    bus.send(Heard::Gap).await.unwrap();
    sleep(SECOND / 10).await;
    assert_eq!(kept.part.ports.trace(), ["claim"]);
    assert!(kept.rereads() >= 1);
}

#[tokio::test(start_paused = true)]
async fn another_life_ends_the_part_and_a_stop_does_too() {
    let kept = Kept::new().await;
    kept.tell(BoardEvent::Taken).await;
    assert!(timeout(SECOND, kept.keeping).await.unwrap().unwrap(), "close all and exit");
    assert!(kept.part.stop.is_cancelled());

    let kept = Kept::new().await;
    kept.part.stop.cancel();
    assert!(!timeout(SECOND, kept.keeping).await.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_part_without_redis_says_deaf_and_reads_what_it_could_not_hear() {
    let kept = Kept::new().await;
    kept.part.ports.redis_away.store(true, Ordering::Relaxed);
    kept.part.chat.redis_failed();
    let late = kept.part.enter("a", "phone");
    assert!(kept.part.chat.claim(&late).await.is_none());
    sleep(5 * SECOND).await;
    assert!(kept.part.chat.is_deaf());
    assert!(kept.part.board.read().await.unwrap()[0].deaf, "the others put hints on the board");
    sleep(2 * SECOND).await;
    assert_eq!(rereads(&late), 1, "its claim does not hold, and the others know by now");
    sleep(10 * SECOND).await;
    assert_eq!(rereads(&late), 0, "what comes now comes over the board");
    sleep(12 * SECOND).await;
    assert_eq!(rereads(&late), 1, "once more, for whoever did not see the board");
    assert_eq!(kept.rereads(), 2, "this one's was answered, but Redis may have lost the entry");

    kept.part.ports.redis_away.store(false, Ordering::Relaxed);
    kept.part.ports.trace();
    sleep(6 * SECOND).await;
    assert!(!kept.part.chat.is_deaf() && !kept.part.board.read().await.unwrap()[0].deaf);
    assert!(kept.rereads() >= 1 && rereads(&late) >= 1, "all are claimed and read again");
    assert_eq!(kept.part.ports.locate(&[user("a")]).await.unwrap()[0].len(), 2);
}

/// Others held it for dead, and put no hints on the board for whoever came to it since it woke up.
#[tokio::test(start_paused = true)]
async fn a_deaf_part_that_was_late_reads_again_once_others_know_that_it_lives() {
    let kept = Kept::new().await;
    kept.part.ports.redis_away.store(true, Ordering::Relaxed);
    kept.part.chat.redis_failed();
    sleep(60 * SECOND).await;
    assert!(kept.part.chat.is_deaf());
    kept.part.chat.hear_board(BoardEvent::Revived);
    sleep(SECOND).await;
    let late = kept.part.enter("a", "phone");
    sleep(DEAF_IS_READ).await;
    assert_eq!(rereads(&late), 1, "they know by now");
    sleep(SECOND_READ_AFTER).await;
    assert_eq!(rereads(&late), 1, "once more, for whoever did not see the board");
    sleep(60 * SECOND).await;
    assert_eq!(rereads(&late), 0);
}

#[tokio::test(start_paused = true)]
async fn one_failed_call_is_not_deafness() {
    let kept = Kept::new().await;
    kept.part.chat.redis_failed();
    sleep(30 * SECOND).await;
    assert!(!kept.part.chat.is_deaf());
    assert_eq!(kept.rereads(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_hears_nothing_is_deaf() {
    let kept = Kept::new().await;
    kept.part.ports.bus_loses.store(true, Ordering::Relaxed);
    sleep(2 * PROBE_INTERVAL + 4 * PROBE_PATIENCE).await;
    assert!(kept.part.chat.is_deaf(), "every call succeeds, and nothing comes back");
    kept.part.ports.bus_loses.store(false, Ordering::Relaxed);
    sleep(6 * SECOND).await;
    assert!(!kept.part.chat.is_deaf());
    assert!(kept.rereads() >= 1);
}

/// Everything else answers: who sends would find nobody, and take that for the truth.
#[tokio::test(start_paused = true)]
async fn a_map_that_takes_no_claims_makes_deaf() {
    let kept = Kept::new().await;
    kept.part.ports.map_is_full.store(true, Ordering::Relaxed);
    sleep(3 * PROBE_INTERVAL).await;
    assert!(!kept.part.chat.is_deaf(), "nobody has anything to claim");
    let late = kept.part.enter("c", "default");
    assert!(kept.part.chat.claim(&late).await.is_none());
    sleep(6 * SECOND).await;
    assert!(kept.part.chat.is_deaf());
    assert!(kept.part.board.read().await.unwrap()[0].deaf, "the others put hints on the board");
    assert!(
        rereads(&late) >= 1 || {
            sleep(DEAF_IS_READ).await;
            rereads(&late) >= 1
        }
    );
    sleep(30 * SECOND).await;
    assert!(kept.part.chat.is_deaf(), "for as long as it takes");
    kept.part.ports.map_is_full.store(false, Ordering::Relaxed);
    sleep(3 * SECOND).await;
    assert!(!kept.part.chat.is_deaf());
    assert_eq!(kept.part.ports.locate(&[user("c")]).await.unwrap()[0].len(), 1);
    assert!(rereads(&late) >= 1);
}

#[tokio::test(start_paused = true)]
async fn another_redis_is_claimed_all_again() {
    let kept = Kept::new().await;
    kept.part.ports.instance.store(2, Ordering::Relaxed);
    sleep(2 * PROBE_INTERVAL).await;
    assert_eq!(kept.part.ports.trace(), ["claim"]);
    assert!(kept.rereads() >= 1);
    sleep(4 * PROBE_INTERVAL).await;
    assert_eq!(kept.part.ports.trace(), Vec::<String>::new(), "once");
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_missing_is_found_by_the_sweep() {
    let kept = Kept::new().await;
    let entry = kept.part.ports.locate(&[user("a")]).await.unwrap()[0][0].clone();
    kept.part.ports.release(&user("a"), entry.socket_id, entry.claim).await.unwrap();
    assert!(!kept.claimed().await);
    sleep(2 * SECOND).await;
    assert!(kept.claimed().await);
    assert_eq!(kept.rereads(), 1, "what came meanwhile is read");
}

#[tokio::test(start_paused = true)]
async fn a_ghost_of_this_server_is_removed_and_nobody_elses() {
    let kept = Kept::new().await;
    let mine = kept.part.ports.locate(&[user("a")]).await.unwrap()[0][0].clone();
    let ghost = SocketEntry { socket_id: SocketId(1), claim: 99, ..mine.clone() };
    let earlier = SocketEntry { socket_id: SocketId(3), epoch: Epoch(6), ..ghost.clone() };
    let theirs = SocketEntry {
        socket_id: SocketId(2),
        server: ProcessId::parse("ws2").unwrap(),
        ..mine.clone()
    };
    for entry in [&ghost, &earlier, &theirs] {
        kept.part.ports.claim(&user("a"), entry, &[]).await.unwrap();
    }
    kept.part.chat.remove_ghosts(&user("a"));
    sleep(SECOND).await;
    let mut left = kept.part.ports.locate(&[user("a")]).await.unwrap().remove(0);
    left.sort_by_key(|entry| entry.claim);
    assert!(left.contains(&mine) && left.contains(&theirs) && left.len() == 2, "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_release_that_failed_is_repeated_when_redis_is_back() {
    let kept = Kept::new().await;
    kept.part.ports.redis_away.store(true, Ordering::Relaxed);
    kept.part.chat.hub.leave(&user("a"), kept.outbox.who.socket);
    kept.part.chat.release(&kept.outbox).await;
    sleep(10 * SECOND).await;
    kept.part.ports.redis_away.store(false, Ordering::Relaxed);
    assert!(kept.claimed().await, "a ghost");
    sleep(6 * SECOND).await;
    assert!(!kept.claimed().await);
    kept.part.ports.trace();
    sleep(6 * SECOND).await;
    assert!(kept.part.ports.trace().is_empty(), "once it is released it is forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_comes_after_its_own_release_leaves_no_ghost() {
    let kept = Kept::new().await;
    let late = kept.part.enter("c", "default");
    kept.part.ports.map_takes_ms.store(100, Ordering::Relaxed);
    let (chat, outbox) = (kept.part.chat.clone(), late.clone());
    let claiming = tokio::spawn(async move { chat.claim(&outbox).await });
    sleep(SECOND / 50).await;
    kept.part.ports.map_takes_ms.store(0, Ordering::Relaxed);
    kept.part.chat.hub.leave(&user("c"), late.who.socket);
    kept.part.chat.release(&late).await;
    assert_eq!(claiming.await.unwrap(), None);
    assert!(kept.part.ports.locate(&[user("c")]).await.unwrap()[0].is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_belt_reads_every_mailbox_once_an_hour_and_not_all_at_once() {
    let kept = Kept::new().await;
    let enter = |part: u128| {
        let outbox = Arc::new(Outbox::new(Who {
            user: user("b"),
            device: DeviceId::plain(),
            socket: SocketId(part + 360),
        }));
        kept.part.chat.hub.enter(outbox.clone());
        outbox
    };
    let spread: Vec<_> = (100..110).map(enter).collect();
    let belts = |outbox: &Arc<Outbox>| {
        let events = events(outbox);
        assert!(events.iter().all(|event| matches!(event, Event::Belt)), "{events:?}");
        events.len()
    };
    let asked = || spread.iter().map(belts).collect::<Vec<_>>();
    for hour in 0..3 {
        sleep(BELT / 360 * 105 - SECOND).await;
        assert_eq!(asked(), [1, 1, 1, 1, 1, 0, 0, 0, 0, 0], "hour {hour}");
        sleep(BELT - (BELT / 360 * 105 - SECOND)).await;
        assert_eq!(asked(), [0, 0, 0, 0, 0, 1, 1, 1, 1, 1], "hour {hour}");
    }
}

/// Redis comes and goes many times a second, and every call may be late.
#[tokio::test(start_paused = true)]
async fn what_asks_to_start_over_again_and_again_shares_runs() {
    let part = Part::new().await;
    let (bus, heard) = mpsc::channel(8);
    let kept = Kept::hearing(part, heard).await;
    for _ in 0..100 {
        bus.send(Heard::Gap).await.unwrap();
        sleep(SECOND / 10).await;
    }
    sleep(SECOND).await;
    let claims = kept.part.ports.trace().len();
    assert!((4..=6).contains(&claims), "one run at a time, and a pause between: {claims}");
    assert_eq!(kept.rereads(), claims + 1, "the probes are not heard: once more for being deaf");
    sleep(START_OVER_PAUSE * 2).await;
    assert!(kept.part.ports.trace().len() <= 1);
    bus.send(Heard::Gap).await.unwrap();
    sleep(SECOND / 10).await;
    assert_eq!(kept.part.ports.trace(), ["claim"], "the first is not kept waiting");
}

#[tokio::test(start_paused = true)]
async fn a_sweep_that_gets_no_answer_is_looked_into() {
    let kept = Kept::new().await;
    kept.part.ports.redis_away.store(true, Ordering::Relaxed);
    sleep(3 * SECOND).await;
    assert!(kept.part.chat.is_deaf(), "nobody has sent anything");
}
