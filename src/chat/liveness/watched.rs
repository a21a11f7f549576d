//! The rows of the board as one reader saw them move, and whom it therefore holds for dead.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::board::{BoardRow, DEAD_AFTER_MS};
use crate::chance::Hashing;
use crate::protocol::{Epoch, ProcessId};

/// The most time that one successful read counts for.
const READ_COUNTS: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Seen {
    epoch: Epoch,
    beat: u64,
    /// How long it has stood still, counted only while reads succeeded.
    still: Duration,
    dead: bool,
    hints: u64,
}

/// What a reading found beside the living.
#[derive(Debug, Default)]
pub struct Found {
    /// Died, vanished, or began another life.
    pub dead: Vec<ProcessId>,
    /// Who has hints that were not read yet.
    pub hints: Vec<NewHints>,
}

/// Items of hints that a row tells of and that were not read yet.
#[derive(Debug)]
pub struct NewHints {
    /// Whose.
    pub id: ProcessId,
    /// Those behind this number.
    pub after: u64,
    /// The last that is wholly written.
    pub last: u64,
}

/// The rows as they were seen to move.
#[derive(Debug, Default)]
pub struct Watched {
    seen: HashMap<ProcessId, Seen, Hashing>,
    last_read: Option<Instant>,
}

impl Watched {
    /// Compares a reading that began at `now` with those before: the living, and what else shows.
    pub fn judge(&mut self, rows: Vec<BoardRow>, now: Instant) -> (Vec<BoardRow>, Found) {
        let first = self.last_read.is_none();
        let since = self.last_read.replace(now).map(|last| now.duration_since(last));
        let passed = since.unwrap_or_default().min(READ_COUNTS);
        let mut found = Found::default();
        self.seen.retain(|id, seen| {
            let stays = rows.iter().any(|row| row.id == *id);
            if !stays && !seen.dead {
                found.dead.push(id.clone());
            }
            stays
        });
        let mut alive = Vec::with_capacity(rows.len());
        for row in rows {
            let fresh = || Seen {
                epoch: row.epoch,
                beat: row.beat,
                still: Duration::ZERO,
                dead: false,
                // On a first read what was hinted before is in the mailboxes that are yet to be
                // read; of a row that appears later everything is new.
                hints: if first { row.hints } else { 0 },
            };
            let seen = self.seen.entry(row.id.clone()).or_insert_with(fresh);
            if seen.epoch != row.epoch {
                // Also of one that was held for dead: it may have woken up unseen, and stored more
                // before it died.
                found.dead.push(row.id.clone());
                *seen = Seen { hints: seen.hints, ..fresh() };
            } else if seen.beat != row.beat {
                (seen.beat, seen.still, seen.dead) = (row.beat, Duration::ZERO, false);
            } else {
                seen.still += passed;
            }
            if seen.still >= Duration::from_millis(DEAD_AFTER_MS) && !seen.dead {
                seen.dead = true;
                found.dead.push(row.id.clone());
            }
            if row.hints > seen.hints {
                let (id, after, last) = (row.id.clone(), seen.hints, row.hints);
                found.hints.push(NewHints { id, after, last });
            }
            if !seen.dead {
                alive.push(row);
            }
        }
        (alive, found)
    }

    /// The hints of a process were read up to this number.
    pub fn hints_read(&mut self, id: &ProcessId, last: u64) {
        if let Some(seen) = self.seen.get_mut(id) {
            seen.hints = seen.hints.max(last);
        }
    }
}
