//! The end of a socket: the close handshake (RFC 6455 §7.1), within a second.

use std::io::ErrorKind;
use std::time::Duration;

use super::{Place, Slot, Turned};
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
        let stuck = self.is_stuck();
        if !stuck && self.write(lent, place).is_err() || end == End::Gone {
            lent.write.clear();
            return Turned::Ended(end);
        }
        let busy = self.busy.get_or_insert_default();
        busy.unwritten.append(&mut lent.write);
        let awaits = matches!(end, End::Close { broken: false, .. });
        busy.closing = Some(Closing { end, awaits, shut: false });
        lent.timers.set(lent.now + CLOSE_PATIENCE, place, Why::Close);
        self.close_on(lent)
    }

    /// What the client has sent meanwhile is read away: unread, it would turn the end into a reset.
    pub(super) fn close_on(&mut self, lent: &mut Lent) -> Turned {
        let written = self.write_on();
        let Some(busy) = &mut self.busy else { return Turned::Stays };
        let stuck = busy.stuck.is_some();
        let Some(closing) = &mut busy.closing else { return Turned::Stays };
        if written.is_err() {
            return Turned::Ended(closing.end);
        }
        let mut more = false;
        if self.readable {
            match self.carrier.read(&mut lent.buffer) {
                Ok((0, _)) => return Turned::Ended(closing.end),
                Ok((count, all)) => {
                    self.readable = !all || self.ended;
                    more = self.readable;
                    let bytes = &mut lent.buffer[..count];
                    closing.awaits = closing.awaits && !self.connection.hears_goodbye(bytes);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(_) => return Turned::Ended(closing.end),
            }
        }
        if !stuck && !closing.awaits && !std::mem::replace(&mut closing.shut, true) {
            self.carrier.shutdown();
        }
        if more { Turned::Again } else { Turned::Stays }
    }
}
