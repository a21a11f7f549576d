//! A connection whose heads are all strict ones, for an HTTP server that is more lenient.
//!
//! Every head is judged as it passes, and its body is counted so that the next one is found. A bad
//! one is cut off and spoiled, so that the server behind answers 400 and ends the connection.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::caller::Headers;
use super::head::{Body, HEAD_BYTES_MAX, Judged, judge};

/// No head holds it, at no place.
const SPOILED: u8 = 0;

/// What is being read.
#[derive(Debug)]
enum Within {
    /// A head: its bytes so far.
    Head(Vec<u8>),
    /// A body, with so many bytes left.
    Body(u64),
    /// What is not looked at: the server ends the connection, after chunks or a head too long.
    Rest,
}

/// See the module. What was read of the connection already comes first.
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    read: Bytes,
    within: Within,
}

impl<S> Watched<S> {
    /// From the first byte of a request on.
    pub fn new(stream: S, read: Bytes) -> Self {
        Self { stream, read, within: Within::Head(Vec::new()) }
    }

    /// Looks at bytes that pass; how many of them are good, if not all.
    fn spoilt_at(&mut self, mut bytes: &[u8]) -> Option<usize> {
        let all = bytes.len();
        while !bytes.is_empty() {
            match &mut self.within {
                Within::Rest => return None,
                Within::Body(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[here..];
                    *left -= here as u64;
                    if *left == 0 {
                        self.within = Within::Head(Vec::new());
                    }
                }
                Within::Head(head) => {
                    let before = head.len();
                    head.extend_from_slice(bytes);
                    if !may_end(head, before) && head.len() <= HEAD_BYTES_MAX {
                        return None;
                    }
                    let named = |request: &httparse::Request<'_, '_>, body| {
                        let named = !request.headers.all("host").is_empty();
                        (named || request.version == Some(0)).then_some(body)
                    };
                    match judge(head, named) {
                        Judged::Whole(length, Some(body)) => {
                            bytes = &bytes[length - before..];
                            self.within = match body {
                                Body::Sized(0) => Within::Head(Vec::new()),
                                Body::Sized(bytes) => Within::Body(bytes),
                                Body::Chunked => Within::Rest,
                            };
                        }
                        Judged::Partial => return None,
                        Judged::TooLong => self.within = Within::Rest,
                        Judged::Whole(_, None) | Judged::Bad(_) => {
                            self.within = Within::Rest;
                            return Some(all - bytes.len());
                        }
                    }
                }
            }
        }
        None
    }
}

/// Whether an empty line may stand in what came after `before`: only then is parsing worth it.
fn may_end(head: &[u8], before: usize) -> bool {
    let fresh = &head[before.saturating_sub(2)..];
    fresh.windows(2).any(|pair| pair == b"\n\n" || pair == b"\n\r")
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.read.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        } else {
            let count = self.read.len().min(buffer.remaining());
            buffer.put_slice(&self.read[..count]);
            self.read.advance(count);
        }
        if let Some(good) = self.spoilt_at(&buffer.filled()[before..]) {
            buffer.set_filled(before + good);
            buffer.put_slice(&[SPOILED]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    const GOOD: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n";
    const BODY: &str = "GET / HTTP/1.1\nX: y\n";

    /// What passes when the bytes come in pieces of this size.
    fn passed(sent: &str, piece: usize) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut watched = Watched::new(sent.as_bytes(), Bytes::new());
            let (mut all, mut buffer) = (Vec::new(), vec![0; piece]);
            while let Ok(count @ 1..) = watched.read(&mut buffer).await {
                all.extend_from_slice(&buffer[..count]);
            }
            all
        })
    }

    proptest! {
        #[test]
        fn good_requests_pass_as_they_are(piece in 1_usize..200) {
            let sent = [GOOD, POST, BODY, GOOD, POST, BODY].concat();
            prop_assert_eq!(passed(&sent, piece), sent.as_bytes());
        }

        #[test]
        fn a_bad_head_is_spoilt_and_nothing_behind_it_is_read_as_one(piece in 1_usize..200) {
            let bad = [
                "GET / HTTP/1.1\nHost: a\n\n",
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\
                 Transfer-Encoding: chunked\r\n\r\n",
                "POST / HTTP/1.1\r\nHost: a\r\nX: y\nContent-Length: 3\r\n\r\n",
                "GET / HTTP/1.1\r\n\r\n",
            ];
            for bad in bad {
                let before = [GOOD, POST, BODY].concat();
                let all = passed(&[&before, bad, GOOD].concat(), piece);
                prop_assert!(all.starts_with(before.as_bytes()), "{bad:?}");
                let at = all.iter().position(|byte| *byte == SPOILED);
                prop_assert!(at.is_some(), "{bad:?} passed in pieces of {piece}");
                // The server behind gives up at the spoiled byte, before the head is whole.
                let until = &all[before.len()..at.unwrap_or_default()];
                let mut headers = [httparse::EMPTY_HEADER; 16];
                let parsed = httparse::Request::new(&mut headers).parse(until);
                prop_assert!(!parsed.is_ok_and(|status| status.is_complete()), "{bad:?}");
            }
        }
    }

    #[test]
    fn after_chunks_nothing_is_looked_at() {
        let chunks =
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET\n";
        assert_eq!(passed(chunks, 7), chunks.as_bytes());
    }
}
