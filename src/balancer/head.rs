//! The head of a request, looked at once: an upgrade is dealt to a server with all its bytes, the
//! rest is served here.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The longest head, in bytes.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// How long a head may take.
pub const HEAD_PATIENCE: Duration = Duration::from_secs(10);
const HEADERS_MAX: usize = 100;

/// What a connection begins with.
#[derive(Debug, PartialEq, Eq)]
pub enum Head {
    /// A WebSocket upgrade of `/ws`, with the user that it names (empty if none).
    Upgrade {
        /// All that was read, to be given on.
        read: Bytes,
        /// For sticky dealing; the server checks it.
        user: String,
    },
    /// Another request.
    Plain(Bytes),
    /// Longer than allowed.
    TooLong,
    /// Not HTTP.
    Bad,
}

/// Reads until the head is whole. `None`: the client left, or took too long.
pub async fn read(stream: &mut TcpStream) -> Option<Head> {
    let mut read = BytesMut::with_capacity(1_024);
    let reading = async {
        loop {
            if stream.read_buf(&mut read).await.ok()? == 0 {
                return None;
            }
            if let Some(head) = judge(&read) {
                return Some(head);
            }
        }
    };
    timeout(HEAD_PATIENCE, reading).await.ok().flatten()
}

/// Judges what was read so far; `None` while the head is not whole.
pub(crate) fn judge(read: &[u8]) -> Option<Head> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(read) {
        Ok(httparse::Status::Complete(length)) if length > HEAD_BYTES_MAX => Some(Head::TooLong),
        Ok(httparse::Status::Complete(_)) => {
            let target = request.path.unwrap_or("");
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let read = Bytes::copy_from_slice(read);
            // Whatever asks for /ws gets its answer from a server, a refusal too: one decides.
            if path != "/ws" {
                return Some(Head::Plain(read));
            }
            Some(Head::Upgrade { read, user: user(query) })
        }
        Ok(httparse::Status::Partial) if read.len() > HEAD_BYTES_MAX => Some(Head::TooLong),
        Ok(httparse::Status::Partial) => None,
        Err(httparse::Error::TooManyHeaders) => Some(Head::TooLong),
        Err(_) => Some(Head::Bad),
    }
}

/// The `userId` of a query, as it stands there: only equality matters for dealing.
pub fn user(query: &str) -> String {
    let user = query.split('&').find_map(|pair| pair.strip_prefix("userId="));
    user.unwrap_or("").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upgrades_are_told_from_the_rest() {
        let upgrade = b"GET /ws?device=a&userId=userA HTTP/1.1\r\nHost: x\r\n\r\nframes";
        let Some(Head::Upgrade { read, user }) = judge(upgrade) else { panic!() };
        assert_eq!((&read[..], user.as_str()), (&upgrade[..], "userA"));
        for plain in ["GET / HTTP/1.1\r\n\r\n", "POST /v1/messages HTTP/1.1\r\nA: b\r\n\r\n{}"] {
            assert!(matches!(judge(plain.as_bytes()), Some(Head::Plain(_))), "{plain}");
        }
        assert_eq!(judge(b"GET /ws HTTP/1.1\r\nHost"), None);
    }

    #[test]
    fn what_is_not_a_head_is_refused() {
        assert_eq!(judge(b"\x16\x03\x01\x02\x00"), Some(Head::Bad));
        assert_eq!(judge(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Some(Head::Bad));
        let long = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(HEAD_BYTES_MAX));
        assert_eq!(judge(long.as_bytes()), Some(Head::TooLong));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101));
        assert_eq!(judge(many.as_bytes()), Some(Head::TooLong));
    }
}
