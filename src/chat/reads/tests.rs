//! Turns and shared tails, over a store whose calls take 10 ms. Time is paused.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::chat::testing::{message, user};
use crate::protocol::Entry;

const TAKES: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Slow {
    tail: AtomicU64,
    reads: AtomicUsize,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

impl Slow {
    async fn call(&self) {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        sleep(TAKES).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Store for Slow {
    async fn append(&self, _: &ConversationId, _: &[Entry]) -> Result<usize, StoreError> {
        unreachable!("lanes do not come here")
    }

    async fn log(&self, _: &ConversationId, _: LogRange) -> Result<LogPage, StoreError> {
        // What a read shows stood there when it began.
        let tail = self.tail.load(Ordering::SeqCst);
        self.call().await;
        match tail {
            0 => Err(StoreError::Unavailable("for a test".to_owned())),
            tail => Ok(LogPage { entries: vec![message("a", "b", tail)], more: false }),
        }
    }

    async fn raise(&self, _: &UserId, _: &ConversationId, _: &Raise) -> Result<(), StoreError> {
        self.call().await;
        Ok(())
    }

    async fn mailbox(&self, _: &UserId, _: MailboxPart) -> Result<MailboxPage, StoreError> {
        self.call().await;
        Ok(MailboxPage::default())
    }

    async fn write(&self, _: Record) -> Result<bool, StoreError> {
        self.call().await;
        Ok(true)
    }

    async fn records(&self, _: RecordPart) -> Result<Vec<Record>, StoreError> {
        self.call().await;
        Ok(Vec::new())
    }
}

fn room() -> ConversationId {
    ConversationId::parse("room:r").unwrap()
}

async fn mailboxes(store: &Slow, reads: &Reads, turn: Turn, count: usize) {
    let one = async || {
        let part = MailboxPart::Page { after: None, consistent: true };
        InTurn::new(store, reads, turn).mailbox(&user("a"), part).await.unwrap();
    };
    join_all((0..count).map(|_| one())).await;
}

#[tokio::test(start_paused = true)]
async fn a_storm_is_a_queue() {
    let (store, reads) = (Slow::default(), Reads::default());
    let begun = Instant::now();
    let storm = mailboxes(&store, &reads, Turn::CatchingUp, 3_200);
    let again = mailboxes(&store, &reads, Turn::Again, 800);
    let live = async {
        sleep(TAKES * 3).await;
        let begun = Instant::now();
        mailboxes(&store, &reads, Turn::Live, 1).await;
        assert!(begun.elapsed() <= TAKES * 2, "{:?}: who is live does not queue", begun.elapsed());
    };
    tokio::join!(storm, again, live);
    let most = store.most.load(Ordering::SeqCst);
    assert_eq!(most, CATCHING_UP_MAX + 1, "never more, and never less than there could be");
    let least = TAKES * (4_000 / CATCHING_UP_MAX as u32);
    assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_connects_does_not_wait_for_mailboxes_that_are_read_again() {
    let (store, reads) = (Slow::default(), Reads::default());
    let connects = async {
        sleep(TAKES * 3).await;
        let begun = Instant::now();
        mailboxes(&store, &reads, Turn::CatchingUp, 24).await;
        assert!(begun.elapsed() <= TAKES * 2, "{:?}", begun.elapsed());
    };
    tokio::join!(mailboxes(&store, &reads, Turn::Again, 2_000), connects);
    assert!(store.most.load(Ordering::SeqCst) <= CATCHING_UP_MAX);
    // Nor the other way round, for ever.
    let again = async {
        sleep(TAKES * 3).await;
        let begun = Instant::now();
        mailboxes(&store, &reads, Turn::Again, AGAIN_MAX).await;
        begun.elapsed()
    };
    let all = TAKES * (2_000 / CATCHING_UP_MAX as u32);
    let storm = async {
        let first = mailboxes(&store, &reads, Turn::CatchingUp, 2_000);
        let more = async {
            sleep(TAKES * 5).await;
            mailboxes(&store, &reads, Turn::CatchingUp, 20_000).await;
        };
        tokio::join!(first, more);
    };
    let ((), took) = tokio::join!(storm, again);
    assert!(took <= all + TAKES * 3, "{took:?}: only behind those who came before");
}

#[tokio::test(start_paused = true)]
async fn a_rooms_tail_is_read_once_for_all_who_ask_together() {
    let (store, reads) = (Slow::default(), Reads::default());
    store.tail.store(7, Ordering::SeqCst);
    let ask = async || {
        let store = InTurn::new(&store, &reads, Turn::CatchingUp);
        store.shared_tail(&room()).await
    };
    let tails = join_all((0..500).map(|_| ask())).await;
    assert!(tails.iter().all(|tail| *tail == Ok(7)));
    assert_eq!(store.reads.load(Ordering::SeqCst), 2, "the first one's, and that of all others");
    assert!(reads.tails.lock().is_empty(), "nothing is kept");
    store.tail.store(0, Ordering::SeqCst);
    let tails = join_all((0..500).map(|_| ask())).await;
    assert!(tails.iter().all(Result::is_err));
    assert_eq!(store.reads.load(Ordering::SeqCst), 4, "a store that is away is not asked by each");
}

/// Claim before catch-up: what was put after a read began is not in it.
#[tokio::test(start_paused = true)]
async fn nobody_is_answered_by_a_read_that_began_before_the_question() {
    let (store, reads) = (Slow::default(), Reads::default());
    store.tail.store(7, Ordering::SeqCst);
    let ask = async |later: Duration| {
        sleep(later).await;
        let expected = store.tail.load(Ordering::SeqCst);
        let tail = InTurn::new(&store, &reads, Turn::Live).shared_tail(&room()).await.unwrap();
        assert!(tail >= expected, "{tail}, and {expected} stood there before");
    };
    let put = async {
        for seq in 8..100 {
            sleep(TAKES / 4).await;
            store.tail.store(seq, Ordering::SeqCst);
        }
    };
    let asks = (0..100).map(|at| ask(TAKES * at / 7));
    tokio::join!(put, join_all(asks));
    assert!(store.reads.load(Ordering::SeqCst) < 30, "shared all the same");
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_ends_while_it_reads_for_others_keeps_nobody_waiting() {
    let (store, reads) = (Slow::default(), Reads::default());
    store.tail.store(7, Ordering::SeqCst);
    let ask = async || InTurn::new(&store, &reads, Turn::Live).shared_tail(&room()).await;
    let leaves = async { assert!(timeout(TAKES / 2, ask()).await.is_err()) };
    let stays = async {
        sleep(TAKES / 4).await;
        assert_eq!(timeout(TAKES * 3, ask()).await.unwrap(), Ok(7));
    };
    tokio::join!(leaves, stays);
    assert!(reads.tails.lock().is_empty());
}
