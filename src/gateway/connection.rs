//! What one socket does with bytes and events, whatever carries them: frames are decoded, counted
//! and handed to the session, and what comes of it is encoded.
//!
//! No IO and no waiting here. The session decides; here are the translation of frames and the hand
//! over of effects. An idle connection owns no memory beside itself.

use std::sync::Arc;

use tokio::time::Instant;

use super::Gateway;
use super::effects::hand_on;
use super::framing::{self, Decoder, Fault, Incoming};
use super::handshake::Hello;
use super::pace;
use crate::chat::catchup::Work;
use crate::chat::session::{Here, Input, Outputs, Session, Unstored, Wish};
use crate::hub::Outbox;
use crate::limits::{Address, Limit};
use crate::protocol::{CloseCode, Sizes, Timestamp};

/// The longest receipt that nobody has to pay for: ten times what one needs.
const RECEIPT_BYTES_MAX: usize = 1_024;

/// Why a socket ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client is gone.
    Gone,
    /// The client has said goodbye, with this code if it gave one.
    Left(Option<u16>),
    /// Close with this code; `broken`: nothing that the client says is understood any more.
    Close {
        /// The code.
        code: CloseCode,
        /// See there.
        broken: bool,
    },
}

impl End {
    /// The reason's name, for the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gone | Self::Left(_) => "client",
            Self::Close { code, .. } => code.reason(),
        }
    }
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Close { code: fault.code(), broken: true }
    }
}

/// What a turn of a connection works with: all that it needs not keep between turns.
pub(super) struct Desk<'a> {
    pub gateway: &'a Gateway,
    pub outbox: &'a Arc<Outbox>,
    /// For whom tokens count that it sends and that do not hold.
    pub address: Option<Address>,
    /// What the session says in this turn.
    pub out: &'a mut Outputs,
    /// Bytes to write.
    pub write: &'a mut Vec<u8>,
    /// Until when the socket is not to be read.
    pub rest: Option<Instant>,
    pub clock: Timestamp,
    pub now: Instant,
}

impl<'a> Desk<'a> {
    fn here(&self) -> Here<'a> {
        let (chat, who) = (&self.gateway.chat, &self.outbox.who);
        let (server, sockets_per_user) = (&chat.me.id, chat.hub.sockets_per_user());
        let sizes = chat.limits.settings().sizes;
        Here { who, server, sockets_per_user, sizes, clock: self.clock, now: self.now }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    session: Session,
    decoder: Decoder,
}

impl Connection {
    /// One whose 101 has left.
    pub fn new(gateway: &Gateway, hello: &Hello) -> Self {
        let guarded = gateway.guard.is_some();
        let wish = Wish { acks_app: hello.acks_app, catchup: hello.catchup, guarded };
        Self { session: Session::new(wish), decoder: Decoder::default() }
    }

    /// Says `welcome`.
    pub fn start(&mut self, desk: &mut Desk<'_>) {
        self.session.start(&desk.here(), desk.out);
    }

    /// Takes anything but bytes.
    pub fn step(&mut self, input: Input<'_>, desk: &mut Desk<'_>) {
        self.session.step(input, &desk.here(), desk.out);
    }

    /// Whether nothing more is to be read: too much of it is unanswered. (A user who is over a
    /// limit is not read either: [`Desk::rest`].)
    pub fn paused(&self) -> bool {
        self.session.paused()
    }

    /// Whether frames are here that were read and not looked at.
    pub fn has_kept(&self) -> bool {
        self.decoder.has_kept()
    }

    /// Handles all frames that end in these bytes, until the user is to rest.
    pub fn read(&mut self, bytes: &mut [u8], desk: &mut Desk<'_>) -> Result<(), End> {
        let most = desk.gateway.chat.limits.settings().sizes.frame;
        let mut at = 0;
        loop {
            if self.paused() || desk.rest.is_some() {
                self.decoder.keep(&bytes[at..]);
                return Ok(());
            }
            let Self { session, decoder } = self;
            let mut rest = &mut bytes[at..];
            let heard = decoder.next(&mut rest, most);
            let left = rest.len();
            match heard {
                Ok(None) => return Ok(()),
                Ok(Some(incoming)) => hear(session, incoming, desk)?,
                Err(fault) => {
                    if fault == Fault::TooBig {
                        desk.gateway.chat.metrics.count_limited(Limit::FrameBytes.as_str());
                        count(desk, decoder.unpaid());
                    }
                    return Err(fault.into());
                }
            }
            at = bytes.len() - left;
        }
    }

    /// Looks only for the client's goodbye; `true` once it was said, or nothing can be understood.
    pub fn hears_goodbye(&mut self, bytes: &mut [u8]) -> bool {
        let mut at = 0;
        loop {
            let mut rest = &mut bytes[at..];
            match self.decoder.next(&mut rest, Sizes::MOST.frame) {
                Ok(None) => return false,
                Ok(Some(Incoming::Close(_))) | Err(_) => return true,
                Ok(Some(_)) => {}
            }
            let left = rest.len();
            at = bytes.len() - left;
        }
    }

    /// Hands effects on and writes frames; returns the work to begin, and how the session wants to
    /// close.
    pub fn give_out(desk: &mut Desk<'_>) -> (Option<Work>, Option<CloseCode>) {
        let chat = &desk.gateway.chat;
        for effect in desk.out.effects.drain(..) {
            let guard = desk.gateway.guard.as_ref().map(|guard| (guard, desk.address));
            hand_on(chat, desk.outbox, guard, effect);
        }
        for frame in desk.out.frames.drain(..) {
            framing::put_text(desk.write, &frame);
        }
        if let Some(ping) = desk.out.ping.take() {
            framing::put_ping(desk.write, &ping);
        }
        (desk.out.work.take(), desk.out.close.take())
    }

    /// The cursors that are still to be stored.
    pub fn finish(self, outbox: &Outbox) -> Unstored {
        self.session.finish(&outbox.who)
    }
}

/// What the frame of a ping or pong took.
fn whole(payload: &[u8]) -> u32 {
    const HEAD_BYTES: u32 = 6;
    u32::try_from(payload.len()).unwrap_or(u32::MAX).saturating_add(HEAD_BYTES)
}

/// Counts what can't be refused, and is followed by a rest all the same.
fn count(desk: &mut Desk<'_>, bytes: u32) {
    let (chat, user) = (&desk.gateway.chat, &desk.outbox.who.user);
    let _ = pace::count(chat, user, bytes, desk.now, &mut desk.rest);
}

fn hear(session: &mut Session, incoming: Incoming<'_>, desk: &mut Desk<'_>) -> Result<(), End> {
    match incoming {
        Incoming::Text { text, cost } => {
            let mut counted = false;
            let here = desk.here();
            let Desk { gateway, outbox, out, rest, now, .. } = desk;
            let may = || {
                counted = true;
                pace::count(&gateway.chat, &outbox.who.user, cost, *now, rest)
            };
            session.hear(text, may, &here, out);
            if !counted && text.len() > RECEIPT_BYTES_MAX {
                count(desk, cost);
            }
        }
        Incoming::Pong(payload) => {
            if !session.asked_for(payload) {
                count(desk, whole(payload));
            }
            session.step(Input::Pong(payload), &desk.here(), desk.out);
        }
        // It shows that the client lives, as a pong does.
        Incoming::Ping(payload) => {
            framing::put_pong(desk.write, payload);
            count(desk, whole(payload));
            session.step(Input::Pong(&[]), &desk.here(), desk.out);
        }
        Incoming::Close(code) => return Err(End::Left(code)),
    }
    Ok(())
}
