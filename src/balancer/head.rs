//! The head of a request, looked at once: an upgrade is dealt to a server with all its bytes, the
//! rest is served here.
//!
//! What goes to a server is written anew from what was understood, so that both understand the
//! same: who the client is stands there in our words, and what the client said of that does not.

use std::fmt;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::auth::bearer;
use crate::edge::{
    Caller, Gate, Headers, Judged, Peer, Stream, TOKENS_HEADER, Turned, is_forwarding, judge,
    read_head,
};
use crate::protocol::{ErrorCode, Token};

/// What a connection begins with.
#[derive(PartialEq, Eq)]
pub enum Head {
    /// A WebSocket upgrade of `/ws`.
    Upgrade(Upgrade),
    /// Another request.
    Plain(Bytes),
    /// Longer than allowed.
    TooLong,
    /// What no server gets to see, and why.
    Bad(Turned),
}

impl fmt::Debug for Head {
    /// Without what was read: there are tokens in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upgrade(upgrade) => f.debug_tuple("Upgrade").field(upgrade).finish(),
            Self::Plain(read) => write!(f, "Plain({} bytes)", read.len()),
            Self::TooLong => f.write_str("TooLong"),
            Self::Bad(turned) => f.debug_tuple("Bad").field(turned).finish(),
        }
    }
}

/// A request that a server answers.
#[derive(PartialEq, Eq)]
pub struct Upgrade {
    /// The head, written anew but for its end, and whatever was read behind it.
    head: Vec<u8>,
    behind: Bytes,
    /// Who asks.
    pub caller: Caller,
    /// The user that it names, for sticky dealing; the server checks it. Empty if none.
    pub user: String,
    /// Its token, where there is one; the server checks it.
    pub token: Option<Token>,
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrade").field("caller", &self.caller).finish_non_exhaustive()
    }
}

impl Upgrade {
    /// Whether frames have come already: a server that has seen the request may have taken them.
    pub fn has_spoken(&self) -> bool {
        !self.behind.is_empty()
    }

    /// For a server in this process, which is told who asks beside it.
    pub fn here(&self) -> Bytes {
        [&self.head[..], b"\r\n", &self.behind].concat().into()
    }

    /// For a server in another process, which must trust this balancer (`--trusted-proxy`).
    pub fn onward(&self) -> Bytes {
        let Peer { address, secure } = self.caller.peer;
        let (address, scheme) = (address.ip(), if secure { "https" } else { "http" });
        let told = format!("X-Forwarded-For: {address}\r\nX-Forwarded-Proto: {scheme}\r\n\r\n");
        [&self.head[..], told.as_bytes(), &self.behind].concat().into()
    }
}

/// Reads until the head is whole. `None`: the client left, or took too long.
pub async fn read(stream: &mut Stream, peer: Peer, gate: &Gate, until: Instant) -> Option<Head> {
    let read = BytesMut::with_capacity(1_024);
    read_head(stream, read, until, |read| seen(read, peer, gate)).await
}

