//! The rules of records, mailboxes and the board, on DynamoDB Local.

use super::{dm, endpoint, entry, fresh, user};
use crate::board::dynamodb::DynamoBoard;
use crate::board::{Beat, Board, BoardRow, HINT_TTL_SECONDS, Role, SlowHint};
use crate::protocol::{ConversationId, DeviceId, Epoch, ProcessId};
use crate::store::dynamodb::items::as_number;
use crate::store::{Device, LogRange, MailboxPart, Member, Raise, Record, RecordPart, Span, Store};

fn device(name: &str, first_seen: u64, last_seen: u64) -> Device {
    Device { device: DeviceId::parse(name).unwrap(), first_seen, last_seen }
}

#[tokio::test]
async fn of_many_that_append_one_is_first() {
    let Some(url) = endpoint() else { return };
    let (store, _) = fresh(&url).await;
    let (log, texts): (_, Vec<String>) = (dm(), (0..16).map(|i| format!("m{i}")).collect());
    let entries: Vec<_> = texts.iter().map(|text| [entry(1, text)]).collect();
    let puts = entries.iter().map(|entries| store.append(&log, entries));
    let put = futures_util::future::join_all(puts).await;
    assert_eq!(put.iter().filter(|put| **put == Ok(1)).count(), 1);
    assert_eq!(put.iter().filter(|put| **put == Ok(0)).count(), 15);
    let winner = put.iter().position(|put| *put == Ok(1)).unwrap();
    let page = store.log(&log, LogRange::newest(9)).await.unwrap();
    assert_eq!(page.entries, entries[winner]);
}

#[tokio::test]
async fn rows_only_rise_whoever_raises() {
    let Some(url) = endpoint() else { return };
    let (store, _) = fresh(&url).await;
    let (log, person) = (dm(), user("userB"));
    let phone = DeviceId::parse("phone").unwrap();
    let raise = |seq: u64| Raise {
        last: Some(seq),
        delivered: Some(21 - seq),
        read: Some((seq, 100 + seq)),
        cursors: vec![(phone.clone(), seq)],
    };
    let raises: Vec<Raise> = (1..=20).map(raise).collect();
    let all = raises.iter().map(|raise| store.raise(&person, &log, raise));
    for done in futures_util::future::join_all(all).await {
        assert_eq!(done, Ok(()));
    }
    let page = store.mailbox(&person, MailboxPart::Row(log)).await.unwrap();
    let row = &page.rows[0];
    assert_eq!((row.last, row.delivered, row.read, row.read_n), (20, 20, 20, 120));
    assert_eq!(row.cursors, [(phone, 20)]);
}

