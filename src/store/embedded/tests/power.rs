//! Power cuts: whatever had not been fsynced is gone, torn, or there without what came before it.
//!
//! A child works on a store under `strace`. From its record the disk is made anew as it could have
//! been after a power cut at any moment: what was fsynced stands, of the rest any part may. On each
//! such disk the store is opened as ever, and everything that had been acknowledged by then must be
//! in it.

mod disk;

use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::planted::Bug;
use disk::{Disk, Loss};
use traced::{Event, available, record};

const CONVERSATIONS: usize = 5;
/// So short a log is copied and begun anew many times.
pub const LOG_PAGES: u32 = 60;
/// The last word of a child.
const DONE: &str = "all is written";

fn numbered(number: usize) -> ConversationId {
    ConversationId::parse(&format!("dm:a:b{number}")).unwrap()
}

fn recipient(number: usize) -> UserId {
    UserId::parse(&format!("b{number}")).unwrap()
}

/// The entry that stands at a seq, whoever asks: some are long.
fn made(number: usize, seq: Seq) -> Entry {
    let length = (number as u64 * 7 + seq * 13) % 11;
    let text = format!("{number} {seq} ").repeat(if length > 8 { 700 } else { 3 });
    Entry { message: Some(text.into()), to: Some(recipient(number)), ..entry(seq) }
}

/// The child: raises and appends in several conversations at once, and says what was acknowledged.
#[tokio::test]
async fn child_that_writes_for_the_record() {
    let Ok(folder) = std::env::var("PARLOR_TEST_CHILD_FOLDER") else { return };
    let setting = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let (rounds, end) = (setting("PARLOR_TEST_CHILD_ROUNDS"), setting("PARLOR_TEST_CHILD_CLOSES"));
    let store = EmbeddedStore::open_with(Path::new(&folder), LOG_PAGES).unwrap();
    talks(&store, rounds).await;
    if end == 1 {
        OwnDisk::close(&*store).await;
    }
    println!("{DONE}");
    // Whatever its end, nothing runs on to tidy up.
    let me = std::process::id().to_string();
    Command::new("kill").args(["-9", &me]).status().unwrap();
}

pub async fn talks(store: &EmbeddedStore, rounds: u64) {
    join_all((0..CONVERSATIONS).map(|number| talk(store, number, rounds))).await;
}

async fn talk(store: &EmbeddedStore, number: usize, rounds: u64) {
    let (conversation, to) = (numbered(number), recipient(number));
    let newest = store.log(&conversation, LogRange::newest(1)).await.unwrap();
    let mut tail = newest.entries.first().map_or(0, |entry| entry.seq);
    for round in 0..rounds {
        let count = 1 + (round + number as u64) % 3;
        let raise = Raise { last: Some(tail + count), ..Raise::default() };
        if let Err(error) = store.raise(&to, &conversation, &raise).await {
            println!("refused {error}");
            return;
        }
        println!("raised {number} {}", tail + count);
        let entries: Vec<_> = (tail + 1..=tail + count).map(|seq| made(number, seq)).collect();
        match store.append(&conversation, &entries).await {
            Ok(put) => tail += put as Seq,
            Err(error) => {
                println!("refused {error}");
                return;
            }
        }
        println!("appended {number} {tail}");
    }
}

/// What was acknowledged, by conversation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Acked {
    raised: [Seq; CONVERSATIONS],
    pub appended: [Seq; CONVERSATIONS],
}

impl Acked {
    pub fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let [what @ ("raised" | "appended"), number, seq] = words[..] else { return };
        // What is cut off in the middle was not said.
        let (Ok(number), Ok(seq)) = (number.parse::<usize>(), seq.parse()) else { return };
        let all = if what == "raised" { &mut self.raised } else { &mut self.appended };
        all[number] = all[number].max(seq);
    }
}

/// A life on a folder: how it ends, and which of its fsyncs fails.
#[derive(Default)]
struct Life {
    closes: bool,
    failing_fsync: Option<u32>,
}

