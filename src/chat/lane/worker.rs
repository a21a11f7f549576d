//! The task of one lane: takes what is queued, batch by batch, and rests when there is nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Shared;
use super::batch::{Batch, Item};
use super::log::Log;
use super::patience::Patience;
use super::queue::{Lane, Taken};
use super::round::Round;
use crate::chat::ChatError;
use crate::protocol::ErrorCode;

/// The most appends that are worked on together.
const BATCH_MAX: usize = 256;

/// A lane's task. When it ends, however it ends, the lane is closed and what waits is answered.
pub(super) struct Worker {
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    log: Option<Log>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, lane: Arc<Lane>) -> Self {
        Self { shared, lane, log: None }
    }

    /// Works until the lane is closed or has been idle for long.
    pub(super) async fn run(mut self) {
        // One timer for the lane's life, moved only when it fires.
        let rest = tokio::time::sleep(self.shared.bounds.idle);
        tokio::pin!(rest);
        loop {
            // A store in memory never makes a batch wait: others must have their turn all the same.
            tokio::task::coop::consume_budget().await;
            match self.lane.take(&self.shared, BATCH_MAX) {
                Taken::Items(items) => self.serve(items).await,
                Taken::Closed => return,
                Taken::Nothing => tokio::select! {
                    biased;
                    () = self.lane.woken() => {}
                    () = rest.as_mut() => match self.shared.retire(&self.lane) {
                        Some(again) => rest.as_mut().reset(again),
                        None => return,
                    },
                },
            }
        }
    }

    async fn serve(&mut self, items: VecDeque<Item>) {
        let mut batch = Batch::new(items);
        let mut patience = Patience::usual();
        let known = self.log.take();
        let fresh = known.is_none();
        let opened = match known {
            Some(log) => Ok(log),
            None => Log::open(&self.shared, &self.lane.conversation, &mut patience).await,
        };
        let mut log = match opened {
            Ok(log) => log,
            Err(error) => return self.refuse(&mut batch, &error),
        };
        let mut round = Round {
            shared: &self.shared,
            lane: &self.lane,
            log: &mut log,
            batch: &mut batch,
            patience,
            fresh,
        };
        if let Err(error) = round.run().await {
            round.give_up(&error).await;
        }
        self.log = Some(log);
    }

    /// The log can't be opened. If the store is away, it is so for all that waits.
    fn refuse(&self, batch: &mut Batch, error: &ChatError) {
        batch.give_up(&self.lane.conversation, error, |_| false);
        if error.code == ErrorCode::Unavailable {
            for mut item in self.lane.drain(false) {
                item.answer.refuse(error);
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.bury(&self.lane);
    }
}
