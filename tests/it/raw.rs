//! A WebSocket and HTTP client by hand, for what no client library would send.
//!
//! Bytes go out as the test wrote them, masks and all; what comes back is taken apart frame by
//! frame. Pings are answered, so that a raw socket counts as a living one.

use std::time::Duration;

use parlor::protocol::ErrorCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::SOON;

pub const CONTINUE: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The example key of RFC 6455 §1.3, and the answer to it.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A frame that is about to be sent.
pub struct Frame<'a> {
    /// FIN, the reserved bits and the opcode.
    pub first: u8,
    pub mask: Option<[u8; 4]>,
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// A whole, masked frame, as RFC 6455 wants it.
    pub fn new(opcode: u8, payload: &'a [u8]) -> Self {
        Self { first: 0x80 | opcode, mask: Some([0x37, 0xfa, 0x21, 0x3d]), payload }
    }

    /// A fragment that others follow.
    pub fn part(opcode: u8, payload: &'a [u8]) -> Self {
        Self { first: opcode, ..Self::new(opcode, payload) }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        let length = self.payload.len();
        let mut bytes = vec![self.first];
        match length {
            0..=125 => bytes.push(masked | length as u8),
            126..=65_535 => {
                bytes.push(masked | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(masked | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        let mask = self.mask.unwrap_or_default();
        bytes.extend(self.mask.into_iter().flatten());
        bytes.extend(self.payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }
}

/// A whole text frame.
pub fn text(text: &str) -> Vec<u8> {
    Frame::new(TEXT, text.as_bytes()).bytes()
}

/// The payload of a close frame.
pub fn close_payload(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason].concat()
}

/// The head of an upgrade, with further header lines.
pub fn upgrade_head(query: &str, more: &str) -> String {
    format!(
        "GET /ws?{query} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{more}\r\n"
    )
}

/// An answer to plain HTTP.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// It is a refusal with this status, in the one shape that problems have, and with what the
    /// status brings along.
    #[track_caller]
    pub fn is_problem(&self, status: u16) {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let (problem, code) = (self.json(), code_of(status));
        assert_eq!(problem["type"], format!("urn:parlor:problem:{}", code.as_str()));
        assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code.as_str())));
        assert_eq!(problem["retryable"], code.retryable(), "{problem}");
        assert_eq!(problem["retryAfterMs"].is_u64(), code.retryable(), "{problem}");
        let words = |field: &str| problem[field].as_str().is_some_and(|text| text.len() >= 3);
        assert!(words("title") && words("detail"), "{problem}");
        let title = problem["title"].as_str().unwrap();
        assert_eq!(title, code.title(status, title), "the same from whoever answers");
        assert!(status != 405 || self.header("allow").is_some(), "{self:?}");
        for (name, wanted) in
            [("retry-after", code.retryable()), ("sec-websocket-version", status == 426)]
        {
            assert_eq!(self.header(name).is_some(), wanted, "{name}: {self:?}");
        }
        // What a token would have to be is said where it is about the token (RFC 6750 §3).
        let challenge = self.header("www-authenticate");
        let says = |error| challenge.is_none_or(|challenge| challenge.contains(error));
        assert!(
            match status {
                400 => says("error=\"invalid_request\""),
                401 => challenge.is_some(),
                403 => says("error=\"insufficient_scope\""),
                _ => challenge.is_none(),
            },
            "{self:?}"
        );
    }
}

/// The code that goes with a status.
fn code_of(status: u16) -> ErrorCode {
    match status {
        401 => ErrorCode::Unauthorized,
        403 | 421 => ErrorCode::Forbidden,
        404 => ErrorCode::NotFound,
        409 => ErrorCode::RefConflict,
        413 | 431 => ErrorCode::TooLarge,
        429 => ErrorCode::RateLimited,
        502..=504 => ErrorCode::Unavailable,
        _ => ErrorCode::BadRequest,
    }
}

