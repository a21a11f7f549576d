//! One socket in a loop: what it is while nothing happens, and a turn of it.
//!
//! A turn takes what waits in the outbox and what the client has said, and writes all that came of
//! it at once. Between turns a socket that neither writes, rests, works nor closes holds nothing
//! but itself; for those that do, [`Busy`] stands beside it.

mod closing;

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::future::AbortHandle;
use mio::{Interest, Registry, Token};
use tokio::time::Instant;

use self::closing::Closing;
use super::Lent;
use super::timers::Why;
use crate::auth::Refusal;
use crate::chat::catchup::Done;
use crate::chat::session::{Input, Unstored};
use crate::gateway::Entered;
use crate::gateway::carrier::{Carrier, Reading};
use crate::gateway::connection::{Connection, End};
use crate::gateway::drain::send_away;
use crate::hub::{Ended, Event};
use crate::protocol::{CloseCode, PING_INTERVAL_MS};

/// How long the client may take to take what is written.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// A timer that comes so late tells of a process that stood still, not of its client.
const STOOD_STILL: Duration = Duration::from_secs(2);
/// Tokens that end before the next ping are looked at in time.
const TOKEN_SECONDS: u64 = PING_INTERVAL_MS / 1_000 + 2;

/// Where a socket stands in its loop. The index is another's once it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub index: u32,
    pub generation: u32,
}

/// A socket.
pub(super) struct Slot {
    carrier: Carrier,
    entered: Entered,
    connection: Connection,
    busy: Option<Box<Busy>>,
    pub generation: u32,
    /// It stands in the list of those that have a turn.
    pub touched: bool,
    /// There may be something to read.
    readable: bool,
    /// The client has ended its side: no read that brings something is the last one.
    ended: bool,
    /// A timer waits for its token to end then; 0 for none.
    watched: u64,
}

/// What a socket has beside itself while something is under way.
#[derive(Default)]
struct Busy {
    /// Bytes that the client did not take yet.
    unwritten: Bytes,
    /// Since when there are any.
    stuck: Option<Instant>,
    /// A timer looks at `stuck`.
    timed: bool,
    /// The socket is not read until a timer says so.
    rests: bool,
    work: Option<Working>,
    done: Option<Done>,
    closing: Option<Closing>,
}

/// Work that is under way, and ends with this.
struct Working(AbortHandle);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What became of a socket in a turn.
pub(super) enum Turned {
    /// It stays.
    Stays,
    /// It has more to do, after the others.
    Again,
    /// It is over.
    Ended(End),
}

impl Busy {
    fn is_over(&self) -> bool {
        let waits = self.stuck.is_some() || self.timed || self.rests;
        !waits && self.work.is_none() && self.done.is_none() && self.closing.is_none()
    }
}

impl Slot {
    /// A socket that has no place yet.
    pub fn new(
        carrier: Carrier,
        entered: Entered,
        connection: Connection,
        generation: u32,
    ) -> Self {
        Self {
            readable: carrier.may_hold(),
            carrier,
            entered,
            connection,
            busy: None,
            generation,
            touched: false,
            ended: false,
            watched: 0,
        }
    }

    #[cfg(test)]
    pub fn is_busy(&self) -> bool {
        self.busy.is_some()
    }

    /// It stands here from now on, and epoll watches it.
    pub fn seat(&mut self, index: u32, registry: &Registry) -> io::Result<()> {
        self.entered.outbox().seat(index);
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(self.carrier.source(), Token(index as usize), interest)
    }

    /// What epoll says of it.
    pub fn told(&mut self, event: &mio::event::Event) {
        let over = event.is_read_closed() || event.is_error();
        self.readable |= event.is_readable() || over;
        self.ended |= over;
    }

    /// Its first turn: says `welcome`, and handles what came behind the request.
    pub fn start(&mut self, behind: &mut [u8], lent: &mut Lent, place: Place) -> Turned {
        let (mut desk, _) = lent.desk(&self.entered);
        self.connection.start(&mut desk);
        let heard = self.connection.read(behind, &mut desk);
        let heard = heard.map(|()| desk.rest);
        self.say(heard, lent, place)
    }

