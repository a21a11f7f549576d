//! Which requests a listener takes: not those of other sites' pages, and in development mode only
//! those that call it by a name of this machine, and come from there.
//!
//! A page of any site can make the browser of whoever opens it send requests to this listener. The
//! browser says whose page it was (`Origin`), for every WebSocket too. A site whose name was
//! pointed at the loopback address (DNS rebinding) has our origin, but not our name (`Host`).
//!
//! A loopback address alone does not say that only this machine asks: a balancer or another proxy
//! there may pass everybody on. So who is told to be elsewhere is turned away where nobody has to
//! show a token, and a balancer that asks for tokens says so, to a process that lacks the keys.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::caller::{Caller, Headers, Peer, Trusted, is_told_elsewhere};
use super::origin::{Origin, Origins, host_of};
use crate::protocol::ErrorCode;

/// How much of an origin is repeated to whoever was refused.
const ORIGIN_SHOWN_MAX: usize = 200;
/// What a balancer that asks for tokens says to servers and to the API, which check them: one
/// without keys would believe everybody whom it passes on. Dropped where a client says it.
pub const TOKENS_HEADER: &str = "x-parlor-tokens";

/// A request that is turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turned {
    /// The HTTP status.
    pub status: u16,
    /// The code beside it.
    pub code: ErrorCode,
    /// What was wrong, and what to do.
    pub detail: String,
}

impl Turned {
    pub(super) fn bad(detail: impl Into<String>) -> Self {
        Self { status: 400, code: ErrorCode::BadRequest, detail: detail.into() }
    }
}

/// By which names a listener may be called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Names {
    /// By any.
    #[default]
    Any,
    /// By loopback names and addresses, and by these (`--allow-host`).
    Loopback(Vec<String>),
}

impl Names {
    fn hold(&self, host: &str) -> bool {
        let Self::Loopback(also) = self else { return true };
        let Some(host) = host_of(host) else { return false };
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host == "localhost"
            || host.ends_with(".localhost")
            || address.is_ok_and(|address| address.is_loopback())
            || also.iter().any(|name| host_of(name).as_ref() == Some(&host))
    }
}

/// What a listener takes.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    /// Whose pages may use it.
    pub origins: Origins,
    /// By which names it may be called.
    pub names: Names,
    /// Who is believed about the client.
    pub trusted: Trusted,
    /// Who asks must show a token.
    pub tokens: bool,
}

impl Gate {
    /// Who asks, if the request is taken.
    pub fn take(&self, peer: Peer, headers: &(impl Headers + ?Sized)) -> Result<Caller, Turned> {
        if !self.tokens && !headers.all(TOKENS_HEADER).is_empty() {
            return Err(lacks_keys());
        }
        let caller = self.caller(peer, headers)?;
        let judged = self.judge(&caller, headers);
        if let Err(turned) = &judged {
            let client = caller.peer.address.ip();
            tracing::debug!(%client, status = turned.status, why = ?turned.detail, "turned away");
        }
        judged.map(|()| caller)
    }

    /// Whether its page, if there is one, may read an answer.
    pub(super) fn lets(&self, caller: &Caller, headers: &(impl Headers + ?Sized)) -> bool {
        self.judge(caller, headers).is_ok()
    }

    /// Who asks. A name that stands in `Host` must be ours also where a proxy has told another one:
    /// a browser may be on the proxy's machine, and its page writes every header but that one.
    pub fn caller(&self, peer: Peer, headers: &(impl Headers + ?Sized)) -> Result<Caller, Turned> {
        let caller = self.trusted.caller(peer, headers)?;
        self.judge_place(&caller, headers)?;
        let other = |host: &&&[u8]| **host != caller.host.as_bytes();
        match headers.all("host").first().filter(other) {
            Some(host) => self.judge_name(str::from_utf8(host).unwrap_or_default()),
            None => Ok(()),
        }
        .map(|()| caller)
    }

    fn judge_place(
        &self,
        caller: &Caller,
        headers: &(impl Headers + ?Sized),
    ) -> Result<(), Turned> {
        let only_here = matches!(self.names, Names::Loopback(_)) && !self.tokens;
        if !only_here || !is_told_elsewhere(caller, headers) {
            return Ok(());
        }
        let detail = "without tokens only this machine is served, and a proxy tells of a client \
                      elsewhere: give --jwt-secret-file FILE, --jwt-key-file FILE or --jwks-url \
                      URL, or --insecure-dev on a network that keeps strangers out";
        static TOLD: AtomicBool = AtomicBool::new(false);
        if !TOLD.swap(true, Ordering::Relaxed) {
            tracing::warn!("{detail}");
        }
        Err(Turned { status: 403, code: ErrorCode::Forbidden, detail: detail.to_owned() })
    }

