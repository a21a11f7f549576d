//! History, and sending without a socket.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::error::Problem;
use super::input::{Input, JsonText};
use crate::chat::history::{HistoryQuery, LIMIT_DEFAULT, Shown};
use crate::chat::{Chat, Sent};
use crate::protocol::frame::parse_send;
use crate::protocol::{ConversationId, ErrorCode, Ref, UserId, answer};

/// The header that makes a repeated POST the same message (P2).
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// An entry of a log: a message, or another change of the conversation.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Message {
    /// `message`, `joined`, `left`; skip what you don't know.
    #[serde(rename = "type")]
    kind: String,
    /// The conversation and the seq.
    id: String,
    /// Which log.
    conversation: String,
    /// Its place in the log, from 1 on without holes.
    seq: u64,
    /// Who did it.
    from: String,
    /// The recipient of a direct message, the member who joined or left.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    /// The text.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Arc<str>>,
    /// The sender's own JSON beside the text, byte for byte.
    #[schema(value_type = Option<Object>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Arc<RawValue>>,
    /// The sender's name for the send; shown to the sender alone.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    /// When it was stored, in milliseconds since 1970.
    timestamp: u64,
    /// `sent`, `delivered` or `read` by the recipient; always `sent` in rooms.
    #[schema(value_type = String)]
    status: &'static str,
}

impl Message {
    pub(super) fn new(conversation: &ConversationId, shown: Shown) -> Self {
        let Shown { entry, status, reference } = shown;
        Self {
            kind: entry.kind.as_str().to_owned(),
            id: answer::message_id(conversation, entry.seq),
            conversation: conversation.to_string(),
            seq: entry.seq,
            from: entry.from.to_string(),
            to: entry.to.map(|user| user.to_string()),
            message: entry.message,
            data: entry.data,
            reference: reference.map(|reference| reference.to_string()),
            timestamp: entry.timestamp,
            status: status.as_str(),
        }
    }
}

/// A page of a log.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct HistoryPage {
    /// Ascending.
    messages: Vec<Message>,
    /// There is more in the direction of the query: below without `after`, above with it.
    has_more: bool,
    /// Nothing below this seq is kept.
    floor: u64,
}

/// A page of a conversation's log.
#[utoipa::path(
    get, path = "/v1/conversations/{conversation}/messages", tag = "messages",
    params(
        ("conversation" = String, Path, description = "`dm:{a}:{b}` (sorted) or `room:{id}`"),
        ("userId" = String, Query, description = "The caller, in development mode"),
        ("before" = Option<u64>, Query, description = "Only entries below this seq"),
        ("after" = Option<u64>, Query, description = "Only entries above this seq"),
        ("limit" = Option<u64>, Query, description = "1 to 500, default 50"),
    ),
    responses(
        (status = 200, body = HistoryPage, description = "Ends at the limit or at 1 MB"),
        (status = 400, body = Problem, content_type = "application/problem+json",
         description = "A bad id, seq or limit; both `before` and `after`"),
        (status = 404, body = Problem, content_type = "application/problem+json",
         description = "Unknown, or the caller has no part in it"),
        (status = 503, body = Problem, content_type = "application/problem+json",
         description = "The store does not answer"),
    )
)]
pub(super) async fn history(
    State(chat): State<Arc<Chat>>,
    input: Input,
) -> Result<Json<HistoryPage>, Problem> {
    let caller = input.caller()?;
    let conversation: ConversationId = input.path("conversation")?;
    let (before, after) = (input.seq("before")?, input.seq("after")?);
    let query = HistoryQuery::new(before, after, input.limit(LIMIT_DEFAULT)?)?;
    let page = chat.history(&caller, &conversation, query).await?;
    let message = |shown| Message::new(&conversation, shown);
    let messages = page.messages.into_iter().map(message).collect();
    Ok(Json(HistoryPage { messages, has_more: page.has_more, floor: page.floor }))
}

/// What is to be said, and to whom: a `message` frame without its type.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes the body, which `protocol::frame` reads")]
pub(super) struct NewMessage {
    /// The caller, if anybody; for whom a service sends.
    from: Option<String>,
    /// The recipient of a direct message; this or `conversation`.
    to: Option<String>,
    /// The conversation.
    conversation: Option<String>,
    /// The text: 1 byte to 16 KiB of UTF-8, or less where `--message-bytes` says so.
    message: String,
    /// The sender's own JSON object: at most 4 KiB, or `--data-bytes`.
    #[schema(value_type = Option<Object>)]
    data: Option<()>,
    /// The seq that the client knew at its first try, the same at every try.
    after: Option<u64>,
}

