//! Damage: what is flipped, cut or gone is told and never shown, and takes nothing else with it.

use std::os::unix::fs::FileExt;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use super::*;

/// The files as they would stand after a kill: nothing was tidied up.
fn killed(folder: &Path) -> TempDir {
    let copy = tempdir().unwrap();
    for name in [FILE, "parlor.sqlite-wal", commits::FILE] {
        if folder.join(name).exists() {
            std::fs::copy(folder.join(name), copy.path().join(name)).unwrap();
        }
    }
    copy
}

fn flip(path: &Path, at: u64, bit: u8) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
}

fn log_of(folder: &TempDir) -> PathBuf {
    opening::log_path(folder.path())
}

/// A store with this many entries, each a commit of its own, and its files after a kill.
async fn with_entries(count: Seq) -> (Arc<EmbeddedStore>, TempDir) {
    let folder = tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    let raise = Raise { last: Some(count), ..Raise::default() };
    store.raise(&UserId::parse("b").unwrap(), &conversation(), &raise).await.unwrap();
    for seq in 1..=count {
        assert_eq!(store.append(&conversation(), &[entry(seq)]).await, Ok(1));
    }
    (store, folder)
}

async fn all_of(store: &EmbeddedStore) -> Result<Vec<Entry>, StoreError> {
    Ok(store.log(&conversation(), LogRange::following(0, 500)).await?.entries)
}

#[tokio::test]
async fn a_flipped_bit_in_the_log_is_told_at_the_start() {
    let (_running, folder) = with_entries(20).await;
    let length = std::fs::metadata(log_of(&folder)).unwrap().len();
    let mut random = StdRng::seed_from_u64(1);
    let mut told_without_note = 0;
    for _ in 0..150 {
        let copy = killed(folder.path());
        let (at, bit) = (random.random_range(0..length), random.random_range(0..8));
        flip(&log_of(&copy), at, bit);
        let found = faults(copy.path());
        assert!(!found.is_empty(), "byte {at}, bit {bit}");
        let opened = EmbeddedStore::open(copy.path()).err();
        assert!(matches!(opened, Some(OpenError::Lost(..))), "byte {at}, bit {bit}: {opened:?}");
        // What is left is what a backup of the log can still be made from.
        assert_eq!(std::fs::metadata(log_of(&copy)).unwrap().len(), length);
        std::fs::remove_file(copy.path().join(commits::FILE)).unwrap();
        match EmbeddedStore::open(copy.path()) {
            Err(OpenError::Lost(..)) => told_without_note += 1,
            Ok(store) => assert!(all_of(&store).await.unwrap().len() >= 18, "the last two commits"),
            Err(other) => panic!("{other}"),
        }
    }
    assert!(told_without_note > 110, "the log alone tells of {told_without_note}");
    let sound = killed(folder.path());
    let store = EmbeddedStore::open(sound.path()).unwrap();
    assert_eq!(all_of(&store).await.unwrap().len(), 20);
}

#[tokio::test]
async fn a_log_cut_short_or_gone_and_an_older_file_are_told() {
    let (running, folder) = with_entries(20).await;
    let older = killed(folder.path());
    assert_eq!(running.append(&conversation(), &[entry(21)]).await, Ok(1));
    let cut = killed(folder.path());
    let log = std::fs::read(log_of(&cut)).unwrap();
    std::fs::write(log_of(&cut), &log[..log.len() / 2]).unwrap();
    let middle = killed(folder.path());
    let without: Vec<u8> = [&log[..9_000], &log[17_240..]].concat();
    std::fs::write(log_of(&middle), without).unwrap();
    let gone = killed(folder.path());
    std::fs::remove_file(log_of(&gone)).unwrap();
    let note = folder.path().join(commits::FILE);
    std::fs::copy(note, older.path().join(commits::FILE)).unwrap();
    for (what, copy) in [("cut", cut), ("middle", middle), ("gone", gone), ("older", older)] {
        let opened = EmbeddedStore::open(copy.path()).err();
        assert!(matches!(opened, Some(OpenError::Lost(..))), "{what}: {opened:?}");
        assert!(!faults(copy.path()).is_empty(), "{what}");
    }
}

#[tokio::test]
async fn a_loss_can_be_accepted_and_the_log_is_kept() {
    let (_running, folder) = with_entries(20).await;
    let copy = killed(folder.path());
    let length = std::fs::metadata(log_of(&copy)).unwrap().len();
    flip(&log_of(&copy), length / 2, 0);
    assert!(EmbeddedStore::open(copy.path()).is_err());
    let kept = accept_loss(copy.path()).unwrap().unwrap();
    assert_eq!(std::fs::metadata(kept).unwrap().len(), length);
    let store = EmbeddedStore::open(copy.path()).unwrap();
    let left = all_of(&store).await.unwrap();
    assert!((5..15).contains(&left.len()), "{}", left.len());
    assert_eq!(store.append(&conversation(), &[entry(left.len() as Seq + 1)]).await, Ok(1));
    assert_eq!(faults(copy.path()), [""; 0]);
}

