//! One socket's conversation with Parlor, pure: `(state, input) → outputs`.
//!
//! `gateway` feeds frames, pongs, events of the outbox and finished work in, and does what comes
//! out. Here is what a client says and what the rest of the server says to it; `inbox` keeps what
//! the socket has been sent and has received, and decides what is read from the store next.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::Instant;

use super::catchup::{Done, Work};
use super::inbox::Inbox;
use crate::hub::{Event, Who};
use crate::limits::Over;
use crate::protocol::{
    ClientFrame, CloseCode, ConversationId, ErrorCode, PING_INTERVAL_MS, ProcessId, Receipt, Ref,
    SOCKETS_PER_USER, SendFrame, Seq, TOKEN_REVOKED, Target, Text, Timestamp, Token, answer,
};
use crate::store::{CALL_MS_MAX, Raise};

/// How many sends may be without an answer; past that the socket is not read.
pub const SENDS_MAX: u32 = 64;
/// When to send again what was put off.
const PUT_OFF_MS: u64 = 1_000;
/// How many ticks in a row may bring no sign of life.
const SILENT_TICKS_MAX: u8 = 1;
/// Two ticks further apart than this: the process stood still, and the client's words still wait to
/// be read.
const TICKS_APART_MAX: Duration = Duration::from_millis(PING_INTERVAL_MS + 5_000);

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

/// What the socket's task has to do: hand `effects` on, start `work`, write `frames`, then `ping`,
/// flush once, then close.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Frames to write.
    pub frames: Vec<Text>,
    /// A WebSocket ping to write behind them.
    pub ping: Option<[u8; 8]>,
    /// A read or write of the store; at most one is under way.
    pub work: Option<Work>,
    /// What other parts are to do.
    pub effects: Vec<Effect>,
    /// Close with this code, once all is written.
    pub close: Option<CloseCode>,
}

/// What other parts are to do for a session.
#[derive(Debug)]
pub enum Effect {
    /// Append this; the answer comes as an event.
    Send(SendFrame),
    /// Hand this on, once.
    Signal {
        /// Whom it is for.
        target: Target,
        /// What it says.
        data: Arc<RawValue>,
        /// For an error.
        reference: Option<Ref>,
    },
    /// Tell `via` (or, where nobody waits, the sender's sockets) how far this was received.
    Received {
        /// Which log.
        conversation: ConversationId,
        /// Up to here.
        seq: Seq,
        /// Who waits for it.
        via: Option<ProcessId>,
        /// Delivered, or only `have`.
        receipt: Receipt,
    },
    /// The person has seen up to `seq`: it is stored, tell the others.
    Seen(ConversationId, Seq),
    /// The own row says `last` ≥ this now, an own send: the person's other sockets look for it.
    Raised(ConversationId, Seq),
    /// A frame was refused: count it.
    Refused(ErrorCode),
    /// Ask for `Event::Flush` then: some cursor will have rested.
    Rest(Instant),
    /// Check this token, and go on with it; the answer comes as an event.
    Renew {
        /// The token.
        token: Token,
        /// For an error.
        reference: Option<Ref>,
    },
}

/// How a client wants to be served.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// The application acknowledges by itself.
    pub acks_app: bool,
    /// Only the newest so many of each conversation are pushed on connect.
    pub catchup: Option<u64>,
    /// A token opened the socket, and the mailbox may say that it is dead: until that was read
    /// nothing is taken from the client.
    pub guarded: bool,
    /// How many sockets the person may have; not wished, but told.
    pub sockets_per_user: u16,
}

impl Default for Wish {
    fn default() -> Self {
        let sockets_per_user = SOCKETS_PER_USER;
        Self { acks_app: false, catchup: None, guarded: false, sockets_per_user }
    }
}

/// What the store does not know yet when a session ends.
#[derive(Debug, Default)]
pub struct Unstored {
    /// The session got its mailbox, so its device is registered.
    pub entered: bool,
    /// Cursors, and rows of own sends.
    pub raises: Vec<(ConversationId, Raise)>,
    /// Own sends whose rows these raise.
    pub own: Vec<(ConversationId, Seq)>,
}

impl Unstored {
    /// An own send was stored at `seq`. Nobody but its session raises the row of a sender without
    /// further devices.
    pub fn sent(&mut self, conversation: &ConversationId, seq: Seq) {
        if conversation.is_room() {
            return;
        }
        match self.raises.iter_mut().find(|(known, _)| known == conversation) {
            Some((_, raise)) => raise.last = raise.last.max(Some(seq)),
            None => {
                let raise = Raise { last: Some(seq), ..Raise::default() };
                self.raises.push((conversation.clone(), raise));
            }
        }
        match self.own.iter_mut().find(|(known, _)| known == conversation) {
            Some((_, known)) => *known = seq.max(*known),
            None => self.own.push((conversation.clone(), seq)),
        }
    }
}

/// One socket's session.
#[derive(Debug)]
pub struct Session {
    who: Who,
    server: ProcessId,
    inbox: Inbox,
    sends: u32,
    alive: bool,
    silent_ticks: u8,
    ticked: Option<Instant>,
    guarded: bool,
    sockets_per_user: u16,
    /// The mailbox takes so long that what the client says is answered without it.
    overdue: bool,
}

impl Session {
    /// A session before its first frame.
    pub fn new(who: Who, server: ProcessId, wish: Wish) -> Self {
        let inbox = Inbox::new(who.user.clone(), who.device.clone(), wish);
        Self {
            who,
            server,
            inbox,
            sends: 0,
            alive: true,
            silent_ticks: 0,
            ticked: None,
            guarded: wish.guarded,
            sockets_per_user: wish.sockets_per_user,
            overdue: false,
        }
    }

