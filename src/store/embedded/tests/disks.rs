//! Disks that are full or fail.

use super::*;

#[tokio::test]
async fn a_full_disk_is_said_and_passes() {
    let folder = tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    store.append(&conversation(), &[entry(1)]).await.unwrap();
    let pages = |count: u32| {
        let set = move |connection: &Connection| {
            connection.execute_batch(&format!("PRAGMA max_page_count = {count}")).unwrap();
        };
        store.send(Job::Try(Box::new(set)))
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
    store.send(Job::Try(Box::new(drop_table))).await.unwrap();
    let first = store.append(&conversation(), &[entry(2)]).await;
    assert!(matches!(first, Err(StoreError::Unknown(_))), "{first:?}");
    let back = |connection: &Connection| {
        let _ = connection.execute_batch("ALTER TABLE gone RENAME TO entries");
    };
    store.send(Job::Try(Box::new(back))).await.unwrap();
    let second = store.append(&conversation(), &[entry(2)]).await;
    assert!(matches!(second, Err(StoreError::Refused(_))), "{second:?}");
}

/// A small file system of its own, until it is dropped. Only root may have one.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(kilobytes: u32) -> Option<Self> {
        let folder = tempdir().unwrap();
        let size = format!("size={kilobytes}k");
        let mount = ["-t", "tmpfs", "-o", &size, "parlor-test"];
        let mounted = Command::new("mount").args(mount).arg(folder.path()).output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            println!("left out: only root may mount a small file system");
            return None;
        }
        Some(Self(folder))
    }

    fn resize(&self, kilobytes: u32) {
        let size = format!("remount,size={kilobytes}k");
        let mut mount = Command::new("mount");
        assert!(mount.args(["-o", &size]).arg(self.0.path()).status().unwrap().success());
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Appends until something else than an ack comes; the seq that it came for.
async fn fill(store: &EmbeddedStore, from: Seq) -> (Seq, Result<usize, StoreError>) {
    for seq in from.. {
        let long = Entry { message: Some("x".repeat(1_000).into()), ..entry(seq) };
        match store.append(&conversation(), &[long]).await {
            Ok(1) => {}
            other => return (seq, other),
        }
    }
    unreachable!()
}

async fn entries_of(store: &EmbeddedStore) -> Seq {
    let mut found = 0;
    loop {
        let page = store.log(&conversation(), LogRange::following(found, 500)).await.unwrap();
        assert!(page.entries.iter().zip(found + 1..).all(|(entry, seq)| entry.seq == seq));
        found += page.entries.len() as Seq;
        if !page.more {
            return found;
        }
    }
}

/// A real one, full at every size where something else is the first to find no room: the log, its
/// index, the database when the log is copied.
#[tokio::test]
async fn a_full_disk_takes_no_acks_and_passes_when_there_is_room() {
    for (kilobytes, log_pages) in [(400, 16_000), (700, 60), (1_000, 200), (18_000, 16_000)] {
        let Some(disk) = Small::mount(kilobytes) else { return };
        let store = EmbeddedStore::open_with(disk.path(), log_pages).unwrap();
        let (at, refused) = fill(&store, 1).await;
        let away = matches!(refused, Err(StoreError::Unavailable(_) | StoreError::Unknown(_)));
        assert!(away, "{kilobytes} KB: {refused:?}");
        // Readiness asks, and asking tries: full is full.
        for _ in 0..3 {
            assert!(store.trouble().is_some(), "{kilobytes} KB");
            let (_, again) = fill(&store, at).await;
            assert!(again.as_ref().is_err_and(StoreError::retryable), "{kilobytes} KB: {again:?}");
        }
        assert_eq!(entries_of(&store).await, at - 1, "reads go on, and show what was acked");
        disk.resize(40_000);
        let (mut tries, mut trouble) = (0, store.trouble());
        while trouble.is_some() && tries < 100 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            (tries, trouble) = (tries + 1, store.trouble());
        }
        assert_eq!(trouble, None, "{kilobytes} KB: it is ready again though nobody writes");
        assert_eq!(store.append(&conversation(), &[entry(at)]).await, Ok(1));
        drop(store);
        let store = EmbeddedStore::open(disk.path()).unwrap();
        assert_eq!(entries_of(&store).await, at);
        assert_eq!(sums(disk.path()), [""; 0]);
    }
}

fn sums(folder: &Path) -> Vec<String> {
    let row = |fault: &String| !fault.contains("is missing, and");
    faults(folder).into_iter().filter(row).collect()
}

/// The child of the next tests: writes on and on, and says how each write ended.
#[tokio::test]
async fn child_that_writes_whatever_is_answered() {
    let Ok(folder) = std::env::var("PARLOR_TEST_CHILD_STUBBORN") else { return };
    let store = EmbeddedStore::open_with(Path::new(&folder), 40).unwrap();
    let (mut tail, mut refusals) = (entries_of(&store).await, 0);
    println!("starts at {tail}");
    while refusals < 20 && tail < 1_000 {
        match store.append(&conversation(), &[entry(tail + 1)]).await {
            Ok(count) => {
                tail += count as Seq;
                println!("acked {tail}");
            }
            Err(error) => {
                refusals += 1;
                println!("refused {} {error}", tail + 1);
            }
        }
    }
    println!("reads {}, trouble {:?}", entries_of(&store).await, store.trouble());
}

/// The n-th fsync fails, and all others say that all is well.
#[test]
fn after_a_failed_fsync_nothing_is_acknowledged() {
    if !traced::available() {
        return;
    }
    let test = "store::embedded::tests::disks::child_that_writes_whatever_is_answered";
    let mut copies_failed = 0;
    for number in [40, 47, 60, 61, 62, 63, 64, 65, 66, 67, 90] {
        let folder = tempdir().unwrap();
        // The very first ones belong to the start, which has tests of its own.
        let (trace, fsyncs) = (format!("trace={}", traced::FSYNCS), traced::FSYNCS);
        let inject = format!("inject={fsyncs}:error=EIO:when={number}");
        let options = ["-e", &trace, "-e", &inject];
        let mut child = traced::under_strace(test, &options);
        let output = child.env("PARLOR_TEST_CHILD_STUBBORN", folder.path()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let said = |what: &str| text.lines().filter(|line| line.starts_with(what)).count();
        assert_eq!(said("refused"), 20, "fsync {number}: {text}");
        let first = text.find("refused").unwrap();
        assert!(!text[first..].contains("acked"), "fsync {number}: an ack after it: {text}");
        let acked = said("acked") as Seq;
        assert!(acked > 10, "fsync {number}: {text}");
        let last = text.lines().find(|line| line.starts_with("reads")).unwrap();
        assert!(last.starts_with(&format!("reads {acked}, trouble Some")), "{last}");
        assert!(last.contains("restart parlor"), "{last}");
        // The refusal may be the first word of it: then it was the copying of the log that failed.
        copies_failed += u32::from(text[first..].lines().next().unwrap().contains("have stopped"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr.matches("INJECTED").count(), 1, "{stderr}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let found = runtime
            .unwrap()
            .block_on(async { entries_of(&EmbeddedStore::open(folder.path()).unwrap()).await });
        assert!(found == acked || found == acked + 1, "{acked} acked, {found} found");
    }
    assert!(copies_failed > 0, "it was always the commit's own fsync that failed");
}
