//! The Message API: what a socket can do, and what only a page needs, over HTTP.
//!
//! Handlers are thin: `input` reads a request, `Chat` does the work, `error` says what went wrong.
//! `health` is the admin address of every role. **Invariant:** a request is answered once, as JSON,
//! whatever it says and whatever a handler does: the guard below bounds its body and its time and
//! catches a panic.

mod asker;
mod conversations;
mod error;
mod exposition;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
pub mod health;
mod input;
mod listen;
mod messages;
mod openapi;
mod quota;
mod revocation;
mod rooms;
#[cfg(test)]
mod tests;

pub use error::Problem;
pub use exposition::exposition;
pub use health::{Health, serve_admin};

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use futures_util::FutureExt;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use asker::{Asker, Paths, Tokens};
use quota::Quota;

use crate::auth::Verifier;
use crate::chat::Chat;
use crate::edge::{self, Answering, Edge, Peer, Turned};
use crate::limits::Key;
use crate::protocol::ErrorCode;

/// The bounds of the API.
#[derive(Debug, Clone)]
pub struct ApiOptions {
    /// How long a body may take to arrive, and then the work on it to end.
    pub request_timeout: Duration,
    /// How long a request head may take, and how long a connection may idle.
    pub header_timeout: Duration,
    /// How many connections are open at once, whatever limits say.
    pub connections_max: usize,
    /// How long requests under way may take to end at a stop.
    pub drain: Duration,
    /// How connections come in, and what is taken of them.
    pub edge: Arc<Edge>,
}

impl Default for ApiOptions {
    fn default() -> Self {
        let ten = Duration::from_secs(10);
        let (connections_max, edge) = (8_192, Edge::open());
        Self { request_timeout: ten, header_timeout: ten, connections_max, drain: ten, edge }
    }
}

const PATHS: Paths = Paths { open: &["/openapi.json"], telling: &[] };

/// Serves the API until `stop`; returns once the requests under way have ended.
pub async fn serve(
    chat: Arc<Chat>,
    auth: Option<Verifier>,
    listener: TcpListener,
    options: ApiOptions,
    stop: CancellationToken,
) {
    let bounds = listen::Bounds {
        of_an_address_max: None,
        connections_max: options.connections_max,
        header_timeout: options.header_timeout,
        drain: options.drain,
    };
    let (edge, quota) = (options.edge.clone(), Quota::of(&chat, &options.edge));
    let router = router(chat, auth, options);
    listen::listen(router, listener, edge, bounds, Some(quota), stop).await;
}

/// All routes, with their bounds. With a verifier, who asks must have a token.
pub fn router(chat: Arc<Chat>, auth: Option<Verifier>, options: ApiOptions) -> Router {
    let quota = Some(Quota::of(&chat, &options.edge));
    let tokens = Tokens::new(auth, Some(chat.clone()), PATHS);
    let (limit, body_bytes) = (options.request_timeout, chat.limits.settings().sizes.frame);
    let guard = Guard { limit, body_bytes, quota, edge: options.edge, tokens };
    let routes = Router::new()
        .route("/openapi.json", get(openapi::document))
        .route("/v1/users/{user}/conversations", get(conversations::list))
        .route("/v1/users/{user}/presence", get(conversations::presence))
        .route("/v1/users/{user}/revoke", post(revocation::revoke))
        .route("/v1/conversations/{conversation}/messages", get(messages::history))
        .route("/v1/messages", post(messages::send))
        .route("/v1/rooms", post(rooms::create))
        .route("/v1/rooms/{room}/members/{user}", put(rooms::add).delete(rooms::remove))
        .route("/v1/servers", get(conversations::servers));
    guarded(routes, guard).with_state(chat)
}

/// Puts the guard around routes, and problems where there is none.
fn guarded<S>(routes: Router<S>, guard: Guard) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    routes
        .fallback(async || Problem::new(ErrorCode::NotFound, "no such path, see /openapi.json"))
        .method_not_allowed_fallback(async || {
            let detail = "this path does not take that method, see the Allow header";
            let status = StatusCode::METHOD_NOT_ALLOWED;
            Problem::with_status(ErrorCode::BadRequest, status, detail)
        })
        .layer(middleware::from_fn_with_state(guard, guard_request))
}

#[derive(Clone)]
struct Guard {
    limit: Duration,
    /// The longest body.
    body_bytes: u32,
    /// Where requests are counted; the admin's are not.
    quota: Option<Quota>,
    edge: Arc<Edge>,
    tokens: Tokens,
}

/// Where no connection is between: in tests, and nowhere else.
const NOBODY: Peer =
    Peer { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0), secure: false };