fn recorded(folder: &Path, rounds: u64, life: &Life, planted: Option<Bug>) -> Vec<Event> {
    let (rounds, closes) = (rounds.to_string(), u8::from(life.closes).to_string());
    let mut settings = vec![
        ("PARLOR_TEST_CHILD_FOLDER", folder.to_str().unwrap()),
        ("PARLOR_TEST_CHILD_ROUNDS", &rounds),
        ("PARLOR_TEST_CHILD_CLOSES", &closes),
    ];
    settings.extend(planted.map(|bug| ("PARLOR_PLANTED", bug.name())));
    let test = "store::embedded::tests::power::child_that_writes_for_the_record";
    let events = record(test, folder, &settings, life.failing_fsync);
    let said = |what: &str| {
        events.iter().any(|event| matches!(event, Event::Said(line) if line.starts_with(what)))
    };
    assert!(said(DONE), "it ended before it was done");
    assert_eq!(said("refused"), life.failing_fsync.is_some());
    assert_eq!(
        events.iter().any(|event| matches!(event, Event::SyncFailed(_))),
        life.failing_fsync.is_some()
    );
    events
}

/// One that is killed, one that ends in order, and one more.
fn three_lives(rounds: u64, planted: Option<Bug>) -> Vec<Event> {
    let folder = tempdir().unwrap();
    let lives = [false, true, false].map(|closes| Life { closes, failing_fsync: None });
    lives.iter().flat_map(|life| recorded(folder.path(), rounds, life, planted)).collect()
}

/// A moment at which the power goes, and what becomes of what was under way.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// After so many events.
    after: usize,
    loss: Loss,
    seed: u64,
}

/// Cuts all over this part of a record, in order. Those within the making of the first files are as
/// likely as any other.
fn cuts(within: RangeInclusive<usize>, count: usize, seed: u64) -> Vec<Cut> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut cuts: Vec<_> = (0..count)
        .map(|number| Cut {
            after: random.random_range(within.clone()),
            loss: Loss::ALL[number % Loss::ALL.len()],
            seed: random.random(),
        })
        .collect();
    cuts.sort_by_key(|cut| cut.after);
    cuts
}

/// How a run over cuts went.
#[derive(Default)]
struct Outcome {
    /// Cuts that took something away.
    bit: AtomicUsize,
    failed: Mutex<Vec<String>>,
}

/// Makes the disk of each cut and looks at it. Ends early once `failures_max` have failed.
fn try_cuts(events: &[Event], cuts: &[Cut], failures_max: usize) -> Outcome {
    let outcome = Outcome::default();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let outcome = &outcome;
            scope.spawn(move || {
                let (mut disk, mut acked, mut done) = (Disk::default(), Acked::default(), 0);
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_all().build().unwrap();
                for (number, cut) in cuts.iter().enumerate().skip(thread).step_by(threads) {
                    if outcome.failed.lock().unwrap().len() >= failures_max {
                        return;
                    }
                    for event in &events[done..cut.after] {
                        match event {
                            Event::Said(line) => acked.hear(line),
                            event => disk.apply(event),
                        }
                    }
                    done = cut.after;
                    let folder = tempfile::tempdir_in(memory()).unwrap();
                    let mut random = StdRng::seed_from_u64(cut.seed);
                    if disk.cut(cut.loss, &mut random, folder.path()) {
                        outcome.bit.fetch_add(1, Relaxed);
                    }
                    let thorough = number % 4 == 0;
                    let seen = runtime.block_on(look(folder.path(), acked, thorough));
                    if let Err(text) = seen {
                        outcome.failed.lock().unwrap().push(format!("{cut:?}: {text}"));
                    }
                }
            });
        }
    });
    outcome
}

/// A file system in memory, where there is one: disks are made by the thousand.
fn memory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