/// One TCP connection.
pub struct Raw {
    /// How long the server may say nothing while something is expected.
    pub patience: Duration,
    stream: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    pub async fn dial(address: &str) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }

    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { patience: SOON * 2, stream, read: Vec::new() }
    }

    /// A socket of this user whose `welcome` was read.
    pub async fn open(address: &str, query: &str) -> Self {
        let mut raw = Self::dial(address).await;
        raw.write(upgrade_head(query, "").as_bytes()).await;
        let answer = raw.head().await.expect("an answer");
        assert_eq!(answer.status, 101, "{query}: {answer:?}");
        assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT));
        assert_eq!(raw.json().await.expect("welcome")["type"], "welcome");
        raw
    }

    /// The same once `caughtup` was said.
    pub async fn ready(address: &str, query: &str) -> Self {
        let mut raw = Self::open(address, query).await;
        while raw.json().await.expect("caughtup")["type"] != "caughtup" {}
        raw
    }

    /// Writes; a server that has gone already is no fault of the test's.
    pub async fn write(&mut self, bytes: &[u8]) {
        let _ = timeout(SOON, self.stream.write_all(bytes)).await.expect("the server reads");
    }

    pub async fn text(&mut self, json: &str) {
        self.write(&text(json)).await;
    }

    /// Reads more; false at the end of the connection.
    async fn more(&mut self) -> bool {
        let limit = self.patience;
        let read = timeout(limit, self.stream.read_buf(&mut self.read)).await;
        let read = read.unwrap_or_else(|_| panic!("nothing within {limit:?}: {:?}", self.read));
        read.is_ok_and(|count| count > 0)
    }

    /// The head of an answer; the body, or the first frame, is still to be read.
    pub async fn head(&mut self) -> Option<Answer> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut headers);
            if let httparse::Status::Complete(length) = response.parse(&self.read).unwrap() {
                let line = |header: &httparse::Header<'_>| {
                    let value = String::from_utf8_lossy(header.value).into_owned();
                    (header.name.to_owned(), value)
                };
                let status = response.code.unwrap();
                let headers = response.headers.iter().map(line).collect();
                self.read.drain(..length);
                return Some(Answer { status, headers, body: Vec::new() });
            }
            if !self.more().await {
                assert!(self.read.is_empty(), "cut in its head: {:?}", self.read);
                return None;
            }
        }
    }

    /// The whole answer to a request; `None` where the connection just ended.
    pub async fn answer(&mut self) -> Option<Answer> {
        let head = self.head().await?;
        Some(self.body(head).await)
    }

    /// The body of an answer whose head was read.
    pub async fn body(&mut self, mut answer: Answer) -> Answer {
        let length = answer.header("content-length").map(|length| length.parse().unwrap());
        while length.is_none_or(|length: usize| self.read.len() < length) {
            if !self.more().await {
                break;
            }
        }
        let length = length.unwrap_or(self.read.len());
        assert!(self.read.len() >= length, "cut in its body: {answer:?}");
        answer.body = self.read.drain(..length).collect();
        answer
    }

    /// Waits for the end of the connection; whether nothing came before it.
    pub async fn ends(&mut self) -> bool {
        while self.more().await {}
        self.read.is_empty()
    }

    /// The next frame as it came; `None` at the end of the connection.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(frame) = whole_frame(&mut self.read) {
                return Some(frame);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next text as JSON, pings answered; `None` once the socket has ended.
    pub async fn json(&mut self) -> Option<Value> {
        self.said().await.ok()
    }

    async fn said(&mut self) -> Result<Value, Option<u16>> {
        loop {
            match self.frame().await {
                Some((TEXT, payload)) => return Ok(serde_json::from_slice(&payload).unwrap()),
                Some((PING, payload)) => self.write(&Frame::new(PONG, &payload).bytes()).await,
                Some((CLOSE, payload)) => {
                    let code = payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
                    return Err(code);
                }
                Some((PONG, _)) => {}
                Some((opcode, _)) => panic!("a frame of opcode {opcode}"),
                None => return Err(None),
            }
        }
    }

    /// The next text for which `wanted` gives something; others are dropped.
    pub async fn wait_for<T>(&mut self, wanted: impl Fn(&Value) -> Option<T>) -> T {
        loop {
            let said = self.json().await.expect("the socket stays open");
            if let Some(found) = wanted(&said) {
                return found;
            }
        }
    }

    /// Reads on until the close frame; its code, and all that was said before it. The server then
    /// ends the connection. `None`: it was cut without one.
    pub async fn closed(&mut self) -> (Option<u16>, Vec<Value>) {
        let mut texts = Vec::new();
        loop {
            match self.said().await {
                Ok(text) => texts.push(text),
                Err(code) => {
                    if let Some(code) = code {
                        self.write(&Frame::new(CLOSE, &code.to_be_bytes()).bytes()).await;
                        while self.more().await {}
                    }
                    return (code, texts);
                }
            }
        }
    }

    /// Writes all of it while reading, until `enough` texts have come that are wanted.
    pub async fn flood(
        &mut self,
        bytes: &[u8],
        enough: usize,
        wanted: impl Fn(&Value) -> bool,
    ) -> Vec<Value> {
        let (mut reader, mut writer) = self.stream.split();
        let mut texts = Vec::with_capacity(enough);
        let reading = async {
            while texts.len() < enough {
                let Some((opcode, payload)) = whole_frame(&mut self.read) else {
                    let read = timeout(SOON * 2, reader.read_buf(&mut self.read)).await;
                    let count = read.unwrap_or_else(|_| panic!("{} only", texts.len())).unwrap();
                    assert!(count > 0, "closed after {}", texts.len());
                    continue;
                };
                if opcode == TEXT {
                    let text = serde_json::from_slice(&payload).unwrap();
                    if wanted(&text) {
                        texts.push(text);
                    }
                } else {
                    assert!([PING, PONG].contains(&opcode), "{opcode} after {}", texts.len());
                }
            }
        };
        tokio::join!(reading, async { writer.write_all(bytes).await.unwrap() });
        texts
    }

    /// Whether the socket still answers.
    pub async fn is_open(&mut self) -> bool {
        self.text(r#"{"type":"ping","ref":"still-there"}"#).await;
        while let Some(said) = self.json().await {
            if said["type"] == "pong" && said["ref"] == "still-there" {
                return true;
            }
        }
        false
    }
}

fn whole_frame(read: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let [first, second, ..] = *read.as_slice() else { return None };
    assert_eq!(first & 0xf0, 0x80, "servers send whole frames without reserved bits");
    assert_eq!(second & 0x80, 0, "servers don't mask");
    let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let (head, length) = match second {
        126 => (4, number(read.get(2..4)?)),
        127 => (10, number(read.get(2..10)?)),
        short => (2, usize::from(short)),
    };
    let payload = read.get(head..head + length)?.to_vec();
    read.drain(..head + length);
    Some((first & 0x0f, payload))
}

/// One request on a connection of its own, byte for byte.
pub async fn request(address: &str, bytes: impl AsRef<[u8]>) -> Option<Answer> {
    let mut raw = Raw::dial(address).await;
    raw.write(bytes.as_ref()).await;
    raw.answer().await
}
