//! What is spoken at `--url`: Parlor's protocol, or that of a system which it is compared with. The
//! load, its clocks and its accounts are the same for all.

use std::collections::VecDeque;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::flow::{self, Flow};
use crate::client::{Client, ClientError, Fields, ServerFrame};

/// Whose protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
pub enum Dialect {
    /// Parlor's own
    #[default]
    Parlor,
    /// As much of it as `bench/peers/ws/relay.mjs` knows
    Relay,
    /// Socket.IO 4 over WebSocket, with the events of `bench/peers/socketio/server.mjs`
    SocketIo,
    /// Centrifugo's JSON protocol: a channel for each user, and one for each room
    Centrifugo,
}

/// Who is written to.
#[derive(Debug, Clone, Copy)]
pub(super) enum To<'a> {
    /// A person.
    User(&'a str),
    /// A room, by its name.
    Room(&'a str),
}

/// What came, in the words of none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// The next message in turn was taken.
    Stored { seq: u64 },
    /// Somebody's message; where there are no seqs, its own number is one.
    Message { seq: u64, text: String },
    /// Everything up to here was received.
    Delivered { seq: u64 },
    /// A message was refused. `retry` is its id where it may be sent again, and where the server
    /// names it; it may stand all the same.
    Refused { why: String, retry: Option<u64> },
}

impl Dialect {
    /// Whether a sender hears that its messages were received.
    pub fn has_receipts(self) -> bool {
        self == Self::Parlor
    }

    /// Whether a message may come again, since servers send from a log until there is a receipt.
    pub fn redelivers(self) -> bool {
        self == Self::Parlor
    }

    /// The account of what arrives.
    pub(super) fn flow(self) -> Flow {
        if self.redelivers() { Flow::default() } else { Flow::once() }
    }

    /// Whether members of a room are kept by the servers, and made by the Message API.
    pub fn has_members(self) -> bool {
        self == Self::Parlor
    }

    /// What a client says first, after the server's greeting where there is one.
    fn greeting(self, user: &str) -> Vec<String> {
        match self {
            Self::Parlor | Self::Relay => Vec::new(),
            Self::SocketIo => vec![format!("40{}", json!({"user": user}))],
            Self::Centrifugo => vec![
                json!({"id": 1, "connect": {}}).to_string(),
                json!({"id": 2, "subscribe": {"channel": format!("user:{user}")}}).to_string(),
            ],
        }
    }

    fn joining(self, room: &str) -> Option<String> {
        match self {
            Self::Parlor => None,
            Self::Relay => Some(json!({"type": "join", "room": room}).to_string()),
            Self::SocketIo => Some(format!("420{}", json!(["join", room]))),
            Self::Centrifugo => {
                let channel = format!("room:{room}");
                Some(json!({"id": 2, "subscribe": {"channel": channel}}).to_string())
            }
        }
    }

