//! One socket's task: WebSocket frames in, session, frames out.
//!
//! What has arrived is handled without waiting, and everything that came of it leaves in one flush.
//! The task holds no timer and, while it is idle, no buffer but the library's. The session decides;
//! here are only the select loop, the close handshake and the translation of errors to close codes.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Gateway;
use super::effects::hand_on;
use super::handshake::Hello;
use super::pace::Pace;
use super::porch::counted;
use super::stream::{self, Wire};
use crate::chat::catchup::{self, Done};
use crate::chat::session::{Input, Outputs, Session};
use crate::edge::Stream;
use crate::hub::{Event, Outbox};
use crate::limits::Address;
use crate::protocol::{CloseCode, Timestamp};

/// How many frames are handled before what came of them is written.
const FRAMES_A_TURN: usize = 64;
/// Room for so many frames is kept between two turns.
const FRAMES_KEPT: usize = 16;
/// The longest receipt that nobody has to pay for: ten times what one needs.
const RECEIPT_BYTES_MAX: usize = 1_024;
/// How long the client may take to take what is written.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// How long the close handshake may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

pub use crate::chat::session::Unstored;

/// Why the loop ended.
pub enum End {
    /// The client is gone, or has closed.
    Gone,
    /// Close with this code; `broken` when the library may not write any more.
    Close {
        /// The code.
        code: CloseCode,
        /// The library gave the connection up.
        broken: bool,
    },
}

impl End {
    /// The reason's name, for the metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Gone => "client",
            Self::Close { code, .. } => code.reason(),
        }
    }
}

/// An open socket. Boxed by its owner: the futures of its methods hold only a pointer.
pub struct Socket {
    web: WebSocketStream<Wire>,
    gateway: Arc<Gateway>,
    outbox: Arc<Outbox>,
    /// For whom tokens count that it sends and that do not hold.
    address: Option<Address>,
    pace: Pace,
    session: Session,
    work: Option<BoxFuture<'static, Done>>,
    outputs: Outputs,
    /// How many of the outputs' frames the library has taken.
    written: usize,
}

impl Socket {
    /// A socket whose 101 has left; `behind` came with its request.
    pub async fn new(
        gateway: &Arc<Gateway>,
        outbox: &Arc<Outbox>,
        stream: Stream,
        hello: &Hello,
        behind: Bytes,
    ) -> Box<Self> {
        let (role, limits, wire) =
            (Role::Server, stream::limits(), Wire::new(stream, behind.len()));
        let behind = behind.to_vec();
        let web = WebSocketStream::from_partially_read(wire, behind, role, Some(limits)).await;
        let wish = gateway.wish(hello);
        Box::new(Self {
            web,
            gateway: gateway.clone(),
            outbox: outbox.clone(),
            address: counted(hello.client, &gateway.edge.gate.trusted),
            pace: Pace::default(),
            session: Session::new(outbox.who.clone(), gateway.chat.me.id.clone(), wish),
            work: None,
            outputs: Outputs::default(),
            written: 0,
        })
    }

    /// Runs until the socket ends.
    pub async fn run(&mut self) -> End {
        self.session.start(self.clock(), Instant::now(), &mut self.outputs);
        loop {
            if let Err(end) = self.give_out().await {
                return end;
            }
            let reading = !self.session.paused() && !self.pace.rests();
            let turn = tokio::select! {
                events = self.outbox.take() => {
                    self.events(events);
                    Ok(())
                }
                frame = self.web.next(), if reading => self.frames(frame),
                () = self.pace.rested() => Ok(()),
                done = work(&mut self.work) => {
                    self.work = None;
                    self.step(Input::Done(done), Instant::now());
                    Ok(())
                }
            };
            if let Err(end) = turn {
                // What was said before the client broke the protocol is still answered.
                let _ = self.give_out().await;
                return end;
            }
        }
    }

    /// Says goodbye and gives the cursors that are still to be stored.
    pub async fn close(mut self: Box<Self>, end: Option<End>) -> Unstored {
        // Its place at the store is for others from here on.
        self.work = None;
        if let Some(end) = end {
            self.goodbye(end).await;
        }
        self.session.finish()
    }

