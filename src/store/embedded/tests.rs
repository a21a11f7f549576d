//! What is the embedded store's own: one process a folder, damage, full disks, kill -9.

use std::io::{BufRead, BufReader};
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

#[tokio::test]
async fn a_folder_passes_the_contract() {
    let folder = tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    contract::all(&*store).await;
    assert!(store.check().await.unwrap().is_empty(), "nothing of it is damaged");
}

#[tokio::test]
async fn memory_passes_the_contract() {
    contract::all(&*EmbeddedStore::in_memory().unwrap()).await;
}

#[test]
fn a_folder_is_for_one_process() {
    let folder = tempdir().unwrap();
    let first = FolderLock::take(folder.path()).unwrap();
    let refused = FolderLock::take(folder.path()).unwrap_err();
    assert!(refused.to_string().contains("in use by another parlor process"), "{refused}");
    drop(first);
    FolderLock::take(folder.path()).unwrap();
}

#[tokio::test]
async fn a_later_schema_is_not_touched() {
    let folder = tempdir().unwrap();
    let connection = Connection::open(folder.path().join(FILE)).unwrap();
    connection.execute_batch("PRAGMA user_version = 99").unwrap();
    let refused = EmbeddedStore::open(folder.path()).err().unwrap();
    assert!(matches!(refused, OpenError::Newer(_, 99)), "{refused}");
}

#[tokio::test]
async fn a_flipped_bit_is_never_shown() {
    let folder = tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    store.append(&conversation(), &[entry(1), entry(2)]).await.unwrap();
    let raise = Raise { last: Some(2), ..Raise::default() };
    store.raise(&UserId::parse("b").unwrap(), &conversation(), &raise).await.unwrap();
    assert!(store.check().await.unwrap().is_empty());
    let connection = Connection::open(folder.path().join(FILE)).unwrap();
    let flip = |table: &str, from: &str, to: &str| {
        let text = format!("replace(CAST(body AS TEXT), '{from}', '{to}')");
        connection.execute_batch(&format!("UPDATE {table} SET body = CAST({text} AS BLOB)"))
    };
    flip("entries", "text 2", "text 3").unwrap();
    flip("items", "\"last\":2", "\"last\":1").unwrap();
    let log = store.log(&conversation(), LogRange::newest(10)).await;
    assert!(matches!(log, Err(StoreError::Damaged(_))), "{log:?}");
    let page = MailboxPart::Page { after: None, consistent: true };
    let mailbox = store.mailbox(&UserId::parse("b").unwrap(), page).await;
    assert!(matches!(mailbox, Err(StoreError::Damaged(_))), "{mailbox:?}");
    assert_eq!(store.check().await.unwrap(), ["entry dm:a:b 2", "item U#b C#dm:a:b"]);
}