/// Judges what was read so far; `None` while the head is not whole.
pub(crate) fn seen(read: &[u8], peer: Peer, gate: &Gate) -> Option<Head> {
    let made = judge(read, |request, _| {
        let target = request.path.unwrap_or("");
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let headers: &[httparse::Header<'_>] = request.headers;
        // Whatever asks for /ws gets its answer from a server, a refusal too: one decides.
        if path != "/ws" {
            let named = request.version == Some(0) || !headers.all("host").is_empty();
            return if named { Ok(None) } else { Err(bad("one Host header is required")) };
        }
        let caller = gate.caller(peer, headers)?;
        let (mut head, behind) = (written(request, &caller.host), Bytes::new());
        if gate.tokens {
            head.extend_from_slice(format!("{TOKENS_HEADER}: required\r\n").as_bytes());
        }
        let token = bearer(&headers.all("authorization"), &headers.all("sec-websocket-protocol"));
        let (user, token) = (user(query), token.ok().flatten());
        Ok(Some(Upgrade { head, behind, caller, user, token }))
    });
    Some(match made {
        Judged::Partial => return None,
        Judged::TooLong => Head::TooLong,
        Judged::Bad(why) => Head::Bad(bad(why)),
        Judged::Whole(_, Err(turned)) => Head::Bad(turned),
        Judged::Whole(_, Ok(None)) => Head::Plain(Bytes::copy_from_slice(read)),
        Judged::Whole(length, Ok(Some(upgrade))) => {
            let behind = Bytes::copy_from_slice(&read[length..]);
            Head::Upgrade(Upgrade { behind, ..upgrade })
        }
    })
}

fn bad(why: &str) -> Turned {
    Turned { status: 400, code: ErrorCode::BadRequest, detail: why.to_owned() }
}

/// The head as it was understood, without its end: called by the name that the client used, and
/// without what only we may say.
fn written(request: &httparse::Request<'_, '_>, host: &str) -> Vec<u8> {
    let method = request.method.unwrap_or_default();
    let (target, minor) = (request.path.unwrap_or_default(), request.version.unwrap_or(1));
    let mut head = format!("{method} {target} HTTP/1.{minor}\r\n").into_bytes();
    // A request without one stays without, whatever a proxy says that the client called us: only
    // HTTP/1.0 may do without. One that is empty is one.
    if request.headers.iter().any(|header| header.name.eq_ignore_ascii_case("host")) {
        head.extend_from_slice(format!("Host: {host}\r\n").as_bytes());
    }
    let kept = request
        .headers
        .iter()
        .filter(|header| !header.name.eq_ignore_ascii_case("host") && !is_forwarding(header.name));
    for header in kept {
        for part in [header.name.as_bytes(), b": ", header.value, b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head
}

/// The `userId` of a query, as it stands there: only equality matters for dealing.
pub fn user(query: &str) -> String {
    let user = query.split('&').find_map(|pair| pair.strip_prefix("userId="));
    user.unwrap_or("").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::{HEAD_BYTES_MAX, Trusted};

    fn seen(read: &[u8]) -> Option<Head> {
        seen_from("198.51.100.1:9", read)
    }

    fn seen_from(address: &str, read: &[u8]) -> Option<Head> {
        let trusted = Trusted::new(&["10.0.0.1".to_owned()]).unwrap();
        let gate = Gate { trusted, ..Gate::default() };
        super::seen(read, Peer { address: address.parse().unwrap(), secure: false }, &gate)
    }

    fn is_bad(read: &[u8]) -> bool {
        matches!(seen(read), Some(Head::Bad(_)))
    }

    #[test]
    fn upgrades_are_told_from_the_rest() {
        let upgrade = b"GET /ws?device=a&userId=userA HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\nframes";
        let Some(Head::Upgrade(seen_here)) = seen(upgrade) else { panic!() };
        assert_eq!((&seen_here.here()[..], seen_here.user.as_str()), (&upgrade[..], "userA"));
        for plain in
            ["GET / HTTP/1.0\r\n\r\n", "POST /v1/messages HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n{}"]
        {
            assert!(matches!(seen(plain.as_bytes()), Some(Head::Plain(_))), "{plain}");
        }
        assert_eq!(seen(b"GET /ws HTTP/1.1\r\nHost"), None);
    }

    #[test]
    fn what_the_client_says_of_itself_is_replaced_by_what_is_known() {
        let head = "GET /ws?userId=a HTTP/1.1\r\nForwarded: for=6.6.6.6\r\nHOST: inner\r\n\
                    x-forwarded-for: 6.6.6.6, 203.0.113.7\r\nX-Forwarded-Host: chat.test\r\n\
                    X-Forwarded-Proto: https\r\nX-Real-IP: 6.6.6.6\r\nOrigin: https://a\r\n\r\n";
        let onward = |from: &str| {
            let Some(Head::Upgrade(upgrade)) = seen_from(from, head.as_bytes()) else { panic!() };
            String::from_utf8(upgrade.onward().to_vec()).unwrap()
        };
        let expected = |host: &str, client: &str, scheme: &str| {
            format!(
                "GET /ws?userId=a HTTP/1.1\r\nHost: {host}\r\nOrigin: https://a\r\n\
                 X-Forwarded-For: {client}\r\nX-Forwarded-Proto: {scheme}\r\n\r\n"
            )
        };
        assert_eq!(onward("198.51.100.1:9"), expected("inner", "198.51.100.1", "http"));
        assert_eq!(onward("10.0.0.1:9"), expected("chat.test", "203.0.113.7", "https"));
        let nameless = head.replace("HOST: inner\r\n", "");
        let Some(Head::Upgrade(upgrade)) = seen_from("10.0.0.1:9", nameless.as_bytes()) else {
            panic!()
        };
        assert!(!String::from_utf8_lossy(&upgrade.here()).contains("Host"), "a server refuses it");
        let empty = b"GET /ws HTTP/1.1\r\nHost:\r\n\r\n";
        let Some(Head::Upgrade(upgrade)) = seen(empty) else { panic!() };
        assert_eq!(&upgrade.here()[..], b"GET /ws HTTP/1.1\r\nHost: \r\n\r\n");
    }

    #[test]
    fn a_server_hears_from_us_alone_that_tokens_are_required() {
        let head = "GET /ws?userId=a HTTP/1.1\r\nHost: x\r\nX-Parlor-Tokens: off\r\n\r\n";
        let peer = Peer { address: "198.51.100.1:9".parse().unwrap(), secure: false };
        for (tokens, said) in
            [(true, "Host: x\r\nx-parlor-tokens: required\r\n"), (false, "Host: x\r\n")]
        {
            let gate = Gate { tokens, ..Gate::default() };
            let seen = super::seen(head.as_bytes(), peer, &gate);
            let Some(Head::Upgrade(upgrade)) = seen else { panic!() };
            let expected = format!("GET /ws?userId=a HTTP/1.1\r\n{said}");
            assert_eq!(upgrade.here(), format!("{expected}\r\n"), "handed over");
            let told = "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-Proto: http\r\n\r\n";
            assert_eq!(upgrade.onward(), format!("{expected}{told}"), "passed through");
        }
    }

    #[test]
    fn a_token_is_found_as_a_server_finds_it() {
        let found = |more: &str| {
            let head = format!("GET /ws HTTP/1.1\r\nHost: x\r\n{more}\r\n");
            let Some(Head::Upgrade(upgrade)) = seen(head.as_bytes()) else { panic!("{head}") };
            upgrade.token
        };
        assert_eq!(found("Authorization: Bearer a.b.c\r\n"), Some(Token::new("a.b.c")));
        for target in ["/ws", "/"] {
            let token = "Authorization: Bearer a.b.c";
            let head = format!("GET {target} HTTP/1.1\r\nHost: x\r\n{token}\r\n\r\n");
            let shown = format!("{:?}", seen(head.as_bytes()));
            assert!(!shown.contains("a.b.c"), "{shown}");
        }
        let pair = found("Sec-WebSocket-Protocol: parlor, bearer.a.b.c\r\n");
        assert_eq!(pair, Some(Token::new("a.b.c")));
        assert_eq!(found("A: b\r\n"), None);
    }

    #[test]
    fn what_is_not_a_head_is_refused() {
        assert!(is_bad(b"\x16\x03\x01\x02\x00"));
        assert!(is_bad(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        assert!(is_bad(b"GET / HTTP/1.1\r\n\r\n"), "no Host");
        assert!(is_bad(b"GET /ws HTTP/1.1\nHost: x\n\n"), "bare LF");
        let long = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(HEAD_BYTES_MAX));
        assert_eq!(seen(long.as_bytes()), Some(Head::TooLong));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101));
        assert_eq!(seen(many.as_bytes()), Some(Head::TooLong));
    }
}