    fn clock(&self) -> Timestamp {
        (self.gateway.chat.clock)()
    }

    fn step(&mut self, input: Input<'_>, now: Instant) {
        self.session.step(input, self.clock(), now, &mut self.outputs);
    }

    fn events(&mut self, events: VecDeque<Event>) {
        let (clock, now) = (self.clock(), Instant::now());
        for event in events {
            self.session.step(Input::Event(event), clock, now, &mut self.outputs);
        }
    }

    /// Handles a frame and all that is there behind it, up to a bound.
    fn frames(&mut self, first: Option<Result<Message, Error>>) -> Result<(), End> {
        let now = Instant::now();
        let mut next = first;
        for _ in 0..FRAMES_A_TURN {
            self.frame(next, now)?;
            if self.session.paused() || self.pace.rests() {
                return Ok(());
            }
            match self.web.next().now_or_never() {
                Some(more) => next = more,
                None => return Ok(()),
            }
        }
        self.frame(next, now)
    }

    /// Counts what can't be refused, and is followed by a rest all the same.
    fn count(&mut self, bytes: usize, now: Instant) {
        let (chat, user) = (&self.gateway.chat, &self.outbox.who.user);
        let _ = self.pace.count(chat, user, bytes, now);
    }

    fn text(&mut self, text: &str, now: Instant) {
        let (clock, counted) = (self.clock(), Cell::new(false));
        let Self { web, pace, gateway, outbox, session, outputs, .. } = self;
        let wire = web.get_mut();
        let mut count = || {
            let cost = wire.cost(text.len());
            let may = pace.count(&gateway.chat, &outbox.who.user, cost, now);
            wire.settle(cost, may.is_ok());
            counted.set(true);
            may
        };
        session.hear(text, &mut count, clock, now, outputs);
        if !counted.get() && text.len() <= RECEIPT_BYTES_MAX {
            self.web.get_mut().free(text.len());
        } else if !counted.get() {
            let _ = count();
        }
    }

    fn control(&mut self, payload: &[u8], counts: bool, now: Instant) {
        self.web.get_mut().passes(payload.len());
        if counts {
            self.count(stream::whole(payload.len()) as usize, now);
        }
    }

    fn frame(&mut self, frame: Option<Result<Message, Error>>, now: Instant) -> Result<(), End> {
        let close = |code| Err(End::Close { code, broken: true });
        match frame {
            Some(Ok(Message::Text(text))) if self.web.get_mut().ends(text.len()) => {
                self.text(&text, now);
                Ok(())
            }
            Some(Ok(Message::Pong(payload))) => {
                self.control(&payload, !self.session.asked_for(&payload), now);
                self.step(Input::Pong(&payload), now);
                Ok(())
            }
            // The library answers pings; they show that the client lives, as a pong does.
            Some(Ok(Message::Ping(payload))) => {
                self.control(&payload, true, now);
                self.step(Input::Pong(&[]), now);
                Ok(())
            }
            Some(Ok(Message::Binary(_))) => close(CloseCode::Unsupported),
            Some(Ok(Message::Close(_))) | None => Err(End::Gone),
            Some(Ok(Message::Frame(_))) => Ok(()),
            Some(Ok(Message::Text(_)) | Err(Error::Capacity(_))) => close(CloseCode::TooBig),
            Some(Err(Error::Io(error))) if stream::is_too_much(&error) => {
                self.count(self.web.get_ref().cost(0), now);
                close(CloseCode::TooBig)
            }
            Some(Err(Error::Utf8(_))) => close(CloseCode::NotUtf8),
            Some(Err(Error::Protocol(error))) => {
                if matches!(error, ProtocolError::ResetWithoutClosingHandshake) {
                    return Err(End::Gone);
                }
                close(CloseCode::Protocol)
            }
            Some(Err(_)) => Err(End::Gone),
        }
    }