/// Bits flipped anywhere in the file of a store that was stopped: never an entry that is not the
/// one that was written, and what reading alone does not show, the check does.
#[tokio::test]
async fn a_flipped_bit_in_the_file_shows_no_other_entry() {
    let (running, folder) = with_entries(200).await;
    OwnDisk::close(&*running).await;
    let length = std::fs::metadata(folder.path().join(FILE)).unwrap().len();
    let mut random = StdRng::seed_from_u64(2);
    let (mut refused, mut short, mut whole, mut told) = (0, 0, 0, 0);
    for _ in 0..200 {
        let copy = killed(folder.path());
        let (at, bit) = (random.random_range(0..length), random.random_range(0..8));
        flip(&copy.path().join(FILE), at, bit);
        let checked = check_folder(copy.path(), &mut |found| {
            told += u64::from(matches!(found, Told::Fault(_)));
        });
        let found = told > 0 || checked.is_err();
        told = 0;
        let read = match EmbeddedStore::open(copy.path()) {
            Ok(store) => all_of(&store).await,
            Err(error) => Err(StoreError::Damaged(error.to_string())),
        };
        match read {
            Ok(entries) => {
                let right = entries.iter().zip(1..).all(|(found, seq)| *found == entry(seq));
                assert!(right, "byte {at}, bit {bit}: another entry is shown");
                assert!(found || entries.len() == 200, "byte {at}, bit {bit}: not told");
                if entries.len() == 200 { whole += 1 } else { short += 1 }
            }
            Err(_) => {
                assert!(found, "byte {at}, bit {bit}: the check does not tell");
                refused += 1;
            }
        }
    }
    println!("{refused} refused, {whole} whole, {short} short");
    assert!(refused > 50 && short < 20, "{refused} refused, {whole} whole, {short} short");
}

