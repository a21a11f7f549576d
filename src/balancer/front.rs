//! What the balancer answers itself: the page, `/v1/connect`, and refusals.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;

use super::{Balancer, head, page};
use crate::auth::{Identity, Refusal, Verifier, bearer, challenge};
use crate::edge::{
    Answering, Brake, Caller, HEAD_BYTES_MAX, Headers, Peer, StallGuard, Stream, Turned, Watched,
};
use crate::limits::{Over, Stay};
use crate::protocol::{ErrorCode, Token, UserId, answer};

pub(super) type Answer = Response<Full<Bytes>>;

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// How long a kept-alive connection may rest between requests.
const REST: Duration = Duration::from_secs(10);
/// The most bytes of a connection that are read ahead.
const READ_BYTES_MAX: usize = 16 * 1024;

/// Serves plain HTTP on a connection whose first bytes were read already, and which has this place.
pub async fn serve(
    balancer: Arc<Balancer>,
    stream: Stream,
    read: Bytes,
    peer: Peer,
    stay: Arc<Stay>,
) {
    let place = stay.clone();
    let stream = StallGuard::new(stream, move || place.is_short());
    let brake = Arc::new(Brake::default());
    let service = service_fn(move |request| {
        let (balancer, stay, brake) = (balancer.clone(), stay.clone(), brake.clone());
        async move {
            let mut answer = respond(&balancer, peer, request).await;
            let of_a_proxy = balancer.edge.gate.trusted.holds(peer.address.ip());
            let too_many = answer.status() == StatusCode::TOO_MANY_REQUESTS;
            brake.hold(too_many && !of_a_proxy).await;
            // Nothing but its first request is dealt to a server: a proxy that keeps connections
            // for others' requests must not keep this one for an upgrade.
            if stay.is_short() || of_a_proxy {
                answer.headers_mut().insert(header::CONNECTION, CLOSE);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let stream = Watched::new(stream, read);
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REST)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(READ_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a plain connection ended");
    }
}

async fn respond(balancer: &Balancer, peer: Peer, request: Request<Incoming>) -> Answer {
    let chunks = request.headers().contains_key(header::TRANSFER_ENCODING);
    let gate = &balancer.edge.gate;
    let answering = Answering::of(gate, peer, request.method(), request.headers());
    let mut answer = match request.uri().path() {
        // Asked by whatever watches this machine, by whatever name.
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" if balancer.is_full() => {
            plain(StatusCode::SERVICE_UNAVAILABLE, "all places for sockets are taken\n")
        }
        "/readyz" if balancer.has_servers() => plain(StatusCode::OK, "ok\n"),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "no server takes sockets\n"),
        "/ws" => late(),
        path if path == "/openapi.json" || path.starts_with("/v1/") && path != "/v1/connect" => {
            forward(balancer, peer, request).await
        }
        _ => own(balancer, peer, &request, &answering).await,
    };
    // What the Message API has answered says all that itself.
    if !answer.headers().contains_key(header::VARY) {
        answering.dress(answer.headers_mut());
    }
    if chunks {
        // A length beside them may have been dropped unseen: nothing after them is a request.
        answer.headers_mut().insert(header::CONNECTION, CLOSE);
    }
    answer
}

/// Sockets are opened by the first request of a connection alone.
fn late() -> Answer {
    let text = "open the socket on a connection of its own: this one has had another request";
    let mut answer = problem(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, text);
    answer.headers_mut().insert(header::CONNECTION, CLOSE);
    answer
}

/// The Message API has its own edge, and judges by the name and the client that it is told.
async fn forward(balancer: &Balancer, peer: Peer, request: Request<Incoming>) -> Answer {
    let Some(forward) = &balancer.forward else {
        let text = "this balancer knows no Message API: start it with --api URL";
        return problem(StatusCode::NOT_FOUND, ErrorCode::NotFound, text);
    };
    match balancer.edge.gate.caller(peer, request.headers()) {
        Ok(caller) => forward.pass(request, caller, balancer.edge.gate.tokens).await,
        Err(turned) => turned_away(&turned),
    }
}

async fn own(
    balancer: &Balancer,
    peer: Peer,
    request: &Request<Incoming>,
    answering: &Answering,
) -> Answer {
    let caller = match balancer.edge.gate.take(peer, request.headers()) {
        Ok(caller) => caller,
        Err(turned) => return turned_away(&turned),
    };
    match request.uri().path() {
        _ if answering.is_preflight() => plain(StatusCode::NO_CONTENT, ""),
        "/v1/connect" => connect(balancer, &caller, request).await,
        path => file(balancer, request, path),
    }
}

fn turned_away(turned: &Turned) -> Answer {
    let status = StatusCode::from_u16(turned.status).unwrap_or(StatusCode::FORBIDDEN);
    problem(status, turned.code, &turned.detail)
}

fn file(balancer: &Balancer, request: &Request<Incoming>, path: &str) -> Answer {
    match page::serve(path, balancer.names_servers()) {
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
async fn connect(balancer: &Balancer, caller: &Caller, request: &Request<Incoming>) -> Answer {
    let token = bearer(&request.headers().all("authorization"), &[]);
    // A token is looked at, as for a socket.
    let shown = token.as_ref().ok().and_then(Option::as_ref);
    if let Err(over) = balancer.handshake(caller.peer.address.ip(), shown).await {
        return too_many(&over);
    }
    let mut user = head::user(request.uri().query().unwrap_or(""));
    if let Some(auth) = &balancer.auth {
        match whose(auth, token).await {
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
    let scheme = if caller.peer.secure { "wss" } else { "ws" };
    let host = Some(caller.host.as_str()).filter(|host| !host.is_empty());
    let own = format!("{scheme}://{}/ws", host.unwrap_or("localhost"));
    let url = backend.public_url.clone().unwrap_or(own);
    let body = json!({"server": backend.id, "url": url}).to_string();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whom the token of a request names.
async fn whose(
    auth: &Verifier,
    token: Result<Option<Token>, Refusal>,
) -> Result<Identity, Refusal> {
    auth.verify(&token?.ok_or(Refusal::Missing)?).await
}

fn refused(refusal: Refusal) -> Answer {
    let status = StatusCode::from_u16(refusal.code().http_status());
    let status = status.unwrap_or(StatusCode::UNAUTHORIZED);
    let after_ms = refusal.retry_ms();
    let mut response = problem_after(status, refusal.code(), &refusal.to_string(), after_ms);
    if let Some(Ok(value)) = challenge(&refusal).map(|value| value.parse()) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    response
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

/// A refusal as `application/problem+json` (RFC 9457).
pub fn problem(status: StatusCode, code: ErrorCode, detail: &str) -> Answer {
    problem_after(status, code, detail, answer::RETRY_MS)
}

fn too_many(over: &Over) -> Answer {
    let (code, after_ms) = (ErrorCode::RateLimited, over.retry_after_ms());
    problem_after(StatusCode::TOO_MANY_REQUESTS, code, &over.to_string(), after_ms)
}

fn problem_after(status: StatusCode, code: ErrorCode, detail: &str, after_ms: u64) -> Answer {
    let reason = status.canonical_reason().unwrap_or("error");
    let body = answer::problem(status.as_u16(), reason, code, detail, after_ms);
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    let sniffing = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, sniffing);
    if code.retryable() {
        let seconds = HeaderValue::from(after_ms.div_ceil(1_000));
        response.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    response
}