    /// A turn.
    pub fn turn(&mut self, lent: &mut Lent, place: Place) -> Turned {
        if self.is_closing() {
            return self.close_on(lent);
        }
        if self.is_stuck() {
            match self.write_on() {
                Err(end) => return Turned::Ended(end),
                Ok(()) if self.is_stuck() => return Turned::Stays,
                Ok(()) => {}
            }
        }
        let heard = self.hear(lent);
        self.say(heard, lent, place)
    }

    /// What was asked of the store has come.
    pub fn done(&mut self, done: Done) {
        let busy = self.busy.get_or_insert_default();
        busy.work = None;
        // One that closes has asked for nothing.
        busy.done = busy.closing.is_none().then_some(done);
    }

    /// Sees to the client, and to the token.
    pub fn tick(&mut self, lent: &mut Lent, place: Place) -> Turned {
        if self.is_closing() || self.is_stuck() {
            return Turned::Stays;
        }
        let (mut desk, _) = lent.desk(&self.entered);
        self.connection.step(Input::Event(Event::Tick), &mut desk);
        self.say(Ok(None), lent, place)
    }

    /// A timer has come.
    pub fn timer(&mut self, why: Why, lent: &mut Lent, place: Place) -> Turned {
        match (why, self.busy.as_deref_mut()) {
            (Why::Token, _) => {
                self.watched = 0;
                let outbox = self.entered.outbox();
                match outbox.pass.take_ended(lent.clock / 1_000) {
                    Some(Ended::Token) => {
                        lent.gateway.chat.turn_away(outbox, &Refusal::Ended.to_string());
                    }
                    // Its key may have been withdrawn since: the client comes again with it.
                    Some(Ended::Stay) => send_away(outbox),
                    None => {}
                }
                self.watch_token(lent, place);
                Turned::Stays
            }
            (Why::Rested, Some(busy)) => {
                busy.rests = false;
                self.turn(lent, place)
            }
            (Why::Close, Some(Busy { closing: Some(closing), .. })) => Turned::Ended(closing.end()),
            (Why::Patience, Some(busy)) => {
                busy.timed = false;
                let until = busy.stuck.map(|since| since + WRITE_PATIENCE);
                match until {
                    // Its end has a timer of its own.
                    Some(_) if busy.closing.is_some() => Turned::Stays,
                    Some(until) if until <= lent.now && lent.now < until + STOOD_STILL => {
                        let end = End::Close { code: CloseCode::Slow, broken: true };
                        self.close(end, lent, place)
                    }
                    Some(until) => {
                        // Who took all while this process stood still is not slow.
                        let late = until <= lent.now;
                        busy.stuck = if late { Some(lent.now) } else { busy.stuck };
                        busy.timed = true;
                        let next = if late { lent.now + WRITE_PATIENCE } else { until };
                        lent.timers.set(next, place, why);
                        Turned::Stays
                    }
                    None => self.stays(),
                }
            }
            _ => Turned::Stays,
        }
    }

    /// It is over, in good order or not: who it was, and what is still to be stored.
    pub fn finish(mut self) -> (Entered, Unstored) {
        self.drop_work();
        let unstored = self.connection.finish(self.entered.outbox());
        (self.entered, unstored)
    }

    pub fn is_closing(&self) -> bool {
        self.busy.as_ref().is_some_and(|busy| busy.closing.is_some())
    }

    pub fn is_stuck(&self) -> bool {
        self.busy.as_ref().is_some_and(|busy| busy.stuck.is_some())
    }

    fn rests(&self) -> bool {
        self.busy.as_ref().is_some_and(|busy| busy.rests)
    }

    /// Its place at the store is for others from here on.
    fn drop_work(&mut self) {
        if let Some(busy) = &mut self.busy {
            (busy.work, busy.done) = (None, None);
        }
    }

