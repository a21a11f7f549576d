//! The request that opens a socket: read, judged, answered.
//!
//! By hand on `httparse`, since the connection may come from the balancer with its head read
//! already, and since every refusal has its own status (RFC 6455 §4.2, and `docs/protocol.md`).

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::framing;
use crate::auth::{self, PROTOCOL, bearer, challenge};
use crate::edge::{
    Body, Gate, HEAD_PATIENCE, Headers, Judged, Peer, Stream, Turned, judge as judge_head,
    read_head,
};
use crate::limits::{Limit, Over};
use crate::protocol::{
    self, CloseCode, DeviceId, ErrorCode, PROTOCOL_VERSION, ProcessId, Token, UserId,
};

/// Stands beside a 503 that is of this process alone: others may take the socket.
pub const ELSEWHERE: &str = "X-Parlor-Elsewhere";
/// What is said of a longer one.
pub const TOO_LONG: &str = "the request head is limited to 8 KiB and 100 headers";
/// How long a refused client may take to end its side.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// Who opens a socket, and how it wants to be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The person, as the query says: believed in development mode alone.
    pub user: Option<UserId>,
    /// The token, where there is one.
    pub token: Result<Option<Token>, auth::Refusal>,
    /// A browser's request: a script sees no status, so it is refused on the open socket.
    pub browser: bool,
    /// The device.
    pub device: DeviceId,
    /// The application sends `ack` frames itself.
    pub acks_app: bool,
    /// Per conversation only the newest so many of what waits.
    pub catchup: Option<u64>,
    /// Where the client is, as far as trusted proxies say.
    pub client: IpAddr,
    /// Our subprotocol was offered: a browser takes no answer without it.
    agrees: bool,
    accept: Box<str>,
}

/// A refusal of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// What was wrong, and what to do.
    pub detail: String,
    header: Cow<'static, str>,
    /// When to come back, for those that may succeed then.
    retry_after_ms: u64,
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// A socket; what came behind the head belongs to it.
    Open(Box<Hello>, Bytes),
    /// `GET /healthz`.
    Health,
    /// `GET /readyz`.
    Ready,
    /// Something that gets no socket.
    Refused(Refusal),
}

impl Refusal {
    /// With the headers that belong to the status.
    pub fn new(status: u16, detail: impl Into<String>) -> Self {
        let header = match status {
            405 => "Allow: GET\r\n",
            426 => "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n",
            503 => "Retry-After: 1\r\n",
            _ => "",
        };
        let (detail, header) = (detail.into(), header.into());
        Self { status, detail, header, retry_after_ms: protocol::answer::RETRY_MS }
    }

    /// Over a limit: of the client's (429), or because the server is full (503).
    pub fn over(over: Over) -> Self {
        let full = matches!(over.limit, Limit::Sockets | Limit::HalfOpen | Limit::Plain);
        let retry_after_ms = over.retry_after_ms();
        let header = retry_after(retry_after_ms);
        let status = if full { 503 } else { 429 };
        let refusal = Self { header, retry_after_ms, ..Self::new(status, over.to_string()) };
        if full { refusal.elsewhere() } else { refusal }
    }

    /// The code beside the status.
    pub fn code(&self) -> ErrorCode {
        match self.status {
            401 => ErrorCode::Unauthorized,
            403 | 421 => ErrorCode::Forbidden,
            404 => ErrorCode::NotFound,
            429 => ErrorCode::RateLimited,
            431 => ErrorCode::TooLarge,
            503 => ErrorCode::Unavailable,
            _ => ErrorCode::BadRequest,
        }
    }

    fn reason(&self) -> &'static str {
        match self.status {
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            421 => "Misdirected Request",
            426 => "Upgrade Required",
            429 => "Too Many Requests",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "Bad Request",
        }
    }

    /// With what a token would have to be (RFC 6750 §3).
    pub(super) fn challenging(self, challenge: &str) -> Self {
        Self { header: format!("WWW-Authenticate: {challenge}\r\n").into(), ..self }
    }

    /// Others may take the socket.
    pub fn elsewhere(self) -> Self {
        Self { header: format!("{}{ELSEWHERE}: yes\r\n", self.header).into(), ..self }
    }
}

impl From<Turned> for Refusal {
    fn from(turned: Turned) -> Self {
        let refusal = Self::new(turned.status, turned.detail);
        // What this process lacks others may have.
        if refusal.status == 503 { refusal.elsewhere() } else { refusal }
    }
}

