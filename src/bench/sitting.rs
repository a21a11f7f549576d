//! A user who only stays: answers pings, and knows the one message that is for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::dialect::{Heard, Wire};
use super::share::{Standing, since_epoch};

/// What happened to those who sit in this process.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Standing>);

impl Tally {
    fn note(&self, note: impl FnOnce(&mut Standing)) {
        // It holds counts, which are whole whatever panicked.
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A copy.
    pub fn standing(&self) -> Standing {
        let standing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (latency, error) = (standing.latency.clone(), standing.error.clone());
        Standing { latency, error, ..*standing }
    }
}

/// See the module.
pub(super) struct Sitting {
    number: u64,
    wire: Wire,
    tally: Arc<Tally>,
    /// The seq of its message, once that is there.
    got: u64,
}

impl Sitting {
    /// User number so-and-so of the run.
    pub fn new(number: usize, wire: Wire, tally: Arc<Tally>) -> Self {
        Self { number: number as u64, wire, tally, got: 0 }
    }

    fn hear(&mut self, heard: &Heard) {
        let Heard::Message { seq, text } = heard else { return };
        let mut words = text.split(' ').map(|word| word.parse::<u64>().ok());
        let (number, sent_at) = (words.next().flatten(), words.next().flatten());
        let (own, before) = (number == Some(self.number), self.got);
        let took = sent_at.map(|at| since_epoch().saturating_sub(Duration::from_micros(at)));
        self.got = *seq;
        self.tally.note(|standing| match (own, before) {
            (false, _) => standing.faults.foreign += 1,
            (true, 0) => {
                standing.received += 1;
                standing.latency.record(took.unwrap_or_default());
            }
            (true, before) if before == *seq => standing.repeats += 1,
            (true, _) => standing.faults.doubled += 1,
        });
    }
}

/// Listens until the end of the run, or of the connection.
pub(super) async fn sit(mut sitting: Sitting, stop: CancellationToken) {
    loop {
        let heard = tokio::select! {
            () = stop.cancelled() => break,
            heard = sitting.wire.hear() => heard,
        };
        match heard {
            Ok(heard) => sitting.hear(&heard),
            Err(error) => {
                let number = sitting.number;
                sitting.tally.note(|standing| {
                    standing.gone += 1;
                    standing.error.get_or_insert(format!("user number {number}: {error}"));
                });
                return;
            }
        }
    }
    // Apart, or everybody who sits had room for it all the time.
    Box::pin(sitting.wire.into_client().close(1000)).await;
}