async fn guard_request(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let gate = &guard.edge.gate;
    let peer = request.extensions().get().copied().unwrap_or(NOBODY);
    let chunks = request.headers().contains_key(header::TRANSFER_ENCODING);
    let (mut answer, answering) = match gate.take(peer, request.headers()) {
        Ok(caller) => {
            let (method, headers) = (request.method(), request.headers());
            let answering = Answering::new(gate, &caller, method, headers);
            // A browser asks this without its page's token.
            let answer = match answering.is_preflight() {
                true => StatusCode::NO_CONTENT.into_response(),
                false => admitted(&guard, &caller, request, next).await,
            };
            (answer, Some(answering))
        }
        Err(Turned { status, code, detail }) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
            (Problem::with_status(code, status, detail).into_response(), None)
        }
    };
    if let (Some(quota), Some(refused)) =
        (&guard.quota, answer.extensions().get::<error::Refused>())
    {
        quota.refused(refused.0);
    }
    if chunks {
        // A length beside them may have been dropped unseen: nothing after them is a request.
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(answering) = answering {
        answering.dress(answer.headers_mut());
    }
    with_safe_headers(answer)
}

/// Checks the token and what its user has had, then has the request answered.
async fn admitted(
    guard: &Guard,
    client: &edge::Caller,
    mut request: Request,
    next: Next,
) -> Response {
    let client = client.peer.address.ip();
    if let Some(Err(problem)) = guard.quota.as_ref().map(|quota| quota.may_try(client)) {
        return problem.into_response();
    }
    let asker = guard.tokens.admit(request.uri().path(), request.headers()).await;
    let counted = match (&guard.quota, asker) {
        (None, asker) => asker.map(|asker| (asker, None)),
        (Some(quota), Ok(asker)) => {
            let whose = quota.whose(&asker, request.uri().query());
            let one = quota.one(client, &asker, whose);
            one.map(|()| (asker, whose))
        }
        (Some(quota), Err(problem)) => Err(quota.failed(client, problem)),
    };
    match counted {
        Ok((asker, whose)) => {
            request.extensions_mut().insert(asker.clone());
            let answer = within(guard, &asker, whose, request, next).await;
            if let (Some(quota), Some(cost)) = (&guard.quota, answer.extensions().get()) {
                quota.costs(whose, *cost);
            }
            answer
        }
        Err(problem) => problem.into_response(),
    }
}

async fn within(
    guard: &Guard,
    asker: &Asker,
    whose: Option<Key>,
    request: Request,
    next: Next,
) -> Response {
    let measured = async {
        let (request, bytes) = whole(request, guard.body_bytes).await?;
        if let Some(quota) = &guard.quota {
            quota.bytes(whose, bytes)?;
        }
        Ok::<_, Problem>(request)
    };
    match timeout(guard.limit, measured).await {
        Ok(Ok(request)) => match guard.tokens.hold(asker).await {
            Ok(()) => run(next, request, guard.limit).await,
            Err(problem) => problem.into_response(),
        },
        Ok(Err(problem)) => problem.into_response(),
        Err(_) => {
            let detail = "the body took too long, send it faster";
            let status = StatusCode::REQUEST_TIMEOUT;
            Problem::with_status(ErrorCode::BadRequest, status, detail).into_response()
        }
    }
}

/// The request with its body read, so that no handler waits for a client; and the body's length.
async fn whole(request: Request, bytes_max: u32) -> Result<(Request, usize), Problem> {
    input::percent_decode(request.uri().path()).ok_or_else(input::bad_percent)?;
    let (parts, body) = request.into_parts();
    if announced(&parts.headers).is_some_and(|bytes| bytes > bytes_max.into()) {
        return Err(input::too_large(bytes_max));
    }
    let body = input::read_body(body, bytes_max).await?;
    let bytes = body.len();
    Ok((Request::from_parts(parts, Body::from(body)), bytes))
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Runs the handler within its time. One that panics or is late has promised nothing; a send that
/// reached its lane goes on there, and the same Idempotency-Key finds it.
async fn run(next: Next, request: Request, limit: Duration) -> Response {
    let retry = "nothing is promised, send it again with the same Idempotency-Key";
    match timeout(limit, AssertUnwindSafe(next.run(request)).catch_unwind()).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            tracing::error!("a handler panicked");
            let detail = format!("internal error: {retry}");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Problem::with_status(ErrorCode::Unavailable, status, detail).into_response()
        }
        Err(_) => {
            let detail = format!("it took too long: {retry}");
            Problem::new(ErrorCode::Unavailable, detail).into_response()
        }
    }
}

/// Answers are somebody's messages: no cache keeps them, and no browser takes them for a page.
fn with_safe_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