    /// Hands effects on, starts work, writes frames and ping in one flush.
    async fn give_out(&mut self) -> Result<(), End> {
        let mut effects = std::mem::take(&mut self.outputs.effects);
        let chat = &self.gateway.chat;
        for effect in effects.drain(..) {
            let guard = self.gateway.guard.as_ref().map(|guard| (guard, self.address));
            hand_on(chat, &self.outbox, guard, effect);
        }
        self.outputs.effects = effects;
        if let Some(work) = self.outputs.work.take() {
            let (chat, outbox) = (chat.clone(), self.outbox.clone());
            self.work = Some(async move { catchup::perform(&chat, &outbox, work).await }.boxed());
        }
        if !self.outputs.frames.is_empty() || self.outputs.ping.is_some() {
            self.write().await?;
        }
        match self.outputs.close.take() {
            Some(code) => Err(End::Close { code, broken: false }),
            None => Ok(()),
        }
    }

    async fn write(&mut self) -> Result<(), End> {
        let at_once = poll_fn(|context| Poll::Ready(self.poll_write(context))).await;
        let written = match at_once {
            Poll::Ready(written) => Ok(written),
            // Boxed, and a timer only now: most writes end at once, idle sockets pay for neither.
            Poll::Pending => {
                let mut working = true;
                let rest = poll_fn(|context| {
                    working = working && !self.poll_work(context);
                    self.poll_write(context)
                });
                Box::pin(timeout(WRITE_PATIENCE, rest)).await
            }
        };
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Close { code: CloseCode::Slow, broken: true }),
        }
    }

    /// Work goes on beside a write that waits for the client: left alone, it would keep its place
    /// at the store, or the answer that others of a room wait for, as long as the client likes.
    /// `true`: it is done, and the next turn takes what came of it.
    fn poll_work(&mut self, context: &mut Context<'_>) -> bool {
        let Some(work) = &mut self.work else { return true };
        let Poll::Ready(done) = work.poll_unpin(context) else { return false };
        self.work = Some(std::future::ready(done).boxed());
        true
    }

    /// Goes on where the last call stopped.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while let Some(text) = self.outputs.frames.get_mut(self.written) {
            ready!(self.web.poll_ready_unpin(context))?;
            let frame = Frame::message(std::mem::take(text), OpCode::Data(Data::Text), true);
            self.written += 1;
            self.web.start_send_unpin(Message::Frame(frame))?;
        }
        if let Some(ping) = self.outputs.ping {
            ready!(self.web.poll_ready_unpin(context))?;
            self.outputs.ping = None;
            self.web.start_send_unpin(Message::Ping(Bytes::copy_from_slice(&ping)))?;
        }
        ready!(self.web.poll_flush_unpin(context))?;
        self.written = 0;
        self.outputs.frames.clear();
        // One long burst must not keep its buffer for as long as the socket lives.
        self.outputs.frames.shrink_to(FRAMES_KEPT);
        Poll::Ready(Ok(()))
    }

    /// The close handshake, briefly: the client should see the code, and not a reset.
    async fn goodbye(&mut self, end: End) {
        let closing = async {
            match end {
                End::Gone => {
                    // The library has queued its answer to the client's close, and takes no other.
                    let _ = self.web.flush().await;
                    self.end_stream().await;
                }
                End::Close { code, broken: false } => {
                    let frame = tokio_tungstenite::tungstenite::protocol::CloseFrame {
                        code: code.number().into(),
                        reason: code.reason().into(),
                    };
                    let _ = self.web.close(Some(frame)).await;
                    while let Some(Ok(_)) = self.web.next().await {}
                    self.end_stream().await;
                }
                End::Close { code, broken: true } => {
                    let _ = self.web.get_mut().write_all(&stream::close_frame(code)).await;
                    self.end_stream().await;
                }
            }
        };
        let _ = timeout(CLOSE_PATIENCE, closing).await;
    }

    /// What the client has sent meanwhile is read away: unread, it would turn the end into a reset.
    async fn end_stream(&mut self) {
        let stream = self.web.get_mut().stream();
        let _ = stream.shutdown().await;
        let mut rest = BytesMut::with_capacity(4_096);
        while stream.read_buf(&mut rest).await.is_ok_and(|count| count > 0) {
            rest.clear();
        }
    }
}

/// The work under way; never ready while there is none.
async fn work(work: &mut Option<BoxFuture<'static, Done>>) -> Done {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}