/// Every rule of the data, broken once.
#[tokio::test]
async fn a_check_tells_of_every_broken_rule() {
    let (store, folder) = with_entries(5).await;
    let room = ConversationId::parse("room:r").unwrap();
    let b = UserId::parse("b").unwrap();
    for seq in 1..=2 {
        store.append(&room, &[Entry { to: None, ..entry(seq) }]).await.unwrap();
    }
    assert_eq!(faults(folder.path()), [""; 0]);
    let connection = Connection::open(folder.path().join(FILE)).unwrap();
    let item = |pk: &str, sk: &str, json: &str| {
        let crc = tables::crc(pk, sk.as_bytes(), json.as_bytes());
        let sql = "INSERT OR REPLACE INTO items VALUES (?1, ?2, CAST(?3 AS BLOB), ?4)";
        connection.execute(sql, rusqlite::params![pk, sk, json, crc]).unwrap();
    };
    let put = |entry: &Entry, seq: Seq| {
        let (_, body) = log::encode_entry(entry).unwrap();
        let crc = tables::crc("dm:a:b", &log::seq_key(seq), &body);
        let sql = "INSERT OR REPLACE INTO entries VALUES ('dm:a:b', ?1, ?2, ?3)";
        connection.execute(sql, rusqlite::params![seq.cast_signed(), body, crc]).unwrap();
    };
    let undo = killed(folder.path());
    let broken = |what: &str, expected: &[&str]| {
        let found = faults(folder.path());
        assert_eq!(found, expected, "{what}");
        // Back to what it was, by SQLite itself.
        let from = undo.path().join(FILE).display().to_string();
        connection
            .execute_batch(&format!(
                "ATTACH '{from}' AS old; DELETE FROM entries; DELETE FROM items;
                 INSERT INTO entries SELECT * FROM old.entries;
                 INSERT INTO items SELECT * FROM old.items; DETACH old;"
            ))
            .unwrap();
        assert_eq!(faults(folder.path()), [""; 0], "after {what}");
    };
    connection.execute_batch("DELETE FROM entries WHERE seq = 3").unwrap();
    let read = all_of(&store).await;
    assert!(matches!(read, Err(StoreError::Damaged(_))), "nobody is shown a log with a hole");
    broken("a hole", &["entry dm:a:b 4: there is nothing between 2 and this"]);
    connection.execute_batch("DELETE FROM entries WHERE seq = 1").unwrap();
    let missing = "the entries before it are missing";
    let at_2 = |name| format!("entry {name} 2: {missing}");
    broken("no beginning", &[&at_2("dm:a:b"), &at_2("room:r")]);
    put(&Entry { n: 9, ..entry(3) }, 3);
    let count = |seq, n| format!("entry dm:a:b {seq}: counts {n} messages up to here");
    broken("a wrong count", &[&count(3, 9), &count(4, 4)]);
    put(&entry(4), 3);
    let says = "entry dm:a:b 3: says that it is 4";
    broken("another entry", &[says, &count(3, 4), &count(4, 4)]);
    let row = |json: &str| item("U#b", "C#dm:a:b", json);
    row(r#"{"last":4}"#);
    broken("too low a row", &["item U#b C#dm:a:b: leads to 4, and 5 stands"]);
    connection.execute_batch("DELETE FROM items").unwrap();
    broken("no row", &["item U#b C#dm:a:b: is missing, and 5 is for it"]);
    row(r#"{"last":7,"delivered":6}"#);
    broken("a lost tail", &["item U#b C#dm:a:b: 6 is received, and the log ends at 5"]);
    row(r#"{"last":7,"read":5,"read_n":6}"#);
    broken("too much seen", &["item U#b C#dm:a:b: 6 messages are seen, and the log counts 5"]);
    row(r#"{"last":7,"cursors":[["phone",8]]}"#);
    broken("a cursor", &["item U#b C#dm:a:b: 8 is at a device's cursor, and the log ends at 5"]);
    item("C#room:r", "U#b", r#"{"role":"member","spans":[],"as_of":3}"#);
    broken("a member", &["item C#room:r U#b: tells of 3, and the log ends at 2"]);
    item("U#b", "D#phone", r#"{"first_seen":5,"last_seen":4}"#);
    broken("a device", &["item U#b D#phone: was last seen before it was first seen"]);
    item("X#b", "D#phone", "{}");
    broken("a key", &["item X#b D#phone: nobody knows such a key"]);
    // Nothing of all this stops a check, or what the store serves to others.
    assert_eq!(store.mailbox(&b, MailboxPart::Row(room)).await.unwrap().rows, []);
}

#[tokio::test]
async fn a_flipped_bit_is_never_shown() {
    let folder = tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    store.append(&conversation(), &[entry(1), entry(2)]).await.unwrap();
    let raise = Raise { last: Some(2), ..Raise::default() };
    store.raise(&UserId::parse("b").unwrap(), &conversation(), &raise).await.unwrap();
    assert_eq!(faults(folder.path()), [""; 0]);
    let other = ConversationId::parse("dm:b:c").unwrap();
    let raised = Raise { last: Some(1), ..Raise::default() };
    store.raise(&UserId::parse("b").unwrap(), &other, &raised).await.unwrap();
    let connection = Connection::open(folder.path().join(FILE)).unwrap();
    let flip = |table: &str, from: &str, to: &str| {
        let text = format!("replace(CAST(body AS TEXT), '{from}', '{to}')");
        connection.execute_batch(&format!("UPDATE {table} SET body = CAST({text} AS BLOB)"))
    };
    flip("entries", "text 2", "text 3").unwrap();
    flip("items", "\"last\":2", "\"last\":1").unwrap();
    let log = store.log(&conversation(), LogRange::newest(10)).await;
    assert!(matches!(log, Err(StoreError::Damaged(_))), "{log:?}");
    let user = UserId::parse("b").unwrap();
    let row = store.mailbox(&user, MailboxPart::Row(conversation())).await;
    assert!(matches!(row, Err(StoreError::Damaged(_))), "{row:?}");
    let page = MailboxPart::Page { after: None, consistent: true };
    let page = store.mailbox(&user, page).await.unwrap();
    assert_eq!((page.rows.len(), page.damaged.len()), (1, 1), "it hides no other: {page:?}");
    let sum = "its check sum does not hold";
    let expected = [format!("entry dm:a:b 2: {sum}"), format!("item U#b C#dm:a:b: {sum}")];
    assert_eq!(faults(folder.path()), expected);
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
    let expected = ["item U#b C#dm:a:b: its check sum does not hold"];
    assert_eq!(faults(folder.path()), expected, "it is not overwritten");
    connection.execute_batch("UPDATE items SET crc = 'x' WHERE pk = 'U#b'").unwrap();
    let damaged = store.raise(&b, &conversation(), &to(3)).await;
    assert!(matches!(damaged, Err(StoreError::Damaged(_))), "{damaged:?}");
    assert_eq!(store.append(&conversation(), &[entry(3)]).await, Ok(1));
}
