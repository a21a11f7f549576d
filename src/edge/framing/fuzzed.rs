//! A stranger's connection, read in two ways that must agree: by the strict parser alone, and by
//! hyper behind a [`Watched`].

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use axum::http::header::{CONNECTION, TRANSFER_ENCODING};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Watched;
use crate::edge::head::{Body, HEAD_BYTES_MAX, Judged, judge};

/// In how many pieces bytes arrive at most.
const PIECES_MAX: usize = 256;
/// How often hyper may give way to others before it is done with a connection.
const TURNS_MAX: usize = 10_000;

/// A whole request: its line, and its body where that is no chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Read {
    line: String,
    body: Option<Vec<u8>>,
}

/// Whether what waits is to be polled again.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A client that says what it was given, so many bytes at a time, takes every answer, and stays.
pub(crate) struct Client {
    pub(crate) bytes: Bytes,
    pub(crate) step: usize,
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() {
            return Poll::Pending;
        }
        let count = self.step.min(self.bytes.len()).min(buffer.remaining());
        buffer.put_slice(&self.bytes.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(b.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What the strict parser reads, request by request; what it does not take ends it.
fn strictly(mut bytes: &[u8]) -> Vec<Read> {
    let mut all = Vec::new();
    loop {
        let of = |request: &httparse::Request<'_, '_>, body| {
            let line = [request.method, request.path].map(Option::unwrap_or_default);
            (line.join(" "), body)
        };
        let Judged::Whole(length, (line, body)) = judge(bytes, of) else { return all };
        bytes = &bytes[length..];
        let Body::Sized(length) = body else {
            all.push(Read { line, body: None });
            return all;
        };
        let whole = usize::try_from(length).ok().and_then(|length| bytes.split_at_checked(length));
        let Some((body, rest)) = whole else { return all };
        all.push(Read { line, body: Some(body.to_vec()) });
        bytes = rest;
    }
}

/// What hyper reads behind it.
fn watched(bytes: &[u8], step: usize) -> Vec<Read> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hear = |read| heard.lock().unwrap_or_else(PoisonError::into_inner).push(read);
    let service = service_fn(|request: Request<Incoming>| async {
        let line = format!("{} {}", request.method(), request.uri());
        let chunked = request.headers().contains_key(TRANSFER_ENCODING);
        if let Ok(body) = request.into_body().collect().await {
            let body = (!chunked).then(|| body.to_bytes().to_vec());
            hear(Read { line, body });
        }
        let mut answer = Response::new(Empty::<Bytes>::new());
        if chunked {
            // As those do that serve such a connection.
            answer.headers_mut().insert(CONNECTION, "close".parse()?);
        }
        Ok::<_, axum::http::header::InvalidHeaderValue>(answer)
    });
    let begun = step.min(bytes.len());
    let client = Client { bytes: Bytes::copy_from_slice(&bytes[begun..]), step };
    let stream = Watched::new(client, Bytes::copy_from_slice(&bytes[..begun]));
    let mut connection = Box::pin(
        hyper::server::conn::http1::Builder::new()
            .max_header_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service),
    );
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let rests = (0..TURNS_MAX).any(|_| {
        woken.0.store(false, Ordering::Relaxed);
        let done = connection.poll_unpin(&mut Context::from_waker(&waker)).is_ready();
        done || !woken.0.load(Ordering::Relaxed)
    });
    assert!(rests, "a connection without end");
    drop(connection);
    heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Nothing is a request that the strict parser has not read as the same one, with the same body,
/// however the bytes come. Whether hyper has read all of them, and more than one.
pub(crate) fn hold(bytes: &[u8]) -> bool {
    let strict = strictly(bytes);
    let step = bytes.len() / PIECES_MAX + 1;
    let mut all = true;
    for step in [usize::MAX, step, step * 7] {
        let behind = watched(bytes, step);
        assert!(strict.starts_with(&behind), "in pieces of {step}: {behind:?} and not {strict:?}");
        all &= behind.len() == strict.len();
    }
    all && strict.len() > 1
}
