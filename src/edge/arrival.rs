//! From an accepted connection to one that requests can be read from: PROXY protocol and TLS.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ppp::v2::{Addresses, Command, Header, Type};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::{Gate, Peer, Stream, Tls};

/// How long the line of a PROXY protocol, a TLS handshake and the head of the first request may
/// take together.
pub const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// What every line of the PROXY protocol begins with: its last two bytes say how much follows.
const PROXY_START_BYTES: usize = 16;
/// The longest line: load balancers add to the addresses what they know of the connection.
const PROXY_BYTES_MAX: usize = 2 * 1024;

/// In the PROXY protocol's word on TLS: the client speaks it (`PP2_CLIENT_SSL`).
const CLIENT_SPEAKS_TLS: u8 = 1;
/// Where a client is whose proxy does not know it: no address that anybody trusts.
pub(super) const UNKNOWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// What stands before the address of a server that speaks TLS.
pub const TLS_ADDRESS: &str = "tls://";

/// How connections come in at a listener.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// Trusted proxies begin with a PROXY protocol line (`--proxy-protocol`).
    pub proxy_protocol: bool,
    /// Encrypted with this certificate.
    pub tls: Option<Tls>,
}

/// A listener's edge.
#[derive(Debug, Default)]
pub struct Edge {
    /// Which requests it takes.
    pub gate: Gate,
    /// How connections come in.
    pub entry: Entry,
}

/// A connection that requests can be read from.
#[derive(Debug)]
pub struct Arrived {
    /// The connection.
    pub stream: Stream,
    /// The other end.
    pub peer: Peer,
    /// When the head of its first request is to have come.
    pub until: Instant,
}

/// Says how far a client is let in.
pub trait Doorman {
    /// A proxy has named the client.
    fn names(&mut self, client: IpAddr) -> bool;
    /// The client wants TLS, which is work.
    fn admits(&mut self, client: IpAddr) -> bool;
}

impl Edge {
    /// One that takes whatever comes.
    pub fn open() -> Arc<Self> {
        Arc::default()
    }

    /// An address as balancers are to dial it.
    pub fn advertised(&self, address: String) -> String {
        match self.entry.tls {
            Some(_) if !address.starts_with(TLS_ADDRESS) => format!("{TLS_ADDRESS}{address}"),
            _ => address,
        }
    }

    /// Whether a connection from this address begins with a request that anybody can read.
    pub fn is_plain(&self, address: IpAddr) -> bool {
        self.entry.tls.is_none() && !self.has_line(address)
    }

    fn has_line(&self, address: IpAddr) -> bool {
        self.entry.proxy_protocol && self.gate.trusted.holds(address)
    }

    /// Takes a connection in that was accepted just now; `None` where it did not get that far in
    /// time, or the doorman did not want it.
    pub async fn arrive(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        doorman: &mut impl Doorman,
    ) -> Option<Arrived> {
        let until = Instant::now() + HEAD_PATIENCE;
        if self.is_plain(address.ip()) {
            let (stream, peer) = (stream.into(), Peer { address, secure: false });
            return Some(Arrived { stream, peer, until });
        }
        // Boxed: only those pay for it that have something to wait for.
        match timeout_at(until, Box::pin(self.greet(stream, address, doorman))).await {
            Ok(Ok((stream, peer))) => Some(Arrived { stream, peer, until }),
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "a connection did not get in");
                None
            }
            Err(_) => {
                tracing::debug!(%address, "a connection did not get in in time");
                None
            }
        }
    }

    async fn greet(
        &self,
        mut stream: TcpStream,
        address: SocketAddr,
        doorman: &mut impl Doorman,
    ) -> Result<(Stream, Peer)> {
        let refused = || Err(ErrorKind::ConnectionRefused.into());
        let mut peer = Peer { address, secure: false };
        if self.has_line(address.ip())
            && let Some(client) = proxy_line(&mut stream).await?
        {
            peer = client;
            if !doorman.names(peer.address.ip()) {
                return refused();
            }
        }
        let Some(tls) = &self.entry.tls else { return Ok((stream.into(), peer)) };
        if !doorman.admits(peer.address.ip()) {
            return refused();
        }
        Ok((tls.accept(stream).await?, Peer { secure: true, ..peer }))
    }
}

