//! What every store must do, sentence by sentence of the port. Adapters' tests call [`all`].
//!
//! Every test has people and conversations of its own, so one store serves them all.
#![cfg(test)]

mod logs;
mod rows;
mod records;

use std::sync::Arc;

use super::Store;
use crate::protocol::{ConversationId, DeviceId, Entry, Kind, RoomId, Seq, UserId};

/// The whole suite.
pub async fn all(store: &dyn Store) {
    logs::all(store).await;
    rows::all(store).await;
    records::all(store).await;
}

/// Somebody whom no other test knows, with this at the end of the name.
fn somebody(suffix: &str) -> UserId {
    UserId::parse(&format!("u{:032x}{suffix}", rand::random::<u128>())).unwrap()
}

/// A direct conversation that no other test knows.
fn dm() -> ConversationId {
    ConversationId::direct(&somebody(""), &somebody(""))
}

/// A room that no other test knows.
fn room() -> ConversationId {
    ConversationId::room(&RoomId::parse(&format!("r{:032x}", rand::random::<u128>())).unwrap())
}

fn device(name: &str) -> DeviceId {
    DeviceId::parse(name).unwrap()
}

/// A message of this seq.
fn entry(seq: Seq, text: &str) -> Entry {
    Entry {
        seq,
        kind: Kind::Message,
        from: UserId::parse("userA").unwrap(),
        to: UserId::parse("userB").ok(),
        message: Some(Arc::from(text)),
        data: None,
        reference: None,
        device: DeviceId::plain(),
        timestamp: 1_790_000_000_000 + seq,
        n: seq,
    }
}

/// Messages of these seqs.
fn entries(seqs: std::ops::RangeInclusive<Seq>) -> Vec<Entry> {
    seqs.map(|seq| entry(seq, &format!("text {seq}"))).collect()
}

/// Appends all, however few the adapter takes at a time.
async fn append_all(store: &dyn Store, log: &ConversationId, entries: &[Entry]) {
    let mut left = entries;
    while !left.is_empty() {
        let count = store.append(log, left).await.unwrap();
        assert!((1..=left.len()).contains(&count), "{count} of {}", left.len());
        left = &left[count..];
    }
}

/// People whose names are made of every allowed odd character, and prefixes of each other: a key
/// that is cut or joined in the wrong place mixes two of them up.
fn similar_people() -> Vec<UserId> {
    let base = somebody("");
    let more =
        ["", ".", "..", "|", "+", "=", "~", "-", "@", "_", "|x", "~~", "@b.example", "A", "a"];
    let mut people: Vec<_> =
        more.iter().map(|more| UserId::parse(&format!("{base}{more}")).unwrap()).collect();
    // The longest that there are, of the characters that sort first and last.
    people
        .push(UserId::parse(&format!("{base}{}", "~".repeat(128 - base.as_str().len()))).unwrap());
    people
        .push(UserId::parse(&format!("{base}{}", "+".repeat(128 - base.as_str().len()))).unwrap());
    people
}
