//! What the balancer answers itself: the page, `/v1/connect`, and refusals.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::{Balancer, head, page};
use crate::auth::{Identity, Refusal, Verifier, bearer, challenge};
use crate::protocol::{ErrorCode, UserId, answer};

/// How long a kept-alive connection may rest between requests.
const REST: Duration = Duration::from_secs(10);

/// Serves plain HTTP on a connection whose first bytes were read already.
pub async fn serve(balancer: Arc<Balancer>, stream: TcpStream, read: Bytes) {
    let service = service_fn(move |request| {
        let balancer = balancer.clone();
        async move { Ok::<_, Infallible>(respond(&balancer, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REST)
        .max_buf_size(head::HEAD_BYTES_MAX.max(8_192))
        .serve_connection(TokioIo::new(Rewound { read, stream }), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a plain connection ended");
    }
}

async fn respond(balancer: &Balancer, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if path == "/v1/connect" {
        return connect(balancer, &request).await;
    }
    if path.starts_with("/v1/") || path == "/openapi.json" {
        return match &balancer.forward {
            Some(forward) => forward.pass(request).await,
            None => {
                let text = "this balancer knows no Message API: start it with --api URL";
                problem(StatusCode::NOT_FOUND, ErrorCode::NotFound, text)
            }
        };
    }
    if path == "/healthz" || path == "/readyz" {
        let ready = path == "/healthz" || balancer.has_servers();
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        return plain(status, if ready { "ok\n" } else { "no server takes sockets\n" });
    }
    match page::serve(path) {
        Some(response) if matches!(*request.method(), Method::GET | Method::HEAD) => response,
        Some(_) => {
            let text = "only GET and HEAD are answered here";
            let status = StatusCode::METHOD_NOT_ALLOWED;
            let mut response = problem(status, ErrorCode::BadRequest, text);
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
        None => problem(StatusCode::NOT_FOUND, ErrorCode::NotFound, "there is no such page"),
    }
}

/// Names the server that a client should dial itself.
async fn connect(balancer: &Balancer, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut user = head::user(request.uri().query().unwrap_or(""));
    if let Some(auth) = &balancer.auth {
        match bearer_of(auth, request).await {
            Ok(identity) if user.is_empty() => user = identity.user.to_string(),
            // Whom it is for matters for dealing alone: the server decides who may come in.
            Ok(_) => {}
            Err(refusal) => return refused(refusal),
        }
    }
    if UserId::parse(&user).is_err() {
        let text = "userId is missing or bad: /v1/connect?userId=userA";
        return problem(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, text);
    }
    let Some(backend) = balancer.named(&user) else {
        let text = "no server takes sockets now";
        return problem(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, text);
    };
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let own = format!("ws://{}/ws", host.unwrap_or("localhost"));
    let url = backend.public_url.clone().unwrap_or(own);
    let body = json!({"server": backend.id, "url": url}).to_string();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whom the token of a request names.
async fn bearer_of(auth: &Verifier, request: &Request<Incoming>) -> Result<Identity, Refusal> {
    let headers = request.headers().get_all(header::AUTHORIZATION);
    // One that is no text is none of ours, and does not hide another.
    let headers = headers.iter().map(|value| value.to_str().unwrap_or("?"));
    let token = bearer(headers, std::iter::empty())?.ok_or(Refusal::Missing)?;
    auth.verify(&token).await
}

fn refused(refusal: Refusal) -> Response<Full<Bytes>> {
    let status = StatusCode::from_u16(refusal.code().http_status());
    let status = status.unwrap_or(StatusCode::UNAUTHORIZED);
    let mut response = problem(status, refusal.code(), &refusal.to_string());
    if let (StatusCode::UNAUTHORIZED, Ok(value)) = (status, challenge(refusal).parse()) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

/// A refusal as `application/problem+json` (RFC 9457).
pub fn problem(status: StatusCode, code: ErrorCode, detail: &str) -> Response<Full<Bytes>> {
    let title = status.canonical_reason().unwrap_or("error");
    let body = answer::problem(status.as_u16(), title, code, detail);
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    if code.retryable() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// A stream whose first bytes come from what was read already.
struct Rewound {
    read: Bytes,
    stream: TcpStream,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let count = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read[..count]);
        self.read.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
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
