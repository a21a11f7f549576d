//! Forwards `/v1/…` to the Message API, so that a browser needs one origin.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

use super::front::problem;
use crate::protocol::ErrorCode;

/// The longest body of a request, as the API has it.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// How long it may take to arrive, as at the API.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);
/// The longest body of an answer.
const ANSWER_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How long the API may take.
const PATIENCE: Duration = Duration::from_secs(15);

type Answer = Response<Full<Bytes>>;

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
pub struct Forward {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
}

impl Forward {
    /// Forwards to `base`, like `http://127.0.0.1:4000`.
    pub fn new(base: &str) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { client, base: base.trim_end_matches('/').to_owned() }
    }

    /// Passes a request on and its answer back.
    pub async fn pass(&self, request: Request<Incoming>) -> Answer {
        let whole = match whole(request).await {
            Ok(whole) => whole,
            Err(refusal) => return *refusal,
        };
        match timeout(PATIENCE, self.try_pass(whole)).await {
            Ok(Ok(response)) => response,
            Ok(Err(refusal)) => *refusal,
            Err(_) => {
                let text = "the Message API took too long";
                problem(StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unavailable, text)
            }
        }
    }

    async fn try_pass(&self, request: Request<Full<Bytes>>) -> Result<Answer, Box<Answer>> {
        let (parts, body) = request.into_parts();
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let bad = |_| {
            let text = "the request can't be forwarded";
            Box::new(problem(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, text))
        };
        let uri: Uri = format!("{}{target}", self.base).parse().map_err(bad)?;
        let only_head = parts.method == Method::HEAD;
        let mut onward = Request::new(body);
        *onward.method_mut() = parts.method;
        *onward.uri_mut() = uri;
        *onward.headers_mut() = parts.headers;
        strip(onward.headers_mut());
        onward.headers_mut().remove(header::HOST);
        onward.headers_mut().remove(header::CONTENT_LENGTH);
        let away = |error: &dyn std::fmt::Display| {
            tracing::warn!(%error, "the Message API does not answer");
            let text = "the Message API does not answer";
            Box::new(problem(StatusCode::BAD_GATEWAY, ErrorCode::Unavailable, text))
        };
        let answer = self.client.request(onward).await.map_err(|error| away(&error))?;
        let (mut parts, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| away(&error))?.to_bytes();
        strip(&mut parts.headers);
        if !only_head {
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        Ok(Response::from_parts(parts, Full::new(body)))
    }
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

fn strip(headers: &mut hyper::HeaderMap) {
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
