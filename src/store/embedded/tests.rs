//! What is the embedded store's own: one process a folder, damage, full disks, kill -9, power cuts.

mod damage;
mod disks;
mod power;
mod traced;

use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tempfile::tempdir;

use super::*;
use crate::protocol::{DeviceId, Kind, Seq};
use crate::store::contract;

fn conversation() -> ConversationId {
    ConversationId::parse("dm:a:b").unwrap()
}

fn entry(seq: Seq) -> Entry {
    Entry {
        seq,
        kind: Kind::Message,
        from: UserId::parse("a").unwrap(),
        to: UserId::parse("b").ok(),
        message: Some(Arc::from(format!("text {seq}"))),
        data: None,
        reference: None,
        device: DeviceId::plain(),
        timestamp: 1,
        n: seq,
    }
}

/// What a check finds in a folder, one line a fault.
fn faults(folder: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    check_folder(folder, &mut |told| {
        if let Told::Fault(Fault { place, what, .. }) = told {
            faults.push(format!("{place}: {what}"));
        }
    })
    .unwrap();
    faults
}

/// Of these, what is damage and not a rule of the data: the contract's rows are made up.
fn damages(folder: &Path) -> Vec<String> {
    faults(folder).into_iter().filter(|fault| fault.contains("check sum")).collect()
}

#[tokio::test]
async fn a_folder_passes_the_contract() {
    let folder = tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    contract::all(&*store).await;
    assert_eq!(damages(folder.path()), [""; 0], "nothing of it is damaged");
}

#[test]
fn a_folder_is_for_one_process() {
    let folder = tempdir().unwrap();
    let first = FolderLock::take(folder.path()).unwrap();
    let refused = FolderLock::take(folder.path()).unwrap_err();
    assert!(refused.to_string().contains("in use by another parlor process"), "{refused}");
    drop(first);
    taken(folder.path());
}

/// Locks a folder that nobody holds: a process that another test is just starting may still share
/// the lock that was let go, until it runs its own program.
fn taken(folder: &Path) -> FolderLock {
    let until = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        match FolderLock::take(folder) {
            Err(OpenError::InUse(_)) if std::time::Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            taken => return taken.unwrap(),
        }
    }
}

/// What people write is for the owner's eyes alone; a folder that was there stays as it is.
#[test]
fn a_folder_that_is_made_is_for_its_owner_alone() {
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let folder = tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let data = folder.path().join("parlor/data");
    drop(FolderLock::take(&data).unwrap());
    assert_eq!([&data, data.parent().unwrap()].map(mode), [0o700; 2]);
    assert_eq!(mode(folder.path()), 0o755);
}

#[tokio::test]
async fn a_later_schema_is_not_touched() {
    let folder = tempdir().unwrap();
    let connection = Connection::open(folder.path().join(FILE)).unwrap();
    connection.execute_batch("PRAGMA user_version = 99").unwrap();
    let refused = EmbeddedStore::open(folder.path()).err().unwrap();
    assert!(matches!(refused, OpenError::Newer(_, 99)), "{refused}");
    let unchecked = check_folder(folder.path(), &mut |_| ());
    assert!(matches!(unchecked, Err(OpenError::Newer(_, 99))), "{unchecked:?}");
}

