//! One socket's conversation with Parlor, pure: `(state, input) → outputs`.
//!
//! `gateway` feeds frames, pongs, events of the outbox and finished work in, and does what comes
//! out. Here is what a client says and what the rest of the server says to it; `inbox` keeps what
//! the socket has been sent and has received, and decides what is read from the store next.
//!
//! **An idle session is a few bytes and owns no memory**: the inbox is there only while something
//! is under way, and whose socket it is stands in the outbox and is told with each input.

mod outputs;
mod tick;
mod unstored;

use std::time::Duration;

use tokio::time::Instant;

pub use outputs::{Effect, Outputs};
pub use unstored::Unstored;

use super::catchup::Done;
use super::inbox::Inbox;
use super::receipt::Receipts;
use crate::hub::{Event, Who};
use crate::limits::Over;
use crate::protocol::{
    ClientFrame, CloseCode, ConversationId, ErrorCode, PING_INTERVAL_MS, ProcessId, Ref, Sizes,
    TOKEN_REVOKED, Timestamp, answer,
};
use tick::Tick;

/// How many sends may be without an answer; past that the socket is not read.
pub const SENDS_MAX: u16 = 64;
/// When to send again what was put off.
const PUT_OFF_MS: u64 = 1_000;
/// How many ticks may follow the last sign of life.
const SILENT_TICKS_MAX: u8 = 2;
/// Two ticks further apart than this: the process stood still, and the client's words still wait to
/// be read.
const TICKS_APART_MAX: Duration = Duration::from_millis(PING_INTERVAL_MS + 5_000);

/// Around a session: whose it is and what the time is. It keeps nothing of this.
#[derive(Debug, Clone, Copy)]
pub struct Here<'a> {
    /// Whose socket it is.
    pub who: &'a Who,
    /// The server that it is open on.
    pub server: &'a ProcessId,
    /// How many sockets a person may have, for `welcome`.
    pub sockets_per_user: u16,
    /// How large what it writes may be.
    pub sizes: Sizes,
    /// The wall clock, for frames that tell the time.
    pub clock: Timestamp,
    /// For what is measured.
    pub now: Instant,
}

/// What the socket's task feeds in.
#[derive(Debug)]
pub enum Input<'a> {
    /// A text frame.
    Frame(&'a str),
    /// A WebSocket pong with its payload; an empty one for any other sign of life.
    Pong(&'a [u8]),
    /// Something from the outbox.
    Event(Event),
    /// Work that was asked for is done.
    Done(Done),
}

/// How a client wants to be served.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish {
    /// The application acknowledges by itself.
    pub acks_app: bool,
    /// Only the newest so many of each conversation are pushed on connect.
    pub catchup: Option<u64>,
    /// A token opened the socket, and the mailbox may say that it is dead: until that was read
    /// nothing is taken from the client.
    pub guarded: bool,
}

/// One socket's session.
#[derive(Debug)]
pub struct Session {
    /// The number of the last ping behind texts: it goes on where an inbox has ended.
    pings: u64,
    /// What is under way. Where there is none, the mailbox was read and all of it is at rest.
    inbox: Option<Box<Inbox>>,
    ticked: Option<Tick>,
    sends: u16,
    /// Ticks since the last sign of life.
    silent_ticks: u8,
    acks_app: bool,
}

impl Session {
    /// A session before its first frame.
    pub fn new(wish: Wish) -> Self {
        let inbox = Some(Box::new(Inbox::new(wish)));
        let acks_app = wish.acks_app;
        Self { pings: 0, inbox, ticked: None, sends: 0, silent_ticks: 0, acks_app }
    }

    /// Says `welcome` and asks for the claim and the mailbox.
    pub fn start(&mut self, here: &Here<'_>, out: &mut Outputs) {
        let Who { user, device, socket } = here.who;
        let (most, sizes) = (here.sockets_per_user, &here.sizes);
        let welcome = answer::welcome(user, *socket, here.server, device, here.clock, most, sizes);
        out.frames.push(welcome);
        self.ticked = Some(Tick::at(here.now));
        self.go_on(here, out);
    }

    /// Whether the socket is not to be read: too much of it is unanswered, or it is not known yet
    /// whether its token holds.
    pub fn paused(&self) -> bool {
        self.sends >= SENDS_MAX || self.inbox.as_ref().is_some_and(|inbox| inbox.pauses())
    }

