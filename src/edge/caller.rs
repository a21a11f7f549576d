//! Who asks, and by which name: from the connection, and from trusted proxies.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::IpNet;

use super::Turned;
use super::arrival::UNKNOWN;

/// The headers that proxies write: what a client says in them is dropped by the balancer.
const FORWARDING: [&str; 4] = ["forwarded", "x-real-ip", "x-client-ip", "x-parlor-tokens"];

/// Whether a header tells of what lies before a proxy, or is for a balancer to write.
pub fn is_forwarding(name: &str) -> bool {
    let forwarded = |b: &[u8]| b.eq_ignore_ascii_case(b"x-forwarded-");
    name.as_bytes().get(..12).is_some_and(forwarded)
        || FORWARDING.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// The headers of a request, whoever has parsed it.
pub trait Headers {
    /// All values of a header, in their order. `name` is in lower case.
    fn all<'a>(&'a self, name: &str) -> Vec<&'a [u8]>;
}

impl Headers for [httparse::Header<'_>] {
    fn all<'a>(&'a self, name: &str) -> Vec<&'a [u8]> {
        let of = self.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        of.map(|header| header.value).collect()
    }
}

impl Headers for hyper::HeaderMap {
    fn all<'a>(&'a self, name: &str) -> Vec<&'a [u8]> {
        self.get_all(name).iter().map(hyper::header::HeaderValue::as_bytes).collect()
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its address; the port is 0 where only the address is known.
    pub address: SocketAddr,
    /// It is known to speak TLS, with us or with a trusted proxy.
    pub secure: bool,
}

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The client.
    pub peer: Peer,
    /// The name by which it calls us; empty where it names none.
    pub host: String,
}

/// `--trusted-proxy`: from these addresses forwarding headers and the PROXY protocol count.
#[derive(Debug, Clone, Default)]
pub struct Trusted(Vec<IpNet>);

/// A value of `--trusted-proxy` that is no address and no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--trusted-proxy must be an address or a network like 10.0.0.0/24, not {0:?}")]
pub struct BadNetwork(String);

impl Trusted {
    /// Takes the values as they were given.
    pub fn new(texts: &[String]) -> Result<Self, BadNetwork> {
        let network = |text: &String| {
            let text = text.trim();
            let network =
                text.parse::<IpNet>().ok().or_else(|| text.parse().ok().map(IpAddr::into));
            network.map(canonical).ok_or_else(|| BadNetwork(text.to_owned()))
        };
        texts.iter().map(network).collect::<Result<_, _>>().map(Self)
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this address is that of a trusted proxy. One of IPv4 may come written as IPv6.
    pub fn holds(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Who makes a request that came from `peer`.
    pub fn caller(&self, peer: Peer, headers: &(impl Headers + ?Sized)) -> Result<Caller, Turned> {
        let own = one(headers, "host", &|| "one Host header is required".to_owned())?;
        let mut caller = Caller { peer, host: own.unwrap_or_default() };
        if !self.holds(peer.address.ip()) {
            if !headers.all("x-forwarded-for").is_empty() {
                tell_once(peer.address.ip());
            }
            return Ok(caller);
        }
        let told = |name: &str| {
            one(headers, name, &|| format!("{name} stands there twice: let the proxy set it"))
        };
        if let Some(host) = told("x-forwarded-host")? {
            caller.host = host;
        }
        if let Some(scheme) = told("x-forwarded-proto")? {
            // The first hop's: with TLS to us alone the client's page may still be a plain one.
            caller.peer.secure = ["https", "wss"].iter().any(|s| scheme.eq_ignore_ascii_case(s));
        }
        let passed = headers.all("x-forwarded-for");
        if let Some(client) = self.client(&passed) {
            caller.peer.address = client;
        }
        Ok(caller)
    }

    /// The client, as the chain of trusted proxies has it: each one appends whom it has heard, so
    /// the last address that is none of theirs was seen by one of them. What stands before it
    /// is the client's own story. Where one of them has not written an address there it is nobody
    /// that is known: all such clients are one, so that none of them goes without a limit.
    fn client(&self, passed: &[&[u8]]) -> Option<SocketAddr> {
        if passed.iter().all(|value| value.trim_ascii().is_empty()) {
            return None;
        }
        let list: Vec<_> = passed.iter().flat_map(|value| value.split(|b| *b == b',')).collect();
        let mut client = None;
        // nginx behind nginx on one machine writes this of the other.
        let hops = list.into_iter().rev().filter(|entry| entry.trim_ascii() != b"unix:");
        for entry in hops {
            let Some(address) = address(entry) else { return Some(UNKNOWN) };
            client = Some(address);
            if !self.holds(address.ip()) {
                break;
            }
        }
        client
    }
}

/// Whether anything tells that a request comes from another machine, believed or not: whoever makes
/// it up keeps out nobody else.
pub(super) fn is_told_elsewhere(caller: &Caller, headers: &(impl Headers + ?Sized)) -> bool {
    let away = |ip: IpAddr| !ip.to_canonical().is_loopback();
    let passed = headers.all("x-forwarded-for");
    let mut passed = passed.iter().flat_map(|value| value.split(|b| *b == b','));
    away(caller.peer.address.ip())
        || passed.any(|entry| address(entry).is_some_and(|client| away(client.ip())))
}

/// One of IPv4 that is written as IPv6, as the addresses are that are looked for in it.
fn canonical(network: IpNet) -> IpNet {
    let (address, bits) = (network.addr().to_canonical(), network.prefix_len());
    match (network, address) {
        (IpNet::V6(_), IpAddr::V4(_)) if bits >= 96 => {
            IpNet::new(address, bits - 96).unwrap_or(network)
        }
        _ => network,
    }
}

/// Whoever set up a proxy wants to know this, and strangers must not fill the log with it.
fn tell_once(address: IpAddr) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        tracing::info!(%address, "X-Forwarded-For is not believed: is this a --trusted-proxy?");
    }
}

