//! Damage: what is flipped, cut or gone is told and never shown, and takes nothing else with it.

use super::*;

#[tokio::test]
async fn a_flipped_bit_is_never_shown() {
    let folder = tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    store.append(&conversation(), &[entry(1), entry(2)]).await.unwrap();
    let raise = Raise { last: Some(2), ..Raise::default() };
    store.raise(&UserId::parse("b").unwrap(), &conversation(), &raise).await.unwrap();
    assert_eq!(faults(folder.path()), [""; 0]);
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