    /// Whether nothing is under way. Such a session owns no memory.
    pub fn is_idle(&self) -> bool {
        self.inbox.is_none()
    }

    /// Whether the socket's token may be dead.
    fn is_unknown(&self) -> bool {
        self.inbox.as_ref().is_some_and(|inbox| inbox.is_unknown())
    }

    fn inbox(&mut self) -> &mut Inbox {
        let (acks_app, pings) = (self.acks_app, self.pings);
        self.inbox.get_or_insert_with(|| Box::new(Inbox::resume(acks_app, pings)))
    }

    /// Asks for what is to be done next, and lets go of an inbox in which nothing is under way.
    fn go_on(&mut self, here: &Here<'_>, out: &mut Outputs) {
        let Some(inbox) = &mut self.inbox else { return };
        inbox.next_work(here, out);
        if inbox.rests(here.now) {
            self.pings = inbox.pings();
            self.inbox = None;
        }
    }

    /// Takes a text frame. `count` is asked whether its sender may send one more, unless it is a
    /// receipt that was due: those are as many as others wish.
    pub fn hear(
        &mut self,
        text: &str,
        count: impl FnOnce() -> Result<(), Over>,
        here: &Here<'_>,
        out: &mut Outputs,
    ) {
        self.silent_ticks = 0;
        match ClientFrame::parse(text, &here.sizes) {
            Ok(frame @ ClientFrame::Ack { .. }) if !self.is_unknown() => {
                // It asks for nothing, and refused it would be missing.
                if !self.frame(frame, here, out) {
                    let _ = count();
                }
            }
            Ok(frame) => match count() {
                Ok(()) if self.is_unknown() => Self::put_off(&frame, here.clock, out),
                Ok(()) => drop(self.frame(frame, here, out)),
                Err(over) => {
                    let (detail, after) = (over.to_string(), over.retry_after_ms());
                    refuse(ErrorCode::RateLimited, &detail, named(&frame), after, out);
                }
            },
            Err(bad) => {
                let _ = count();
                out.effects.extend(bad.over.map(Effect::Limited));
                refuse(bad.code, &bad.detail, bad.reference.as_ref(), 0, out);
            }
        }
        self.go_on(here, out);
    }

    /// Whether a pong with this payload answers a ping that was behind texts.
    pub fn asked_for(&self, payload: &[u8]) -> bool {
        self.inbox.as_ref().is_some_and(|inbox| inbox.asked_for(payload))
    }

    /// Takes one input.
    pub fn step(&mut self, input: Input<'_>, here: &Here<'_>, out: &mut Outputs) {
        match input {
            Input::Frame(text) => return self.hear(text, || Ok(()), here, out),
            Input::Pong(payload) => {
                self.silent_ticks = 0;
                if let Some(inbox) = &mut self.inbox {
                    inbox.pong(payload, here.now, out);
                }
            }
            Input::Event(event) => self.event(event, here.now, out),
            Input::Done(Done::Revoked) => {
                refuse(ErrorCode::Unauthorized, TOKEN_REVOKED, None, 0, out);
                out.close = Some(CloseCode::Unauthorized);
                return;
            }
            Input::Done(done) => {
                let sending = self.sends > 0;
                self.inbox().done(done, sending, here, out);
            }
        }
        self.go_on(here, out);
    }

    /// The session is over: what is still to be stored. `who`: whose it was.
    pub fn finish(self, who: &Who) -> Unstored {
        match self.inbox {
            Some(inbox) => inbox.finish(who),
            None => Unstored { entered: true, ..Unstored::default() },
        }
    }

    /// Whether it is a receipt that was due.
    fn frame(&mut self, frame: ClientFrame, here: &Here<'_>, out: &mut Outputs) -> bool {
        let mine = |conversation: &ConversationId| {
            conversation.is_room() || conversation.is_between(&here.who.user)
        };
        match frame {
            ClientFrame::Message(send) => {
                self.sends = self.sends.saturating_add(1);
                out.effects.push(Effect::Send(send));
            }
            ClientFrame::Ack { conversation, reference, .. }
            | ClientFrame::Read { conversation, reference, .. }
                if !mine(&conversation) =>
            {
                let detail = super::ChatError::not_found("conversation").detail;
                refuse(ErrorCode::NotFound, &detail, reference.as_ref(), 0, out);
            }
            ClientFrame::Ack { conversation, seq, .. } => {
                let Some(inbox) = &mut self.inbox else { return false };
                return inbox.ack(&conversation, seq, here.now, out);
            }
            ClientFrame::Read { conversation, seq, .. } => self.inbox().see(conversation, seq),
            ClientFrame::Signal { target, data, reference } => {
                out.effects.push(Effect::Signal { target, data, reference });
            }
            ClientFrame::Ping { reference } => {
                out.frames.push(answer::pong(reference.as_ref(), here.clock));
            }
            ClientFrame::Auth { token, reference } => {
                out.effects.push(Effect::Renew { token, reference });
            }
        }
        false
    }

