//! The Message API as JSON over HTTP/1.1.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::ClientError;
use crate::protocol::Token;

/// The longest answer that is read: a page of history is at most about 1 MB of messages.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// A status with its JSON; a body of another kind is a string, none at all is `null`.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Value,
}

impl Answer {
    /// The body of a 2xx; any other is an error that says what came.
    pub fn good(self) -> Result<Value, ClientError> {
        match self.status {
            200..=299 => Ok(self.body),
            status => Err(ClientError::Refused { status, body: self.body.to_string() }),
        }
    }
}

/// The Message API at one address.
#[derive(Debug, Clone)]
pub struct Api {
    base: String,
    pool: Pool<HttpConnector, Full<Bytes>>,
    token: Option<Token>,
}

impl Api {
    /// `http://HOST:PORT`
    pub fn new(base: impl Into<String>) -> Self {
        let base = base.into().trim_end_matches('/').to_owned();
        Self { base, pool: Pool::builder(TokioExecutor::new()).build_http(), token: None }
    }

    /// `HOST:PORT`
    pub fn authority(&self) -> &str {
        self.base.strip_prefix("http://").unwrap_or(&self.base)
    }

    /// The same with a token, if there is one.
    pub fn token(self, token: Option<Token>) -> Self {
        Self { token, ..self }
    }

    /// GET of a path with its query.
    pub async fn get(&self, path: &str) -> Result<Answer, ClientError> {
        self.call("GET", path, None, &[]).await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer, ClientError> {
        self.call("POST", path, Some(body), &[]).await
    }

    /// Any method, with headers beside the body.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Result<Answer, ClientError> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.reveal()));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let content = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        let request = request
            .body(Full::new(content))
            .map_err(|error| ClientError::BadUrl(format!("{}{path}: {error}", self.base)))?;
        let response =
            self.pool.request(request).await.map_err(|error| ClientError::Unreachable {
                url: self.base.clone(),
                source: std::io::Error::other(error),
            })?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body =
            body.map_err(|error| ClientError::Protocol(format!("the answer broke off: {error}")))?;
        Ok(Answer { status, body: read(&body.to_bytes()) })
    }

    /// One page of a conversation's messages, ascending, as this user sees them.
    pub async fn history(
        &self,
        user: &str,
        conversation: &str,
        after: Option<u64>,
        limit: u32,
    ) -> Result<Value, ClientError> {
        let mut path = String::from("/v1/conversations/");
        escape(conversation, &mut path);
        path.push_str("/messages?userId=");
        escape(user, &mut path);
        path.push_str(&format!("&limit={limit}"));
        if let Some(after) = after {
            path.push_str(&format!("&after={after}"));
        }
        self.get(&path).await?.good()
    }
}

fn read(body: &[u8]) -> Value {
    let text = || match body {
        [] => Value::Null,
        text => String::from_utf8_lossy(text).into(),
    };
    serde_json::from_slice(body).unwrap_or_else(|_| text())
}

/// Percent-encodes all but the unreserved characters.
pub(super) fn escape(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            into.push_str(&format!("%{byte:02X}"));
        }
    }
}
