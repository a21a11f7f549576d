//! The end of a socket: the close handshake (RFC 6455 §7.1), within a second.

use std::time::Duration;

use super::{Place, Slot, Turned};
use crate::gateway::carrier::Reading;
use crate::gateway::connection::End;
use crate::gateway::engine::Lent;
use crate::gateway::engine::timers::Why;
use crate::gateway::framing;

/// How long the close handshake may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// The end of a socket: it says goodbye, and reads what the client still says.
pub(super) struct Closing {
    end: End,
    /// The client's goodbye is waited for.
    awaits: bool,
    /// Nothing more is written.
    shut: bool,
}

impl Closing {
    /// Why it ends.
    pub fn end(&self) -> End {
        self.end
    }
}

impl Slot {
    /// Begins the end: says goodbye, briefly, since the client should see the code and not a reset.
    pub(super) fn close(&mut self, end: End, lent: &mut Lent, place: Place) -> Turned {
        self.drop_work();
        match end {
            End::Gone => {}
            End::Left(code) => framing::put_goodbye(&mut lent.write, code),
            End::Close { code, .. } => framing::put_close(&mut lent.write, code),
        }
        if !self.is_stuck() && self.write(lent, place).is_err() {
            return Turned::Ended(end);
        }
        // Its goodbye may be among what was read before and not looked at.
        let awaits = matches!(end, End::Close { broken: false, .. });
        let awaits = awaits && !self.connection.hears_goodbye(&mut []);
        let busy = self.busy.get_or_insert_default();
        if !lent.write.is_empty() {
            busy.unwritten = [&busy.unwritten[..], &lent.write].concat().into();
        }
        busy.closing = Some(Closing { end, awaits, shut: false });
        lent.timers.set(lent.now + CLOSE_PATIENCE, place, Why::Close);
        self.close_on(lent)
    }

    /// Goes on until all is written and the client has ended its side.
    pub(super) fn close_on(&mut self, lent: &mut Lent) -> Turned {
        let written = self.write_on();
        let stuck = self.is_stuck();
        let Some(closing) = self.busy.as_mut().and_then(|busy| busy.closing.as_mut()) else {
            return Turned::Stays;
        };
        let ended = Turned::Ended(closing.end);
        if written.is_err() {
            return ended;
        }
        // What the client has sent meanwhile is read away: unread, it would turn the end into a
        // reset.
        if self.readable && closing.end != End::Gone {
            let (count, more) = match self.carrier.read(&mut lent.buffer) {
                Ok(Reading::Some(count)) => (count, true),
                Ok(Reading::All(count)) => (count, self.ended && count > 0),
                Ok(Reading::Ended) | Err(_) => return ended,
            };
            self.readable = more;
            let bytes = &mut lent.buffer[..count];
            closing.awaits = closing.awaits && !self.connection.hears_goodbye(bytes);
        }
        if !stuck && !closing.awaits && !std::mem::replace(&mut closing.shut, true) {
            self.carrier.shutdown();
            if closing.end == End::Gone {
                return ended;
            }
        }
        if self.readable && closing.end != End::Gone { Turned::Again } else { Turned::Stays }
    }
}
