//! A small WebSocket client, used by tests, the load generator and the terminal chat.
//!
//! [`Client`] is one socket and says what happened on it; [`Reconnecting`] keeps a conversation
//! going over many; [`Api`] speaks to the Message API. The server's pings are answered while frames
//! are read, and that is the receipt (P6): who stops reading stops receiving.

mod dial;
mod frame;
mod http;
mod outstanding;
mod reconnecting;

#[cfg(test)]
pub(crate) mod fake;

pub use dial::is_readable;
pub use frame::{EntryFrame, Fields, ServerFrame, Welcome};
pub use http::{Answer, Api};
pub use outstanding::{Outstanding, Send, To};
pub use reconnecting::{Backoff, Event, Reconnecting, Rules};

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};

use crate::edge::{Stream, Upstream};
use crate::protocol::Token;

/// How long connecting may take, from the dial to the 101.
const CONNECT_SECONDS: u64 = 30;
/// How long the other side may take to answer a close.
const CLOSE_SECONDS: u64 = 2;

/// How to connect.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// `ws://HOST:PORT/ws` or `wss://HOST:PORT/ws`
    pub url: String,
    /// Whom to trust of `wss://`; the authorities of this machine where nobody is named.
    pub trusted: Option<Upstream>,
    /// `userId`
    pub user: String,
    /// `device`; none is the plain one.
    pub device: Option<String>,
    /// `acks=app`: only an `ack` frame is a receipt.
    pub acks_app: bool,
    /// `catchup=N`
    pub catchup: Option<u32>,
    /// Sent as `Authorization: Bearer …`.
    pub token: Option<Token>,
    /// Dial from this address: one address has some 28,000 ports towards one server.
    pub source: Option<IpAddr>,
}

impl ClientOptions {
    /// A plain client of this user.
    pub fn new(url: impl Into<String>, user: impl Into<String>) -> Self {
        Self { url: url.into(), user: user.into(), ..Self::default() }
    }

    /// The same with a device of its own.
    pub fn device(mut self, device: impl Into<String>) -> Self {
        self.device = Some(device.into());
        self
    }

    /// The same with `catchup=N`.
    pub fn catchup(mut self, messages: u32) -> Self {
        self.catchup = Some(messages);
        self
    }

    /// The same with `acks=app`.
    pub fn acks_app(mut self) -> Self {
        self.acks_app = true;
        self
    }

    /// The same with a token, if there is one.
    pub fn token(mut self, token: Option<Token>) -> Self {
        self.token = token;
        self
    }

    /// The same, dialled from this address.
    pub fn source(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }
}

/// Why there is no frame.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL can't be used; the text says why.
    #[error("{0}")]
    BadUrl(String),
    /// Nobody answered there.
    #[error("can't reach {url}: {source}")]
    Unreachable {
        /// What was dialled.
        url: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The server answered with something else than 101.
    #[error("the server answered {status}: {}", sentence(.body))]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
    /// The socket was closed, with a code or (`None`, shown as 1006) without a goodbye.
    #[error("the socket was closed ({} {reason})", .code.unwrap_or(1006))]
    Closed {
        /// The close code.
        code: Option<u16>,
        /// The reason beside it.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// What came is not what the protocol allows.
    #[error("not a frame of the protocol: {0}")]
    Protocol(String),
}

/// What a refusal says to a person: the detail of a problem, and how a token gets to where one is
/// missing.
fn sentence(body: &str) -> String {
    let problem: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str()).unwrap_or(body);
    match detail.strip_suffix(": Authorization: Bearer …") {
        Some(missing) => format!("{missing}; give --token-file FILE or PARLOR_TOKEN"),
        None => detail.to_owned(),
    }
}

impl From<WsError> for ClientError {
    fn from(error: WsError) -> Self {
        match error {
            WsError::ConnectionClosed | WsError::AlreadyClosed | WsError::Io(_) => {
                Self::Closed { code: None, reason: String::new() }
            }
            WsError::Protocol(
                tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            ) => Self::Closed { code: None, reason: String::new() },
            other => Self::Protocol(other.to_string()),
        }
    }
}

/// What comes in on a socket.
#[derive(Debug)]
pub enum Heard {
    /// A text.
    Text(Utf8Bytes),
    /// A ping with this payload; its pong leaves when the socket is used next.
    Ping(Bytes),
}

/// One socket.
#[derive(Debug)]
pub struct Client {
    socket: WebSocketStream<Stream>,
    server: Option<String>,
    heard: Instant,
    pings: u64,
}

impl Client {
    /// Dials, and waits for the 101. The first frame is still to be read.
    pub async fn connect(options: &ClientOptions) -> Result<Self, ClientError> {
        let limit = Duration::from_secs(CONNECT_SECONDS);
        let dialled = tokio::time::timeout(limit, dial::dial(options)).await;
        let (socket, server) = dialled.map_err(|_| ClientError::TimedOut(limit))??;
        Ok(Self { socket, server, heard: Instant::now(), pings: 0 })
    }

    /// Dials, and reads the first frame too.
    pub async fn open(options: &ClientOptions) -> Result<(Self, Welcome), ClientError> {
        let mut client = Self::connect(options).await?;
        match client.next_frame().await? {
            ServerFrame::Welcome(welcome) => Ok((client, welcome)),
            other => Err(ClientError::Protocol(format!("the first frame is {other:?}"))),
        }
    }

    /// The `X-Parlor-Server` of the 101.
    pub fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// When anything was last heard, pings included.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// How many pings of the server were answered: receipts given, for the most part.
    pub fn pings_answered(&self) -> u64 {
        self.pings
    }

