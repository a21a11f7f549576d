//! Appending and reading logs.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::{append_all, dm, entries, entry, room, similar_people};
use crate::protocol::{ConversationId, DATA_BYTES_MAX, Entry, Kind, MESSAGE_BYTES_MAX, Ref, Seq};
use crate::store::{LogPage, LogRange, Order, PAGE_MAX, Store};

pub(super) async fn all(store: &dyn Store) {
    an_append_takes_the_first_ones_and_says_how_many(store).await;
    an_occupied_seq_is_never_written_again(store).await;
    what_lies_behind_an_occupied_seq_is_not_put(store).await;
    of_many_that_append_one_is_first(store).await;
    entries_come_back_byte_for_byte(store).await;
    a_log_without_entries_is_an_empty_page(store).await;
    a_range_is_cut_as_it_says(store).await;
    a_page_ends_at_a_megabyte_and_none_is_left_out(store).await;
    conversations_are_kept_apart(store).await;
    a_read_sees_every_append_that_returned(store).await;
}

async fn whole(store: &dyn Store, log: &ConversationId) -> Vec<Entry> {
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let after = all.last().map_or(0, |entry| entry.seq);
        let page = store.log(log, LogRange::following(after, PAGE_MAX)).await.unwrap();
        let more = page.more && !page.entries.is_empty();
        all.extend(page.entries);
        if !more {
            return all;
        }
    }
}

async fn an_append_takes_the_first_ones_and_says_how_many(store: &dyn Store) {
    let log = dm();
    let wanted = entries(1..=5);
    let count = store.append(&log, &wanted).await.unwrap();
    assert!((1..=5).contains(&count), "{count}");
    assert_eq!(whole(store, &log).await, wanted[..count], "no more than it said, and no less");
    append_all(store, &log, &wanted[count..]).await;
    assert_eq!(whole(store, &log).await, wanted);
}

async fn an_occupied_seq_is_never_written_again(store: &dyn Store) {
    let log = dm();
    append_all(store, &log, &entries(1..=3)).await;
    for seq in 1..=3 {
        assert_eq!(store.append(&log, &[entry(seq, "late")]).await, Ok(0));
        assert_eq!(store.append(&log, &[entry(seq, "late"), entry(seq + 1, "late")]).await, Ok(0));
    }
    // The very same entry is no exception: who reads knows whose it is.
    assert_eq!(store.append(&log, &entries(3..=3)).await, Ok(0));
    assert_eq!(whole(store, &log).await, entries(1..=3));
}

async fn what_lies_behind_an_occupied_seq_is_not_put(store: &dyn Store) {
    let log = dm();
    append_all(store, &log, &entries(3..=3)).await;
    let mine: Vec<_> = (1..=5).map(|seq| entry(seq, "mine")).collect();
    let mut put = 0;
    loop {
        match store.append(&log, &mine[put..]).await.unwrap() {
            0 => break,
            count => put += count,
        }
    }
    assert_eq!(put, 2, "up to the one that stands");
    let expected = [mine[0].clone(), mine[1].clone(), entry(3, "text 3")];
    assert_eq!(whole(store, &log).await, expected);
}

async fn of_many_that_append_one_is_first(store: &dyn Store) {
    let log = dm();
    for seq in 1..=5 {
        let tries: Vec<_> = (0..16).map(|i| [entry(seq, &format!("by {i}"))]).collect();
        let puts = tries.iter().map(|entries| store.append(&log, entries));
        let put = futures_util::future::join_all(puts).await;
        assert_eq!(put.iter().filter(|put| **put == Ok(1)).count(), 1, "{put:?}");
        assert_eq!(put.iter().filter(|put| **put == Ok(0)).count(), 15, "{put:?}");
        let winner = put.iter().position(|put| *put == Ok(1)).unwrap();
        let page = store.log(&log, LogRange::newest(1)).await.unwrap();
        assert_eq!(page.entries, tries[winner], "who was told so is the one that stands");
    }
}

async fn entries_come_back_byte_for_byte(store: &dyn Store) {
    let texts = [
        "a".to_owned(),
        "\u{0}\u{1}\u{7f}\u{80}\r\n\t\"\\/ \u{2028}\u{feff}".to_owned(),
        "e\u{301} \u{e9} \u{202e}rtl\u{202c} 👩‍👩‍👧‍👦 \u{10ffff} \u{fffd}".to_owned(),
        "x".repeat(MESSAGE_BYTES_MAX),
        "😀".repeat(MESSAGE_BYTES_MAX / 4),
        "\u{1}".repeat(MESSAGE_BYTES_MAX),
    ];
    let long = format!("\"{}\"", "é".repeat(DATA_BYTES_MAX / 2 - 1));
    let datas = [
        r#"{ "b" : 1.0,"a":1e0 , "a":[ ] }"#,
        r#""\u00e9é\/\ud83d\ude00""#,
        "123456789012345678901234567890.10",
        "[null]",
        "\"\"",
        &long,
    ];
    let log = dm();
    let mut wanted = Vec::new();
    for (seq, (text, data)) in (1..).zip(texts.iter().zip(datas)) {
        let data = RawValue::from_string(data.to_owned()).unwrap();
        wanted.push(Entry { data: Some(Arc::from(data)), ..entry(seq, text) });
    }
    let odd = Entry {
        kind: Kind::Other("of a later version".into()),
        to: None,
        message: None,
        reference: Ref::parse("aZ09_.:+=/~-").ok(),
        device: super::device("phone_1-Z"),
        timestamp: u64::MAX,
        n: u64::MAX,
        ..entry(7, "")
    };
    let empty = Entry { kind: Kind::Left, message: Some("".into()), ..entry(8, "") };
    wanted.extend([odd, Entry { kind: Kind::Joined, seq: 9, ..empty.clone() }]);
    wanted.insert(7, empty);
    append_all(store, &log, &wanted).await;
    for (found, wanted) in whole(store, &log).await.iter().zip(&wanted) {
        // Long texts make no readable message.
        assert!(found == wanted, "seq {} differs", wanted.seq);
    }
    assert_eq!(whole(store, &log).await.len(), 9);
}

