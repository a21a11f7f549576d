//! Devices, starts, members and heads: each by the rule of its kind.

use super::{device, dm, entry, room, similar_people, somebody};
use crate::protocol::{ConversationId, DeviceId, Seq, UserId};
use crate::store::{Device, Head, LogRange, MailboxPart, Member, Record, RecordPart, Span, Store};

pub(super) async fn all(store: &dyn Store) {
    a_device_keeps_when_it_was_first_seen(store).await;
    a_device_is_forgotten_with_its_starts(store).await;
    starts_come_back_chunk_by_chunk(store).await;
    a_member_gives_way_to_what_came_later(store).await;
    of_many_members_the_latest_stands(store).await;
    a_head_is_written_once(store).await;
    a_roster_is_the_head_and_the_members(store).await;
    people_and_rooms_are_kept_apart(store).await;
    a_read_sees_every_write_that_returned(store).await;
    what_is_revoked_only_rises_and_stands_in_the_mailbox(store).await;
}

fn seen(user: &UserId, name: &str, first_seen: u64, last_seen: u64) -> Record {
    Record::Device(user.clone(), Device { device: device(name), first_seen, last_seen })
}

async fn devices(store: &dyn Store, user: &UserId) -> Vec<Device> {
    store.mailbox(user, MailboxPart::Devices).await.unwrap().devices
}

fn starts(user: &UserId, name: &str, chunk: u32, starts: &[(ConversationId, Seq)]) -> Record {
    let (user, device, starts) = (user.clone(), device(name), starts.to_vec());
    Record::Starts { user, device, chunk, starts }
}

/// The chunks of a device, each sorted.
async fn chunks(
    store: &dyn Store,
    user: &UserId,
    name: &str,
) -> Vec<(u32, Vec<(ConversationId, Seq)>)> {
    let part = RecordPart::Starts(user.clone(), device(name));
    let chunk = |record| match record {
        Record::Starts { user: of, device, chunk, mut starts } => {
            assert_eq!((&of, device.as_str()), (user, name));
            starts.sort();
            (chunk, starts)
        }
        other => panic!("{other:?}"),
    };
    store.records(part).await.unwrap().into_iter().map(chunk).collect()
}

fn member(room: &ConversationId, user: &UserId, as_of: Seq, spans: &[Span]) -> Record {
    let (user, role, spans) = (user.clone(), "member".to_owned(), spans.to_vec());
    Record::Member(room.clone(), Member { user, role, spans, as_of })
}

fn head(title: &str) -> Head {
    let creator = UserId::parse("userA").ok();
    Head { floor: 0, title: Some(title.to_owned()), creator, public: true, created: 5 }
}

async fn one(store: &dyn Store, room: &ConversationId, user: &UserId) -> Vec<Record> {
    with_head(store, room, RecordPart::Member(room.clone(), user.clone())).await
}

async fn roster(store: &dyn Store, room: &ConversationId) -> Vec<Record> {
    with_head(store, room, RecordPart::Roster(room.clone())).await
}

async fn with_head(store: &dyn Store, room: &ConversationId, part: RecordPart) -> Vec<Record> {
    let mut records = store.records(RecordPart::Head(room.clone())).await.unwrap();
    assert!(records.iter().all(|record| matches!(record, Record::Head(..))), "{records:?}");
    let members = store.records(part).await.unwrap();
    assert!(members.iter().all(|record| matches!(record, Record::Member(..))), "{members:?}");
    records.extend(members);
    records
}

async fn a_device_keeps_when_it_was_first_seen(store: &dyn Store) {
    let user = somebody("");
    assert_eq!(devices(store, &user).await, []);
    assert_eq!(store.write(seen(&user, "phone", 5, 5)).await, Ok(true));
    assert_eq!(store.write(seen(&user, "phone", 9, 9)).await, Ok(true));
    assert_eq!(store.write(seen(&user, "phone", 1, 7)).await, Ok(false), "seen later already");
    assert_eq!(store.write(seen(&user, "phone", 1, 9)).await, Ok(false), "nothing rises");
    let expected = Device { device: device("phone"), first_seen: 5, last_seen: 9 };
    assert_eq!(devices(store, &user).await, [expected]);
    // Many at once: the latest stands, whoever came last.
    let writes = (10..40).rev().map(|at| store.write(seen(&user, "phone", at, at)));
    futures_util::future::try_join_all(writes).await.unwrap();
    let expected = Device { device: device("phone"), first_seen: 5, last_seen: 39 };
    assert_eq!(devices(store, &user).await, [expected]);
}

