//! Forwards `/v1/…` to the Message API, so that a browser needs one origin.
//!
//! The API is called by the name that the browser used for us, so that it judges origins as we do.

use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::service::Service;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use hyper_util::service::TowerToHyperService;
use tokio::time::timeout;

use super::front::{Answer, problem};
use crate::edge::{Caller, Peer, TOKENS_HEADER, Upstream, is_forwarding};
use crate::protocol::ErrorCode;

/// The longest body of a request that an API takes; one that takes less says so itself.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// How long it may take to arrive, as at the API.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);
/// The longest body of an answer.
const ANSWER_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How long the API may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Headers of one hop only (RFC 9110 §7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The way to the Message API.
#[derive(Debug, Clone)]
pub enum Forward {
    /// In this process: its router, without a connection between.
    Here(Router),
    /// In another process.
    To(Box<Elsewhere>),
}

/// A Message API at a URL.
#[derive(Debug, Clone)]
pub struct Elsewhere {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
}

impl Forward {
    /// Forwards to `base`, like `http://127.0.0.1:4000`; with `https://` it trusts `upstream`.
    pub fn to(base: &str, upstream: Option<&Upstream>) -> Result<Self, String> {
        let config = match upstream {
            Some(upstream) => upstream.config(),
            None if base.starts_with("https://") => {
                return Err("--api https://… wants --upstream-ca FILE: whom to trust".to_owned());
            }
            None => Upstream::nobody().map_err(|error| error.to_string())?.config(),
        };
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new()).build(connector.build());
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self::To(Box::new(Elsewhere { client, base })))
    }

    /// Passes a request of this caller on and its answer back. With `tokens` callers must show one.
    pub async fn pass(&self, request: Request<Incoming>, caller: Caller, tokens: bool) -> Answer {
        let mut whole = match whole(request).await {
            Ok(whole) => whole,
            Err(refusal) => return *refusal,
        };
        tell(whole.headers_mut(), &caller, tokens);
        let passing = async {
            match self {
                Self::Here(router) => ask_here(router.clone(), whole, caller.peer).await,
                Self::To(elsewhere) => elsewhere.ask(whole, &caller).await,
            }
        };
        match timeout(PATIENCE, passing).await {
            Ok(Ok(response)) => response,
            Ok(Err(refusal)) => *refusal,
            Err(_) => {
                let text = "the Message API took too long";
                problem(StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unavailable, text)
            }
        }
    }
}

/// What the API is to know of the client; what the client said of that itself is dropped.
fn tell(headers: &mut HeaderMap, caller: &Caller, tokens: bool) {
    strip(headers);
    let told: Vec<_> = headers.keys().filter(|n| is_forwarding(n.as_str())).cloned().collect();
    for name in told {
        headers.remove(name);
    }
    headers.remove(header::CONTENT_LENGTH);
    if let Ok(host) = HeaderValue::from_str(&caller.host) {
        headers.insert(header::HOST, host);
    }
    if tokens {
        let name = HeaderName::from_static(TOKENS_HEADER);
        headers.insert(name, HeaderValue::from_static("required"));
    }
}

async fn ask_here(
    router: Router,
    mut request: Request<Full<Bytes>>,
    peer: Peer,
) -> Result<Answer, Box<Answer>> {
    request.extensions_mut().insert(peer);
    let only_head = request.method() == Method::HEAD;
    match TowerToHyperService::new(router).call(request).await {
        Ok(answer) => collected(answer, only_head).await,
        Err(never) => match never {},
    }
}

impl Elsewhere {
    async fn ask(
        &self,
        request: Request<Full<Bytes>>,
        caller: &Caller,
    ) -> Result<Answer, Box<Answer>> {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let bad = |_| {
            let text = "the request can't be forwarded";
            Box::new(problem(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, text))
        };
        let uri: Uri = format!("{}{target}", self.base).parse().map_err(bad)?;
        let only_head = request.method() == Method::HEAD;
        let (parts, body) = request.into_parts();
        let mut onward = Request::new(body);
        *onward.method_mut() = parts.method;
        *onward.uri_mut() = uri;
        *onward.headers_mut() = parts.headers;
        let client = caller.peer.address.ip().to_string();
        if let Ok(client) = HeaderValue::from_str(&client) {
            onward.headers_mut().insert("x-forwarded-for", client);
        }
        let scheme = if caller.peer.secure { "https" } else { "http" };
        onward.headers_mut().insert("x-forwarded-proto", HeaderValue::from_static(scheme));
        let answer = self.client.request(onward).await.map_err(|error| away(&error))?;
        collected(answer, only_head).await
    }
}

fn away(error: &dyn std::fmt::Display) -> Box<Answer> {
    tracing::warn!(%error, "the Message API does not answer");
    let text = "the Message API does not answer";
    Box::new(problem(StatusCode::BAD_GATEWAY, ErrorCode::Unavailable, text))
}

/// An answer with its body read, up to a bound.
async fn collected<B>(answer: Response<B>, only_head: bool) -> Result<Answer, Box<Answer>>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut parts, body) = answer.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| away(&error))?.to_bytes();
    strip(&mut parts.headers);
    if !only_head {
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    Ok(Response::from_parts(parts, Full::new(body)))
}

/// The request with its body read: a client that is slow or breaks off is no fault of the API's.
async fn whole(request: Request<Incoming>) -> Result<Request<Full<Bytes>>, Box<Answer>> {
    let refused = |status, code, text: &str| Err(Box::new(problem(status, code, text)));
    let too_large = "the body is over 65536 bytes";
    let too_large = || refused(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge, too_large);
    let (parts, body) = request.into_parts();
    if body.size_hint().lower() > REQUEST_BYTES_MAX as u64 {
        return too_large();
    }
    let body = Limited::new(body, REQUEST_BYTES_MAX).collect();
    match timeout(REQUEST_PATIENCE, body).await {
        Ok(Ok(body)) => Ok(Request::from_parts(parts, Full::new(body.to_bytes()))),
        Ok(Err(error)) if error.is::<LengthLimitError>() => too_large(),
        Ok(Err(_)) => {
            let text = "the body ended too early";
            refused(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, text)
        }
        Err(_) => {
            let text = "the body took too long, send it faster";
            refused(StatusCode::REQUEST_TIMEOUT, ErrorCode::BadRequest, text)
        }
    }
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
    headers.remove("keep-alive");
}