impl From<auth::Refusal> for Refusal {
    fn from(refusal: auth::Refusal) -> Self {
        let plain = Self::new(refusal.code().http_status(), refusal.to_string());
        let retry_after_ms = refusal.retry_ms();
        match challenge(&refusal) {
            Some(challenge) => plain.challenging(&challenge),
            None => Self { header: retry_after(retry_after_ms), retry_after_ms, ..plain },
        }
    }
}

fn retry_after(ms: u64) -> Cow<'static, str> {
    format!("Retry-After: {}\r\n", ms.div_ceil(1_000)).into()
}

fn refused(status: u16, detail: impl Into<String>) -> Request {
    Request::Refused(Refusal::new(status, detail))
}

/// Reads a request, beginning with what was read already. `None`: the client left, or took too
/// long.
pub async fn read(
    stream: &mut Stream,
    read: Bytes,
    peer: Peer,
    gate: &Gate,
    until: Instant,
) -> Option<Request> {
    read_head(stream, read.into(), until, |head| judge(head, peer, gate)).await
}

/// Judges a head once it is whole.
pub(crate) fn judge(read: &mut BytesMut, peer: Peer, gate: &Gate) -> Option<Request> {
    Some(match judge_head(read, |request, body| judge_whole(request, body, peer, gate)) {
        Judged::Whole(length, Ok(hello)) => {
            read.advance(length);
            Request::Open(Box::new(hello), std::mem::take(read).freeze())
        }
        Judged::Whole(_, Err(other)) => other,
        Judged::Partial => return None,
        Judged::TooLong => refused(431, TOO_LONG),
        Judged::Bad(why) => refused(400, why),
    })
}

