//! Liveness by the reader's own clock, over a board that can fail (I10, P11). Time is paused.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;

use super::*;
use crate::board::HINT_TTL_SECONDS;
use crate::board::embedded::EmbeddedBoard;
use crate::chat::testing::{board_row, user};
use crate::protocol::ConversationId;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Shaky {
    board: Arc<EmbeddedBoard>,
    no_writes: AtomicBool,
    no_reads: AtomicBool,
    no_hints: AtomicBool,
    write_takes_ms: AtomicU64,
    hints_take_ms: AtomicU64,
    hint_reads: AtomicU64,
    /// Hints are written, but only later, and nobody is told.
    hints_come_late: AtomicBool,
}

impl Shaky {
    fn set(flag: &AtomicBool, on: bool) {
        flag.store(on, Ordering::Relaxed);
    }

    fn unless(flag: &AtomicBool) -> Result<(), StoreError> {
        match flag.load(Ordering::Relaxed) {
            true => Err(StoreError::Unavailable("away".to_owned())),
            false => Ok(()),
        }
    }

    /// The row of another process.
    async fn beat_of(&self, id: &str, epoch: u64, beat: u64) {
        let row = BoardRow { beat, ..board_row(id, epoch) };
        let stands = self.board.read().await.unwrap().into_iter().find(|row| row.id.as_str() == id);
        let replacing = stands.map(|row| (row.epoch, row.beat));
        assert_eq!(self.board.beat(&row, replacing).await, Ok(Beat::Written));
    }

    async fn hint_of(&self, id: &str, number: u64, seqs: std::ops::RangeInclusive<u64>) {
        let process = ProcessId::parse(id).unwrap();
        let hints: Vec<_> = seqs.map(hint).collect();
        self.board.put_hints(&process, number, &hints).await.unwrap();
        let mut rows = self.board.read().await.unwrap();
        let row = rows.iter_mut().find(|row| row.id == process).unwrap();
        (row.hints, row.beat) = (number, row.beat + 1);
        assert_eq!(self.board.beat(row, None).await, Ok(Beat::Written));
    }
}

fn hint(seq: u64) -> SlowHint {
    let conversation = ConversationId::direct(&user("a"), &user("b"));
    SlowHint { user: Some(user("b")), conversation, seq }
}

#[async_trait]
impl Board for Shaky {
    async fn beat(
        &self,
        row: &BoardRow,
        replacing: Option<(Epoch, u64)>,
    ) -> Result<Beat, StoreError> {
        sleep(Duration::from_millis(self.write_takes_ms.load(Ordering::Relaxed))).await;
        Self::unless(&self.no_writes)?;
        self.board.beat(row, replacing).await
    }

    async fn read(&self) -> Result<Vec<BoardRow>, StoreError> {
        Self::unless(&self.no_reads)?;
        self.board.read().await
    }

    async fn remove(&self, id: &ProcessId, epoch: Epoch) -> Result<(), StoreError> {
        self.board.remove(id, epoch).await
    }

    async fn put_hints(
        &self,
        id: &ProcessId,
        number: u64,
        hints: &[SlowHint],
    ) -> Result<(), StoreError> {
        sleep(Duration::from_millis(self.hints_take_ms.load(Ordering::Relaxed))).await;
        Self::unless(&self.no_writes)?;
        if self.hints_come_late.load(Ordering::Relaxed) {
            let (board, id, hints) = (self.board.clone(), id.clone(), hints.to_vec());
            tokio::spawn(async move {
                sleep(2 * SECOND).await;
                board.put_hints(&id, number, &hints).await.unwrap();
            });
            return Err(StoreError::Unavailable("no answer".to_owned()));
        }
        self.board.put_hints(id, number, hints).await
    }

    async fn hints(&self, id: &ProcessId, after: u64) -> Result<(u64, Vec<SlowHint>), StoreError> {
        Self::unless(&self.no_hints)?;
        self.hint_reads.fetch_add(1, Ordering::Relaxed);
        self.board.hints(id, after).await
    }
}