/// Opens a disk after a cut, as any start does, and looks for all that was acknowledged.
pub async fn look(folder: &Path, acked: Acked, thorough: bool) -> Result<(), String> {
    let store = EmbeddedStore::open_with(folder, LOG_PAGES).map_err(|error| error.to_string())?;
    for number in 0..CONVERSATIONS {
        let conversation = numbered(number);
        let (mut found, mut more) = (0, true);
        while more {
            let page = store.log(&conversation, LogRange::following(found, 500)).await;
            let page = page.map_err(|error| error.to_string())?;
            for entry in page.entries {
                found += 1;
                if entry != made(number, found) {
                    return Err(format!("{conversation} {found} is another: {entry:?}"));
                }
            }
            more = page.more;
        }
        if found < acked.appended[number] {
            let acked = acked.appended[number];
            return Err(format!("{conversation}: {acked} were acknowledged, {found} are there"));
        }
        let row = store.mailbox(&recipient(number), MailboxPart::Row(conversation.clone())).await;
        let last = row.map_err(|error| error.to_string())?.rows.first().map_or(0, |row| row.last);
        if last < acked.raised[number].max(found) {
            return Err(format!("{conversation}: the row leads to {last}, {acked:?}"));
        }
        if thorough {
            let raise = Raise { last: Some(found + 1), ..Raise::default() };
            let raised = store.raise(&recipient(number), &conversation, &raise).await;
            let put = store.append(&conversation, &[made(number, found + 1)]).await;
            if (&raised, &put) != (&Ok(()), &Ok(1)) {
                return Err(format!("it does not go on: {raised:?}, {put:?}"));
            }
        }
    }
    if thorough {
        let faults = faults(folder);
        if !faults.is_empty() {
            return Err(format!("{faults:?}"));
        }
    }
    Ok(())
}

/// Each round of each of three lives is two commits or more.
fn nothing_acked_is_lost(rounds: u64, count: usize, seed: u64) {
    if !available() {
        return;
    }
    let events = three_lives(rounds, None);
    let syncs = events.iter().filter(|event| matches!(event, Event::Sync(_))).count();
    let said = events.iter().filter(|event| matches!(event, Event::Said(_))).count();
    assert!(syncs > 150 && said > 400, "{syncs} fsyncs, {said} lines: too little to cut into");
    let outcome = try_cuts(&events, &cuts(0..=events.len(), count, seed), 10);
    let failed = outcome.failed.into_inner().unwrap();
    assert!(failed.is_empty(), "seed {seed}: {failed:#?}");
    let bit = outcome.bit.into_inner();
    assert!(bit > count / 3, "only {bit} of {count} cuts took something away");
    println!("{count} cuts in {} events, {bit} took something away, none lost", events.len());
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    nothing_acked_is_lost(26, 1_000, 1);
}

#[test]
#[ignore = "some minutes: ./test full"]
fn ten_thousand_power_cuts_lose_nothing_that_was_acknowledged() {
    for seed in 2..=6 {
        nothing_acked_is_lost(26, 2_500, seed);
    }
}

/// The tests above would find a store that answers without waiting for the disk.
#[test]
fn a_skipped_fsync_is_found() {
    if !available() {
        return;
    }
    let events = three_lives(10, Some(Bug::FsyncSkipped));
    let outcome = try_cuts(&events, &cuts(0..=events.len(), 300, 1), 3);
    let failed = outcome.failed.into_inner().unwrap();
    assert!(failed.len() >= 3, "{failed:?}");
}

/// The system may hold for written what a failed fsync has left in its memory: a process that is
/// started again sees it, builds on it, and the power goes.
#[test]
fn a_restart_after_a_failed_fsync_builds_on_nothing_that_is_not_durable() {
    if !available() {
        return;
    }
    // Which fsync is of which file depends on what came together: tried until both were seen. Each
    // round waits for two commits or more, so that every one of these numbers is reached, and
    // somebody writes after it.
    let (mut of_the_log, mut of_the_database) = (0, 0);
    for failing in 40..200 {
        let folder = tempdir().unwrap();
        let life = Life { failing_fsync: Some(failing), ..Life::default() };
        let mut events = recorded(folder.path(), 100, &life, None);
        let failed = events.iter().find(|event| matches!(event, Event::SyncFailed(_)));
        let seen = match failed == Some(&Event::SyncFailed(FILE.to_owned())) {
            true => &mut of_the_database,
            false => &mut of_the_log,
        };
        *seen += 1;
        if *seen > 2 {
            continue;
        }
        let restart = events.len();
        events.extend(recorded(folder.path(), 8, &Life::default(), None));
        let outcome = try_cuts(&events, &cuts(restart..=events.len(), 80, failing.into()), 3);
        let failed = outcome.failed.into_inner().unwrap();
        assert!(failed.is_empty(), "fsync {failing}: {failed:#?}");
        if of_the_log >= 2 && of_the_database >= 1 {
            return;
        }
    }
    panic!("one kind of file alone: {of_the_log} of the log, {of_the_database} of the database");
}
