//! What a process part does in the background: listens to the bus and the board, repeats claims and
//! hints, sweeps its entries of the socket map, and notices when Redis is away or back.
//!
//! One task owns all of it and ends with the part's stop signal; the runs that it starts (claims
//! and mailboxes once more) end by themselves.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Chat;
use super::claim::VIEW_PATIENCE;
use super::liveness::{BoardEvent, RowChange};
use crate::bus::Subscription;
use crate::directory::SocketEntry;
use crate::hub::{Event, Outbox};
use crate::planted::{Bug, planted};
use crate::protocol::{Envelope, ProcessId, UserId};

/// How often the subscription is probed end to end.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// How long a probe may take to come back.
pub const PROBE_PATIENCE: Duration = Duration::from_secs(1);
/// After a death mailboxes are read at once, and again so much later: what the dead process stored
/// in its last moments is there by then.
pub const SECOND_READ_AFTER: Duration = Duration::from_secs(20);
/// How soon a probe that failed is followed by another.
const PROBE_AGAIN: Duration = Duration::from_millis(250);
/// After the row says deaf, others need so long to read it: what came before is in the mailboxes.
const DEAF_IS_READ: Duration = Duration::from_secs(3);
/// What asks to start over so soon after a run shares the next one: Redis that comes and goes, or
/// calls that are late because the machine is busy, must not make it busier.
pub(super) const START_OVER_PAUSE: Duration = Duration::from_secs(2);
/// How many mailboxes are asked for again at once, 100 times a second: a wave of all of them is to
/// be felt neither by who talks nor by a table's capacity.
const REREAD_STEP: usize = 10;
const REREAD_PAUSE: Duration = Duration::from_millis(10);
/// How many of them may wait for their turn before more are asked for.
const REREADS_WAITING_MAX: usize = 50;
/// The belt: every mailbox is read again so often.
const BELT: Duration = Duration::from_secs(3_600);
/// In so many parts, spread evenly: all at once would be a wave of reads every hour, of all the
/// servers that were started together.
pub(super) const BELT_PARTS: u32 = 360;

/// What the keeper knows of Redis.
#[derive(Debug, Default)]
pub struct Keeper {
    probe_heard: AtomicU64,
    probe_wake: tokio::sync::Notify,
    suspect: tokio::sync::Notify,
    deaf: AtomicBool,
    went_deaf: tokio::sync::Notify,
    /// Other processes that were deaf at the last look.
    deaf_others: Mutex<Vec<ProcessId>>,
    starting_over: AtomicBool,
    /// When the claims of the last run ended; held during them.
    started_over: tokio::sync::Mutex<Option<Instant>>,
    rereads_asked: AtomicU64,
    /// How many of those asked for are answered by runs that have begun; held during a run.
    rereads: tokio::sync::Mutex<u64>,
}

impl Keeper {
    pub(super) fn hear_probe(&self, number: u64) {
        self.probe_heard.fetch_max(number, Ordering::Relaxed);
        self.probe_wake.notify_waiters();
    }

    /// Whether this part can't reach the map or hear the bus.
    pub fn is_deaf(&self) -> bool {
        self.deaf.load(Ordering::Relaxed)
    }
}

impl Chat {
    /// Runs the background of this part until `stop`; returns early, with `true`, when another life
    /// has taken the name on the board: the process must close all and exit.
    pub async fn keep(
        self: &Arc<Self>,
        mut events: mpsc::Receiver<BoardEvent>,
        mut bus: Subscription,
        stop: CancellationToken,
    ) -> bool {
        let tasks = TaskTracker::new();
        let chores: [fn(Arc<Self>) -> futures_util::future::BoxFuture<'static, ()>; 9] = [
            |chat| Box::pin(async move { chat.retry_for_ever().await }),
            |chat| Box::pin(async move { chat.claim_for_ever().await }),
            |chat| Box::pin(async move { chat.tell_for_ever().await }),
            |chat| Box::pin(async move { chat.write_slow_hints().await }),
            |chat| Box::pin(async move { chat.sweep_for_ever().await }),
            |chat| Box::pin(async move { chat.belt_for_ever().await }),
            |chat| Box::pin(async move { chat.probe_for_ever().await }),
            |chat| Box::pin(async move { chat.reread_when_deaf().await }),
            |chat| Box::pin(async move { chat.rest_for_ever().await }),
        ];
        for chore in chores {
            let (chore, stop) = (chore(self.clone()), stop.clone());
            tasks.spawn(async move { stop.run_until_cancelled(chore).await });
        }
        let taken = loop {
            // The rare first: what the board says must not wait behind a busy bus.
            tokio::select! {
                biased;
                () = stop.cancelled() => break false,
                event = events.recv() => match event {
                    Some(BoardEvent::Taken) => break true,
                    Some(event) => self.hear_board(event),
                    None => stop.cancelled().await,
                },
                heard = bus.recv() => match heard {
                    Some(heard) => self.heard(heard),
                    // Only a stopping bus ends a subscription.
                    None => stop.cancelled().await,
                },
            }
        };
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        taken
    }