/// An entry of `X-Forwarded-For`: an address, which some proxies give with a port.
fn address(entry: &[u8]) -> Option<SocketAddr> {
    let text = str::from_utf8(entry).ok()?.trim();
    let alone = text.trim_start_matches('[').trim_end_matches(']');
    let alone = alone.parse().map(|ip: IpAddr| SocketAddr::new(ip.to_canonical(), 0));
    alone.ok().or_else(|| text.parse().ok())
}

/// The value of a header that stands there at most once, and lists nothing.
fn one(
    headers: &(impl Headers + ?Sized),
    name: &str,
    twice: &dyn Fn() -> String,
) -> Result<Option<String>, Turned> {
    let bad = || Turned::bad(twice());
    let values = headers.all(name);
    let value = match values[..] {
        [] => return Ok(None),
        [value] => str::from_utf8(value).map_err(|_| bad())?.trim(),
        _ => return Err(bad()),
    };
    if value.contains(',') || !value.is_ascii() {
        return Err(bad());
    }
    Ok(Some(value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::HeaderMap;
    use hyper::header::{HeaderName, HeaderValue};

    fn caller(trusted: &[&str], from: &str, headers: &[(&'static str, &str)]) -> (String, String) {
        let headers = headers.iter().map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        });
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        let trusted: Vec<_> = trusted.iter().map(|text| (*text).to_owned()).collect();
        let peer = Peer { address: from.parse().unwrap(), secure: false };
        match Trusted::new(&trusted).unwrap().caller(peer, &map) {
            Ok(caller) => {
                let scheme = if caller.peer.secure { "https" } else { "http" };
                (caller.peer.address.ip().to_string(), format!("{scheme}://{}", caller.host))
            }
            Err(turned) => (turned.status.to_string(), turned.detail),
        }
    }

    const SAID: [(&str, &str); 4] = [
        ("host", "inner:8080"),
        ("x-forwarded-for", "6.6.6.6, 203.0.113.7"),
        ("x-forwarded-host", "chat.example.com"),
        ("x-forwarded-proto", "https"),
    ];

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        let plain = ("198.51.100.1".to_owned(), "http://inner:8080".to_owned());
        assert_eq!(caller(&[], "198.51.100.1:9", &SAID), plain);
        assert_eq!(caller(&["10.0.0.0/8"], "198.51.100.1:9", &SAID), plain);
        let told = ("203.0.113.7".to_owned(), "https://chat.example.com".to_owned());
        assert_eq!(caller(&["10.0.0.0/8"], "10.1.2.3:9", &SAID), told);
        assert_eq!(caller(&["10.1.2.3"], "[::ffff:10.1.2.3]:9", &SAID), told, "IPv4 in IPv6");
        for trusted in ["::ffff:10.1.2.3", "::ffff:10.1.2.0/120"] {
            assert_eq!(caller(&[trusted], "10.1.2.3:9", &SAID), told, "{trusted}");
            assert_eq!(caller(&[trusted], "[::ffff:10.1.2.3]:9", &SAID), told, "{trusted}");
        }
        assert_eq!(caller(&["::ffff:10.1.2.0/120"], "10.1.3.3:9", &SAID).0, "10.1.3.3");
    }

    #[test]
    fn tls_between_a_proxy_and_us_is_not_the_clients() {
        let peer = Peer { address: "10.0.0.1:9".parse().unwrap(), secure: true };
        let trusted = Trusted::new(&["10.0.0.1".to_owned()]).unwrap();
        for (said, secure) in [(None, true), (Some("http"), false), (Some("https"), true)] {
            let mut map = HeaderMap::new();
            map.insert("host", HeaderValue::from_static("a"));
            if let Some(said) = said {
                map.insert("x-forwarded-proto", HeaderValue::from_static(said));
            }
            let caller = trusted.caller(peer, &map).unwrap();
            assert_eq!(caller.peer.secure, secure, "{said:?}");
            let page = crate::edge::Origin::parse("http://a").unwrap();
            assert_eq!(page.is_of(&caller.host, caller.peer.secure), !secure, "{said:?}");
        }
    }

    #[test]
    fn the_client_is_the_last_one_that_a_trusted_proxy_has_seen() {
        let client = |passed: &[&str]| {
            let host = [("host", "a")].into_iter();
            let passed = passed.iter().map(|value| ("x-forwarded-for", *value));
            caller(&["10.0.0.0/8"], "10.0.0.1:9", &host.chain(passed).collect::<Vec<_>>()).0
        };
        assert_eq!(client(&[]), "10.0.0.1");
        assert_eq!(client(&["203.0.113.7"]), "203.0.113.7");
        assert_eq!(client(&["6.6.6.6, 203.0.113.7, 10.0.0.2"]), "203.0.113.7");
        assert_eq!(client(&["6.6.6.6", "203.0.113.7:4711,10.0.0.2"]), "203.0.113.7");
        assert_eq!(client(&["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(client(&["[2001:db8::1]"]), "2001:db8::1");
        assert_eq!(client(&["6.6.6.6, unknown, 10.0.0.2"]), "0.0.0.0", "nothing before it counts");
        assert_eq!(client(&["unknown"]), "0.0.0.0", "nobody, and limited as one");
        assert_eq!(client(&["6.6.6.6, 198.51.100.1, unix:"]), "198.51.100.1", "a hop without one");
        assert_eq!(client(&["6.6.6.6, "]), "0.0.0.0");
        assert_eq!(client(&["", " "]), "10.0.0.1", "nothing is said");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let status =
            |headers: &[(&'static str, &str)]| caller(&["10.0.0.1"], "10.0.0.1:9", headers).0;
        for name in ["host", "x-forwarded-host", "x-forwarded-proto"] {
            assert_eq!(status(&[(name, "a"), (name, "b")]), "400", "{name}");
            assert_eq!(status(&[(name, "a, b")]), "400", "{name}");
        }
    }

    #[test]
    fn networks_and_addresses_are_told_from_anything_else() {
        for bad in ["", "10.0.0.0/33", "proxy.example.com", "10.0.0.1:80"] {
            assert!(Trusted::new(&[bad.to_owned()]).is_err(), "{bad}");
        }
        for name in
            ["X-Forwarded-For", "x-forwarded-anything", "Forwarded", "X-Real-IP", "X-Parlor-Tokens"]
        {
            assert!(is_forwarding(name), "{name}");
        }
        assert!(!is_forwarding("X-Forward") && !is_forwarding("Host"));
    }
}
