//! What an answer tells a browser about other origins (CORS) and about TLS.
//!
//! Who may ask is decided by `gate`; here is only how the answer says so. There are no cookies, so
//! credentials are never allowed: a token is sent by whoever holds it.

use hyper::header::{self, HeaderValue};
use hyper::{HeaderMap, Method};

use super::caller::{Caller, Peer};
use super::gate::{self, Gate};
use super::origin::{Origins, host_of};

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, DELETE");
const HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, content-type, idempotency-key, on-behalf-of");
const EXPOSED: HeaderValue = HeaderValue::from_static("retry-after, www-authenticate");
/// How long a browser may remember the answer to a preflight, in seconds.
const REMEMBERED: HeaderValue = HeaderValue::from_static("600");
/// Browsers that came by TLS don't come without it for a year.
const ONLY_TLS: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// What belongs on the answer to a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answering {
    origin: Option<HeaderValue>,
    preflight: bool,
    only_tls: bool,
}

impl Answering {
    /// Of any request, also one that is turned away. Pages of others are told of CORS only where
    /// the gate takes what they ask.
    pub fn of(gate: &Gate, peer: Peer, method: &Method, headers: &HeaderMap) -> Self {
        let Ok(caller) = gate.caller(peer, headers) else { return Self::default() };
        let whole = Self::new(gate, &caller, method, headers);
        match gate.lets(&caller, headers) {
            true => whole,
            false => Self { origin: None, preflight: false, ..whole },
        }
    }

    /// Of one that the gate has taken, and by whom it came.
    pub fn new(gate: &Gate, caller: &Caller, method: &Method, headers: &HeaderMap) -> Self {
        let said = gate::origin(headers).ok().flatten();
        let origin = match gate.origins {
            Origins::All => said.map(|_| HeaderValue::from_static("*")),
            _ => said.and_then(|said| HeaderValue::from_str(said).ok()),
        };
        let asks = headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        // A browser would remember it of localhost too, for whatever is started there next.
        let named = host_of(&caller.host).is_some_and(|host| host != "localhost");
        let only_tls = caller.peer.secure && named;
        Self { preflight: origin.is_some() && method == Method::OPTIONS && asks, origin, only_tls }
    }

    /// Whether the browser only asks what it may do: the answer has no body, whatever the path.
    pub fn is_preflight(&self) -> bool {
        self.preflight
    }

    /// Puts the headers on the answer.
    pub fn dress(&self, headers: &mut HeaderMap) {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = &self.origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
        if self.preflight {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, REMEMBERED);
        }
        if self.only_tls {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, ONLY_TLS);
        }
    }
}