async fn a_device_is_forgotten_with_its_starts(store: &dyn Store) {
    let (user, log) = (somebody(""), dm());
    for name in ["phone", "phone-2", "phon"] {
        store.write(seen(&user, name, 1, 1)).await.unwrap();
        store.write(starts(&user, name, 0, &[(log.clone(), 3)])).await.unwrap();
        store.write(starts(&user, name, 1, &[(log.clone(), 4)])).await.unwrap();
    }
    let forget = || Record::ForgetDevice(user.clone(), device("phone"));
    assert_eq!(store.write(forget()).await, Ok(true));
    let left: Vec<_> =
        devices(store, &user).await.into_iter().map(|device| device.device).collect();
    assert_eq!(left, [device("phon"), device("phone-2")]);
    assert_eq!(chunks(store, &user, "phone").await, []);
    for name in ["phone-2", "phon"] {
        assert_eq!(chunks(store, &user, name).await.len(), 2, "{name} is another device");
    }
    store.write(forget()).await.unwrap();
    // It comes back as a new one.
    assert_eq!(store.write(seen(&user, "phone", 8, 8)).await, Ok(true));
    let back = Device { device: device("phone"), first_seen: 8, last_seen: 8 };
    assert!(devices(store, &user).await.contains(&back));
}

async fn starts_come_back_chunk_by_chunk(store: &dyn Store) {
    let user = somebody("");
    let chunk = |chunk: u64| -> Vec<(ConversationId, Seq)> {
        let log = |i| ConversationId::parse(&format!("room:{chunk}-{i:04}~")).unwrap();
        (0..1_000).map(|i| (log(i), chunk * 1_000 + i + 1)).collect()
    };
    for number in [10, 2, 0, 11, 1] {
        let record = starts(&user, "phone", number, &chunk(number.into()));
        assert_eq!(store.write(record).await, Ok(true));
    }
    let found = chunks(store, &user, "phone").await;
    let numbers: Vec<_> = found.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [0, 1, 2, 10, 11]);
    assert!(found.iter().all(|(number, starts)| *starts == chunk(u64::from(*number))));
    // A registration that is tried again writes its chunks again.
    let again = [(dm(), 7)];
    store.write(starts(&user, "phone", 2, &again)).await.unwrap();
    assert_eq!(chunks(store, &user, "phone").await[2], (2, again.to_vec()));
}

async fn a_member_gives_way_to_what_came_later(store: &dyn Store) {
    let (room, user) = (room(), somebody(""));
    let first = Span { after: 0, until: None };
    let spans = [Span { after: 0, until: Some(10) }, Span { after: 11, until: None }];
    assert_eq!(store.write(member(&room, &user, 1, &[first])).await, Ok(true));
    assert_eq!(store.write(member(&room, &user, 12, &spans)).await, Ok(true));
    assert_eq!(store.write(member(&room, &user, 9, &[first])).await, Ok(false));
    assert_eq!(store.write(member(&room, &user, 12, &[first])).await, Ok(false));
    assert_eq!(one(store, &room, &user).await, [member(&room, &user, 12, &spans)]);
}

async fn of_many_members_the_latest_stands(store: &dyn Store) {
    let (room, user) = (room(), somebody(""));
    let version = |as_of| member(&room, &user, as_of, &[Span { after: as_of, until: None }]);
    let order = [7, 3, 16, 1, 12, 9, 2, 15, 4, 11, 6, 14, 5, 10, 8, 13];
    let written = order.map(|as_of| store.write(version(as_of)));
    let written = futures_util::future::try_join_all(written).await.unwrap();
    let latest = order.iter().position(|as_of| *as_of == 16).unwrap();
    assert!(written[latest], "nothing stood above it");
    assert_eq!(roster(store, &room).await, [version(16)]);
}

async fn a_head_is_written_once(store: &dyn Store) {
    let rooms = [room(), room()];
    for room in &rooms {
        let writes = ["one", "two", "three", "four"]
            .map(|title| store.write(Record::Head(room.clone(), head(title))));
        let written = futures_util::future::try_join_all(writes).await.unwrap();
        assert_eq!(written.iter().filter(|written| **written).count(), 1, "{written:?}");
        let first = written.iter().position(|written| *written).unwrap();
        let stands = head(["one", "two", "three", "four"][first]);
        assert_eq!(store.write(Record::Head(room.clone(), head("late"))).await, Ok(false));
        assert_eq!(store.write(Record::Head(room.clone(), stands.clone())).await, Ok(false));
        assert_eq!(roster(store, room).await, [Record::Head(room.clone(), stands)]);
    }
    let (bare, log) = (Head { title: None, creator: None, public: false, ..head("") }, dm());
    assert_eq!(store.write(Record::Head(log.clone(), bare.clone())).await, Ok(true));
    assert_eq!(roster(store, &log).await, [Record::Head(log, bare)]);
}

