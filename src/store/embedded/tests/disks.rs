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
