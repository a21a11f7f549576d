//! Forwards `/v1/…` to the Message API, so that a browser needs one origin.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

use super::front::problem;
use crate::protocol::ErrorCode;

/// The longest body that is forwarded, either way.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
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
    pub async fn pass(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match timeout(PATIENCE, self.try_pass(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(refusal)) => *refusal,
            Err(_) => {
                let text = "the Message API took too long";
                problem(StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unavailable, text)
            }
        }
    }

    async fn try_pass(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Box<Response<Full<Bytes>>>> {
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|_| {
            let text = "the body is too large, or ended early";
            Box::new(problem(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge, text))
        })?;
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let bad = |_| {
            let text = "the request can't be forwarded";
            Box::new(problem(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, text))
        };
        let uri: Uri = format!("{}{target}", self.base).parse().map_err(bad)?;
        let mut onward = Request::new(Full::new(body.to_bytes()));
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
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| away(&error))?.to_bytes();
        strip(&mut parts.headers);
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        Ok(Response::from_parts(parts, Full::new(body)))
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