async fn a_roster_is_the_head_and_the_members(store: &dyn Store) {
    let room = room();
    assert_eq!(roster(store, &room).await, [], "an unknown room");
    let mut people = similar_people();
    people.extend((0..200).map(|_| somebody("")));
    assert_eq!(one(store, &room, &people[0]).await, []);
    // Neither entries nor rows of the same conversation are part of it.
    let said = crate::protocol::Entry { to: None, ..entry(1, "Hi") };
    store.append(&room, std::slice::from_ref(&said)).await.unwrap();
    store.write(Record::Head(room.clone(), head("title"))).await.unwrap();
    let wanted = |(seq, user): (Seq, &UserId)| {
        let until = (seq % 3 == 0).then_some(seq + 5);
        member(&room, user, seq, &[Span { after: seq, until }])
    };
    for some in people.chunks(16) {
        let writes = some.iter().zip(1..).map(|(user, seq)| store.write(wanted((seq, user))));
        futures_util::future::try_join_all(writes).await.unwrap();
    }
    let mut expected: Vec<Record> =
        people.chunks(16).flat_map(|some| (1..).zip(some).map(wanted)).collect();
    let by_name = |record: &Record| match record {
        Record::Member(_, member) => Some(member.user.clone()),
        _ => None,
    };
    expected.push(Record::Head(room.clone(), head("title")));
    expected.sort_by_key(by_name);
    let mut found = roster(store, &room).await;
    found.sort_by_key(by_name);
    assert!(found == expected, "{} found", found.len());
    let single = one(store, &room, &people[1]).await;
    assert_eq!(single, [Record::Head(room.clone(), head("title")), wanted((2, &people[1]))]);
    let stranger = one(store, &room, &somebody("")).await;
    assert_eq!(stranger, [Record::Head(room.clone(), head("title"))]);
    assert_eq!(store.log(&room, LogRange::newest(9)).await.unwrap().entries, [said]);
}

async fn people_and_rooms_are_kept_apart(store: &dyn Store) {
    let people = similar_people();
    let rooms: Vec<_> =
        people.iter().map(|name| ConversationId::parse(&format!("room:{name}")).unwrap()).collect();
    let mine = |i: usize| Span { after: i as Seq, until: None };
    for (i, (user, room)) in people.iter().zip(&rooms).enumerate() {
        store.write(member(room, user, 1, &[mine(i)])).await.unwrap();
        store.write(Record::Head(room.clone(), head(room.as_str()))).await.unwrap();
        store.write(starts(user, "a", 0, &[(room.clone(), i as Seq + 1)])).await.unwrap();
    }
    for (i, (user, room)) in people.iter().zip(&rooms).enumerate() {
        let stands = Record::Head(room.clone(), head(room.as_str()));
        assert_eq!(roster(store, room).await, [stands, member(room, user, 1, &[mine(i)])]);
        assert_eq!(chunks(store, user, "a").await, [(0, vec![(room.clone(), i as Seq + 1)])]);
        assert_eq!(chunks(store, user, "a-").await, []);
        let other = &rooms[(i + 1) % rooms.len()];
        assert_eq!(one(store, other, user).await.len(), 1, "the head alone");
    }
}

async fn what_is_revoked_only_rises_and_stands_in_the_mailbox(store: &dyn Store) {
    let (user, other, log) = (somebody(""), somebody(""), dm());
    let revoked = async |user: &UserId| {
        let records = store.records(RecordPart::Revoked(user.clone())).await.unwrap();
        let part = MailboxPart::Page { after: None, consistent: true };
        let page = store.mailbox(user, part).await.unwrap();
        assert_eq!(page.damaged, Vec::<String>::new());
        let of_page = page.revoked.map(|until| Record::Revoked(user.clone(), until));
        assert_eq!(records, Vec::from_iter(of_page), "both ways tell the same");
        page.revoked
    };
    let write = |until| store.write(Record::Revoked(user.clone(), until));
    assert_eq!(revoked(&user).await, None);
    let raise = crate::store::Raise { last: Some(1), ..Default::default() };
    store.raise(&user, &log, &raise).await.unwrap();
    store.write(seen(&user, "phone", 1, 1)).await.unwrap();
    assert_eq!(write(1_790_000_000_005).await, Ok(true));
    assert_eq!(write(1_790_000_000_004).await, Ok(false), "it never goes back");
    assert_eq!(write(1_790_000_000_005).await, Ok(false));
    assert_eq!(write(1_790_000_000_009).await, Ok(true));
    assert_eq!(revoked(&user).await, Some(1_790_000_000_009));
    assert_eq!(revoked(&other).await, None);
    assert_eq!(devices(store, &user).await.len(), 1, "it is no device");
}

async fn a_read_sees_every_write_that_returned(store: &dyn Store) {
    let all: Vec<_> = (0..6).map(|_| (somebody(""), room())).collect();
    let writers = all.iter().map(|(user, room)| async move {
        for seq in 1..=20 {
            let version = member(room, user, seq, &[Span { after: seq, until: None }]);
            assert_eq!(store.write(version.clone()).await, Ok(true));
            assert_eq!(one(store, room, user).await, std::slice::from_ref(&version));
            assert_eq!(roster(store, room).await, [version]);
            store.write(seen(user, "phone", 1, seq)).await.unwrap();
            assert_eq!(devices(store, user).await[0].last_seen, seq);
            let name = DeviceId::parse(&format!("d{seq}")).unwrap();
            store.write(starts(user, name.as_str(), 0, &[(room.clone(), seq)])).await.unwrap();
            let found = chunks(store, user, name.as_str()).await;
            assert_eq!(found, [(0, vec![(room.clone(), seq)])]);
        }
    });
    futures_util::future::join_all(writers).await;
}
