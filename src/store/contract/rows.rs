//! Mailbox rows: raised, never lowered; read row by row and page by page.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{device, dm, room, similar_people, somebody};
use crate::protocol::{ConversationId, DEVICES_PER_USER_MAX, DeviceId, RoomId, Seq, UserId};
use crate::store::{CURSORS_MAX, Device, MailboxPart, PAGE_MAX, Raise, Record, Row, Store};

pub(super) async fn all(store: &dyn Store) {
    a_row_is_made_by_its_first_raise(store).await;
    every_value_rises_by_itself(store).await;
    read_and_its_n_rise_together(store).await;
    raises_of_many_come_to_the_highest_of_each(store).await;
    a_mailbox_is_read_page_by_page_in_order(store).await;
    mailboxes_are_kept_apart(store).await;
    a_row_holds_a_cursor_for_every_device(store).await;
    a_row_outlives_its_devices(store).await;
    a_read_sees_every_raise_that_returned(store).await;
}

/// The row, its cursors in the order of their devices.
async fn row(store: &dyn Store, user: &UserId, log: &ConversationId) -> Option<Row> {
    let page = store.mailbox(user, MailboxPart::Row(log.clone())).await.unwrap();
    assert!(page.devices.is_empty() && page.next.is_none() && page.rows.len() <= 1);
    let mut row = page.rows.into_iter().next()?;
    row.cursors.sort();
    Some(row)
}

/// All rows and devices, and how many pages they took.
async fn pages(
    store: &dyn Store,
    user: &UserId,
    consistent: bool,
) -> (Vec<Row>, Vec<Device>, usize) {
    let (mut rows, mut devices, mut after, mut pages) = (Vec::new(), Vec::new(), None, 0);
    loop {
        let part = MailboxPart::Page { after, consistent };
        let page = store.mailbox(user, part).await.unwrap();
        assert!(page.rows.len() + page.devices.len() <= PAGE_MAX);
        rows.extend(page.rows);
        devices.extend(page.devices);
        pages += 1;
        after = page.next;
        if after.is_none() {
            return (rows, devices, pages);
        }
    }
}

fn last(seq: Seq) -> Raise {
    Raise { last: Some(seq), ..Raise::default() }
}

async fn a_row_is_made_by_its_first_raise(store: &dyn Store) {
    let phone = device("phone");
    let firsts = [
        Raise { last: Some(7), ..Raise::default() },
        Raise { delivered: Some(7), ..Raise::default() },
        Raise { read: Some((7, 3)), ..Raise::default() },
        Raise { cursors: vec![(phone.clone(), 7)], ..Raise::default() },
    ];
    for first in firsts {
        let (user, log) = (somebody(""), dm());
        assert_eq!(row(store, &user, &log).await, None);
        store.raise(&user, &log, &first).await.unwrap();
        let expected = Row {
            conversation: log.clone(),
            last: first.last.unwrap_or(0),
            delivered: first.delivered.unwrap_or(0),
            read: first.read.map_or(0, |(seq, _)| seq),
            read_n: first.read.map_or(0, |(_, n)| n),
            cursors: first.cursors,
        };
        assert_eq!(row(store, &user, &log).await, Some(expected));
    }
}

async fn every_value_rises_by_itself(store: &dyn Store) {
    let (user, log) = (somebody(""), dm());
    let (phone, desk) = (device("phone"), device("desk"));
    let raise = |last, delivered, read, phone_at| Raise {
        last: Some(last),
        delivered: Some(delivered),
        read: Some((read, read * 2)),
        cursors: vec![(phone.clone(), phone_at), (desk.clone(), 5)],
    };
    let highest = Seq::MAX / 4;
    let steps = [
        (raise(5, 5, 5, 5), (5, 5, 5, 5)),
        // One higher, one lower, one the same.
        (raise(9, 3, 5, 6), (9, 5, 5, 6)),
        (raise(8, 7, 4, 2), (9, 7, 5, 6)),
        (raise(1, 1, 8, 1), (9, 7, 8, 6)),
        (raise(1, 1, 1, 1), (9, 7, 8, 6)),
        (raise(highest, 7, 8, 6), (highest, 7, 8, 6)),
    ];
    for (raise, (last, delivered, read, phone_at)) in steps {
        assert_eq!(store.raise(&user, &log, &raise).await, Ok(()));
        let row = row(store, &user, &log).await.unwrap();
        assert_eq!(
            (row.last, row.delivered, row.read, row.read_n),
            (last, delivered, read, read * 2)
        );
        assert_eq!(row.cursors, [(desk.clone(), 5), (phone.clone(), phone_at)]);
    }
    let before = row(store, &user, &log).await;
    assert_eq!(store.raise(&user, &log, &Raise::default()).await, Ok(()));
    // The same device twice: the higher of the two.
    let twice = vec![(phone.clone(), 30), (phone.clone(), 20)];
    store.raise(&user, &log, &Raise { cursors: twice, ..Raise::default() }).await.unwrap();
    let after = row(store, &user, &log).await.unwrap();
    assert_eq!(after.cursors, [(desk, 5), (phone, 30)]);
    assert_eq!(Row { cursors: before.clone().unwrap().cursors, ..after }, before.unwrap());
}

