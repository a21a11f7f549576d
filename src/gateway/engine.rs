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
mod moderation;
mod slot;
mod ticks;
mod timers;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable, Aborted, BoxFuture};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use mio::Registry;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::task_tracker::TaskTrackerToken;

use self::lines::Ready;
pub(super) use self::lines::{Arrival, Lines, cores, prepare};
use self::moderation::Moderation;
use self::slot::{Place, Slot, Turned};
use self::ticks::Ticks;
use self::timers::Timers;
use super::connection::Desk;
use super::{Entered, Gateway};
use crate::chat::catchup::{self, Done, Work};
use crate::chat::session::Outputs;
use crate::hub::{Bell, Outbox};
use crate::protocol::Timestamp;
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
    ticks: Ticks,
    /// Held while there are sockets: who waits for their end waits for this.
    held: Option<TaskTrackerToken>,
}

/// Runs a loop until `gateway.over`. If it ends before, its sockets end with it, and this server
/// takes no more: others do.
pub(super) async fn run(gateway: Arc<Gateway>, ready: Ready) {
    let ended = AssertUnwindSafe(turn_for_ever(&gateway, ready)).catch_unwind().await;
    if !gateway.over.is_cancelled() {
        let why = ended.map_or_else(|_| "it panicked".to_owned(), |error| error.to_string());
        tracing::error!(why, "a loop of sockets has ended: this server must be started again");
        gateway.close();
    }
}

async fn turn_for_ever(gateway: &Arc<Gateway>, ready: Ready) -> io::Error {
    let Ready { mut poll, registry, bell, mut arrivals } = ready;
    let mut events = mio::Events::with_capacity(EVENTS_MAX);
    let mut this = Loop::new(gateway.clone(), registry);
    let mut came = Vec::new();
    // Made once: to wait anew each turn costs more than all else that a turn does for itself.
    let (over, abort) = (gateway.over.cancelled(), gateway.abort.cancelled());
    let due = sleep_until(Instant::now());
    tokio::pin!(over, abort, due);
    let mut moderation = Moderation::new(Instant::now());
    let mut rested = false;
    loop {
        let next = this.next_time();
        if let Some(at) = next.filter(|at| *at != due.deadline()) {
            due.as_mut().reset(at);
        }
        tokio::select! {
            () = &mut over => return io::ErrorKind::Interrupted.into(),
            () = &mut abort, if !this.has_none() => this.end_all(),
            told = poll.readable_mut() => match told {
                Ok(mut told) => {
                    let polled = told.get_inner_mut().poll(&mut events, Some(Duration::ZERO));
                    if polled.is_ok() && events.iter().count() < EVENTS_MAX {
                        told.clear_ready();
                    }
                }
                Err(error) => return error,
            },
            () = bell.rings() => {}
            count = arrivals.recv_many(&mut came, TAKEN_MAX) => {
                if count == 0 {
                    return io::ErrorKind::BrokenPipe.into();
                }
            }
            Some(done) = this.lent.works.next(), if !this.lent.works.is_empty() => this.done(done),
            () = &mut due, if next.is_some() => {}
            () = std::future::ready(()), if rested || this.goes_on() => {}
        }
        if rested && events.is_empty() {
            // Nobody was there to be told what came meanwhile.
            let _ = poll.get_mut().poll(&mut events, Some(Duration::ZERO));
        }
        this.take_times();
        this.hear_of(&events, &bell);
        this.seat_all(&mut came);
        let sockets = this.touched.len();
        this.turns();
        events.clear();
        // Others have their turn: what they answer now leaves in one write.
        tokio::task::yield_now().await;
        rested = moderation.rest(sockets, this.lent.now);
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
            ticks: Ticks::new(Instant::now()),
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
        self.tick();
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
        if !self.lent.out.is_empty() {
            debug_assert!(turned.is_err(), "a turn gives out all that it says");
            self.lent.out = Outputs::default();
        }
        match turned {
            Ok(Turned::Stays) => {}
            Ok(Turned::Again) => self.again.push(place.index),
            Ok(Turned::Ended(end)) => self.end(index, end.name()),
            Err(_) => self.drop_slot(index, drop),
        }
    }

    /// Takes a socket out, whatever comes of it.
    fn drop_slot(&mut self, index: u32, what: impl FnOnce(Slot)) {
        let Some(slot) = self.slots.remove(index) else { return };
        // Unwinding drops it, and that ends it as well.
        let _ = catch_unwind(AssertUnwindSafe(|| what(slot)));
        if self.has_none() {
            (self.held, self.slots) = (None, Slots::default());
        }
    }

    fn seat(&mut self, arrival: Arrival) -> Place {
        let Arrival { carrier, entered, connection, behind, held } = arrival;
        if self.has_none() {
            self.ticks.begin(self.lent.now);
        }
        self.held.get_or_insert(held);
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
        // What was pushed before it had a place rang no bell.
        self.touch(place.index);
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

    /// When something is due, whatever else happens.
    fn next_time(&self) -> Option<Instant> {
        let tick = (!self.has_none()).then_some(self.ticks.at());
        tick.into_iter().chain(self.lent.timers.next()).min()
    }

    /// Some of the ticks that are due; the rest follow in the next turn.
    fn tick(&mut self) {
        for _ in 0..ticks::A_TURN {
            let Some(index) = self.ticks.next(self.lent.now, self.slots.slots()) else { return };
            let index = index as u32;
            if let Some(slot) = self.slots.get(index) {
                let place = Place { index, generation: slot.generation };
                self.at(place, |slot, lent| slot.tick(lent, place));
            }
        }
    }

    /// Whether there is more to do now, whoever has something to say.
    fn goes_on(&self) -> bool {
        !self.again.is_empty() || (self.ticks.go_on() && !self.has_none())
    }

    fn has_none(&self) -> bool {
        self.slots.len() == 0
    }

    fn end(&mut self, index: u32, name: &'static str) {
        let sockets = self.lent.gateway.sockets.clone();
        self.drop_slot(index, |slot| {
            let (entered, unstored) = slot.finish();
            sockets.spawn(entered.leave(name, unstored));
        });
    }

    /// All at once, without a goodbye.
    fn end_all(&mut self) {
        (0..self.slots.slots() as u32).for_each(|index| self.end(index, "aborted"));
    }
}

#[cfg(test)]
mod tests;