    fn hear_board(self: &Arc<Self>, event: BoardEvent) {
        match event {
            BoardEvent::Death(process) => {
                tracing::info!(%process, "gone from the board: mailboxes are read again");
                let chat = self.clone();
                tokio::spawn(async move {
                    chat.reread_all().await;
                    if planted(Bug::ReReadOnce) {
                        return;
                    }
                    sleep(SECOND_READ_AFTER).await;
                    chat.reread_all().await;
                });
            }
            BoardEvent::Hints(hints) => hints.iter().for_each(|hint| self.hear_slow_hint(hint)),
            BoardEvent::Revived => {
                if self.is_deaf() {
                    // Others held it for dead: until they have read that it lives, and is deaf,
                    // nobody puts on the board what it can't hear.
                    self.keeper.went_deaf.notify_one();
                }
                self.start_over("the own board row was late");
            }
            BoardEvent::ReadAgain => self.reread_soon(),
            BoardEvent::Taken => {}
        }
    }

    /// Claims all again and reads all mailboxes again: after a gap of the bus, after Redis was
    /// emptied or failed over, after a pause. One run at a time. What asks for it before a run
    /// begins shares that run; what asks later has another, since the first may have passed it by.
    pub(super) fn start_over(self: &Arc<Self>, why: &'static str) {
        if self.keeper.starting_over.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::info!(why, "all sockets are claimed again and all mailboxes read again");
        let chat = self.clone();
        tokio::spawn(async move {
            let mut ended = chat.keeper.started_over.lock().await;
            if let Some(ended) = *ended {
                sleep_until(ended + START_OVER_PAUSE).await;
            }
            chat.keeper.starting_over.store(false, Ordering::Relaxed);
            let recovery = chat.liveness.recovering();
            chat.claim_all_again().await;
            *ended = Some(Instant::now());
            // Claims of another run need not wait for this one's reading, which is shared anyway.
            drop(ended);
            chat.reread_all().await;
            chat.liveness.recovered(recovery);
        });
    }

    pub(super) fn reread_soon(&self) {
        let Some(chat) = self.this.upgrade() else { return };
        tokio::spawn(async move { chat.reread_all().await });
    }

    /// Asks every session to read its mailbox again, at a bounded rate: one run at a time, and who
    /// asks before it begins shares it.
    pub(super) async fn reread_all(&self) {
        let asked = self.keeper.rereads_asked.fetch_add(1, Ordering::Relaxed) + 1;
        let mut answered = self.keeper.rereads.lock().await;
        if *answered >= asked {
            return;
        }
        *answered = self.keeper.rereads_asked.load(Ordering::Relaxed);
        self.reread(self.hub.all(), || Event::Reread).await;
    }

    async fn reread(&self, outboxes: Vec<Arc<Outbox>>, event: fn() -> Event) {
        for step in outboxes.chunks(REREAD_STEP) {
            step.iter().for_each(|outbox| outbox.push(event()));
            sleep(REREAD_PAUSE).await;
            while self.reads.again_waiting() > REREADS_WAITING_MAX {
                sleep(REREAD_PAUSE).await;
            }
        }
    }

    async fn retry_for_ever(&self) {
        let mut ticks = twice_a_second();
        loop {
            ticks.tick().await;
            self.retry_overdue().await;
            let sockets = u32::try_from(self.metrics.sockets.get()).unwrap_or(0);
            self.liveness.set(RowChange::Sockets(sockets), false);
        }
    }

    async fn claim_for_ever(self: &Arc<Self>) {
        let mut ticks = twice_a_second();
        loop {
            ticks.tick().await;
            if !self.keeper.is_deaf() {
                self.repeat_claims().await;
                self.repeat_releases().await;
            }
        }
    }

    async fn tell_for_ever(&self) {
        let mut ticks = twice_a_second();
        loop {
            ticks.tick().await;
            if !self.keeper.is_deaf() {
                self.tell_untold().await;
            }
        }
    }