#[tokio::test]
async fn a_mailbox_is_paged() {
    let Some(url) = endpoint() else { return };
    let (store, _) = fresh(&url).await;
    let person = user("userB");
    let room = |i: usize| ConversationId::parse(&format!("room:{i:04}")).unwrap();
    for i in 0..503 {
        let raise = Raise { last: Some(i as u64 + 1), ..Raise::default() };
        store.raise(&person, &room(i), &raise).await.unwrap();
    }
    store.write(Record::Device(person.clone(), device("phone", 1, 1))).await.unwrap();
    let (mut rows, mut devices, mut after, mut pages) = (vec![], vec![], None, 0);
    loop {
        let part = MailboxPart::Page { after, consistent: true };
        let page = store.mailbox(&person, part).await.unwrap();
        rows.extend(page.rows.into_iter().map(|row| row.conversation));
        devices.extend(page.devices);
        pages += 1;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((pages, rows), (2, (0..503).map(room).collect::<Vec<_>>()));
    assert_eq!(devices, [device("phone", 1, 1)]);
}

#[tokio::test]
async fn devices_are_seen_and_forgotten() {
    let Some(url) = endpoint() else { return };
    let (store, _) = fresh(&url).await;
    let person = user("userA");
    let seen = |first, last| Record::Device(person.clone(), device("phone", first, last));
    assert_eq!(store.write(seen(5, 5)).await, Ok(true));
    assert_eq!(store.write(seen(9, 9)).await, Ok(true));
    assert_eq!(store.write(seen(7, 7)).await, Ok(false));
    let devices = store.mailbox(&person, MailboxPart::Devices).await.unwrap().devices;
    assert_eq!(devices, [device("phone", 5, 9)]);

    let phone = DeviceId::parse("phone").unwrap();
    for chunk in [10, 2, 0] {
        let (user, device, starts) = (person.clone(), phone.clone(), vec![(dm(), 3)]);
        store.write(Record::Starts { user, device, chunk, starts }).await.unwrap();
    }
    let part = RecordPart::Starts(person.clone(), phone.clone());
    let chunks: Vec<u32> = store
        .records(part.clone())
        .await
        .unwrap()
        .into_iter()
        .map(|record| match record {
            Record::Starts { chunk, .. } => chunk,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(chunks, [0, 2, 10]);
    assert_eq!(store.write(Record::ForgetDevice(person.clone(), phone)).await, Ok(true));
    assert_eq!(store.records(part).await.unwrap(), []);
    assert!(store.mailbox(&person, MailboxPart::Devices).await.unwrap().devices.is_empty());
}

#[tokio::test]
async fn a_member_gives_way_to_what_came_later() {
    let Some(url) = endpoint() else { return };
    let (store, _) = fresh(&url).await;
    let room = ConversationId::parse("room:general").unwrap();
    let member = |as_of, until| {
        let spans = vec![Span { after: 0, until }];
        let (user, role) = (user("userA"), "member".to_owned());
        Record::Member(room.clone(), Member { user, role, spans, as_of })
    };
    assert_eq!(store.write(member(1, None)).await, Ok(true));
    assert_eq!(store.write(member(10, Some(10))).await, Ok(true));
    assert_eq!(store.write(member(9, None)).await, Ok(false));
    assert_eq!(store.write(member(10, None)).await, Ok(false));
    let records = store.records(RecordPart::Roster(room.clone())).await.unwrap();
    assert_eq!(records, [member(10, Some(10))]);
}

#[tokio::test]
async fn the_board_tells_lives_apart() {
    let Some(url) = endpoint() else { return };
    let (store, metrics) = fresh(&url).await;
    let board = DynamoBoard::new(store.link());
    let row = |id: &str, epoch, beat| BoardRow {
        id: ProcessId::parse(id).unwrap(),
        epoch: Epoch(epoch),
        beat,
        role: Role::Server,
        address: "127.0.0.1:3001".to_owned(),
        public_url: Some("wss://chat.example/ws".to_owned()),
        sockets: 7,
        accepting: true,
        hints: 1,
        deaf: true,
    };
    assert_eq!(board.beat(&row("ws1", 1, 1), None).await, Ok(Beat::Written));
    assert_eq!(board.beat(&row("ws1", 1, 2), None).await, Ok(Beat::Written));
    assert_eq!(board.beat(&row("ws1", 2, 1), None).await, Ok(Beat::Taken));
    assert_eq!(board.beat(&row("ws2", 3, 1), None).await, Ok(Beat::Written));
    let before = (metrics.read_units.get(), metrics.write_units.get());
    assert_eq!(board.read().await.unwrap(), [row("ws1", 1, 2), row("ws2", 3, 1)]);
    assert_eq!(board.beat(&row("ws1", 1, 3), None).await, Ok(Beat::Written));
    let spent = (metrics.read_units.get() - before.0, metrics.write_units.get() - before.1);
    assert_eq!(spent, (1.0, 1.0), "what an idle process pays");
    let id = ProcessId::parse("ws1").unwrap();
    board.remove(&id, Epoch(2)).await.unwrap();
    assert_eq!(board.read().await.unwrap().len(), 2);
    board.remove(&id, Epoch(1)).await.unwrap();
    board.remove(&id, Epoch(1)).await.unwrap();
    assert_eq!(board.read().await.unwrap(), [row("ws2", 3, 1)]);
}

#[tokio::test]
async fn hints_are_read_from_where_one_stood() {
    let Some(url) = endpoint() else { return };
    let (store, _) = fresh(&url).await;
    let board = DynamoBoard::new(store.link());
    let id = ProcessId::parse("ws1").unwrap();
    let hint = |seq| SlowHint { user: Some(user("userB")), conversation: dm(), seq };
    let room = ConversationId::parse("room:general").unwrap();
    let all = SlowHint { user: None, conversation: room, seq: 4 };
    assert_eq!(board.hints(&id, 0).await, Ok((0, vec![])));
    board.put_hints(&id, 9, &[hint(1), all.clone()]).await.unwrap();
    board.put_hints(&id, 10, &[hint(2)]).await.unwrap();
    assert_eq!(board.hints(&id, 0).await, Ok((10, vec![hint(1), all, hint(2)])));
    assert_eq!(board.hints(&id, 9).await, Ok((10, vec![hint(2)])));
    assert_eq!(board.hints(&id, 10).await, Ok((10, vec![])));

    let link = store.link();
    let items = link.client.scan().table_name(&link.place.table).send().await.unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    for item in items.items.unwrap() {
        let left = as_number(&item["ttl"]).unwrap() - now.as_secs();
        assert!((HINT_TTL_SECONDS - 5..=HINT_TTL_SECONDS).contains(&left), "{left}");
    }
}