    fn judge_name(&self, host: &str) -> Result<(), Turned> {
        if self.names.hold(host.trim()) {
            return Ok(());
        }
        let detail = "in development mode this listener is called localhost: start it with \
                      --allow-host NAME to take another name";
        Err(Turned { status: 421, code: ErrorCode::Forbidden, detail: detail.to_owned() })
    }

    fn judge(&self, caller: &Caller, headers: &(impl Headers + ?Sized)) -> Result<(), Turned> {
        self.judge_name(&caller.host)?;
        let Some(said) = origin(headers)? else { return Ok(()) };
        let origin = Origin::parse(said);
        let own = origin.as_ref().is_some_and(|o| o.is_of(&caller.host, caller.peer.secure));
        if own || self.origins.lists(origin.as_ref()) {
            return Ok(());
        }
        let detail = match origin {
            Some(_) => {
                let shown: String = said.chars().take(ORIGIN_SHOWN_MAX).collect();
                format!("pages of {shown} may not use this: start it with --allow-origin {shown}")
            }
            None => "a page without an origin may not use this: only --allow-origin * takes it"
                .to_owned(),
        };
        Err(Turned { status: 403, code: ErrorCode::Forbidden, detail })
    }
}

/// Whoever asks can't help it, and another process may have the keys.
fn lacks_keys() -> Turned {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        tracing::error!(
            "the balancer asks for tokens, and this process has no keys to check them by: what it \
             passes on is answered with 503 until this process is started with the same \
             --jwt-secret-file, --jwt-key-file or --jwks-url"
        );
    }
    let detail = "this process has no keys to check tokens by: its log says what to do";
    Turned { status: 503, code: ErrorCode::Unavailable, detail: detail.to_owned() }
}