/// What the store has: the fields of a `sent` frame.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SentMessage {
    /// Always `sent`.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    kind: &'static str,
    /// The Idempotency-Key.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    /// The conversation and the seq.
    id: String,
    /// Which log.
    conversation: String,
    /// Its place.
    seq: u64,
    /// When it was stored, in milliseconds since 1970.
    timestamp: u64,
}

/// 201 for what is new, 200 for what an earlier try has stored.
pub(super) fn sent(sent: Sent) -> Response {
    let status = if sent.repeated { StatusCode::OK } else { StatusCode::CREATED };
    let body = SentMessage {
        kind: "sent",
        reference: sent.reference.filter(Ref::is_clients).map(|reference| reference.to_string()),
        id: answer::message_id(&sent.conversation, sent.seq),
        conversation: sent.conversation.to_string(),
        seq: sent.seq,
        timestamp: sent.timestamp,
    };
    (status, Json(body)).into_response()
}

/// Says something; the answer comes once the store has it.
#[utoipa::path(
    post, path = "/v1/messages", tag = "messages",
    request_body = NewMessage,
    params(
        ("userId" = String, Query, description = "The caller, in development mode"),
        ("Idempotency-Key" = Option<String>, Header,
         description = "The `ref` of the send: the same key again is the same message, among the \
                        conversation's last 32 entries, or the 1,000 behind `after`"),
    ),
    responses(
        (status = 201, body = SentMessage, description = "Stored"),
        (status = 200, body = SentMessage, description = "An earlier try had stored it"),
        (status = 400, body = Problem, content_type = "application/problem+json",
         description = "A bad body or key"),
        (status = 403, body = Problem, content_type = "application/problem+json",
         description = "`from` is not the caller"),
        (status = 404, body = Problem, content_type = "application/problem+json",
         description = "Unknown, or the caller has no part in it"),
        (status = 409, body = Problem, content_type = "application/problem+json",
         description = "The same key came with another body"),
        (status = 410, body = Problem, content_type = "application/problem+json",
         description = "The first try may lie more than 1,000 entries back"),
        (status = 413, body = Problem, content_type = "application/problem+json",
         description = "The message, its data or the body is over its limit"),
        (status = 415, body = Problem, content_type = "application/problem+json",
         description = "The body is not application/json"),
        (status = 429, body = Problem, content_type = "application/problem+json",
         description = "Too many messages or new conversations; or the conversation has too \
          many sends waiting"),
        (status = 503, body = Problem, content_type = "application/problem+json",
         description = "The store does not answer; try again with the same key"),
    )
)]
pub(super) async fn send(
    State(chat): State<Arc<Chat>>,
    input: Input,
    headers: HeaderMap,
    JsonText(body): JsonText,
) -> Result<Response, Problem> {
    let from = from(&body);
    let named = from.as_ref().and_then(|from| from.as_str()?.parse().ok());
    let caller = input.caller_or(named.as_ref())?;
    let reference = idempotency_key(&headers)?;
    let frame =
        parse_send(&body, reference.clone(), &chat.limits.settings().sizes).map_err(|bad| {
            bad.over.iter().for_each(|bound| chat.metrics.count_limited(bound));
            crate::chat::ChatError::from(bad)
        })?;
    check_from(&caller, from)?;
    Ok(sent(chat.send(&caller, frame, reference, input.of_service()).await?))
}

#[derive(Deserialize)]
struct Claimed {
    #[serde(default)]
    from: Option<serde_json::Value>,
}

/// Whom the body names as the sender. The frame's parser ignores it, as a socket must.
pub(super) fn from(body: &str) -> Option<serde_json::Value> {
    serde_json::from_str::<Claimed>(body).ok().and_then(|body| body.from)
}

/// A service may so say for whom it sends; from others it may say what holds anyway.
pub(super) fn check_from(caller: &UserId, from: Option<serde_json::Value>) -> Result<(), Problem> {
    match from {
        None => Ok(()),
        Some(from) if from.as_str() == Some(caller.as_str()) => Ok(()),
        Some(_) => {
            let detail = "\"from\" is not the caller: leave it out";
            Err(Problem::new(ErrorCode::Forbidden, detail))
        }
    }
}

/// The key is taken as it stands, or quoted as its RFC draft has it.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<Ref>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let quoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let reference = Ref::parse(quoted.unwrap_or(text));
    match (reference, values.next()) {
        (Ok(reference), None) if reference.is_clients() => Ok(Some(reference)),
        _ => {
            let form = "one [A-Za-z0-9_.:+=/~-]{1,64}, at random, that does not begin with ~";
            Err(Problem::bad(format!("Idempotency-Key must be {form}")))
        }
    }
}
