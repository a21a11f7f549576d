//! From an accepted connection to one that requests can be read from: PROXY protocol and TLS.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ppp::v2::{Addresses, Command, Header};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Gate, Peer, Stream, Tls};

/// How long the line of a PROXY protocol and a TLS handshake may take together.
const PATIENCE: Duration = Duration::from_secs(10);
/// What every line of the PROXY protocol begins with: its last two bytes say how much follows.
const PROXY_START_BYTES: usize = 16;
/// The longest line: load balancers add to the addresses what they know of the connection.
const PROXY_BYTES_MAX: usize = 2 * 1024;

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

    /// Takes a connection in; `None` where it did not get that far in time. `admits` is asked
    /// before there is work to do for a client at this address.
    pub async fn arrive(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        admits: impl Fn(IpAddr) -> bool,
    ) -> Option<Arrived> {
        if !self.entry.proxy_protocol && self.entry.tls.is_none() {
            let (stream, peer) = (stream.into(), Peer { address, secure: false });
            return Some(Arrived { stream, peer });
        }
        // Boxed: only those pay for it that have something to wait for.
        match timeout(PATIENCE, Box::pin(self.greet(stream, address, admits))).await {
            Ok(Ok(arrived)) => Some(arrived),
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
        mut address: SocketAddr,
        admits: impl Fn(IpAddr) -> bool,
    ) -> Result<Arrived> {
        if self.entry.proxy_protocol && self.gate.trusted.holds(address.ip()) {
            address = proxy_line(&mut stream).await?.unwrap_or(address);
        }
        let (stream, secure) = match &self.entry.tls {
            Some(_) if !admits(address.ip()) => return Err(ErrorKind::ConnectionRefused.into()),
            Some(tls) => (tls.accept(stream).await?, true),
            None => (stream.into(), false),
        };
        Ok(Arrived { stream, peer: Peer { address, secure } })
    }
}

/// Reads the line, and not a byte more. `None`: the proxy speaks for itself (a health check).
pub(crate) async fn proxy_line(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<SocketAddr>> {
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
    Ok(match (header.command, header.addresses) {
        (Command::Local, _) => None,
        (Command::Proxy, Addresses::IPv4(of)) => Some((of.source_address, of.source_port).into()),
        (Command::Proxy, Addresses::IPv6(of)) => Some((of.source_address, of.source_port).into()),
        (Command::Proxy, Addresses::Unspecified | Addresses::Unix(_)) => None,
    })
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
        let Arrived { mut stream, peer } = edge.arrive(stream, address, |_| true).await?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        let own = peer.address == client.local_addr().unwrap();
        Some((if own { "itself".to_owned() } else { peer.address.to_string() }, rest))
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
