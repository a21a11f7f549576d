//! Refusals over HTTP: `application/problem+json` (RFC 9457) with the codes of `error` frames.
//!
//! Every answer of the API that is not a success is made here, so that clients parse one shape.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::{Refusal, challenge};
use crate::chat::ChatError;
use crate::protocol::{BadId, ErrorCode};

/// The media type of every refusal.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// A refusal.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Names the kind of problem; the same for the same `code`.
    #[serde(rename = "type")]
    kind: String,
    /// The kind of problem in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// The same name as in `error` frames.
    code: &'static str,
    /// What was wrong, and what to do.
    detail: String,
    /// The same request may succeed later, unchanged.
    retryable: bool,
    /// When to try again, for what is retryable.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// The `WWW-Authenticate` beside it.
    #[serde(skip)]
    challenge: Option<Box<str>>,
    /// It counts for the client's address: no good token came with the request.
    #[serde(skip)]
    counts: bool,
}

/// The code of a refused request, for whoever counts: an extension of the response.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refused(pub(super) ErrorCode);

/// What an answer has cost beyond one request: an extension of the response.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost(pub(super) u64);

impl Problem {
    /// A refusal with the status of its code.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self::from(ChatError::new(code, detail))
    }

    /// Whether it counts as a bad token of the client's address.
    pub(super) fn counts(&self) -> bool {
        self.counts
    }

    /// The input is not what the API takes.
    pub fn bad(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, detail)
    }

    /// The same, and what a token would have to be (RFC 6750 §3).
    pub(super) fn challenging(self, challenge: String) -> Self {
        Self { challenge: Some(challenge.into()), ..self }
    }

    /// HTTP's own refusals, which have a status and no code of their own: 405, 408, 415 and 500.
    pub fn with_status(code: ErrorCode, status: StatusCode, detail: impl Into<String>) -> Self {
        let reason = status.canonical_reason().unwrap_or("Refused");
        let status = status.as_u16();
        Self { status, title: code.title(status, reason), ..Self::new(code, detail) }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let problem = Self::new(refusal.code(), refusal.to_string());
        let retry_after_ms = problem.retry_after_ms.map(|_| refusal.retry_ms());
        let problem = Self { retry_after_ms, counts: refusal.counts(), ..problem };
        match challenge(&refusal) {
            Some(challenge) => problem.challenging(challenge),
            None => problem,
        }
    }
}

impl From<ChatError> for Problem {
    fn from(error: ChatError) -> Self {
        let ChatError { code, detail, retry_after_ms, .. } = error;
        let status = code.http_status();
        Self {
            kind: format!("urn:parlor:problem:{}", code.as_str()),
            title: code.title(status, ""),
            status,
            code: code.as_str(),
            detail,
            retryable: code.retryable(),
            retry_after_ms: retry_after_ms.filter(|_| code.retryable()),
            challenge: None,
            counts: false,
        }
    }
}

impl From<BadId> for Problem {
    fn from(bad: BadId) -> Self {
        Self::bad(bad.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let challenge = self.challenge.as_deref().and_then(|text| text.parse().ok());
        let seconds = self.retry_after_ms.map(|ms| ms.div_ceil(1_000).max(1));
        let code = ErrorCode::ALL.into_iter().find(|code| code.as_str() == self.code);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = challenge {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(code) = code {
            response.extensions_mut().insert(Refused(code));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retryable_problems_say_when() {
        let response = Problem::new(ErrorCode::Unavailable, "later").into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_JSON);
        let response = Problem::bad("no").into_response();
        assert!(response.headers().get(header::RETRY_AFTER).is_none());
    }
}