fn judge_whole(
    request: &httparse::Request<'_, '_>,
    body: Body,
    peer: Peer,
    gate: &Gate,
) -> Result<Hello, Request> {
    let target = request.path.unwrap_or("");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let get = request.method == Some("GET");
    match path {
        "/ws" if get => {}
        "/healthz" if get => return Err(Request::Health),
        "/readyz" if get => return Err(Request::Ready),
        "/ws" | "/healthz" | "/readyz" => return Err(refused(405, "only GET is answered here")),
        _ => return Err(refused(404, "sockets are opened at /ws")),
    }
    let headers: &[httparse::Header<'_>] = request.headers;
    let upgrade = has(headers, "upgrade", "websocket") && has(headers, "connection", "upgrade");
    let version = one(headers, "sec-websocket-version");
    if request.version != Some(1) || !upgrade || version != Some("13") {
        return Err(refused(426, "open a WebSocket here: RFC 6455, version 13"));
    }
    if one(headers, "host").is_none() {
        return Err(refused(400, "one Host header is required"));
    }
    if body != Body::Sized(0) {
        return Err(refused(400, "an upgrade has no body"));
    }
    let key = one(headers, "sec-websocket-key").filter(|key| is_key(key));
    let key = key.ok_or_else(|| refused(400, "Sec-WebSocket-Key must be 16 bytes in base64"))?;
    let taken = gate.take(peer, headers);
    let caller = taken.map_err(|turned| Request::Refused(turned.into()))?;
    hello(query, headers, caller.peer.address.ip(), derive_accept_key(key.as_bytes()).into())
}

fn hello(
    query: &str,
    headers: &[httparse::Header<'_>],
    client: IpAddr,
    accept: Box<str>,
) -> Result<Hello, Request> {
    let bad = |detail: String| refused(400, detail);
    let mut hello = (None, DeviceId::plain(), false, None);
    let mut seen = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if ["userId", "device", "acks", "catchup", "v"].contains(&name) {
            if seen.contains(&name) {
                return Err(bad(format!("{name} stands in the query twice")));
            }
            seen.push(name);
        }
        let value = decode(value).ok_or_else(|| bad(format!("{name} is not well encoded")))?;
        match name {
            "userId" => {
                let user = UserId::parse(&value).map_err(|error| bad(error.to_string()))?;
                hello.0 = Some(user);
            }
            "device" => {
                hello.1 = DeviceId::parse(&value).map_err(|error| bad(error.to_string()))?;
            }
            "acks" if value == "app" => hello.2 = true,
            "acks" => return Err(bad("acks can only be app".to_owned())),
            "catchup" => {
                let count = value.parse().ok().filter(|count| (1..=10_000).contains(count));
                let detail = || bad("catchup must be a number from 1 to 10000".to_owned());
                hello.3 = Some(count.ok_or_else(detail)?);
            }
            "v" if value != PROTOCOL_VERSION.to_string() => {
                return Err(bad(format!("this server speaks version {PROTOCOL_VERSION}")));
            }
            _ => {}
        }
    }
    let (user, device, acks_app, catchup) = hello;
    let protocols = headers.all("sec-websocket-protocol");
    let token = bearer(&headers.all("authorization"), &protocols);
    let browser = !headers.all("origin").is_empty();
    let agrees = has(headers, "sec-websocket-protocol", PROTOCOL);
    Ok(Hello { user, token, browser, device, acks_app, catchup, client, agrees, accept })
}

/// The value of a header that stands there once.
fn one<'a>(headers: &'a [httparse::Header<'_>], name: &str) -> Option<&'a str> {
    match headers.all(name)[..] {
        [value] => str::from_utf8(value).ok().map(str::trim),
        _ => None,
    }
}

/// Whether a list header holds a name.
fn has(headers: &[httparse::Header<'_>], name: &str, sought: &str) -> bool {
    let values = headers.all(name);
    let mut names = values.iter().flat_map(|value| value.split(|b| *b == b','));
    names.any(|name| name.trim_ascii().eq_ignore_ascii_case(sought.as_bytes()))
}

/// 16 bytes in base64 are 22 characters and `==`.
fn is_key(key: &str) -> bool {
    let base64 = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    key.len() == 24 && key.ends_with("==") && key.bytes().take(22).all(base64)
}

/// Percent-decoding of a query value; `+` stays `+`, as in every id.
fn decode(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| char::from(b?).to_digit(16);
        let value = digit(rest.next())? * 16 + digit(rest.next())?;
        bytes.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Answers 101: from here on the connection is a WebSocket.
pub async fn accept(stream: &mut Stream, hello: &Hello, server: &ProcessId) -> std::io::Result<()> {
    stream.write_all(switching(hello, server).as_bytes()).await?;
    stream.flush().await
}

fn switching(hello: &Hello, server: &ProcessId) -> String {
    // Never the other name of the pair: it is the token.
    let agreed = if hello.agrees { "Sec-WebSocket-Protocol: parlor\r\n" } else { "" };
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\n{agreed}X-Parlor-Server: {server}\r\n\r\n",
        hello.accept
    )
}

/// Refuses a browser: the socket opens, says why, and closes with 4401.
pub async fn dismiss(
    mut stream: Stream,
    hello: &Hello,
    server: &ProcessId,
    code: ErrorCode,
    detail: &str,
) {
    let error = protocol::answer::error(code, detail, None, None);
    let mut answer = switching(hello, server).into_bytes();
    framing::put_text(&mut answer, &error);
    framing::put_close(&mut answer, CloseCode::Unauthorized);
    last_words(&mut stream, &answer).await;
}

/// Answers a refusal as `application/problem+json` (RFC 9457) and ends the connection.
pub async fn refuse(mut stream: Stream, refusal: &Refusal) {
    let (reason, code) = (refusal.reason(), refusal.code());
    let (detail, after) = (&refusal.detail, refusal.retry_after_ms);
    let body = protocol::answer::problem(refusal.status, reason, code, detail, after);
    let kind = format!("Content-Type: application/problem+json\r\n{}", refusal.header);
    answer(&mut stream, refusal.status, reason, &kind, &body).await;
}

/// Answers a health check and ends the connection.
pub async fn answer_health(mut stream: Stream, well: bool) {
    let (status, reason) = if well { (200, "OK") } else { (503, "Service Unavailable") };
    answer(&mut stream, status, reason, "Content-Type: text/plain\r\n", b"").await;
}

async fn answer(stream: &mut Stream, status: u16, reason: &str, headers: &str, body: &[u8]) {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\n{headers}Content-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    last_words(stream, &[head.as_bytes(), body].concat()).await;
}

async fn last_words(stream: &mut Stream, answer: &[u8]) {
    let _ = timeout(HEAD_PATIENCE, stream.write_all(answer)).await;
    let _ = stream.shutdown().await;
    // What the client still sends is read away: unread, it would turn the end into a reset, and the
    // client might never see the answer.
    let mut rest = [0; 1_024];
    let reading = async { while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {} };
    let _ = timeout(END_PATIENCE, reading).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By somebody whom nothing is held against.
    fn judge(read: &mut BytesMut) -> Option<Request> {
        let peer = Peer { address: "127.0.0.1:9".parse().unwrap(), secure: false };
        super::judge(read, peer, &Gate::default())
    }

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn request(target: &str, more: &str) -> Request {
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: x\r\nUpgrade: WebSocket\r\n\
             Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {KEY}\r\n{more}\r\nfirst frame"
        );
        judge(&mut BytesMut::from(head.as_bytes())).unwrap()
    }

    fn status(head: &str) -> u16 {
        match judge(&mut BytesMut::from(head.as_bytes())) {
            Some(Request::Refused(refusal)) => refusal.status,
            other => panic!("{head:?}: {other:?}"),
        }
    }

    #[test]
    fn a_good_request_opens_and_keeps_the_bytes_behind_it() {
        let target = "/ws?userId=auth0%7Cx&device=phone&acks=app&catchup=200&v=1&new=1";
        let Request::Open(hello, behind) = request(target, "") else { panic!() };
        let user = hello.user.as_ref().map(UserId::as_str);
        assert_eq!((user, hello.device.as_str()), (Some("auth0|x"), "phone"));
        assert_eq!((hello.acks_app, hello.catchup), (true, Some(200)));
        // RFC 6455 §1.3 has this key and its answer.
        assert_eq!(&*hello.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(&behind[..], b"first frame");
    }

    #[test]
    fn every_bad_parameter_is_a_400() {
        for target in [
            "/ws?userId=",
            "/ws?userId=a%20b",
            "/ws?userId=%zz",
            "/ws?userId=a&device=x.y",
            "/ws?userId=a&acks=yes",
            "/ws?userId=a&catchup=0",
            "/ws?userId=a&catchup=x",
            "/ws?userId=a&v=2",
            "/ws?userId=a&userId=a",
            "/ws?userId=a&device",
        ] {
            let Request::Refused(refusal) = request(target, "") else { panic!("{target}") };
            assert_eq!(refusal.status, 400, "{target}");
        }
        for more in [
            "Content-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Host: y\r\n",
            &format!("Sec-WebSocket-Key: {KEY}\r\n"),
        ] {
            let Request::Refused(refusal) = request("/ws?userId=a", more) else { panic!() };
            assert_eq!(refusal.status, 400, "{more}");
        }
    }

    #[test]
    fn a_browser_carries_its_token_in_the_pair_and_only_one_name_is_answered() {
        let server = ProcessId::parse("ws1").unwrap();
        let hello = |more: &str| match request("/ws", more) {
            Request::Open(hello, _) => hello,
            other => panic!("{more}: {other:?}"),
        };
        let pair = hello("Origin: http://x\r\nSec-WebSocket-Protocol: parlor, bearer.a.b.c\r\n");
        assert_eq!(pair.token, Ok(Some(Token::new("a.b.c"))));
        assert!(pair.browser);
        let answer = switching(&pair, &server);
        assert!(answer.contains("Sec-WebSocket-Protocol: parlor\r\n"), "{answer}");
        assert!(!answer.contains("a.b.c"), "{answer}");
        assert!(!format!("{pair:?}").contains("a.b.c"), "{pair:?}");
        let header = hello("authorization: Bearer a.b.c\r\n");
        assert_eq!(header.token, Ok(Some(Token::new("a.b.c"))));
        assert!(!header.browser && !switching(&header, &server).contains("Protocol:"));
        let both = "Authorization: Bearer a\r\nSec-WebSocket-Protocol: bearer.a\r\n";
        assert_eq!(hello(both).token, Err(auth::Refusal::Ambiguous));
        assert_eq!(hello("Authorization: Basic dTpw\r\n").token, Err(auth::Refusal::Missing));
    }

    #[test]
    fn other_requests_get_their_own_status() {
        assert_eq!(status("POST /ws?userId=a HTTP/1.1\r\n\r\n"), 405);
        assert_eq!(status("GET /other HTTP/1.1\r\n\r\n"), 404);
        assert_eq!(status("GET /ws?userId=a HTTP/1.1\r\n\r\n"), 426);
        assert_eq!(status("GET /ws?userId=a HTTP/1.0\r\nUpgrade: websocket\r\n\r\n"), 426);
        assert_eq!(status("PRI * HTTP/2.0\r\n\r\n"), 400);
        assert_eq!(status("\x16\x03\x01 hello"), 400);
        assert_eq!(status(&format!("GET /ws HTTP/1.1\r\nA: {}", "x".repeat(9_000))), 431);
        assert_eq!(status(&format!("GET /ws HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101))), 431);
        let health = judge(&mut BytesMut::from(&b"GET /readyz HTTP/1.1\r\n\r\n"[..]));
        assert_eq!(health, Some(Request::Ready));
        assert_eq!(judge(&mut BytesMut::from(&b"GET /ws?user"[..])), None);
    }

    #[test]
    fn pages_of_other_sites_get_no_socket() {
        let own = request("/ws?userId=a", "Origin: http://x\r\n");
        assert!(matches!(own, Request::Open(..)));
        let Request::Refused(refusal) = request("/ws?userId=a", "Origin: https://evil.test\r\n")
        else {
            panic!()
        };
        assert_eq!(refusal.status, 403);
        assert!(refusal.detail.contains("--allow-origin https://evil.test"), "{}", refusal.detail);
    }
}