async fn read_and_its_n_rise_together(store: &dyn Store) {
    let (user, log) = (somebody(""), room());
    let read = |seq, n| Raise { read: Some((seq, n)), ..Raise::default() };
    for (raise, expected) in [
        (read(5, 4), (5, 4)),
        // A lower seq brings no n with it, and neither does the same one.
        (read(3, 9), (5, 4)),
        (read(5, 9), (5, 4)),
        (read(6, 5), (6, 5)),
    ] {
        store.raise(&user, &log, &raise).await.unwrap();
        let row = row(store, &user, &log).await.unwrap();
        assert_eq!((row.read, row.read_n), expected);
    }
}

/// The highest of every value that was ever asked for.
#[derive(Debug, Default, PartialEq)]
struct Highest {
    last: Seq,
    delivered: Seq,
    read: Seq,
    cursors: BTreeMap<DeviceId, Seq>,
}

impl Highest {
    fn take(&mut self, raise: &Raise) {
        self.last = self.last.max(raise.last.unwrap_or(0));
        self.delivered = self.delivered.max(raise.delivered.unwrap_or(0));
        self.read = self.read.max(raise.read.map_or(0, |(seq, _)| seq));
        for (device, seq) in &raise.cursors {
            let held = self.cursors.entry(device.clone()).or_default();
            *held = (*held).max(*seq);
        }
    }
}

fn any_raise(random: &mut StdRng) -> Raise {
    let mut seq = |odds| random.random_bool(odds).then(|| random.random_range(1..1_000));
    let (last, delivered, read) = (seq(0.6), seq(0.5), seq(0.4));
    let devices = ["a", "b", "c", "d"].map(device);
    let cursors = devices.into_iter().filter_map(|device| Some((device, seq(0.4)?))).collect();
    Raise { last, delivered, read: read.map(|seq| (seq, 3 * seq)), cursors }
}

/// Random raises by callers that run at once, against the highest of each value: nobody is lost,
/// nothing is lowered, and what a reader sees meanwhile only rises.
async fn raises_of_many_come_to_the_highest_of_each(store: &dyn Store) {
    for _ in 0..6 {
        let seed: u64 = rand::random();
        let mut random = StdRng::seed_from_u64(seed);
        let (user, log) = (&somebody(""), &dm());
        let mut model = Highest::default();
        let callers: Vec<Vec<Raise>> =
            (0..8).map(|_| (0..12).map(|_| any_raise(&mut random)).collect()).collect();
        callers.iter().flatten().for_each(|raise| model.take(raise));
        let raising = callers.iter().map(|raises| async move {
            let mut mine = Highest::default();
            for raise in raises {
                store.raise(user, log, raise).await.unwrap();
                mine.take(raise);
                let Some(seen) = row(store, user, log).await else {
                    assert_eq!(mine, Highest::default(), "seed {seed}");
                    continue;
                };
                assert!(seen.last >= mine.last && seen.delivered >= mine.delivered, "seed {seed}");
                assert!(seen.read >= mine.read && seen.read_n == 3 * seen.read, "seed {seed}");
                let cursors: BTreeMap<_, _> = seen.cursors.into_iter().collect();
                assert!(mine.cursors.iter().all(|(d, seq)| cursors[d] >= *seq), "seed {seed}");
            }
        });
        futures_util::future::join_all(raising).await;
        let found = row(store, user, log).await.unwrap();
        let cursors = found.cursors.into_iter().collect();
        let Row { last, delivered, read, .. } = found;
        assert_eq!(Highest { last, delivered, read, cursors }, model, "seed {seed}");
    }
}

async fn a_mailbox_is_read_page_by_page_in_order(store: &dyn Store) {
    let user = somebody("");
    assert_eq!(pages(store, &user, true).await, (vec![], vec![], 1), "nobody's mailbox is empty");
    let count = PAGE_MAX + 40;
    let mut logs: Vec<_> = (0..count - 2)
        .map(|i| ConversationId::room(&RoomId::parse(&format!("page-{i}~")).unwrap()))
        .collect();
    logs.extend([
        ConversationId::direct(&user, &user),
        ConversationId::direct(&user, &somebody("")),
    ]);
    let raises: Vec<_> = logs.iter().zip(1..).map(|(log, seq)| (log, last(seq))).collect();
    for some in raises.chunks(16) {
        let some = some.iter().map(|(log, raise)| store.raise(&user, log, raise));
        futures_util::future::try_join_all(some).await.unwrap();
    }
    for name in ["phone", "api", "Z-1"] {
        let seen = Device { device: device(name), first_seen: 1, last_seen: 2 };
        store.write(Record::Device(user.clone(), seen)).await.unwrap();
    }
    let mut expected: Vec<_> = logs.iter().zip(1..).map(|(log, seq)| (log.clone(), seq)).collect();
    expected.sort();
    for consistent in [true, false] {
        let (rows, devices, pages) = pages(store, &user, consistent).await;
        let rows: Vec<_> = rows.into_iter().map(|row| (row.conversation, row.last)).collect();
        assert!(rows == expected, "every row once, in the order of the names");
        let names: Vec<_> = devices.iter().map(|device| device.device.as_str()).collect();
        assert_eq!(names, ["Z-1", "api", "phone"], "devices behind them, in order too");
        assert!(pages >= 2, "more than {PAGE_MAX} rows are no single page");
    }
    let alone = store.mailbox(&user, MailboxPart::Devices).await.unwrap();
    assert!(alone.rows.is_empty() && alone.next.is_none());
    assert_eq!(alone.devices, pages(store, &user, true).await.1);
}