    async fn sweep_for_ever(self: &Arc<Self>) {
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            second.tick().await;
            if !self.keeper.is_deaf() {
                self.sweep().await;
            }
        }
    }

    /// Whatever was missed in spite of all else is found within an hour. A socket's part is that of
    /// the chance in its id, so each has its turn once an hour whoever comes and goes.
    async fn belt_for_ever(&self) {
        let mut ticks = interval(BELT / BELT_PARTS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for part in (0..u128::from(BELT_PARTS)).cycle() {
            ticks.tick().await;
            let due = |outbox: &Arc<Outbox>| outbox.who.socket.0 % u128::from(BELT_PARTS) == part;
            self.reread(self.hub.all().into_iter().filter(due).collect(), || Event::Belt).await;
        }
    }

    /// A call to Redis failed: its hint goes the slow way, and a probe at once shows whether it was
    /// that call alone.
    pub(super) fn redis_failed(&self) {
        self.keeper.suspect.notify_one();
    }

    fn set_deaf(&self, deaf: bool) {
        if self.keeper.deaf.swap(deaf, Ordering::Relaxed) == deaf {
            return;
        }
        if deaf {
            tracing::warn!("Redis does not answer: hints go over the board until it does");
            self.keeper.went_deaf.notify_one();
        } else {
            tracing::info!("Redis answers again");
        }
        self.liveness.set(RowChange::Deaf(deaf), true);
    }

    /// Sends probes to the own channel: only one that comes back shows that the subscription
    /// delivers. Two that fail in a row mean deaf, claims that are refused fail one as well. Also
    /// notices by the instance's name that Redis lost or replaced its data.
    async fn probe_for_ever(self: &Arc<Self>) {
        let mut instance: Option<String> = None;
        let (mut number, mut failed) = (0, 0);
        loop {
            number += 1;
            let heard = self.probe(number).await;
            match self.directory.instance().await {
                Ok(name) if heard && self.map_takes_claims().await => {
                    failed = 0;
                    let was_deaf = self.keeper.is_deaf();
                    self.set_deaf(false);
                    let replaced = instance.replace(name.clone()).is_some_and(|old| old != name);
                    if was_deaf || replaced {
                        self.start_over("Redis is back");
                    }
                    // Probes are rare: a burst of failed calls asks for one, once a second.
                    sleep(PROBE_PATIENCE).await;
                    let _ = timeout(PROBE_INTERVAL, self.keeper.suspect.notified()).await;
                }
                _ => {
                    failed += 1;
                    if failed > 1 {
                        self.set_deaf(true);
                    }
                    sleep(PROBE_AGAIN).await;
                }
            }
        }
    }

    async fn probe(&self, number: u64) -> bool {
        let probe = Arc::new(Envelope::Probe { number });
        if self.bus.publish(&self.me.id, &[probe]).await.is_err() {
            return false;
        }
        let heard = async {
            loop {
                let wake = self.keeper.probe_wake.notified();
                if self.keeper.probe_heard.load(Ordering::Relaxed) >= number {
                    return;
                }
                wake.await;
            }
        };
        timeout(PROBE_PATIENCE, heard).await.is_ok()
    }

    /// While deaf: what was published before the others knew lies in the store. They know once they
    /// have read the row, so mailboxes are read then; and once more for those whose view of the
    /// board is old (see `Chat::hand_on`). All of them, whatever their claims were answered: Redis
    /// may have lost the entries since.
    async fn reread_when_deaf(&self) {
        loop {
            self.keeper.went_deaf.notified().await;
            while self.is_deaf() && !self.liveness.says_deaf() {
                sleep(Duration::from_millis(100)).await;
            }
            for pause in [DEAF_IS_READ, SECOND_READ_AFTER] {
                if timeout(pause, self.keeper.went_deaf.notified()).await.is_ok() {
                    // Once more: it begins anew.
                    self.keeper.went_deaf.notify_one();
                    break;
                }
                if self.is_deaf() {
                    self.reread_all().await;
                }
            }
        }
    }

    /// Other processes that say deaf since the last look.
    pub(super) fn newly_deaf(&self) -> Vec<ProcessId> {
        let view = self.liveness.view();
        let deaf = view.alive.iter().filter(|row| row.deaf && row.id != self.me.id);
        let deaf: Vec<ProcessId> = deaf.map(|row| row.id.clone()).collect();
        let mut known = self.keeper.deaf_others.lock().unwrap_or_else(PoisonError::into_inner);
        let newly = deaf.iter().filter(|id| !known.contains(id)).cloned().collect();
        *known = deaf;
        newly
    }

    /// Removes map entries that name this server for a person who has no socket here; those of an
    /// earlier life under the same name too, once a board read shows that it is over.
    pub(super) fn remove_ghosts(self: &Arc<Self>, user: &UserId) {
        let Some(permit) = self.router.permit() else { return };
        let (chat, user) = (self.clone(), user.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let Ok(located) = chat.directory.locate(std::slice::from_ref(&user)).await else {
                return;
            };
            let mine = |entry: &SocketEntry| entry.server == chat.me.id;
            let mut ghosts: Vec<_> = located.into_iter().flatten().filter(mine).collect();
            if ghosts.iter().any(|entry| entry.epoch != chat.me.epoch) {
                let view = chat.liveness.view_after(Instant::now(), VIEW_PATIENCE).await;
                let over = |e: &SocketEntry| {
                    view.as_ref().is_some_and(|v| !v.is_alive(&e.server, e.epoch))
                };
                ghosts.retain(|entry| entry.epoch == chat.me.epoch || over(entry));
            }
            let here = chat.hub.of(&user);
            for entry in ghosts {
                if !here.iter().any(|outbox| outbox.who.socket == entry.socket_id) {
                    let _ = chat.directory.release(&user, entry.socket_id, entry.claim).await;
                }
            }
        });
    }
}

fn twice_a_second() -> Interval {
    let mut ticks = interval(Duration::from_millis(500));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests;