    /// Takes what waits and what has come; until when the user is to rest.
    fn hear(&mut self, lent: &mut Lent) -> Result<Option<Instant>, End> {
        let rests = self.rests();
        let done = self.busy.as_mut().and_then(|busy| busy.done.take());
        let outbox = self.entered.outbox();
        let (mut desk, buffer) = lent.desk(&self.entered);
        for event in outbox.take_now() {
            self.connection.step(Input::Event(event), &mut desk);
        }
        if let Some(done) = done {
            self.connection.step(Input::Done(done), &mut desk);
        }
        if rests || desk.out.close.is_some() {
            return Ok(None);
        }
        if self.connection.has_kept() {
            self.connection.read(&mut [], &mut desk)?;
        }
        let reads = self.readable && desk.rest.is_none() && !self.connection.paused();
        if reads {
            let (count, more) = match self.carrier.read(buffer) {
                Ok(Reading::Some(count)) => (count, true),
                Ok(Reading::All(count)) => (count, self.ended && count > 0),
                Ok(Reading::Ended) | Err(_) => return Err(End::Gone),
            };
            self.readable = more;
            self.connection.read(&mut buffer[..count], &mut desk)?;
        }
        Ok(desk.rest)
    }

    /// Gives out what came of it, and writes it. What was said before the client broke the protocol
    /// is still answered.
    fn say(
        &mut self,
        heard: Result<Option<Instant>, End>,
        lent: &mut Lent,
        place: Place,
    ) -> Turned {
        let outbox = self.entered.outbox();
        let (mut desk, _) = lent.desk(&self.entered);
        let (work, close) = Connection::give_out(&mut desk);
        let close = close.map(|code| End::Close { code, broken: false });
        if let Some(end) = heard.err().or(close) {
            return self.close(end, lent, place);
        }
        if let Some(work) = work {
            let handle = lent.begin(work, outbox.clone(), place);
            self.busy.get_or_insert_default().work = Some(Working(handle));
        }
        if let Ok(Some(until)) = heard {
            self.busy.get_or_insert_default().rests = true;
            lent.timers.set(until, place, Why::Rested);
        }
        self.watch_token(lent, place);
        if self.write(lent, place).is_err() {
            return Turned::Ended(End::Gone);
        }
        self.stays()
    }

    fn stays(&mut self) -> Turned {
        if self.busy.as_ref().is_some_and(|busy| busy.is_over()) {
            self.busy = None;
        }
        let waits = self.is_stuck() || self.rests() || self.connection.paused();
        let more = self.readable || self.connection.has_kept();
        if more && !waits { Turned::Again } else { Turned::Stays }
    }

    fn write(&mut self, lent: &mut Lent, place: Place) -> Result<(), End> {
        if lent.write.is_empty() && self.carrier.is_clear() {
            return Ok(());
        }
        let written = self.carrier.write(&lent.write).map_err(|_| End::Gone)?;
        if written < lent.write.len() || !self.carrier.is_clear() {
            let busy = self.busy.get_or_insert_default();
            busy.unwritten = Bytes::copy_from_slice(&lent.write[written..]);
            busy.stuck = Some(lent.now);
            if !std::mem::replace(&mut busy.timed, true) {
                lent.timers.set(lent.now + WRITE_PATIENCE, place, Why::Patience);
            }
        }
        lent.write.clear();
        Ok(())
    }

    /// Writes what the client did not take before.
    fn write_on(&mut self) -> Result<(), End> {
        let Some(busy) = &mut self.busy else { return Ok(()) };
        let written = self.carrier.write(&busy.unwritten).map_err(|_| End::Gone)?;
        busy.unwritten.advance(written);
        if busy.unwritten.is_empty() && self.carrier.is_clear() {
            (busy.unwritten, busy.stuck) = (Bytes::new(), None);
        }
        Ok(())
    }

    /// Sets a timer for a token that ends before the next tick.
    fn watch_token(&mut self, lent: &mut Lent, place: Place) {
        let Some(ends) = self.entered.outbox().pass.ends() else { return };
        // A new one may end before the one that it follows.
        if self.watched != 0 && self.watched <= ends {
            return;
        }
        let left = (ends + 1) * 1_000;
        let left = Duration::from_millis(left.saturating_sub(lent.clock));
        if left <= Duration::from_secs(TOKEN_SECONDS) {
            self.watched = ends;
            lent.timers.set(lent.now + left, place, Why::Token);
        }
    }
}