#[tokio::test]
async fn a_reader_of_a_running_stores_folder_sees_what_was_acked() {
    let folder = tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    store.append(&conversation(), &[entry(1)]).await.unwrap();
    let reader = EmbeddedStore::read_only(folder.path()).unwrap();
    let page = reader.log(&conversation(), LogRange::newest(10)).await.unwrap();
    assert_eq!(page.entries, [entry(1)]);
    let refused = reader.append(&conversation(), &[entry(2)]).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    assert!(EmbeddedStore::read_only(&folder.path().join("none")).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_does_not_answer_is_waited_for_3_s() {
    let folder = tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    // The writer's thread stands still until `go_on` is dropped; time passes for us alone.
    let (go_on, stands) = std::sync::mpsc::sync_channel::<()>(1);
    let stand = move |_: &Connection| {
        let _ = stands.recv();
    };
    store.send(Job::Try(Box::new(stand))).await.unwrap();
    let begun = Instant::now();
    let put = store.append(&conversation(), &[entry(1)]).await;
    assert!(matches!(put, Err(StoreError::Unknown(_))), "{put:?}");
    assert!(begun.elapsed() <= Duration::from_millis(CALL_MS_MAX + 10), "{:?}", begun.elapsed());
    let stuck = store.permits.acquire_many(READERS as u32).await.unwrap();
    let read = store.log(&conversation(), LogRange::newest(1)).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    drop((go_on, stuck));
    tokio::time::resume();
    // Behind the late one.
    assert_eq!(store.append(&conversation(), &[entry(2)]).await, Ok(1));
    let late = store.log(&conversation(), LogRange::newest(2)).await.unwrap();
    assert_eq!(late.entries, [entry(2), entry(1)], "what was unknown was done yet");
}

#[tokio::test]
async fn long_lists_of_records_are_read_whole() {
    let folder = tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    let (user, device) = (UserId::parse("a").unwrap(), DeviceId::parse("phone").unwrap());
    let name = |n| ConversationId::parse(&format!("room:{}{n}", "x".repeat(100))).unwrap();
    let starts: Vec<_> = (0..1_000).map(|n| (name(n), 1)).collect();
    let chunk = |chunk| {
        let (user, device, starts) = (user.clone(), device.clone(), starts.clone());
        Record::Starts { user, device, chunk, starts }
    };
    // About 110 KB each.
    let all: Vec<Record> = (0..20).map(chunk).collect();
    for record in &all {
        assert_eq!(Store::write(&*store, record.clone()).await, Ok(true));
    }
    assert_eq!(store.records(RecordPart::Starts(user, device)).await, Ok(all));
}

/// The child of the next test: raises and appends in several conversations until it is killed.
#[tokio::test]
async fn child_that_writes_until_killed() {
    let Ok(folder) = std::env::var("PARLOR_TEST_CHILD_UNTIL_KILLED") else { return };
    let _lock = FolderLock::take(Path::new(&folder)).unwrap();
    let store = EmbeddedStore::open_with(Path::new(&folder), power::LOG_PAGES).unwrap();
    power::talks(&store, u64::MAX).await;
}

/// Killed at any moment, also while it starts, again and again on one folder: all that was
/// acknowledged by any of its lives is there, and the folder is free at once.
#[tokio::test]
async fn what_was_acked_survives_kill_9() {
    let folder = tempdir().unwrap();
    let (mut acked, mut in_use, mut life) = (power::Acked::default(), 0, 0);
    while life < 25 || acked.appended.iter().sum::<Seq>() < 500 {
        life += 1;
        assert!(life < 150, "{acked:?}: too few to say anything");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("store::embedded::tests::child_that_writes_until_killed")
            .env("PARLOR_TEST_CHILD_UNTIL_KILLED", folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let heard = std::thread::spawn(move || {
            let mut acked = acked;
            lines.map_while(Result::ok).for_each(|line| acked.hear(&line));
            acked
        });
        tokio::time::sleep(Duration::from_millis(rand::random_range(5..60 + life * 8))).await;
        // Whoever comes while it dies is told so, or has the folder.
        let rival = folder.path().to_owned();
        let rival = std::thread::spawn(move || {
            (0..50).filter(|_| matches!(FolderLock::take(&rival), Err(OpenError::InUse(_)))).count()
        });
        child.kill().unwrap();
        child.wait().unwrap();
        in_use += rival.join().unwrap();
        acked = heard.join().unwrap();
        let lock = taken(folder.path());
        power::look(folder.path(), acked, false).await.unwrap();
        drop(lock);
        assert_eq!(faults(folder.path()), [""; 0]);
    }
    assert!(in_use > 0, "nobody ever came while it was in use");
}

#[tokio::test]
async fn a_long_log_is_read_quickly_and_a_clean_stop_leaves_none() {
    let folder = tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    // 16 KB each: the log comes near the length at which it is copied.
    let long = |seq| Entry { message: Some("x".repeat(16_000).into()), ..entry(seq) };
    for chunk in 0..28 {
        let entries: Vec<_> = (chunk * 100 + 1..=chunk * 100 + 100).map(long).collect();
        assert_eq!(store.append(&conversation(), &entries).await, Ok(100));
    }
    let log = opening::log_path(folder.path());
    let length = std::fs::metadata(&log).unwrap().len();
    assert!(length > 40 << 20, "{length} bytes");
    // Dropped without a close, as if it had been killed.
    drop(store);
    let begun = std::time::Instant::now();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    let took = begun.elapsed();
    println!("{} MB of log are opened in {took:?}", length >> 20);
    // Half a second on a machine with nothing else to do.
    assert!(took < Duration::from_secs(20), "{took:?}");
    let newest = store.log(&conversation(), LogRange::newest(1)).await.unwrap();
    assert_eq!(newest.entries, [long(2_800)]);
    assert_eq!(std::fs::metadata(&log).unwrap().len(), 0, "it begins anew");
    assert_eq!(store.append(&conversation(), &[long(2_801)]).await, Ok(1));
    OwnDisk::close(&*store).await;
    assert_eq!(std::fs::metadata(&log).map_or(0, |log| log.len()), 0, "and ends empty");
    let closed = store.append(&conversation(), &[long(2_802)]).await;
    assert!(matches!(closed, Err(StoreError::Unavailable(_))), "{closed:?}");
}