async fn mailboxes_are_kept_apart(store: &dyn Store) {
    let people = similar_people();
    for (seq, user) in (1..).zip(&people) {
        // Each has a row with everybody, and one of the same name as everybody else's.
        let raises = people.iter().map(|other| {
            let log = ConversationId::direct(user, other);
            async move { store.raise(user, &log, &last(seq)).await }
        });
        futures_util::future::try_join_all(raises).await.unwrap();
        let seen = Device { device: device("phone"), first_seen: seq, last_seen: seq };
        store.write(Record::Device(user.clone(), seen)).await.unwrap();
    }
    for (seq, user) in (1..).zip(&people) {
        let (rows, devices, _) = pages(store, user, true).await;
        let mut expected: Vec<_> =
            people.iter().map(|other| ConversationId::direct(user, other)).collect();
        expected.sort();
        let found: Vec<_> = rows.iter().map(|row| row.conversation.clone()).collect();
        assert_eq!(found, expected);
        assert!(rows.iter().all(|row| row.last == seq), "another's raise is in {user}'s mailbox");
        assert_eq!(devices, [Device { device: device("phone"), first_seen: seq, last_seen: seq }]);
    }
}

async fn a_row_holds_a_cursor_for_every_device(store: &dyn Store) {
    let (user, log) = (somebody(""), room());
    let mut names: Vec<String> =
        ["a", "A", "a-", "a_", "-", "_", "0", "last", "read", "readN", "v", "pk"]
            .map(str::to_owned)
            .into();
    names.push("d".repeat(32));
    names.extend((names.len()..DEVICES_PER_USER_MAX).map(|i| format!("device-{i}")));
    let mut cursors: Vec<_> = names.iter().map(|name| device(name)).zip(1..).collect();
    for some in cursors.chunks(5) {
        let raise = Raise { cursors: some.to_vec(), ..last(9) };
        store.raise(&user, &log, &raise).await.unwrap();
    }
    cursors.sort();
    let row = row(store, &user, &log).await.unwrap();
    assert_eq!((row.last, row.delivered, row.read, row.read_n), (9, 0, 0, 0));
    assert_eq!(row.cursors, cursors);
}

/// Random device names: the row keeps the registered, the newest and the highest.
async fn a_row_outlives_its_devices(store: &dyn Store) {
    let (user, log, phone) = (somebody(""), room(), device("phone"));
    let registered = Device { device: phone.clone(), first_seen: 1, last_seen: 1 };
    store.write(Record::Device(user.clone(), registered)).await.unwrap();
    let cursor = |device: &DeviceId, seq| Raise { cursors: vec![(device.clone(), seq)], ..last(9) };
    store.raise(&user, &log, &cursor(&phone, 1)).await.unwrap();
    for number in 0..CURSORS_MAX as Seq + 8 {
        let other = device(&format!("r{number}"));
        store.raise(&user, &log, &cursor(&other, 2 + number)).await.unwrap();
        let row = row(store, &user, &log).await.unwrap();
        assert!(row.cursors.len() <= CURSORS_MAX, "{}", row.cursors.len());
        assert!(row.cursors.contains(&(phone.clone(), 1)), "the lowest, but registered");
        assert!(row.cursors.contains(&(other, 2 + number)));
    }
    let newcomer = device("newcomer");
    store.raise(&user, &log, &cursor(&newcomer, 1)).await.unwrap();
    let row = row(store, &user, &log).await.unwrap();
    assert_eq!((row.last, row.cursors.len()), (9, CURSORS_MAX));
    assert!(row.cursors.contains(&(newcomer, 1)), "what was raised just now stays");
    assert!(row.cursors.contains(&(phone, 1)));
}

async fn a_read_sees_every_raise_that_returned(store: &dyn Store) {
    let people: Vec<_> = (0..8).map(|_| (somebody(""), dm())).collect();
    let writers = people.iter().map(|(user, log)| async move {
        for seq in 1..=30 {
            store.raise(user, log, &last(seq)).await.unwrap();
            assert_eq!(row(store, user, log).await.map(|row| row.last), Some(seq));
            let (rows, ..) = pages(store, user, true).await;
            assert_eq!(rows.iter().map(|row| row.last).collect::<Vec<_>>(), [seq]);
        }
    });
    futures_util::future::join_all(writers).await;
}
