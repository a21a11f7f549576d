//! The head of a request, read so that nobody on the way can have read it otherwise.
//!
//! A head that two parsers read in two ways lets one client's bytes pass for another's request
//! (request smuggling). What is ambiguous is refused here, also where RFC 9112 would let a server
//! make the best of it.

use bytes::BytesMut;
use httparse::{EMPTY_HEADER, Error, Request, Status};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

use super::caller::Headers;

/// The longest head, in bytes.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// The most headers.
const HEADERS_MAX: usize = 100;

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// So many bytes; the next request follows them.
    Sized(u64),
    /// Chunks.
    Chunked,
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub enum Judged<T> {
    /// A whole head, as long as this, and what was made of it.
    Whole(usize, T),
    /// The beginning of one.
    Partial,
    /// Longer than allowed.
    TooLong,
    /// None, in words.
    Bad(&'static str),
}

/// Reads until `judge` has made something of what was read, beginning with what there is already.
/// `None`: the client left, or took too long.
pub async fn read_head<T>(
    stream: &mut (impl AsyncRead + Unpin),
    mut read: BytesMut,
    until: Instant,
    mut judge: impl FnMut(&mut BytesMut) -> Option<T>,
) -> Option<T> {
    if !read.is_empty()
        && let Some(made) = judge(&mut read)
    {
        return Some(made);
    }
    let reading = async {
        loop {
            let known = read.len();
            if stream.read_buf(&mut read).await.ok()? == 0 {
                return None;
            }
            if is_worth_judging(&read, known)
                && let Some(made) = judge(&mut read)
            {
                return Some(made);
            }
        }
    };
    timeout_at(until, reading).await.ok().flatten()
}

/// Whether more can be told than when so many bytes were known: at the first ones, at the end of a
/// line, and past the limit. Else a head in small pieces would be read from its beginning for each.
fn is_worth_judging(read: &[u8], known: usize) -> bool {
    known == 0 || read.len() > HEAD_BYTES_MAX || read[known..].contains(&b'\n')
}

/// Judges what was read so far; `make` sees the request, if it is a good one.
pub fn judge<T>(read: &[u8], make: impl FnOnce(&Request<'_, '_>, Body) -> T) -> Judged<T> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut request = Request::new(&mut headers);
    match request.parse(read) {
        Ok(Status::Complete(length)) if length > HEAD_BYTES_MAX => Judged::TooLong,
        Ok(Status::Complete(length)) => match strict(&read[..length], &request) {
            Ok(body) => Judged::Whole(length, make(&request, body)),
            Err(why) => Judged::Bad(why),
        },
        Ok(Status::Partial) if read.len() > HEAD_BYTES_MAX => Judged::TooLong,
        Ok(Status::Partial) => Judged::Partial,
        Err(Error::TooManyHeaders) => Judged::TooLong,
        Err(_) => Judged::Bad("this is no HTTP/1.1 request"),
    }
}

/// What follows a head that was parsed, or what is ambiguous in it.
fn strict(head: &[u8], request: &Request<'_, '_>) -> Result<Body, &'static str> {
    let lines = head.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    if lines.into_iter().any(|(at, _)| at == 0 || head[at - 1] != b'\r') {
        return Err("lines of a head end with CR LF");
    }
    let target = request.path.unwrap_or_default();
    if !target.starts_with('/') && target != "*" {
        return Err("the target of a request is a path: /ws");
    }
    // Who drops it asks for another path than who does not.
    if target.contains('#') {
        return Err("the target of a request holds no #");
    }
    let headers: &[httparse::Header<'_>] = request.headers;
    if headers.all("host").len() > 1 {
        return Err("one Host header is required");
    }
    match (&headers.all("transfer-encoding")[..], &headers.all("content-length")[..]) {
        ([], []) => Ok(Body::Sized(0)),
        ([], [length]) => {
            let digits = length.iter().all(u8::is_ascii_digit);
            let length = str::from_utf8(length).ok().filter(|_| digits);
            let length = length.and_then(|length| length.parse().ok());
            length.map(Body::Sized).ok_or("Content-Length is a whole number")
        }
        ([], _) => Err("Content-Length stands there twice"),
        ([one], []) if one.eq_ignore_ascii_case(b"chunked") && request.version == Some(1) => {
            Ok(Body::Chunked)
        }
        (_, []) => Err("Transfer-Encoding can only be chunked, once, and in HTTP/1.1"),
        (_, _) => Err("Content-Length and Transfer-Encoding stand there both"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(head: &str) -> Result<Body, &'static str> {
        match judge(head.as_bytes(), |_, body| body) {
            Judged::Whole(length, body) => {
                assert_eq!(length, head.len(), "{head}");
                Ok(body)
            }
            Judged::Bad(why) => Err(why),
            other => panic!("{head:?}: {other:?}"),
        }
    }

    fn with(line: &str) -> Result<Body, &'static str> {
        judged(&format!("POST /v1/messages HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n"))
    }

    #[test]
    fn a_head_in_small_pieces_is_judged_at_the_ends_of_its_lines() {
        let whole = format!("GET /ws HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "x".repeat(6_000));
        let worth = (1..=whole.len()).filter(|end| {
            let read = &whole.as_bytes()[..*end];
            let worth = is_worth_judging(read, end - 1);
            // Where something is decided, it is looked at.
            assert!(worth || judge(read, |_, _| ()) == Judged::Partial, "{end}");
            worth
        });
        assert_eq!(worth.count(), 5, "the first byte and four lines");
        assert!(is_worth_judging(&[b'x'; HEAD_BYTES_MAX + 1], HEAD_BYTES_MAX));
    }

    #[test]
    fn a_body_is_announced_once() {
        assert_eq!(with("A: b"), Ok(Body::Sized(0)));
        assert_eq!(with("content-length: 12"), Ok(Body::Sized(12)));
        assert_eq!(with("Transfer-Encoding: Chunked"), Ok(Body::Chunked));
        for bad in [
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1, 1",
            "Content-Length: +1",
            "Content-Length: 0x1",
            "Content-Length: -1",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding:",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding: chunked\r\n X: folded",
            "\tTransfer-Encoding: chunked",
            "Host: b",
        ] {
            assert!(with(bad).is_err(), "{bad}");
        }
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(judged(old).is_err());
    }

    #[test]
    fn lines_end_with_cr_lf_and_targets_are_paths() {
        for bad in [
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\nHost: a\nContent-Length: 5\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
            "GET http://evil.example/ws HTTP/1.1\r\nHost: a\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /ws#x HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert!(judged(bad).is_err(), "{bad:?}");
        }
        assert_eq!(judged("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(Body::Sized(0)));
        assert_eq!(judged("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(Body::Sized(0)));
    }

    #[test]
    fn what_is_not_whole_is_waited_for_up_to_a_length() {
        let judge = |head: &str| judge(head.as_bytes(), |_, _| ());
        assert_eq!(judge("GET / HTTP/1.1\r\nHo"), Judged::Partial);
        let long = "x".repeat(HEAD_BYTES_MAX);
        assert_eq!(judge(&format!("GET / HTTP/1.1\r\nA: {long}")), Judged::TooLong);
        let many = "A: b\r\n".repeat(HEADERS_MAX + 1);
        assert_eq!(judge(&format!("GET / HTTP/1.1\r\n{many}\r\n")), Judged::TooLong);
    }
}
