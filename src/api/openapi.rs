//! `/openapi.json`, made from the handlers. A test holds it against what they answer.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::IntoResponse;
use bytes::Bytes;
use utoipa::OpenApi;

use super::{conversations, messages, revocation, rooms};

/// The description of the whole API.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Parlor Message API",
        description = "History, sending, conversations, presence and rooms. Every refusal is \
            application/problem+json. Any request may be answered with 405 (see Allow), 408 (the \
            body took over 10 s), 429 (too many of them, see Retry-After) or 500; what is \
            retryable says so, and when. \
            Where tokens are in use, every request but the one for this document carries \
            Authorization: Bearer, or is answered with 401 and WWW-Authenticate. The caller is the \
            token's user. A token of scope `service` may act for anybody, who is named by the \
            header On-Behalf-Of, by `userId`, or by `from` in the body of a message; with a token \
            of another scope these must be the token's user, or the answer is 403.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        conversations::list,
        conversations::presence,
        conversations::servers,
        revocation::revoke,
        messages::history,
        messages::send,
        rooms::create,
        rooms::add,
        rooms::remove,
    )
)]
pub(super) struct Document;

/// The description as JSON, made once: whoever asks shows no token.
static DOCUMENT: LazyLock<Bytes> =
    LazyLock::new(|| Document::openapi().to_json().unwrap_or_default().into());

/// Answers with it.
pub(super) async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone())
}