struct Lived {
    board: Arc<Shaky>,
    liveness: Arc<Liveness>,
    events: mpsc::Receiver<BoardEvent>,
    stop: CancellationToken,
}

impl Drop for Lived {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Lived {
    async fn over(board: Arc<Shaky>) -> Self {
        let stop = CancellationToken::new();
        let row = board_row("ws1", 7);
        let (liveness, events) =
            Liveness::start(board.clone(), row, true, stop.clone()).await.unwrap();
        Self { board, liveness, events, stop }
    }

    /// Beside ws2.
    async fn new() -> Self {
        let board = Arc::new(Shaky::default());
        board.beat_of("ws2", 1, 1).await;
        Self::over(board).await
    }

    fn sees(&self, id: &str, epoch: u64) -> bool {
        self.liveness.view().is_alive(&ProcessId::parse(id).unwrap(), Epoch(epoch))
    }

    /// What happened within so many seconds.
    async fn events(&mut self, seconds: u64) -> Vec<BoardEvent> {
        sleep(Duration::from_secs(seconds)).await;
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }

    /// The seqs of the hints among events.
    async fn hints(&mut self, seconds: u64) -> Vec<u64> {
        let hints = self.events(seconds).await.into_iter().flat_map(|event| match event {
            BoardEvent::Hints(hints) => hints,
            other => panic!("{other:?}"),
        });
        hints.map(|hint| hint.seq).collect()
    }

