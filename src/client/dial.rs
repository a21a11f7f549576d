//! From a URL to an open socket: dialled from a chosen address, with small buffers, by TLS where
//! the URL says so.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;

use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, handshake::client::Response};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::{ClientError, ClientOptions};
use crate::edge::{Stream, Upstream};

/// Small, so that ten thousand clients fit into one process.
const READ_BUFFER_BYTES: usize = 1_024;
/// What is fed is written in one go up to here; the buffer grows only when it is used.
const WRITE_BUFFER_BYTES: usize = 16 * 1_024;
/// How much of a refusal's body is kept.
const BODY_CHARS_MAX: usize = 1_000;

type Dialled = (WebSocketStream<Stream>, Option<String>);

pub(super) async fn dial(options: &ClientOptions) -> Result<Dialled, ClientError> {
    if authority(&options.url).contains('@') {
        // Not said again: a password may stand before it.
        let text = "a server's URL takes no user and no password: a token says who you are";
        return Err(ClientError::BadUrl(text.to_owned()));
    }
    let url = address(options);
    let bad = |error: &dyn std::fmt::Display| {
        ClientError::BadUrl(format!("{:?} is not wss://HOST/ws or ws://…: {error}", options.url))
    };
    let mut request = url.as_str().into_client_request().map_err(|error| bad(&error))?;
    if !matches!(request.uri().scheme_str(), Some("ws" | "wss")) {
        return Err(bad(&"neither ws:// nor wss:// stands before it"));
    }
    if let Some(token) = &options.token {
        let value = format!("Bearer {}", token.reveal());
        // The error would show it.
        let value = HeaderValue::try_from(value).map_err(|_| bad(&"the token is no header"))?;
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let stream = stream(request.uri(), options)
        .await
        .map_err(|source| ClientError::Unreachable { url: options.url.clone(), source })?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES);
    match client_async_with_config(request, stream, Some(config)).await {
        Ok((socket, response)) => Ok((socket, server_of(&response))),
        Err(WsError::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            let body = String::from_utf8_lossy(body).chars().take(BODY_CHARS_MAX).collect();
            Err(ClientError::Refused { status: response.status().as_u16(), body })
        }
        Err(WsError::Protocol(ProtocolError::HttparseError(error))) => {
            let said =
                format!("what answers speaks no HTTP ({error}): if it is TLS, call it wss://…");
            let source = io::Error::new(io::ErrorKind::InvalidData, said);
            Err(ClientError::Unreachable { url: options.url.clone(), source })
        }
        Err(error) => Err(error.into()),
    }
}

fn server_of(response: &Response) -> Option<String> {
    let name = response.headers().get("x-parlor-server")?;
    name.to_str().ok().map(str::to_owned)
}

/// The URL with the query that the options ask for.
fn address(options: &ClientOptions) -> String {
    let mut url = options.url.clone();
    let mut separator = if url.contains('?') { '&' } else { '?' };
    let mut add = |key: &str, value: &str| {
        url.push(separator);
        separator = '&';
        url.push_str(key);
        url.push('=');
        super::http::escape(value, &mut url);
    };
    if !options.user.is_empty() {
        add("userId", &options.user);
    }
    if let Some(device) = &options.device {
        add("device", device);
    }
    if options.acks_app {
        add("acks", "app");
    }
    if let Some(messages) = options.catchup {
        add("catchup", &messages.to_string());
    }
    url
}

/// `HOST:PORT` of a URL, with all that stands before it.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// Whether others on the network can read what is said at this URL, a token too.
pub fn is_readable(url: &str) -> bool {
    let authority = authority(url);
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let here = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    url.starts_with("ws://") && !here
}

async fn stream(uri: &Uri, options: &ClientOptions) -> io::Result<Stream> {
    let stream = tcp(uri, options).await?;
    if uri.scheme_str() != Some("wss") {
        return Ok(stream.into());
    }
    let trusted = match &options.trusted {
        Some(trusted) => trusted.clone(),
        None => of_this_machine()?,
    };
    let secured = trusted.secure(stream, uri.host().unwrap_or_default()).await;
    secured
        .map_err(|error| io::Error::new(error.kind(), format!("TLS: {error}; {}", advice(&error))))
}

/// What to do where TLS did not come about.
fn advice(error: &io::Error) -> &'static str {
    use tokio_rustls::rustls::Error;
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(Error::InvalidMessage(_)) => "no TLS is spoken there, so call it ws://…",
        Some(Error::InvalidCertificate(_)) => "--ca FILE names an authority of your own",
        _ => "is TLS spoken there?",
    }
}

/// Read once: whoever dials again and again reads no files again.
fn of_this_machine() -> io::Result<Upstream> {
    static READ: OnceLock<Upstream> = OnceLock::new();
    if let Some(read) = READ.get() {
        return Ok(read.clone());
    }
    let read = Upstream::of_this_machine().map_err(io::Error::other)?;
    Ok(READ.get_or_init(|| read).clone())
}

async fn tcp(uri: &Uri, options: &ClientOptions) -> io::Result<TcpStream> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let usual_port = if uri.scheme_str() == Some("wss") { 443 } else { 80 };
    let mut last = io::Error::other("the name has no address");
    // `localhost` may be ::1 first where only 127.0.0.1 listens: each address gets its try.
    for target in tokio::net::lookup_host((host, uri.port_u16().unwrap_or(usual_port))).await? {
        match one(target, options).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn one(target: SocketAddr, options: &ClientOptions) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = options.source.filter(|source| source.is_ipv4() == target.is_ipv4()) {
        // Ports of sockets in TIME_WAIT may be taken again.
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(target).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_says_what_was_asked_for() {
        let plain = ClientOptions::new("ws://h:1/ws", "userA");
        assert_eq!(address(&plain), "ws://h:1/ws?userId=userA");
        let all = ClientOptions::new("ws://h:1/ws?v=1", "a|b+c@d=").device("phone");
        assert_eq!(
            address(&all.catchup(200).acks_app()),
            "ws://h:1/ws?v=1&userId=a%7Cb%2Bc%40d%3D&device=phone&acks=app&catchup=200"
        );
    }

    #[test]
    fn what_others_can_read_is_known_by_its_url() {
        for readable in ["ws://chat.example/ws", "ws://10.0.0.1:80", "ws://localhost.example/ws"] {
            assert!(is_readable(readable), "{readable}");
        }
        for not in ["wss://chat.example/ws", "ws://localhost:1/ws", "ws://[::1]:1/ws?a=b"] {
            assert!(!is_readable(not), "{not}");
        }
    }

    #[tokio::test]
    async fn a_password_in_a_url_is_not_said_again() {
        let options = ClientOptions::new("ws://u:hunter2@127.0.0.1:1/ws", "userA");
        let said = dial(&options).await.unwrap_err().to_string();
        assert!(said.contains("no password") && !said.contains("hunter2"), "{said}");
    }
}