    /// Says `welcome` and asks for the claim and the mailbox.
    pub fn start(&mut self, clock: Timestamp, now: Instant, out: &mut Outputs) {
        let Who { user, device, socket } = &self.who;
        let most = self.sockets_per_user;
        out.frames.push(answer::welcome(user, *socket, &self.server, device, clock, most));
        self.ticked = Some(now);
        self.inbox.next_work(now, out);
    }

    /// Whether the socket is not to be read: too much of it is unanswered, or it is not known yet
    /// whether its token holds.
    pub fn paused(&self) -> bool {
        let unknown = self.is_unknown() && !self.overdue;
        unknown || self.sends >= SENDS_MAX || self.inbox.sees_full()
    }

    fn is_unknown(&self) -> bool {
        self.guarded && !self.inbox.has_mailbox()
    }

    /// Takes a text frame. `count` is asked whether its sender may send one more, unless it is a
    /// receipt that was due: those are as many as others wish.
    pub fn hear(
        &mut self,
        text: &str,
        count: impl FnOnce() -> Result<(), Over>,
        clock: Timestamp,
        now: Instant,
        out: &mut Outputs,
    ) {
        self.alive = true;
        match ClientFrame::parse(text) {
            Ok(frame @ ClientFrame::Ack { .. }) if !self.is_unknown() => {
                // It asks for nothing, and refused it would be missing.
                if !self.frame(frame, clock, now, out) {
                    let _ = count();
                }
            }
            Ok(frame) => match count() {
                Ok(()) if self.is_unknown() => Self::put_off(&frame, clock, out),
                Ok(()) => drop(self.frame(frame, clock, now, out)),
                Err(over) => {
                    let (detail, after) = (over.to_string(), over.retry_after_ms());
                    refuse(ErrorCode::RateLimited, &detail, named(&frame), after, out);
                }
            },
            Err(bad) => {
                let _ = count();
                refuse(bad.code, &bad.detail, bad.reference.as_ref(), 0, out);
            }
        }
        self.inbox.next_work(now, out);
    }

    /// Whether a pong with this payload answers a ping that was behind texts.
    pub fn asked_for(&self, payload: &[u8]) -> bool {
        self.inbox.asked_for(payload)
    }

    /// Takes one input. `clock` is the wall clock, for frames that tell the time.
    pub fn step(&mut self, input: Input<'_>, clock: Timestamp, now: Instant, out: &mut Outputs) {
        match input {
            Input::Frame(text) => return self.hear(text, || Ok(()), clock, now, out),
            Input::Pong(payload) => {
                self.alive = true;
                self.inbox.pong(payload, now, out);
            }
            Input::Event(event) => self.event(event, now, out),
            Input::Done(Done::Revoked) => {
                refuse(ErrorCode::Unauthorized, TOKEN_REVOKED, None, 0, out);
                out.close = Some(CloseCode::Unauthorized);
                return;
            }
            Input::Done(done) => self.inbox.done(done, self.sends > 0, now, out),
        }
        self.inbox.next_work(now, out);
    }

    /// The session is over: what is still to be stored.
    pub fn finish(self) -> Unstored {
        self.inbox.finish()
    }

    /// Whether it is a receipt that was due.
    fn frame(
        &mut self,
        frame: ClientFrame,
        clock: Timestamp,
        now: Instant,
        out: &mut Outputs,
    ) -> bool {
        let mine = |conversation: &ConversationId| {
            conversation.is_room() || conversation.other(&self.who.user).is_some()
        };
        match frame {
            ClientFrame::Message(send) => {
                self.sends += 1;
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
                return self.inbox.ack(&conversation, seq, now, out);
            }
            ClientFrame::Read { conversation, seq, .. } => self.inbox.see(conversation, seq),
            ClientFrame::Signal { target, data, reference } => {
                out.effects.push(Effect::Signal { target, data, reference });
            }
            ClientFrame::Ping { reference } => {
                out.frames.push(answer::pong(reference.as_ref(), clock));
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
                self.inbox.sent(conversation, seq, n, now, out);
            }
            Event::Text { .. } | Event::Hint { .. } => self.inbox.hear(event, now, out),
            Event::Reread => self.inbox.reread(),
            Event::Belt => self.inbox.belt(),
            Event::Flush => self.inbox.flush(now, out),
            Event::Tick => self.tick(now, out),
            Event::Reconnect(after_ms) => out.frames.push(answer::reconnect(after_ms)),
            Event::Close(code) => out.close = Some(code),
        }
    }

    fn tick(&mut self, now: Instant, out: &mut Outputs) {
        let before = self.ticked.replace(now);
        let answered_by = Duration::from_millis(2 * CALL_MS_MAX);
        self.overdue |= before.is_some_and(|before| now.duration_since(before) > answered_by);
        if before.is_some_and(|before| now.duration_since(before) > TICKS_APART_MAX) {
            self.alive = true;
            self.inbox.wait_anew(now);
        }
        self.inbox.tick(now);
        if self.inbox.is_late(now) {
            out.close = Some(CloseCode::Slow);
            return;
        }
        self.silent_ticks = if std::mem::take(&mut self.alive) { 0 } else { self.silent_ticks + 1 };
        if self.silent_ticks > SILENT_TICKS_MAX {
            out.close = Some(CloseCode::Silent);
        } else {
            // At every tick, as `welcome` has told: clients and proxies count on it.
            out.ping.get_or_insert_with(|| self.inbox.plain_ping());
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
