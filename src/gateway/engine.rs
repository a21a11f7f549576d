//! The loops that run the open sockets of a server.
//!
//! Each loop is one task with one epoll instance, which stands in tokio's own as a single file: all
//! else it waits for beside its sockets (outboxes that ring, results of the store, newcomers, time)
//! is a branch of one `select!`. A person lives in the loop that the name hashes to. A socket costs
//! a record of the slab; buffers are the loop's, and lent for a turn
//! (`docs/adr/0006-one-task-of-many-sockets.md`).
//!
//! **Invariant.** What happens in one socket's turn, a panic included, ends that socket alone.

mod lines;
mod slot;
mod timers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable, Aborted, BoxFuture};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use mio::Registry;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::task::task_tracker::TaskTrackerToken;

use self::lines::Ready;
pub(super) use self::lines::{Arrival, Lines, cores, prepare};
use self::slot::{Place, Slot, Turned};
use self::timers::Timers;
use super::connection::Desk;
use super::{Entered, Gateway};
use crate::chat::catchup::{self, Done, Work};
use crate::chat::session::Outputs;
use crate::hub::{Bell, Outbox};
use crate::protocol::{PING_INTERVAL_MS, Timestamp};
use crate::slab::Slab;

/// How many newcomers, and results of the store, are taken in a turn.
const TAKEN_MAX: usize = 256;
/// How many sockets epoll tells of at once.
const EVENTS_MAX: usize = 1_024;
/// The most that is read of a socket in a turn.
const READ_BYTES: usize = 16 * 1_024;
/// By how many records the slab grows: 26 KiB.
const SLOTS_A_CHUNK: usize = 256;
/// What the buffer of writes may keep between two turns.
const WRITE_BYTES_KEPT: usize = 256 * 1_024;
/// Sockets are ticked in parts, so that pings do not leave in a wave.
const TICK_MS: u64 = 100;
const TICKS: usize = (PING_INTERVAL_MS / TICK_MS) as usize;

type Working = BoxFuture<'static, (Place, Result<Option<Done>, Aborted>)>;

/// What a loop lends to the socket whose turn it is.
struct Lent {
    gateway: Arc<Gateway>,
    out: Outputs,
    write: Vec<u8>,
    buffer: Box<[u8]>,
    timers: Timers,
    works: FuturesUnordered<Working>,
    /// The times of this turn.
    clock: Timestamp,
    now: Instant,
}

impl Lent {
    fn desk<'a>(&'a mut self, entered: &'a Entered) -> (Desk<'a>, &'a mut [u8]) {
        let (outbox, address) = (entered.outbox(), entered.address());
        let Self { gateway, out, write, buffer, clock, now, .. } = self;
        let desk =
            Desk { gateway, outbox, address, out, write, rest: None, clock: *clock, now: *now };
        (desk, buffer)
    }

    /// Begins work for a session; at most one is under way for each.
    fn begin(&self, work: Work, outbox: Arc<Outbox>, place: Place) -> AbortHandle {
        let chat = self.gateway.chat.clone();
        let (handle, registration) = AbortHandle::new_pair();
        let work = async move { catchup::perform(&chat, &outbox, work).await };
        let work = Abortable::new(AssertUnwindSafe(work).catch_unwind(), registration);
        self.works.push(work.map(move |done| (place, done.map(Result::ok))).boxed());
        handle
    }
}

#[cfg(test)]
pub(super) const SLOT_BYTES: usize = size_of::<Slot>();

type Slots = Slab<Slot, SLOTS_A_CHUNK>;

/// A loop.
struct Loop {
    slots: Slots,
    registry: Registry,
    lent: Lent,
    /// Those that have a turn now, and those that have another one.
    touched: Vec<u32>,
    again: Vec<u32>,
    generation: u32,
    tick: usize,
    /// A tick is due.
    ticks: bool,
    /// Held while there are sockets: who waits for their end waits for this.
    held: Option<TaskTrackerToken>,
}

