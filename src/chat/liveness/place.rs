//! Taking a name on the board: once it is free, or once it is seen that nobody lives under it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{StartError, TAKE_OVER_AFTER};
use crate::board::{Beat, Board, BoardRow};
use crate::chat::wall_clock;
use crate::protocol::ProcessId;

/// Writes the first row, once the name is free. Says also whether an earlier life stood there, that
/// has not ended cleanly.
pub(super) async fn take_place(
    board: &dyn Board,
    mut row: BoardRow,
    lock_held: bool,
) -> Result<(BoardRow, bool), StartError> {
    row.beat = 1;
    if row.hints == 0 {
        // Items of an earlier life may still stand: numbers by the clock are above all of theirs.
        row.hints = wall_clock()();
    }
    let stands = |rows: Vec<BoardRow>, id: &ProcessId| rows.into_iter().find(|r| r.id == *id);
    let Some(old) = stands(board.read().await?, &row.id) else {
        return match board.beat(&row, None).await? {
            Beat::Written => Ok((row, false)),
            Beat::Taken => Err(StartError::InUse(row.id)),
        };
    };
    // The clock may have gone back, and who has read up to the old number reads only what is above.
    row.hints = row.hints.max(old.hints);
    let deadline = Instant::now() + TAKE_OVER_AFTER;
    while !lock_held && Instant::now() < deadline {
        sleep(Duration::from_millis(500)).await;
        match stands(board.read().await?, &row.id) {
            None => break,
            Some(now) if (now.epoch, now.beat) != (old.epoch, old.beat) => {
                return Err(StartError::InUse(row.id));
            }
            Some(_) => {}
        }
    }
    match board.beat(&row, Some((old.epoch, old.beat))).await? {
        Beat::Written => Ok((row, true)),
        Beat::Taken => Err(StartError::InUse(row.id)),
    }
}