    /// The next text; pings are answered on the way. Nothing is lost if this is dropped.
    pub async fn next_text(&mut self) -> Result<Utf8Bytes, ClientError> {
        loop {
            if let Heard::Text(text) = self.next_heard().await? {
                return Ok(text);
            }
        }
    }

    /// The next text or ping, for who must know of a receipt before it leaves.
    pub async fn next_heard(&mut self) -> Result<Heard, ClientError> {
        loop {
            let message = match self.socket.next().await {
                Some(message) => message?,
                None => return Err(WsError::ConnectionClosed.into()),
            };
            self.heard = Instant::now();
            match message {
                Message::Text(text) => return Ok(Heard::Text(text)),
                // The engine has queued the pong; the next poll of the socket writes it.
                Message::Ping(payload) => {
                    self.pings += 1;
                    return Ok(Heard::Ping(payload));
                }
                Message::Close(frame) => return Err(closed(frame)),
                Message::Binary(_) => return Err(ClientError::Protocol("a binary frame".into())),
                Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// The next frame.
    pub async fn next_frame(&mut self) -> Result<ServerFrame, ClientError> {
        let text = self.next_text().await?;
        ServerFrame::parse(&text).map_err(|error| ClientError::Protocol(format!("{error}: {text}")))
    }

    /// The next frame, or `TimedOut`.
    pub async fn next_frame_within(&mut self, limit: Duration) -> Result<ServerFrame, ClientError> {
        let next = tokio::time::timeout(limit, self.next_frame()).await;
        next.map_err(|_| ClientError::TimedOut(limit))?
    }

    /// Reads on until a frame for which `wanted` gives something; the others are dropped.
    pub async fn wait_for<T>(
        &mut self,
        limit: Duration,
        mut wanted: impl FnMut(ServerFrame) -> Option<T>,
    ) -> Result<T, ClientError> {
        let search = async {
            loop {
                if let Some(found) = wanted(self.next_frame().await?) {
                    return Ok(found);
                }
            }
        };
        tokio::time::timeout(limit, search).await.map_err(|_| ClientError::TimedOut(limit))?
    }

    /// Sends a message to a person, as a plain client does.
    pub async fn send(&mut self, to: &str, message: &str) -> Result<(), ClientError> {
        self.send_with(&Send::new(To::User(to.to_owned()), message)).await
    }

    /// Sends a message with its ref, `after` and data.
    pub async fn send_with(&mut self, send: &Send) -> Result<(), ClientError> {
        self.send_text(send.frame()).await
    }

    /// Sends any text, good or bad.
    pub async fn send_text(&mut self, text: impl Into<Utf8Bytes>) -> Result<(), ClientError> {
        Ok(self.socket.send(Message::Text(text.into())).await?)
    }

    /// Puts a text into the write buffer; [`Client::flush`] sends what is there in one write.
    pub async fn feed_text(&mut self, text: impl Into<Utf8Bytes>) -> Result<(), ClientError> {
        Ok(self.socket.feed(Message::Text(text.into())).await?)
    }

    /// Sends what was fed.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        Ok(self.socket.flush().await?)
    }

    /// Sends any WebSocket message: binary, a pong nobody asked for.
    pub async fn send_raw(&mut self, message: Message) -> Result<(), ClientError> {
        Ok(self.socket.send(message).await?)
    }

    /// Asks for a `pong` frame.
    pub async fn ping(&mut self, reference: &str) -> Result<(), ClientError> {
        self.send_text(serde_json::json!({"type": "ping", "ref": reference}).to_string()).await
    }

    /// Says that everything up to `seq` was received by the application (`acks=app`).
    pub async fn ack(&mut self, conversation: &str, seq: u64) -> Result<(), ClientError> {
        self.send_text(position("ack", conversation, seq)).await
    }

    /// Says that everything up to `seq` was seen by the person.
    pub async fn read(&mut self, conversation: &str, seq: u64) -> Result<(), ClientError> {
        self.send_text(position("read", conversation, seq)).await
    }

    /// The bare connection, for who writes frames of his own; what came and was not read is lost.
    /// `None` where it is one of TLS.
    pub fn into_stream(self) -> Option<TcpStream> {
        self.socket.into_inner().into_plain()
    }

    /// Ends the connection by a reset, without a word.
    pub fn reset(self) {
        // Where it is refused the connection ends by a FIN: as rude, but slower.
        let _ = self.socket.get_ref().set_zero_linger();
    }

    /// Says goodbye with this code and waits a moment for the answer, whose code it returns.
    pub async fn close(mut self, code: u16) -> Option<u16> {
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::default() };
        let limit = Duration::from_secs(CLOSE_SECONDS);
        let goodbye = async {
            self.socket.close(Some(frame)).await.ok()?;
            loop {
                match self.socket.next().await? {
                    Ok(Message::Close(frame)) => return frame.map(|frame| frame.code.into()),
                    Ok(_) => {}
                    Err(_) => return None,
                }
            }
        };
        tokio::time::timeout(limit, goodbye).await.ok().flatten()
    }
}

pub(crate) fn position(kind: &str, conversation: &str, seq: u64) -> String {
    serde_json::json!({"type": kind, "conversation": conversation, "seq": seq}).to_string()
}

fn closed(frame: Option<CloseFrame>) -> ClientError {
    match frame {
        Some(frame) => ClientError::Closed {
            code: Some(frame.code.into()),
            reason: frame.reason.as_str().to_owned(),
        },
        None => ClientError::Closed { code: None, reason: String::new() },
    }
}
