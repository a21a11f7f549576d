//! What every board must do, sentence by sentence of the port. Adapters' tests call [`all`].
//!
//! A board has one set of rows, so the tests share it and look at processes of their own.
#![cfg(test)]

use super::{Beat, Board, BoardRow, HINTS_PER_ITEM_MAX, Role, SlowHint};
use crate::protocol::{ConversationId, Epoch, ProcessId, UserId};

/// The whole suite.
pub async fn all(board: &dyn Board) {
    a_row_comes_back_field_by_field(board).await;
    every_beat_of_a_life_is_seen(board).await;
    another_life_is_refused(board).await;
    a_take_over_names_the_row_that_it_replaces(board).await;
    of_many_that_take_over_one_succeeds(board).await;
    only_its_own_life_removes_a_row(board).await;
    rows_are_read_in_the_order_of_their_names(board).await;
    hints_come_back_field_by_field(board).await;
    hints_are_read_from_where_one_stood(board).await;
    hints_outlive_the_row_and_stay_with_their_process(board).await;
    a_read_sees_every_write_that_returned(board).await;
}

fn process() -> ProcessId {
    ProcessId::parse(&format!("p-{:016x}", rand::random::<u64>())).unwrap()
}

fn row(id: &ProcessId, epoch: u64, beat: u64) -> BoardRow {
    BoardRow {
        beat,
        sockets: 7,
        accepting: true,
        hints: 1,
        ..BoardRow::new(id.clone(), Epoch(epoch), Role::Server, "127.0.0.1:3001")
    }
}

/// The row of a process, if it has one.
async fn stands(board: &dyn Board, id: &ProcessId) -> Option<BoardRow> {
    let mut rows = board.read().await.unwrap();
    rows.retain(|row| row.id == *id);
    assert!(rows.len() < 2, "{rows:?}");
    rows.pop()
}

fn hint(seq: u64) -> SlowHint {
    let conversation = ConversationId::parse("dm:userA:userB").unwrap();
    SlowHint { user: UserId::parse("userB").ok(), conversation, seq }
}

async fn a_row_comes_back_field_by_field(board: &dyn Board) {
    let plain = row(&process(), 1, 1);
    let full = BoardRow {
        id: ProcessId::parse(&format!("-_Z{:029x}", rand::random::<u64>())).unwrap(),
        epoch: Epoch(u64::MAX),
        beat: u64::MAX,
        role: Role::Api,
        address: "[::1]:4000".to_owned(),
        public_url: Some("wss://chat.example/ws?a=é".to_owned()),
        sockets: u32::MAX,
        accepting: false,
        hints: u64::MAX,
        deaf: true,
    };
    for row in [plain, full] {
        assert_eq!(stands(board, &row.id).await, None);
        assert_eq!(board.beat(&row, None).await, Ok(Beat::Written));
        assert_eq!(stands(board, &row.id).await, Some(row));
    }
}

async fn every_beat_of_a_life_is_seen(board: &dyn Board) {
    let id = process();
    for beat in 1..=5 {
        let changed = BoardRow { sockets: beat as u32, deaf: beat % 2 == 0, ..row(&id, 1, beat) };
        assert_eq!(board.beat(&changed, None).await, Ok(Beat::Written));
        assert_eq!(stands(board, &id).await, Some(changed));
    }
    // A beat whose answer was lost is written again.
    assert_eq!(board.beat(&row(&id, 1, 5), None).await, Ok(Beat::Written));
    assert_eq!(stands(board, &id).await, Some(row(&id, 1, 5)));
    // One that comes late is the same life's, and does not set it back.
    assert_eq!(board.beat(&row(&id, 1, 4), None).await, Ok(Beat::Written));
    assert_eq!(stands(board, &id).await, Some(row(&id, 1, 5)));
}

async fn another_life_is_refused(board: &dyn Board) {
    let id = process();
    board.beat(&row(&id, 1, 3), None).await.unwrap();
    for (epoch, beat) in [(2, 1), (2, 3), (2, 4), (0, 3)] {
        assert_eq!(board.beat(&row(&id, epoch, beat), None).await, Ok(Beat::Taken));
        assert_eq!(stands(board, &id).await, Some(row(&id, 1, 3)));
    }
}

async fn a_take_over_names_the_row_that_it_replaces(board: &dyn Board) {
    let id = process();
    board.beat(&row(&id, 1, 3), None).await.unwrap();
    for named in [(1, 2), (1, 4), (2, 3), (9, 9)] {
        let replacing = Some((Epoch(named.0), named.1));
        assert_eq!(board.beat(&row(&id, 2, 1), replacing).await, Ok(Beat::Taken), "{named:?}");
        assert_eq!(stands(board, &id).await, Some(row(&id, 1, 3)));
    }
    let replacing = Some((Epoch(1), 3));
    assert_eq!(board.beat(&row(&id, 2, 1), replacing).await, Ok(Beat::Written));
    assert_eq!(stands(board, &id).await, Some(row(&id, 2, 1)));
    assert_eq!(board.beat(&row(&id, 1, 4), None).await, Ok(Beat::Taken), "the old life learns it");
    // Where the row is gone meanwhile there is nothing to replace.
    board.remove(&id, Epoch(2)).await.unwrap();
    assert_eq!(board.beat(&row(&id, 3, 1), Some((Epoch(2), 1))).await, Ok(Beat::Written));
    assert_eq!(stands(board, &id).await, Some(row(&id, 3, 1)));
}