/// Reads the line, and not a byte more. `None`: the proxy speaks for itself (a health check).
pub(crate) async fn proxy_line(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Peer>> {
    let bad = |what: &str| Error::new(ErrorKind::InvalidData, what.to_owned());
    let mut line = vec![0; PROXY_START_BYTES];
    stream.read_exact(&mut line).await?;
    let length = usize::from(u16::from_be_bytes([line[14], line[15]]));
    if !line.starts_with(ppp::v2::PROTOCOL_PREFIX) || length > PROXY_BYTES_MAX {
        return Err(bad("a trusted proxy did not begin with the PROXY protocol, version 2"));
    }
    line.resize(PROXY_START_BYTES + length, 0);
    stream.read_exact(&mut line[PROXY_START_BYTES..]).await?;
    let header = Header::try_from(&line[..]).map_err(|error| bad(&error.to_string()))?;
    if header.command == Command::Local {
        return Ok(None);
    }
    let address = match header.addresses {
        Addresses::IPv4(of) => (of.source_address, of.source_port).into(),
        Addresses::IPv6(of) => (of.source_address, of.source_port).into(),
        Addresses::Unspecified | Addresses::Unix(_) => UNKNOWN,
    };
    let mut told = header.tlvs().filter_map(std::result::Result::ok);
    let tls = told.find(|told| told.kind == u8::from(Type::SSL));
    let secure = tls.is_some_and(|told| {
        told.value.first().is_some_and(|client| client & CLIENT_SPEAKS_TLS != 0)
    });
    Ok(Some(Peer { address, secure }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::Trusted;
    use ppp::v2::{Builder, Protocol, Version};
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    const CLIENT: &str = "203.0.113.7:4711";

    fn line(command: Command, source: &str) -> Vec<u8> {
        let source: SocketAddr = source.parse().unwrap();
        let to: SocketAddr =
            if source.is_ipv4() { "10.0.0.1:443" } else { "[::1]:443" }.parse().unwrap();
        let addresses = (source, to);
        let builder = Builder::with_addresses(Version::Two | command, Protocol::Stream, addresses);
        builder.write_tlv(ppp::v2::Type::NoOp, b"more").unwrap().build().unwrap()
    }

    struct Anybody;

    impl Doorman for Anybody {
        fn names(&mut self, _: IpAddr) -> bool {
            true
        }

        fn admits(&mut self, _: IpAddr) -> bool {
            true
        }
    }

    /// Who is seen, and what is read behind the line.
    async fn arrives(trusted: &str, sent: &[u8]) -> Option<(String, Vec<u8>)> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(sent).await.unwrap();
        client.shutdown().await.unwrap();
        let trusted = Trusted::new(&[trusted.to_owned()]).unwrap();
        let gate = Gate { trusted, ..Gate::default() };
        let edge = Edge { gate, entry: Entry { proxy_protocol: true, tls: None } };
        let (stream, address) = listener.accept().await.unwrap();
        let Arrived { mut stream, peer, .. } = edge.arrive(stream, address, &mut Anybody).await?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        let own = peer.address == client.local_addr().unwrap();
        let sealed = if peer.secure { " by TLS" } else { "" };
        let peer = if own { "itself".to_owned() } else { peer.address.to_string() };
        Some((format!("{peer}{sealed}"), rest))
    }

    #[tokio::test]
    async fn a_trusted_proxy_says_who_dialled_it() {
        for source in [CLIENT, "[2001:db8::1]:5"] {
            let sent = [line(Command::Proxy, source), b"GET".to_vec()].concat();
            assert_eq!(arrives("127.0.0.0/8", &sent).await, Some((source.into(), b"GET".into())));
        }
        let check = line(Command::Local, CLIENT);
        assert_eq!(arrives("127.0.0.1", &check).await, Some(("itself".into(), Vec::new())));
    }

    /// What it then says of itself in headers must not count as the proxy's word.
    #[tokio::test]
    async fn a_client_that_its_proxy_does_not_know_is_not_the_proxy() {
        let unspecified = [ppp::v2::PROTOCOL_PREFIX, &[0x21, 0, 0, 0]].concat();
        let unix = [ppp::v2::PROTOCOL_PREFIX, &[0x21, 0x31, 0, 216], &[0; 216]].concat();
        for line in [unspecified, unix] {
            let unknown = Some(("0.0.0.0:0".to_owned(), Vec::new()));
            assert_eq!(arrives("127.0.0.0/8", &line).await, unknown);
        }
    }

    #[tokio::test]
    async fn a_proxy_that_ends_tls_can_say_so() {
        for (client, expected) in [(1, "203.0.113.7:4711 by TLS"), (0, CLIENT)] {
            let source: SocketAddr = CLIENT.parse().unwrap();
            let addresses = (source, "10.0.0.1:443".parse::<SocketAddr>().unwrap());
            let kind = Version::Two | Command::Proxy;
            let builder = Builder::with_addresses(kind, Protocol::Stream, addresses);
            let builder = builder.write_tlv(Type::NoOp, b"more").unwrap();
            let sent = builder.write_tlv(Type::SSL, &[client, 0, 0, 0, 0]).unwrap().build();
            let seen = arrives("127.0.0.1", &sent.unwrap()).await;
            assert_eq!(seen, Some((expected.to_owned(), Vec::new())));
        }
    }

    #[tokio::test]
    async fn without_a_line_a_trusted_proxy_gets_nowhere() {
        for bad in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n",
            &line(Command::Proxy, CLIENT)[..20],
            &[ppp::v2::PROTOCOL_PREFIX, &[0x31, 0x11, 0, 12], &[0; 12]].concat(),
            &[ppp::v2::PROTOCOL_PREFIX, &[0x21, 0x11, 0xff, 0xff], &[0; 12]].concat(),
            &[ppp::v2::PROTOCOL_PREFIX, &[0x21, 0x11, 0, 4], &[0; 12]].concat(),
        ] {
            assert_eq!(arrives("127.0.0.1", bad).await, None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn the_line_of_anybody_else_is_not_read() {
        let sent = line(Command::Proxy, CLIENT);
        assert_eq!(arrives("10.0.0.0/8", &sent).await, Some(("itself".into(), sent)));
    }
}