#[tokio::test]
async fn a_damaged_row_stops_only_what_depends_on_it() {
    let folder = tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    let (a, b) = (UserId::parse("a").unwrap(), UserId::parse("b").unwrap());
    let to = |last| Raise { last: Some(last), ..Raise::default() };
    store.raise(&b, &conversation(), &to(2)).await.unwrap();
    let connection = Connection::open(folder.path().join(FILE)).unwrap();
    connection.execute_batch("UPDATE items SET crc = crc + 1").unwrap();
    let (log, first, one, three) = (conversation(), [entry(1)], to(1), to(3));
    let (damaged, put, raised) = tokio::join!(
        store.raise(&b, &log, &three),
        store.append(&log, &first),
        store.raise(&a, &log, &one),
    );
    assert_eq!(damaged, Err(StoreError::Damaged("U#b C#dm:a:b".to_owned())));
    assert_eq!((put, raised), (Ok(1), Ok(())), "others of its transaction go on");
    assert_eq!(store.append(&conversation(), &[entry(2)]).await, Ok(1), "and so do later ones");
    assert_eq!(store.check().await.unwrap(), ["item U#b C#dm:a:b"], "it is not overwritten");
    connection.execute_batch("UPDATE items SET crc = 'x' WHERE pk = 'U#b'").unwrap();
    let damaged = store.raise(&b, &conversation(), &to(3)).await;
    assert!(matches!(damaged, Err(StoreError::Damaged(_))), "{damaged:?}");
    assert_eq!(store.append(&conversation(), &[entry(3)]).await, Ok(1));
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

#[tokio::test]
async fn a_full_disk_is_said_and_passes() {
    let folder = tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    store.append(&conversation(), &[entry(1)]).await.unwrap();
    let pages = |count: u32| {
        let set = move |connection: &Connection| {
            connection.execute_batch(&format!("PRAGMA max_page_count = {count}")).unwrap();
        };
        store.send(Job::Read(Box::new(set)))
    };
    pages(1).await.unwrap();
    let long = Entry { message: Some("x".repeat(16_000).into()), ..entry(2) };
    let mut seq = 2;
    let refused = loop {
        let full = Entry { seq, n: seq, ..long.clone() };
        match store.append(&conversation(), &[full]).await {
            Ok(1) => seq += 1,
            other => break other,
        }
    };
    assert_eq!(refused, Err(StoreError::Unavailable("the disk is full".into())));
    pages(1_000_000).await.unwrap();
    let again = Entry { seq, n: seq, ..long };
    assert_eq!(store.append(&conversation(), &[again]).await, Ok(1));
}

#[tokio::test]
async fn after_a_write_of_unknown_outcome_nothing_more_is_written() {
    let folder = tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    store.append(&conversation(), &[entry(1)]).await.unwrap();
    // A table that vanishes stands for a disk that fails: an error that is not "full" or "busy".
    let drop_table = |connection: &Connection| {
        connection.execute_batch("ALTER TABLE entries RENAME TO gone").unwrap();
    };
    store.send(Job::Read(Box::new(drop_table))).await.unwrap();
    let first = store.append(&conversation(), &[entry(2)]).await;
    assert!(matches!(first, Err(StoreError::Unknown(_))), "{first:?}");
    let back = |connection: &Connection| {
        let _ = connection.execute_batch("ALTER TABLE gone RENAME TO entries");
    };
    store.send(Job::Read(Box::new(back))).await.unwrap();
    let second = store.append(&conversation(), &[entry(2)]).await;
    assert!(matches!(second, Err(StoreError::Refused(_))), "{second:?}");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_does_not_answer_is_waited_for_3_s() {
    let store = EmbeddedStore::in_memory().unwrap();
    // The writer's thread stands still until `go_on` is dropped; time passes for us alone.
    let (go_on, stands) = std::sync::mpsc::sync_channel::<()>(1);
    let stand = move |_: &Connection| {
        let _ = stands.recv();
    };
    store.send(Job::Read(Box::new(stand))).await.unwrap();
    let begun = Instant::now();
    let put = store.append(&conversation(), &[entry(1)]).await;
    assert!(matches!(put, Err(StoreError::Unknown(_))), "{put:?}");
    assert!(begun.elapsed() <= Duration::from_millis(CALL_MS_MAX + 10), "{:?}", begun.elapsed());
    let read = store.log(&conversation(), LogRange::newest(1)).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    drop(go_on);
    tokio::time::resume();
    let late = store.log(&conversation(), LogRange::newest(1)).await.unwrap();
    assert_eq!(late.entries, [entry(1)], "what was unknown was done yet");
}

#[tokio::test]
async fn long_lists_of_records_are_read_whole() {
    let store = EmbeddedStore::in_memory().unwrap();
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

/// The child of the next test: appends and prints each acked seq until it is killed.
#[tokio::test]
async fn child_that_appends_until_killed() {
    let Ok(folder) = std::env::var("PARLOR_TEST_CHILD_FOLDER") else { return };
    let store = EmbeddedStore::open(Path::new(&folder)).unwrap();
    for seq in 1.. {
        assert_eq!(store.append(&conversation(), &[entry(seq)]).await, Ok(1));
        println!("acked {seq}");
    }
}

#[tokio::test]
async fn what_was_acked_survives_kill_9() {
    let folder = tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "store::embedded::tests::child_that_appends_until_killed"])
        .env("PARLOR_TEST_CHILD_FOLDER", folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut acked = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        if let Some(seq) = line.unwrap().strip_prefix("acked ") {
            acked = seq.parse().unwrap();
            if acked == 200 {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    assert!(acked >= 200, "the child ended early, at {acked}");
    let store = EmbeddedStore::open(folder.path()).unwrap();
    let mut found = Vec::new();
    loop {
        let after = found.len() as Seq;
        let page = store.log(&conversation(), LogRange::following(after, 500)).await.unwrap();
        found.extend(page.entries);
        if !page.more {
            break;
        }
    }
    assert!(found.len() as Seq >= acked, "{} found, {acked} acked", found.len());
    assert!(found.iter().zip(1..).all(|(found, seq)| *found == entry(seq)));
}