    /// The store does not answer, so that nobody knows whether the token still holds: what the
    /// client says can wait.
    fn put_off(frame: &ClientFrame, clock: Timestamp, out: &mut Outputs) {
        if let ClientFrame::Ping { reference } = frame {
            return out.frames.push(answer::pong(reference.as_ref(), clock));
        }
        let detail = "the store does not answer, send again with the same ref";
        refuse(ErrorCode::Unavailable, detail, named(frame), PUT_OFF_MS, out);
    }

    fn event(&mut self, event: Event, now: Instant, out: &mut Outputs) {
        match event {
            // Statuses and signals are for those whose token holds.
            Event::Frame(_) if self.is_unknown() => {}
            Event::Frame(frame) | Event::Answer(frame) => out.frames.push(frame),
            Event::Refused(frame) => {
                self.sends = self.sends.saturating_sub(1);
                out.frames.push(frame);
            }
            Event::Sent { reference, conversation, seq, n, timestamp } => {
                self.sends = self.sends.saturating_sub(1);
                out.frames.push(answer::sent(reference.as_ref(), &conversation, seq, timestamp));
                self.inbox().sent(conversation, seq, n, now, out);
            }
            Event::Text { .. } | Event::Hint { .. } => self.inbox().hear(event, now, out),
            Event::Reread => self.inbox().reread(),
            Event::Doubt => self.inbox().doubt(),
            Event::Belt => self.inbox().belt(),
            Event::Flush => {
                if let Some(inbox) = &mut self.inbox {
                    inbox.flush(now, out);
                }
            }
            Event::Tick => self.tick(now, out),
            Event::Reconnect(after_ms) => out.frames.push(answer::reconnect(after_ms)),
            Event::Close(code) => out.close = Some(code),
        }
    }

    fn tick(&mut self, now: Instant, out: &mut Outputs) {
        let tick = Tick::at(now);
        let since_last = self.ticked.replace(tick).map_or(Duration::ZERO, |last| tick.since(last));
        // What a client says while it is not read is not heard: it may have answered all.
        let unheard = since_last > TICKS_APART_MAX || self.paused();
        if unheard {
            self.silent_ticks = 0;
        }
        let mut ping = Receipts::PLAIN_PING;
        if let Some(inbox) = &mut self.inbox {
            if unheard {
                inbox.wait_anew(now);
            }
            inbox.tick(since_last, now);
            if inbox.is_late(now) {
                out.close = Some(CloseCode::Slow);
                return;
            }
            ping = inbox.plain_ping();
        }
        self.silent_ticks = self.silent_ticks.saturating_add(1);
        if self.silent_ticks > SILENT_TICKS_MAX {
            out.close = Some(CloseCode::Silent);
        } else {
            // At every tick, as `welcome` has told: clients and proxies count on it.
            out.ping.get_or_insert(ping);
        }
    }
}

/// The name that a client gave a frame.
fn named(frame: &ClientFrame) -> Option<&Ref> {
    let reference = match frame {
        ClientFrame::Message(send) => &send.reference,
        ClientFrame::Ping { reference }
        | ClientFrame::Ack { reference, .. }
        | ClientFrame::Read { reference, .. }
        | ClientFrame::Signal { reference, .. }
        | ClientFrame::Auth { reference, .. } => reference,
    };
    reference.as_ref()
}

/// `after_ms` is for the retryable codes.
fn refuse(
    code: ErrorCode,
    detail: &str,
    reference: Option<&Ref>,
    after_ms: u64,
    out: &mut Outputs,
) {
    out.effects.push(Effect::Refused(code));
    out.frames.push(answer::error(code, detail, reference, Some(after_ms)));
}

#[cfg(test)]
mod tests;
