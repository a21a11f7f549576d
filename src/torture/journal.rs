//! The history of a round as it is written: one line for each event, in the order of one clock.
//!
//! Invariant: a line that the judge relies on for order is written before what it tells of can
//! leave the process (`Send`, `Acked`, `Seen`), or after it has arrived (`Sent`, `Received`).

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::checker::history::{Event, Outcome, What};

const BUFFER_BYTES: usize = 256 * 1024;

/// A poisoned lock guards nothing here that a panic could have left half done.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Numbers for the screen, counted as lines are written.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Tries of sends.
    pub tries: AtomicU64,
    /// Sends that were acknowledged.
    pub acked: AtomicU64,
    /// Texts that came.
    pub received: AtomicU64,
    /// Connections that got their `welcome`.
    pub connected: AtomicU64,
}

struct Out {
    file: BufWriter<File>,
    failed: Option<std::io::Error>,
    /// The highest seq that was acknowledged, by conversation.
    acked: HashMap<String, u64>,
}

/// See the module.
pub(super) struct Journal {
    begun: Instant,
    out: Mutex<Out>,
    path: PathBuf,
    /// For the screen.
    pub counts: Counts,
}

impl Journal {
    /// A new file.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        let file = BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?);
        let out = Mutex::new(Out { file, failed: None, acked: HashMap::new() });
        let counts = Counts::default();
        Ok(Self { begun: Instant::now(), out, path: path.to_owned(), counts })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Milliseconds since the round began.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Writes a line.
    pub fn note(&self, what: What) {
        self.count(&what);
        // The time is taken under the lock: lines stand in its order.
        let mut out = locked(&self.out);
        if let What::Sent { outcome: Outcome::Done, conversation, seq: Some(seq), .. } = &what {
            match out.acked.get_mut(conversation) {
                Some(highest) => *highest = (*highest).max(*seq),
                None => {
                    out.acked.insert(conversation.clone(), *seq);
                }
            }
        }
        let t = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let written = serde_json::to_writer(&mut out.file, &Event { t, what })
            .map_err(std::io::Error::from)
            .and_then(|()| out.file.write_all(b"\n"));
        if let Err(error) = written {
            out.failed.get_or_insert(error);
        }
    }

    fn count(&self, what: &What) {
        let counter = match what {
            What::Send { .. } => &self.counts.tries,
            What::Sent { outcome: Outcome::Done, .. } => &self.counts.acked,
            What::Received { .. } => &self.counts.received,
            What::Connect { outcome: Some(Outcome::Done), .. } => &self.counts.connected,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The highest seq that was acknowledged in each conversation.
    pub fn highest_acked(&self) -> HashMap<String, u64> {
        locked(&self.out).acked.clone()
    }

    /// Writes what is buffered; tells of the first line that could not be written.
    pub fn finish(&self) -> std::io::Result<()> {
        let mut out = locked(&self.out);
        match out.failed.take() {
            Some(error) => Err(error),
            None => out.file.flush(),
        }
    }
}
