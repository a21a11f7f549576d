//! How long a batch keeps trying while the store fails: full jitter, bounded.

use std::time::Duration;

use tokio::time::Instant;

use crate::chat::ChatError;
use crate::store::StoreError;

/// How long a batch tries, from the first failure on.
const LIMIT: Duration = Duration::from_secs(3);
const PAUSE_MS_FIRST: u64 = 50;
const PAUSE_MS_MAX: u64 = 1_000;

/// What is left of a batch's patience. A put that succeeded renews it.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Duration,
    until: Option<Instant>,
    tries: u32,
}

impl Patience {
    /// The patience of a batch whose senders wait.
    pub(super) fn usual() -> Self {
        Self { limit: LIMIT, until: None, tries: 0 }
    }

    /// None at all: the first failure is returned.
    pub(super) fn none() -> Self {
        Self { limit: Duration::ZERO, until: None, tries: 0 }
    }

    /// A put succeeded.
    pub(super) fn renew(&mut self) {
        self.until = None;
        self.tries = 0;
    }

    /// Waits before another try; the error comes back once patience is spent, at once where trying
    /// again can't help.
    pub(super) async fn again(&mut self, error: StoreError) -> Result<(), ChatError> {
        if !error.retryable() {
            tracing::error!(%error, "store call of a lane failed for good");
            return Err(error.into());
        }
        let now = Instant::now();
        let until = *self.until.get_or_insert(now + self.limit);
        if now >= until {
            return Err(error.into());
        }
        let most = PAUSE_MS_MAX.min(PAUSE_MS_FIRST << self.tries.min(8));
        self.tries += 1;
        let pause = Duration::from_millis(crate::chance::within(1..most + 1));
        tokio::time::sleep(pause.min(until - now)).await;
        Ok(())
    }
}

/// Calls until it succeeds or patience is spent. For reads and for writes that may be repeated. A
/// macro, since a lane's task must be `Send` and an async closure that borrows is not known to be.
macro_rules! persist {
    ($patience:expr, $call:expr) => {
        loop {
            match $call.await {
                Ok(done) => break Ok(done),
                Err(error) => {
                    if let Err(error) = $patience.again(error).await {
                        break Err(error);
                    }
                }
            }
        }
    };
}

pub(super) use persist;