/// Runs a loop until `gateway.over`.
pub(super) async fn run(gateway: Arc<Gateway>, ready: Ready) {
    let Ready { poll, bell, mut arrivals } = ready;
    let Ok(registry) = poll.registry().try_clone() else { return };
    // The descriptor is the same for as long as the instance lives, and it lives in here.
    #[expect(deprecated, reason = "its successor is unsafe, for types whose descriptor may change")]
    let Ok(mut poll) = AsyncFd::with_interest(poll, tokio::io::Interest::READABLE) else { return };
    let mut events = mio::Events::with_capacity(EVENTS_MAX);
    let mut this = Loop::new(gateway.clone(), registry);
    let mut ticks = interval(Duration::from_millis(TICK_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut came = Vec::new();
    loop {
        let next = this.lent.timers.next();
        let due = async {
            match next {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = gateway.over.cancelled() => return,
            () = gateway.abort.cancelled(), if !this.has_none() => this.end_all(),
            told = poll.readable_mut() => {
                let Ok(mut told) = told else { return };
                let polled = told.get_inner_mut().poll(&mut events, Some(Duration::ZERO));
                if polled.is_ok() && events.iter().count() < EVENTS_MAX {
                    told.clear_ready();
                }
            }
            () = bell.rings() => {}
            count = arrivals.recv_many(&mut came, TAKEN_MAX) => {
                if count == 0 {
                    return;
                }
            }
            Some(done) = this.lent.works.next(), if !this.lent.works.is_empty() => this.done(done),
            _ = ticks.tick(), if !this.has_none() => this.ticks = true,
            () = due => {}
            () = std::future::ready(()), if !this.again.is_empty() => {}
        }
        this.take_times();
        this.hear_of(&events, &bell);
        this.seat_all(&mut came);
        this.turns();
        events.clear();
        // Others have their turn: what they answer now leaves in one write.
        tokio::task::yield_now().await;
    }
}

impl Loop {
    fn new(gateway: Arc<Gateway>, registry: Registry) -> Self {
        let lent = Lent {
            clock: (gateway.chat.clock)(),
            now: Instant::now(),
            gateway,
            out: Outputs::default(),
            write: Vec::new(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            timers: Timers::default(),
            works: FuturesUnordered::new(),
        };
        Self {
            slots: Slots::default(),
            registry,
            lent,
            touched: Vec::new(),
            again: Vec::new(),
            generation: 0,
            tick: 0,
            ticks: false,
            held: None,
        }
    }

    fn take_times(&mut self) {
        self.lent.clock = (self.lent.gateway.chat.clock)();
        self.lent.now = Instant::now();
    }

    /// Notes who has something to do.
    fn hear_of(&mut self, events: &mio::Events, bell: &Bell) {
        for event in events {
            let index = event.token().0 as u32;
            if let Some(slot) = self.slots.get_mut(index) {
                slot.told(event);
                self.touch(index);
            }
        }
        let mut rung = std::mem::take(&mut self.again);
        bell.take(&mut rung);
        rung.drain(..).for_each(|index| self.touch(index));
        self.again = rung;
        for _ in 0..TAKEN_MAX {
            let Some(Some(done)) = self.lent.works.next().now_or_never() else { break };
            self.done(done);
        }
    }

    fn seat_all(&mut self, came: &mut Vec<Arrival>) {
        for arrival in came.drain(..) {
            self.seat(arrival);
        }
    }

    /// All have their turns who have something to do.
    fn turns(&mut self) {
        if std::mem::take(&mut self.ticks) {
            self.tick();
        }
        while let Some((place, why)) = self.lent.timers.due(self.lent.now) {
            self.at(place, |slot, lent| slot.timer(why, lent, place));
        }
        let mut touched = std::mem::take(&mut self.touched);
        for index in touched.drain(..) {
            if let Some(slot) = self.slots.get_mut(index) {
                slot.touched = false;
                let place = Place { index, generation: slot.generation };
                self.at(place, |slot, lent| slot.turn(lent, place));
            }
        }
        self.touched = touched;
        if self.lent.write.capacity() > WRITE_BYTES_KEPT {
            self.lent.write = Vec::new();
        }
    }

    fn touch(&mut self, index: u32) {
        if let Some(slot) = self.slots.get_mut(index)
            && !std::mem::replace(&mut slot.touched, true)
        {
            self.touched.push(index);
        }
    }

    /// Lets a socket do something, if it is still there.
    fn at(&mut self, place: Place, what: impl FnOnce(&mut Slot, &mut Lent) -> Turned) {
        let index = place.index;
        let slot = self.slots.get_mut(index).filter(|slot| slot.generation == place.generation);
        let Some(slot) = slot else { return };
        let turned = catch_unwind(AssertUnwindSafe(|| what(slot, &mut self.lent)));
        // However it ended: nothing that was for this socket may be there in another's turn.
        self.lent.write.clear();
        if turned.is_err() {
            self.lent.out = Outputs::default();
        }
        debug_assert!(self.lent.out.is_empty(), "a turn gives out all that it says");
        match turned {
            Ok(Turned::Stays) => {}
            Ok(Turned::Again) => self.again.push(place.index),
            Ok(Turned::Ended(end)) => self.end(index, end.name()),
            Err(_) => {
                drop(self.slots.remove(index));
                self.let_go();
            }
        }
    }

    fn seat(&mut self, arrival: Arrival) -> Place {
        let Arrival { carrier, entered, connection, behind } = arrival;
        self.held.get_or_insert_with(|| self.lent.gateway.sockets.token());
        self.generation = self.generation.wrapping_add(1);
        let slot = Slot::new(carrier, entered, connection, self.generation);
        let place = Place { index: self.slots.insert(slot), generation: self.generation };
        let registry = &self.registry;
        let watched = self.slots.get_mut(place.index).map(|slot| slot.seat(place.index, registry));
        if let Some(Err(error)) = watched {
            tracing::warn!(%error, "a socket can't be watched, and is closed");
            self.end(place.index, "unwatched");
        }
        self.at(place, |slot, lent| slot.start(&mut behind.to_vec(), lent, place));
        place
    }

    fn done(&mut self, (place, done): (Place, Result<Option<Done>, Aborted>)) {
        let index = place.index;
        let slot = self.slots.get_mut(index).filter(|slot| slot.generation == place.generation);
        let Some(slot) = slot else { return };
        match done {
            Ok(Some(done)) => {
                slot.done(done);
                self.touch(place.index);
            }
            Ok(None) => self.end(index, "failed"),
            Err(Aborted) => {}
        }
    }

    /// Each tick another part of the sockets.
    fn tick(&mut self) {
        self.tick = (self.tick + 1) % TICKS;
        for index in (self.tick..self.slots.slots()).step_by(TICKS) {
            let index = index as u32;
            if let Some(slot) = self.slots.get(index) {
                let place = Place { index, generation: slot.generation };
                self.at(place, |slot, lent| slot.tick(lent, place));
            }
        }
    }

    fn has_none(&self) -> bool {
        self.slots.len() == 0
    }

    fn end(&mut self, index: u32, name: &'static str) {
        let Some(slot) = self.slots.remove(index) else { return };
        let (entered, unstored) = slot.finish();
        self.lent.gateway.sockets.spawn(entered.leave(name, unstored));
        self.let_go();
    }

    /// All at once, without a goodbye.
    fn end_all(&mut self) {
        (0..self.slots.slots() as u32).for_each(|index| self.end(index, "aborted"));
    }

    fn let_go(&mut self) {
        if self.has_none() {
            (self.held, self.slots) = (None, Slots::default());
        }
    }
}

#[cfg(test)]
mod tests;