async fn a_log_without_entries_is_an_empty_page(store: &dyn Store) {
    for range in [LogRange::newest(1), LogRange::following(7, PAGE_MAX)] {
        let page = store.log(&dm(), range).await.unwrap();
        assert!(page.entries.is_empty() && !page.more);
    }
}

async fn a_range_is_cut_as_it_says(store: &dyn Store) {
    let (log, last) = (room(), 12);
    append_all(store, &log, &entries(1..=last)).await;
    let mut checked = 0;
    for after in [0, 1, 5, 11, 12, 40, u64::MAX] {
        for before in [None, Some(0), Some(1), Some(6), Some(7), Some(12), Some(13), Some(u64::MAX)]
        {
            for order in [Order::Ascending, Order::Descending] {
                for limit in [1, 3, 12, PAGE_MAX] {
                    let range = LogRange { after, before, order, limit };
                    let page = store.log(&log, range).await.unwrap();
                    is_cut(&page, range, last);
                    checked += usize::from(!page.entries.is_empty());
                }
            }
        }
    }
    assert!(checked > 100, "{checked}");
}

/// What a page of a log of `last` entries must hold.
fn is_cut(page: &LogPage, range: LogRange, last: Seq) {
    let inside = |seq: &Seq| *seq > range.after && range.before.is_none_or(|before| *seq < before);
    let mut within: Vec<Seq> = (1..=last).filter(inside).collect();
    if range.order == Order::Descending {
        within.reverse();
    }
    let found: Vec<Seq> = page.entries.iter().map(|entry| entry.seq).collect();
    assert_eq!(found, within[..within.len().min(range.limit)], "{range:?}");
    if within.len() > range.limit {
        assert!(page.more, "{range:?}: there is more");
    }
    if within.is_empty() {
        assert!(!page.more, "{range:?}: there is nothing");
    }
}

async fn a_page_ends_at_a_megabyte_and_none_is_left_out(store: &dyn Store) {
    let log = dm();
    let body = "é".repeat(MESSAGE_BYTES_MAX / 2);
    let wanted: Vec<_> = (1..=150).map(|seq| entry(seq, &body)).collect();
    append_all(store, &log, &wanted).await;
    for order in [Order::Ascending, Order::Descending] {
        let (mut seqs, mut after, mut before, mut pages) = (Vec::new(), 0, None, 0);
        loop {
            let range = LogRange { after, before, order, limit: PAGE_MAX };
            let page = store.log(&log, range).await.unwrap();
            pages += 1;
            let bytes = page.entries.len() * MESSAGE_BYTES_MAX;
            assert!((1..=1_100_000).contains(&bytes), "a page of {bytes} bytes");
            seqs.extend(page.entries.iter().map(|entry| entry.seq));
            match order {
                Order::Ascending => after = *seqs.last().unwrap(),
                Order::Descending => before = seqs.last().copied(),
            }
            if !page.more {
                break;
            }
        }
        assert!((3..=5).contains(&pages), "2.4 MB in {pages} pages");
        if order == Order::Descending {
            seqs.reverse();
        }
        assert_eq!(seqs, (1..=150).collect::<Vec<_>>());
    }
}

async fn conversations_are_kept_apart(store: &dyn Store) {
    let people = similar_people();
    let mut logs: Vec<ConversationId> = Vec::new();
    for (i, a) in people.iter().enumerate() {
        logs.push(ConversationId::parse(&format!("room:{a}")).unwrap());
        logs.extend(people[i..].iter().map(|b| ConversationId::direct(a, b)));
    }
    let puts = logs.iter().map(|log| async move {
        append_all(store, log, &[entry(1, log.as_str()), entry(2, "second")]).await;
    });
    futures_util::future::join_all(puts).await;
    for log in &logs {
        assert_eq!(whole(store, log).await, [entry(1, log.as_str()), entry(2, "second")]);
    }
}

async fn a_read_sees_every_append_that_returned(store: &dyn Store) {
    let logs: Vec<_> = (0..8).map(|_| dm()).collect();
    let writers = logs.iter().map(|log| async move {
        for seq in 1..=40 {
            append_all(store, log, &entries(seq..=seq)).await;
            let page = store.log(log, LogRange::newest(1)).await.unwrap();
            assert_eq!(page.entries, entries(seq..=seq));
        }
    });
    futures_util::future::join_all(writers).await;
}