async fn of_many_that_take_over_one_succeeds(board: &dyn Board) {
    let id = process();
    board.beat(&row(&id, 1, 3), None).await.unwrap();
    let rows: Vec<_> = (2..=9).map(|epoch| row(&id, epoch, 1)).collect();
    let replacing = Some((Epoch(1), 3));
    let beats = rows.iter().map(|row| board.beat(row, replacing));
    let beats = futures_util::future::try_join_all(beats).await.unwrap();
    assert_eq!(beats.iter().filter(|beat| **beat == Beat::Written).count(), 1, "{beats:?}");
    let winner = beats.iter().position(|beat| *beat == Beat::Written).unwrap();
    assert_eq!(stands(board, &id).await.as_ref(), Some(&rows[winner]));
}

async fn only_its_own_life_removes_a_row(board: &dyn Board) {
    let (id, other) = (process(), process());
    board.beat(&row(&id, 1, 1), None).await.unwrap();
    board.beat(&row(&other, 1, 1), None).await.unwrap();
    board.remove(&id, Epoch(2)).await.unwrap();
    assert_eq!(stands(board, &id).await, Some(row(&id, 1, 1)));
    board.remove(&id, Epoch(1)).await.unwrap();
    assert_eq!(stands(board, &id).await, None);
    board.remove(&id, Epoch(1)).await.unwrap();
    board.remove(&process(), Epoch(1)).await.unwrap();
    assert_eq!(stands(board, &other).await, Some(row(&other, 1, 1)));
    assert_eq!(board.beat(&row(&id, 2, 1), None).await, Ok(Beat::Written), "the name is free");
}

async fn rows_are_read_in_the_order_of_their_names(board: &dyn Board) {
    for _ in 0..20 {
        board.beat(&row(&process(), 1, 1), None).await.unwrap();
    }
    let rows = board.read().await.unwrap();
    assert!(rows.len() >= 20);
    assert!(rows.is_sorted_by(|a, b| a.id < b.id), "each once, in order");
}

async fn hints_come_back_field_by_field(board: &dyn Board) {
    let id = process();
    assert_eq!(board.hints(&id, 0).await, Ok((0, vec![])));
    let odd = UserId::parse("auth0|5f-7_c.x@y+z=~").unwrap();
    let room = ConversationId::parse("room:general~").unwrap();
    let all = [
        hint(1),
        SlowHint { user: None, conversation: room.clone(), seq: u64::MAX },
        SlowHint {
            user: Some(odd.clone()),
            conversation: ConversationId::direct(&odd, &odd),
            seq: 0,
        },
    ];
    board.put_hints(&id, 1, &all).await.unwrap();
    assert_eq!(board.hints(&id, 0).await, Ok((1, all.to_vec())));
    // A full item of the longest names.
    let long = UserId::parse(&"~".repeat(128)).unwrap();
    let conversation = ConversationId::direct(&long, &long);
    let full: Vec<_> = (1..=HINTS_PER_ITEM_MAX as u64)
        .map(|seq| SlowHint { user: Some(long.clone()), conversation: conversation.clone(), seq })
        .collect();
    board.put_hints(&id, 2, &full).await.unwrap();
    assert_eq!(board.hints(&id, 1).await, Ok((2, full)));
}

async fn hints_are_read_from_where_one_stood(board: &dyn Board) {
    let id = process();
    // Numbers by the clock, and a step at which one more digit would sort wrongly.
    for number in [9, 10, 100, 1_790_000_000_000] {
        board.put_hints(&id, number, &[hint(number), hint(number + 1)]).await.unwrap();
    }
    let from = |numbers: &[u64]| -> Vec<SlowHint> {
        numbers.iter().flat_map(|number| [hint(*number), hint(number + 1)]).collect()
    };
    let newest = 1_790_000_000_000;
    assert_eq!(board.hints(&id, 0).await, Ok((newest, from(&[9, 10, 100, newest]))));
    assert_eq!(board.hints(&id, 9).await, Ok((newest, from(&[10, 100, newest]))));
    assert_eq!(board.hints(&id, 99).await, Ok((newest, from(&[100, newest]))));
    assert_eq!(board.hints(&id, newest).await, Ok((newest, vec![])));
    assert_eq!(board.hints(&id, newest + 5).await, Ok((newest + 5, vec![])), "never back");
    // An item whose answer was lost is written again, in its place and once.
    board.put_hints(&id, 10, &[hint(10), hint(11)]).await.unwrap();
    assert_eq!(board.hints(&id, 0).await, Ok((newest, from(&[9, 10, 100, newest]))));
}

async fn hints_outlive_the_row_and_stay_with_their_process(board: &dyn Board) {
    let id = process();
    let longer = ProcessId::parse(&format!("{id}-")).unwrap();
    board.beat(&row(&id, 1, 1), None).await.unwrap();
    board.put_hints(&id, 1, &[hint(1)]).await.unwrap();
    board.put_hints(&longer, 2, &[hint(2)]).await.unwrap();
    board.remove(&id, Epoch(1)).await.unwrap();
    assert_eq!(board.hints(&id, 0).await, Ok((1, vec![hint(1)])), "who died has said it");
    assert_eq!(board.hints(&longer, 0).await, Ok((2, vec![hint(2)])));
    assert!(stands(board, &id).await.is_none(), "hints are no row");
}

async fn a_read_sees_every_write_that_returned(board: &dyn Board) {
    let ids: Vec<_> = (0..6).map(|_| process()).collect();
    let beating = ids.iter().map(|id| async move {
        for beat in 1..=10 {
            board.beat(&row(id, 1, beat), None).await.unwrap();
            assert_eq!(stands(board, id).await.map(|row| row.beat), Some(beat));
            board.put_hints(id, beat, &[hint(beat)]).await.unwrap();
            assert_eq!(board.hints(id, beat - 1).await, Ok((beat, vec![hint(beat)])));
        }
    });
    futures_util::future::join_all(beating).await;
}