    /// A message with an id of its own among those of its socket, from 3 on; `nonce` is the
    /// socket's.
    fn message(self, to: To<'_>, text: &str, (nonce, id): (u64, u64)) -> String {
        match self {
            Self::Parlor | Self::Relay => own_message(to, text, (nonce, id)),
            Self::SocketIo => {
                let (field, to) = match to {
                    To::User(user) => ("to", user),
                    To::Room(room) => ("room", room),
                };
                format!(r#"42{id}["message",{{"{field}":"{to}","body":"{text}"}}]"#)
            }
            Self::Centrifugo => {
                let (kind, to) = match to {
                    To::User(user) => ("user", user),
                    To::Room(room) => ("room", room),
                };
                let channel = format!(r#""channel":"{kind}:{to}""#);
                format!(r#"{{"id":{id},"publish":{{{channel},"data":{{"body":"{text}"}}}}}}"#)
            }
        }
    }
}

/// In Parlor's own words.
fn own_message(to: To<'_>, text: &str, (nonce, id): (u64, u64)) -> String {
    let to = match to {
        To::User(user) => format!(r#""to":"{user}""#),
        To::Room(room) => format!(r#""conversation":"room:{room}""#),
    };
    format!(r#"{{"type":"message",{to},"message":"{text}","ref":"{nonce:016x}{id:016x}"}}"#)
}

/// The id in a ref of [`own_message`].
fn id_of(reference: &str) -> Option<u64> {
    reference.get(16..).and_then(|id| u64::from_str_radix(id, 16).ok())
}

/// What a frame was.
enum Frame {
    Heard(Heard),
    /// The server wants to hear this.
    Ping(&'static str),
    /// The answer to a greeting or a joining.
    Welcome,
    Other,
}

fn parlor(text: &str) -> Result<Frame, ClientError> {
    let wrong = |error| ClientError::Protocol(format!("{error}: {text}"));
    let frame = Fields::parse(text).map_err(wrong)?;
    Ok(Frame::Heard(match frame.kind.as_ref() {
        "sent" => Heard::Stored { seq: frame.seq },
        "message" => Heard::Message { seq: frame.seq, text: frame.message.into_owned() },
        "delivered" => Heard::Delivered { seq: frame.seq },
        "error" => Heard::Refused {
            why: format!("{}: {}", frame.code, frame.detail),
            retry: id_of(&frame.reference).filter(|_| frame.retryable),
        },
        "joined" if frame.id.is_empty() => return Ok(Frame::Welcome),
        _ => return Ok(Frame::Other),
    }))
}

/// Without seqs, a message's number stands for one.
fn numbered(text: &str) -> Heard {
    Heard::Message { seq: flow::number(text).unwrap_or_default(), text: text.to_owned() }
}

/// Engine.IO's packet type, then Socket.IO's, then the id of an ack, then JSON.
fn socket_io(text: &str) -> Result<Frame, ClientError> {
    let wrong = || ClientError::Protocol(format!("not of Socket.IO: {text}"));
    match text.as_bytes() {
        [b'2'] => Ok(Frame::Ping("3")),
        [b'4', b'0', ..] => Ok(Frame::Welcome),
        [b'4', b'2', ..] => {
            let event: Value = serde_json::from_str(&text[2..]).map_err(|_| wrong())?;
            Ok(Frame::Heard(numbered(event[1]["body"].as_str().ok_or_else(wrong)?)))
        }
        [b'4', b'3', ..] => {
            let digits = text[2..].split('[').next().unwrap_or_default();
            match digits.parse().map_err(|_| wrong())? {
                0 => Ok(Frame::Welcome),
                seq => Ok(Frame::Heard(Heard::Stored { seq })),
            }
        }
        [b'4', b'4', ..] => Err(wrong()),
        _ => Ok(Frame::Other),
    }
}

fn centrifugo(line: &str) -> Result<Frame, ClientError> {
    let wrong = || ClientError::Protocol(format!("not of Centrifugo: {line}"));
    let frame: Value = serde_json::from_str(line).map_err(|_| wrong())?;
    let id = frame["id"].as_u64();
    Ok(match id {
        _ if frame.as_object().is_some_and(serde_json::Map::is_empty) => Frame::Ping("{}"),
        Some(0..=2) if frame["error"].is_null() => Frame::Welcome,
        Some(0..=2) => return Err(wrong()),
        Some(_) if frame["error"].is_object() => {
            Frame::Heard(Heard::Refused { why: frame["error"].to_string(), retry: None })
        }
        Some(seq) => Frame::Heard(Heard::Stored { seq }),
        None => match frame["push"]["pub"]["data"]["body"].as_str() {
            Some(body) => Frame::Heard(numbered(body)),
            None => Frame::Other,
        },
    })
}

/// A user's socket.
#[derive(Debug)]
pub(super) struct Wire {
    client: Client,
    dialect: Dialect,
    /// What the server waits for. It is kept here until it is in the socket's buffer, since
    /// listening may be given up at any await.
    owed: Option<&'static str>,
    /// Frames of the last read, where one may hold several.
    ahead: VecDeque<String>,
    last_id: u64,
    nonce: u64,
}

impl Wire {
    /// Takes a socket that is in.
    pub fn new(client: Client, dialect: Dialect) -> Self {
        // Ids up to here are those of greetings and joinings.
        let (owed, ahead, nonce) = (None, VecDeque::new(), rand::random());
        Self { client, dialect, owed, ahead, last_id: 2, nonce }
    }

    /// Says what a client says first, and reads until it is in and has caught up.
    pub async fn enter(
        mut client: Client,
        dialect: Dialect,
        user: &str,
    ) -> Result<Self, ClientError> {
        if dialect == Dialect::Parlor {
            while client.next_frame().await? != ServerFrame::CaughtUp {}
            return Ok(Self::new(client, dialect));
        }
        let mut wire = Self::new(client, dialect);
        if dialect == Dialect::SocketIo {
            wire.client.next_text().await?;
        }
        for frame in dialect.greeting(user) {
            wire.client.send_text(frame).await?;
            wire.welcome().await?;
        }
        Ok(wire)
    }

    /// Joins a room, where members are not kept by the servers.
    pub async fn join(&mut self, room: &str) -> Result<(), ClientError> {
        match self.dialect.joining(room) {
            Some(frame) => {
                self.client.send_text(frame).await?;
                self.welcome().await
            }
            None => Ok(()),
        }
    }

    async fn welcome(&mut self) -> Result<(), ClientError> {
        while !matches!(self.frame().await?, Frame::Welcome) {}
        Ok(())
    }

    /// Puts a message into the write buffer. Gives its id.
    pub async fn feed(&mut self, to: To<'_>, text: &str) -> Result<u64, ClientError> {
        self.last_id += 1;
        self.feed_again(to, text, self.last_id).await?;
        Ok(self.last_id)
    }

    /// Puts a message that was refused into the write buffer, as the one it was.
    pub async fn feed_again(&mut self, to: To<'_>, text: &str, id: u64) -> Result<(), ClientError> {
        self.client.feed_text(self.dialect.message(to, text, (self.nonce, id))).await
    }

    /// Sends what was fed.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        self.client.flush().await
    }

    /// What comes next. Nothing is lost if this is dropped.
    pub async fn hear(&mut self) -> Result<Heard, ClientError> {
        loop {
            if let Frame::Heard(heard) = self.frame().await? {
                return Ok(heard);
            }
        }
    }

    async fn frame(&mut self) -> Result<Frame, ClientError> {
        loop {
            if let Some(owed) = self.owed {
                self.client.feed_text(owed).await?;
                self.owed = None;
                self.client.flush().await?;
            }
            let frame = match (self.dialect, self.ahead.pop_front()) {
                (Dialect::Parlor | Dialect::Relay, _) => parlor(&self.client.next_text().await?)?,
                (Dialect::SocketIo, _) => socket_io(&self.client.next_text().await?)?,
                (Dialect::Centrifugo, Some(line)) => centrifugo(&line)?,
                (Dialect::Centrifugo, None) => {
                    let text = self.client.next_text().await?;
                    self.ahead.extend(text.lines().map(str::to_owned));
                    continue;
                }
            };
            match frame {
                Frame::Ping(pong) => self.owed = Some(pong),
                frame => return Ok(frame),
            }
        }
    }

    /// The account of what arrives here.
    pub(super) fn flow(&self) -> Flow {
        self.dialect.flow()
    }

    /// Whether it hears that its messages were received.
    pub fn has_receipts(&self) -> bool {
        self.dialect.has_receipts()
    }

    /// The server that holds it, where it says so.
    pub fn server(&self) -> Option<&str> {
        self.client.server()
    }

    /// The socket alone.
    pub fn into_client(self) -> Client {
        self.client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(read: fn(&str) -> Result<Frame, ClientError>, text: &str) -> Option<Heard> {
        match read(text).unwrap() {
            Frame::Heard(heard) => Some(heard),
            _ => None,
        }
    }

    fn message(seq: u64, text: &str) -> Option<Heard> {
        Some(Heard::Message { seq, text: text.to_owned() })
    }

    #[test]
    fn every_dialect_says_a_message_and_reads_one() {
        let said = |dialect: Dialect| dialect.message(To::User("b"), "7 ..", (8, 9));
        let own: Value = serde_json::from_str(&said(Dialect::Parlor)).unwrap();
        assert_eq!((&own["to"], &own["message"]), (&json!("b"), &json!("7 ..")));
        assert_eq!(own["ref"].as_str().and_then(id_of), Some(9));
        assert_eq!(said(Dialect::SocketIo), r#"429["message",{"to":"b","body":"7 .."}]"#);
        let published = r#"{"id":9,"publish":{"channel":"user:b","data":{"body":"7 .."}}}"#;
        assert_eq!(said(Dialect::Centrifugo), published);
        let room = Dialect::SocketIo.message(To::Room("r"), "7 ..", (8, 9));
        assert_eq!(room, r#"429["message",{"room":"r","body":"7 .."}]"#);

        let came = r#"{"type":"message","seq":3,"id":"x/3","message":"7 .."}"#;
        assert_eq!(heard(parlor, came), message(3, "7 .."));
        let came = r#"42["message",{"to":"b","body":"7 ..","from":"a"}]"#;
        assert_eq!(heard(socket_io, came), message(7, "7 .."));
        let came = r#"{"push":{"channel":"user:b","pub":{"data":{"body":"7 .."},"offset":1}}}"#;
        assert_eq!(heard(centrifugo, came), message(7, "7 .."));
    }

    #[test]
    fn only_a_log_excuses_a_repeat() {
        for (dialect, doubled) in [
            (Dialect::Parlor, 0),
            (Dialect::Relay, 1),
            (Dialect::SocketIo, 1),
            (Dialect::Centrifugo, 1),
        ] {
            let mut flow = dialect.flow();
            assert!(flow.received(1, 1) && !flow.received(1, 1));
            assert_eq!(flow.close(1).doubled, doubled, "{dialect:?}");
        }
    }

    #[test]
    fn answers_and_refusals_are_told_apart() {
        let stored = |seq| Some(Heard::Stored { seq });
        assert_eq!(heard(socket_io, r#"4312[{"ok":true}]"#), stored(12));
        assert_eq!(heard(centrifugo, r#"{"id":12,"publish":{}}"#), stored(12));
        let retry = |retryable: bool| {
            let reference = format!("{:016x}{:016x}", 8, 9);
            let text = json!({"type": "error", "code": "unavailable", "retryable": retryable,
                              "ref": reference});
            match heard(parlor, &text.to_string()) {
                Some(Heard::Refused { retry, .. }) => retry,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((retry(true), retry(false)), (Some(9), None));
        let refused = heard(centrifugo, r#"{"id":12,"error":{"code":103}}"#);
        assert!(matches!(refused, Some(Heard::Refused { .. })), "{refused:?}");
        assert!(matches!(parlor(r#"{"type":"joined"}"#), Ok(Frame::Welcome)));
        assert!(matches!(socket_io("430[]"), Ok(Frame::Welcome)));
        assert!(matches!(socket_io("2"), Ok(Frame::Ping("3"))));
        assert!(matches!(centrifugo("{}"), Ok(Frame::Ping("{}"))));
        assert!(socket_io(r#"44{"message":"no"}"#).is_err());
        assert!(centrifugo(r#"{"id":1,"error":{"code":101}}"#).is_err());
    }
}
