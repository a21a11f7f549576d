//! Which requests a listener takes: not those of other sites' pages, and in development mode only
//! those that call it by a name of this machine.
//!
//! A page of any site can make the browser of whoever opens it send requests to this listener. The
//! browser says whose page it was (`Origin`), for every WebSocket too. A site whose name was
//! pointed at the loopback address (DNS rebinding) has our origin, but not our name (`Host`).

use std::net::IpAddr;

use super::caller::{Caller, Headers, Peer, Trusted};
use super::origin::{Origin, Origins, host_of};
use crate::protocol::ErrorCode;

/// How much of an origin is repeated to whoever was refused.
const ORIGIN_SHOWN_MAX: usize = 200;

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
}

impl Gate {
    /// Who asks, if the request is taken.
    pub fn take(&self, peer: Peer, headers: &(impl Headers + ?Sized)) -> Result<Caller, Turned> {
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
        let other = |host: &&&[u8]| **host != caller.host.as_bytes();
        match headers.all("host").first().filter(other) {
            Some(host) => self.judge_name(str::from_utf8(host).unwrap_or_default()),
            None => Ok(()),
        }
        .map(|()| caller)
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
}