/// Whose page makes the request; `None` where no page does.
pub(super) fn origin<H: Headers + ?Sized>(headers: &H) -> Result<Option<&str>, Turned> {
    let value = match headers.all("origin")[..] {
        [] => return Ok(None),
        [value] => value,
        _ => return Err(Turned::bad("Origin stands there twice")),
    };
    let visible = |b: &u8| b.is_ascii_graphic();
    let text = str::from_utf8(value).ok().filter(|_| value.iter().all(visible));
    text.map(Some).ok_or_else(|| Turned::bad("Origin holds more than visible ASCII"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(gate: &Gate, host: &str, origins: &[&str]) -> Result<(), u16> {
        let name = |name, value: &'static str| httparse::Header { name, value: value.as_bytes() };
        let leak = |text: &str| -> &'static str { text.to_owned().leak() };
        let mut headers = vec![name("Host", leak(host))];
        headers.extend(origins.iter().map(|origin| name("Origin", leak(origin))));
        let peer = Peer { address: "127.0.0.1:1".parse().unwrap(), secure: false };
        gate.take(peer, &headers[..]).map(drop).map_err(|turned| turned.status)
    }

    #[test]
    fn pages_of_other_origins_are_turned_away() {
        let gate = Gate::default();
        assert_eq!(take(&gate, "localhost:8080", &[]), Ok(()), "no browser");
        assert_eq!(take(&gate, "localhost:8080", &["http://localhost:8080"]), Ok(()));
        for other in ["http://evil.example", "http://localhost:4000", "null", "", "file://"] {
            assert_eq!(take(&gate, "localhost:8080", &[other]), Err(403), "{other:?}");
        }
        for bad in [&["http://a", "http://a"][..], &["http://a\u{e9}"], &["http://a b"]] {
            assert_eq!(take(&gate, "localhost:8080", bad), Err(400), "{bad:?}");
        }
        let listed = Origins::new(&["http://evil.example".to_owned()]).unwrap();
        let gate = Gate { origins: listed, ..Gate::default() };
        assert_eq!(take(&gate, "localhost:8080", &["http://evil.example"]), Ok(()));
        assert_eq!(take(&gate, "localhost:8080", &["null"]), Err(403));
    }

    #[test]
    fn on_loopback_a_name_that_was_pointed_at_us_is_not_ours() {
        let names = Names::Loopback(vec!["chat.test".to_owned()]);
        let gate = Gate { names, ..Gate::default() };
        for own in [
            "localhost",
            "LOCALHOST.:8080",
            "a.localhost:1",
            "127.0.0.1",
            "127.8.0.1:3001",
            "[::1]:8080",
            "chat.test",
            "Chat.Test:80",
        ] {
            assert_eq!(take(&gate, own, &[]), Ok(()), "{own}");
        }
        for other in [
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "notlocalhost",
            "",
            "127.0.0.1.evil.example",
            "0.0.0.0",
            "[::2]",
            "a@localhost",
            "localhost:x",
        ] {
            let origin = format!("http://{other}");
            assert_eq!(take(&gate, other, &[&origin]), Err(421), "{other}");
        }
        assert_eq!(take(&Gate::default(), "evil.example", &[]), Ok(()));
    }

    /// The page of a site that was pointed at a machine whose proxy is trusted writes the headers
    /// of a proxy itself: all but `Host`.
    #[test]
    fn a_name_is_judged_beside_the_one_that_a_proxy_tells() {
        let trusted = Trusted::new(&["127.0.0.1".to_owned()]).unwrap();
        let names = Names::Loopback(vec!["chat.test".to_owned()]);
        let gate = Gate { names, trusted, ..Gate::default() };
        let name = |name, value: &'static str| httparse::Header { name, value: value.as_bytes() };
        let peer = Peer { address: "127.0.0.1:1".parse().unwrap(), secure: false };
        for (host, told, status) in [
            ("localhost:8080", "chat.test", None),
            ("chat.test", "chat.test", None),
            ("chat.test:8080", "chat.test", None),
            ("evil.example", "localhost", Some(421)),
            ("evil.example:8080", "chat.test", Some(421)),
            ("localhost:8080", "evil.example", Some(421)),
            ("\u{e9}", "localhost", Some(400)),
        ] {
            let headers = [name("Host", host), name("X-Forwarded-Host", told)];
            let taken = gate.take(peer, &headers[..]);
            assert_eq!(taken.err().map(|turned| turned.status), status, "{host}, {told}");
        }
    }

    fn said(gate: &Gate, from: &str, more: &[(&'static str, &'static str)]) -> Option<u16> {
        let header = |(name, value): &(&'static str, &'static str)| httparse::Header {
            name,
            value: value.as_bytes(),
        };
        let headers: Vec<_> = [("Host", "localhost")].iter().chain(more).map(header).collect();
        let peer = Peer { address: from.parse().unwrap(), secure: false };
        gate.take(peer, &headers[..]).err().map(|turned| turned.status)
    }

    #[test]
    fn where_nobody_shows_a_token_only_this_machine_is_served() {
        let keyless = Gate { names: Names::Loopback(Vec::new()), ..Gate::default() };
        let trusted = Trusted::new(&["127.0.0.1".to_owned()]).unwrap();
        let told = |client: &'static str| [("X-Forwarded-For", client)];
        let believing = Gate { trusted, ..keyless.clone() };
        for gate in [&keyless, &believing] {
            for (from, elsewhere) in [
                ("127.0.0.1:1", None),
                ("[::1]:1", None),
                ("[::ffff:127.0.0.1]:1", None),
                ("203.0.113.7:1", Some(403)),
                ("10.0.0.1:1", Some(403)),
                ("0.0.0.0:0", Some(403)),
            ] {
                assert_eq!(said(gate, from, &[]), elsewhere, "{from}");
            }
            for here in ["127.0.0.1", "::1", "[::1]:5, 127.8.0.1:6", "::ffff:127.0.0.1"] {
                assert_eq!(said(gate, "127.0.0.1:1", &told(here)), None, "{here}");
            }
            for away in ["203.0.113.7", "203.0.113.7, 127.0.0.1", "127.0.0.1,10.0.0.1:9"] {
                assert_eq!(said(gate, "127.0.0.1:1", &told(away)), Some(403), "{away}");
            }
        }
        let unknown = |gate| said(gate, "127.0.0.1:1", &told("unknown"));
        assert_eq!(
            (unknown(&keyless), unknown(&believing)),
            (None, Some(403)),
            "made up, or hidden"
        );
        // With tokens, and where the network keeps strangers out.
        for gate in [Gate { tokens: true, ..keyless }, Gate::default()] {
            assert_eq!(said(&gate, "203.0.113.7:1", &told("203.0.113.8")), None);
        }
    }

    #[test]
    fn whom_a_balancer_has_asked_for_a_token_is_not_believed_without_keys() {
        let named = Gate { names: Names::Loopback(Vec::new()), ..Gate::default() };
        let required = [(TOKENS_HEADER, "required")];
        for keyless in [named, Gate::default()] {
            assert_eq!(said(&keyless, "127.0.0.1:1", &required), Some(503));
            let gate = Gate { tokens: true, ..keyless };
            assert_eq!(said(&gate, "127.0.0.1:1", &required), None);
        }
    }
}