    /// So long until it is no longer so; at most a minute.
    async fn lasts(&self, so: impl Fn(&Self) -> bool) -> Duration {
        let began = Instant::now();
        while so(self) {
            assert!(began.elapsed() < 60 * SECOND, "it lasts");
            sleep(SECOND / 20).await;
        }
        began.elapsed()
    }
}

fn death(id: &str) -> BoardEvent {
    BoardEvent::Death(ProcessId::parse(id).unwrap())
}

#[tokio::test(start_paused = true)]
async fn nothing_is_appended_without_a_beat_of_the_last_ten_seconds() {
    let mut lived = Lived::new().await;
    for _ in 0..60 {
        sleep(SECOND).await;
        assert!(lived.liveness.may_append());
    }
    lived.events(0).await;
    Shaky::set(&lived.board.no_writes, true);
    let lasted = lived.lasts(|lived| lived.liveness.may_append()).await;
    assert!(lasted > 4 * SECOND && lasted <= 10 * SECOND + SECOND / 10, "{lasted:?}");
    for _ in 0..30 {
        sleep(SECOND).await;
        assert!(!lived.liveness.may_append());
    }
    Shaky::set(&lived.board.no_writes, false);
    let back = lived.lasts(|lived| !lived.liveness.may_append()).await;
    assert!(back <= 2 * SECOND + RECOVERY_MAX, "{back:?}");
    assert_eq!(lived.events(1).await, [BoardEvent::Revived], "claim all again, re-read");
    assert!(lived.events(30).await.iter().all(|event| *event == death("ws2")), "said once");
}

#[tokio::test(start_paused = true)]
async fn whatever_write_ends_a_pause_tells_of_it_and_appends_wait_for_what_it_asks() {
    let mut lived = Lived::new().await;
    sleep(12 * SECOND).await;
    let before = lived.liveness.recovering();
    Shaky::set(&lived.board.no_writes, true);
    lived.lasts(|lived| lived.liveness.may_append()).await;
    lived.events(0).await;
    Shaky::set(&lived.board.no_writes, false);
    lived.liveness.put_hints(&[hint(1)]).await.unwrap();
    assert_eq!(lived.events(0).await, [BoardEvent::Revived], "not by the beat: by hints");
    assert!(!lived.liveness.may_append());
    lived.liveness.recovered(before);
    assert!(!lived.liveness.may_append(), "what began before the pause does not end it");
    lived.liveness.recovered(lived.liveness.recovering());
    assert!(lived.liveness.may_append());
    assert_eq!(lived.events(8).await.len(), 0, "said once");
}

#[tokio::test(start_paused = true)]
async fn a_beat_counts_from_when_it_began() {
    let lived = Lived::new().await;
    lived.board.write_takes_ms.store(9_000, Ordering::Relaxed);
    // Each write takes 9 s, so what it proves is 9 s old when it is known.
    let mut appending = 0;
    for _ in 0..600 {
        sleep(SECOND / 10).await;
        lived.liveness.recovered(lived.liveness.recovering());
        appending += u32::from(lived.liveness.may_append());
    }
    assert!((60..240).contains(&appending), "{appending} of 600 tenths of a second");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_does_not_move_is_dead_within_sixteen_seconds() {
    let mut lived = Lived::new().await;
    for beat in 2..10 {
        sleep(5 * SECOND).await;
        assert!(lived.sees("ws2", 1));
        lived.board.beat_of("ws2", 1, beat).await;
    }
    let lasted = lived.lasts(|lived| lived.sees("ws2", 1)).await;
    let noticed_ms = lasted.as_millis();
    assert!((14_000..16_100).contains(&noticed_ms), "{lasted:?} after its last beat");
    assert_eq!(lived.events(60).await, [death("ws2")], "said once");
    lived.board.beat_of("ws2", 1, 11).await;
    assert_eq!(lived.events(3).await, []);
    assert!(lived.sees("ws2", 1), "it moves again");
    assert!(lived.sees("ws1", 7), "the own row is no exception, and moves");
}

#[tokio::test(start_paused = true)]
async fn time_without_reads_kills_nobody() {
    let mut lived = Lived::new().await;
    sleep(5 * SECOND).await;
    Shaky::set(&lived.board.no_reads, true);
    assert_eq!(lived.events(120).await, []);
    Shaky::set(&lived.board.no_reads, false);
    assert_eq!(lived.events(3).await, [BoardEvent::ReadAgain], "it was blind for long");
    assert!(lived.sees("ws2", 1), "a read counts for at most 3 s");
    let lasted = lived.lasts(|lived| lived.sees("ws2", 1)).await;
    assert!(lasted >= 3 * SECOND && lasted <= 12 * SECOND, "{lasted:?}");
    assert_eq!(lived.events(1).await, [death("ws2")]);
}

#[tokio::test(start_paused = true)]
async fn a_short_time_without_reads_is_not_told() {
    let mut lived = Lived::new().await;
    Shaky::set(&lived.board.no_reads, true);
    sleep(5 * SECOND).await;
    Shaky::set(&lived.board.no_reads, false);
    assert_eq!(lived.events(4).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_vanished_is_dead_and_another_life_is_another() {
    let mut lived = Lived::new().await;
    lived.board.beat_of("ws3", 1, 1).await;
    assert_eq!(lived.events(3).await, []);
    assert!(lived.sees("ws3", 1));
    lived.board.beat_of("ws3", 2, 1).await;
    assert_eq!(lived.events(3).await, [death("ws3")], "the first life died");
    assert!(lived.sees("ws3", 2) && !lived.sees("ws3", 1));
    lived.board.board.remove(&ProcessId::parse("ws3").unwrap(), Epoch(2)).await.unwrap();
    assert_eq!(lived.events(3).await, [death("ws3")]);
    assert!(!lived.sees("ws3", 2));
}

#[tokio::test(start_paused = true)]
async fn another_life_of_a_dead_one_is_told_as_well() {
    let mut lived = Lived::new().await;
    lived.board.beat_of("ws3", 1, 1).await;
    assert!(lived.events(20).await.contains(&death("ws3")));
    // It woke up, wrote its row and died, and was started again, between two readings.
    lived.board.beat_of("ws3", 1, 2).await;
    lived.board.beat_of("ws3", 2, 1).await;
    assert_eq!(lived.events(3).await, [death("ws3")]);
    assert!(lived.sees("ws3", 2));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_moves_is_in_use() {
    let board = Arc::new(Shaky::default());
    let first = Lived::over(board.clone()).await;
    let row = board_row("ws1", 8);
    let refused =
        Liveness::start(board.clone(), row.clone(), false, CancellationToken::new()).await;
    assert!(matches!(refused, Err(StartError::InUse(id)) if id == row.id));
    assert!(first.liveness.may_append(), "and goes on");
    // Once it stands still it is taken over, as another life.
    drop(first);
    let began = Instant::now();
    let stop = CancellationToken::new();
    let (second, _events) = Liveness::start(board.clone(), row, false, stop).await.unwrap();
    assert!(began.elapsed() >= TAKE_OVER_AFTER && began.elapsed() < 2 * TAKE_OVER_AFTER);
    assert_eq!(second.me().epoch, Epoch(8));
    assert_eq!(board.board.read().await.unwrap()[0].epoch, Epoch(8));
}

#[tokio::test(start_paused = true)]
async fn a_lock_proves_that_a_row_is_of_the_past() {
    let board = Arc::new(Shaky::default());
    board.beat_of("ws1", 3, 9).await;
    let began = Instant::now();
    let lived = Lived::over(board).await;
    assert!(began.elapsed() < SECOND);
    assert!(lived.sees("ws1", 7) && lived.liveness.may_append());
}

#[tokio::test(start_paused = true)]
async fn the_death_of_an_earlier_life_is_told_to_the_next_one() {
    let board = Arc::new(Shaky::default());
    assert_eq!(Lived::over(board.clone()).await.events(8).await, []);
    let mut next = Lived::over(board).await;
    assert_eq!(next.events(8).await, [death("ws1")], "it stood there still");
    next.liveness.leave().await;
    let mut last = Lived::over(next.board.clone()).await;
    assert_eq!(last.events(8).await, [], "after a clean end");
}

#[tokio::test(start_paused = true)]
async fn hints_are_numbered_above_those_of_an_earlier_life_whatever_the_clock_says() {
    let board = Arc::new(Shaky::default());
    let old = BoardRow { hints: u64::MAX / 2, ..board_row("ws1", 3) };
    board.board.beat(&old, None).await.unwrap();
    let lived = Lived::over(board).await;
    lived.liveness.put_hints(&[hint(1)]).await.unwrap();
    let rows = lived.board.board.read().await.unwrap();
    assert_eq!(rows[0].hints, old.hints + 1);
}

#[tokio::test(start_paused = true)]
async fn a_life_that_lost_its_name_is_told_once_and_appends_no_more() {
    let mut lived = Lived::new().await;
    sleep(12 * SECOND).await;
    lived.board.beat_of("ws1", 8, 1).await;
    let events = lived.events(8).await;
    assert!(events.contains(&BoardEvent::Taken), "{events:?}");
    assert!(!lived.events(60).await.contains(&BoardEvent::Taken));
    assert!(!lived.liveness.may_append());
    assert_eq!(lived.board.board.read().await.unwrap()[0].epoch, Epoch(8), "left alone");
}

#[tokio::test(start_paused = true)]
async fn hints_are_put_in_items_and_heard_by_the_others_once() {
    let board = Arc::new(Shaky::default());
    let first = Lived::over(board.clone()).await;
    let stop = CancellationToken::new();
    let row = board_row("ws2", 1);
    let (second, events) = Liveness::start(board.clone(), row, true, stop.clone()).await.unwrap();
    let mut second = Lived { board: board.clone(), liveness: second, events, stop };
    sleep(3 * SECOND).await;
    let before = board.board.read().await.unwrap()[0].hints;
    let hints: Vec<_> = (1..=45).map(hint).collect();
    first.liveness.put_hints(&hints).await.unwrap();
    assert_eq!(board.board.read().await.unwrap()[0].hints, before + 3, "20 in an item");
    assert_eq!(second.hints(3).await, (1..=45).collect::<Vec<_>>(), "2 s later at most");
    assert_eq!(second.hints(5).await, [0; 0]);
    // `Ok` says that both items and row are written.
    Shaky::set(&board.no_writes, true);
    assert!(first.liveness.put_hints(&hints[..1]).await.is_err());
    Shaky::set(&board.no_writes, false);
    first.liveness.put_hints(&[hint(46)]).await.unwrap();
    assert_eq!(second.hints(3).await, [46]);
}

#[tokio::test(start_paused = true)]
async fn a_late_write_of_hints_takes_no_others_away() {
    let lived = Lived::new().await;
    let me = lived.liveness.me().id.clone();
    Shaky::set(&lived.board.hints_come_late, true);
    assert!(lived.liveness.put_hints(&[hint(1)]).await.is_err());
    Shaky::set(&lived.board.hints_come_late, false);
    lived.liveness.put_hints(&[hint(2)]).await.unwrap();
    sleep(3 * SECOND).await;
    let (highest, hints) = lived.board.board.hints(&me, 0).await.unwrap();
    assert_eq!(hints, [hint(1), hint(2)]);
    assert_eq!(lived.board.board.read().await.unwrap()[0].hints, highest);
}

#[tokio::test(start_paused = true)]
async fn items_of_hints_are_written_at_once_and_then_told() {
    let lived = Lived::new().await;
    let me = lived.liveness.me().id.clone();
    let told = async || lived.board.board.read().await.unwrap()[0].hints;
    let before = told().await;
    lived.board.hints_take_ms.store(100, Ordering::Relaxed);
    let (began, hints) = (Instant::now(), (1..=400).map(hint).collect::<Vec<_>>());
    let put = async {
        lived.liveness.put_hints(&hints).await.unwrap();
        assert!(began.elapsed() <= SECOND / 2, "20 items: {:?}", began.elapsed());
    };
    let look = async {
        sleep(Duration::from_millis(150)).await;
        assert!(!lived.board.board.hints(&me, 0).await.unwrap().1.is_empty());
        assert_eq!(told().await, before, "the row waits for all of them");
    };
    tokio::join!(put, look);
    assert_eq!(told().await, before + 20);
}

#[tokio::test(start_paused = true)]
async fn an_item_that_is_not_told_of_may_give_way_and_is_read_again() {
    let mut lived = Lived::new().await;
    sleep(3 * SECOND).await;
    let ws2 = ProcessId::parse("ws2").unwrap();
    lived.board.board.put_hints(&ws2, 2, &[hint(2)]).await.unwrap();
    lived.board.hint_of("ws2", 1, 1..=1).await;
    assert_eq!(lived.hints(3).await, [1, 2]);
    // Another try, with other hints in it.
    lived.board.hint_of("ws2", 2, 3..=3).await;
    assert_eq!(lived.hints(3).await, [3]);
}

#[tokio::test(start_paused = true)]
async fn of_a_first_read_old_hints_are_left_and_of_a_later_row_all_are_new() {
    let board = Arc::new(Shaky::default());
    board.beat_of("ws2", 1, 1).await;
    board.hint_of("ws2", 5, 1..=3).await;
    let mut lived = Lived::over(board.clone()).await;
    assert_eq!(lived.hints(5).await, [0; 0], "mailboxes are yet to be read");
    board.hint_of("ws2", 6, 4..=5).await;
    assert_eq!(lived.hints(3).await, [4, 5]);
    let ws3 = ProcessId::parse("ws3").unwrap();
    board.board.put_hints(&ws3, 1, &[hint(9)]).await.unwrap();
    let row = BoardRow { hints: 1, ..board_row("ws3", 1) };
    board.board.beat(&row, None).await.unwrap();
    assert_eq!(lived.hints(3).await, [9]);
}

/// The first number is the time of day; who sees the row later has read none.
#[tokio::test(start_paused = true)]
async fn of_a_process_that_never_wrote_hints_none_are_read_for_ever() {
    let lived = Lived::new().await;
    sleep(3 * SECOND).await;
    let row = BoardRow { hints: 1_790_000_000_000, ..board_row("ws3", 1) };
    lived.board.board.beat(&row, None).await.unwrap();
    sleep(30 * SECOND).await;
    assert_eq!(lived.board.hint_reads.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn hints_that_could_not_be_read_are_read_again() {
    let mut lived = Lived::new().await;
    sleep(3 * SECOND).await;
    Shaky::set(&lived.board.no_hints, true);
    lived.board.hint_of("ws2", 6, 4..=5).await;
    assert_eq!(lived.hints(6).await, [0; 0]);
    Shaky::set(&lived.board.no_hints, false);
    assert_eq!(lived.hints(3).await, [4, 5]);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_told_as_read_again() {
    let mut lived = Lived::new().await;
    let many = EVENTS_MAX as u64 + 20;
    assert!(many * 3 < HINT_TTL_SECONDS * 2);
    for number in 1..=many {
        lived.board.hint_of("ws2", number, number..=number).await;
        sleep(3 * SECOND).await;
    }
    assert_eq!(lived.events(0).await.len(), EVENTS_MAX);
    lived.board.hint_of("ws2", many + 1, 1..=1).await;
    let events = lived.events(3).await;
    assert_eq!(events, [BoardEvent::ReadAgain, BoardEvent::Hints(vec![hint(1)])]);
}

#[test]
fn what_was_lost_is_told_as_soon_as_there_is_room() {
    let (sender, mut told) = mpsc::channel(1);
    let events = Events::new(sender);
    for lost in [BoardEvent::ReadAgain, BoardEvent::Revived] {
        events.send(BoardEvent::Hints(Vec::new()));
        events.send(BoardEvent::Death(ProcessId::parse("ws2").unwrap()));
        if lost == BoardEvent::Revived {
            events.send(BoardEvent::Revived);
            events.send(BoardEvent::Hints(Vec::new()));
        }
        events.make_good();
        assert_eq!(told.try_recv().ok(), Some(BoardEvent::Hints(Vec::new())));
        // Nothing else happens.
        events.make_good();
        assert_eq!(told.try_recv().ok(), Some(lost), "claiming again takes a reading along");
        events.make_good();
        assert!(told.try_recv().is_err(), "once");
    }
}

#[tokio::test(start_paused = true)]
async fn a_view_after_now_is_of_a_reading_that_began_after_now() {
    let lived = Lived::new().await;
    for _ in 0..20 {
        sleep(Duration::from_millis(rand::random_range(0..3_000))).await;
        // A reading by the clock may have begun at this very moment.
        tokio::time::advance(Duration::from_micros(1)).await;
        let now = Instant::now();
        // Something that was just written must be in it.
        let beat = lived.board.board.read().await.unwrap()[1].beat + 1;
        lived.board.beat_of("ws2", 1, beat).await;
        let (one, two) = tokio::join!(
            lived.liveness.view_after(now, 3 * SECOND),
            lived.liveness.view_after(now, 3 * SECOND),
        );
        for view in [one.unwrap(), two.unwrap()] {
            assert!(view.begun >= now && view.alive[1].beat == beat);
        }
        assert!(now.elapsed() < SECOND / 10, "it is read for it");
    }
    Shaky::set(&lived.board.no_reads, true);
    sleep(SECOND).await;
    assert!(lived.liveness.view_after(Instant::now(), 3 * SECOND).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn changes_of_the_row_are_beaten_with_the_next_or_at_once() {
    let lived = Lived::new().await;
    let row = async || lived.board.board.read().await.unwrap().remove(0);
    lived.liveness.set(RowChange::Sockets(9), false);
    lived.liveness.set(RowChange::Accepting(false), false);
    sleep(SECOND / 10).await;
    assert_eq!((row().await.sockets, row().await.accepting), (0, true));
    sleep(5 * SECOND).await;
    assert_eq!((row().await.sockets, row().await.accepting), (9, false));
    lived.liveness.set(RowChange::Deaf(true), true);
    sleep(SECOND / 10).await;
    assert!(row().await.deaf);
    sleep(2 * SECOND).await;
    assert!(lived.liveness.view().any_deaf());
}

#[tokio::test(start_paused = true)]
async fn a_part_that_left_is_gone_for_good() {
    let lived = Lived::new().await;
    lived.liveness.leave().await;
    assert!(!lived.liveness.may_append());
    lived.liveness.set(RowChange::Deaf(true), true);
    lived.liveness.put_hints(&[hint(1)]).await.unwrap();
    sleep(30 * SECOND).await;
    let rows = lived.board.board.read().await.unwrap();
    assert_eq!(rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["ws2"]);
}
