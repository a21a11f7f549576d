//! Making rooms, joining and leaving.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::Problem;
use super::input::{Input, JsonText};
use super::messages::{SentMessage, sent};
use crate::chat::Chat;
use crate::chat::rooms::NewRoom;
use crate::protocol::frame::whole_object;
use crate::protocol::{ErrorCode, RoomId, UserId};

/// The most people who join with the making of a room; further ones are added one by one.
const MEMBERS_MAX: usize = 256;
/// The longest title, in UTF-8 bytes.
const TITLE_BYTES_MAX: usize = 256;

/// A room that is asked for.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct NewRoomBody {
    /// Its id; the server makes one where there is none.
    #[schema(value_type = Option<String>)]
    room: Option<RoomId>,
    /// What people see: at most 256 bytes.
    title: Option<String>,
    /// Anybody may join.
    #[serde(default)]
    public: bool,
    /// Who joins at once beside the creator: at most 256.
    #[schema(value_type = Vec<String>)]
    #[serde(default)]
    members: Vec<UserId>,
}

impl NewRoomBody {
    pub(super) fn parse(text: &str) -> Result<NewRoom, Problem> {
        let body: Self = whole_object(text)
            .map_err(|error| Problem::bad(format!("the body is one JSON object: {error}")))?;
        let title = body.title.filter(|title| !title.is_empty());
        if title.as_ref().is_some_and(|title| title.len() > TITLE_BYTES_MAX) {
            let detail = format!("\"title\" is over {TITLE_BYTES_MAX} bytes");
            return Err(Problem::new(ErrorCode::TooLarge, detail));
        }
        let mut seen = HashSet::new();
        let members: Vec<UserId> =
            body.members.into_iter().filter(|user| seen.insert(user.clone())).collect();
        if members.len() > MEMBERS_MAX {
            let detail = format!("\"members\" may name {MEMBERS_MAX} people, add others by PUT");
            return Err(Problem::bad(detail));
        }
        Ok(NewRoom { room: body.room, title, public: body.public, members })
    }
}

/// A room.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Room {
    /// Its id.
    room: String,
    /// Its conversation: `room:` and the id.
    conversation: String,
    /// What people see.
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    /// Anybody may join.
    public: bool,
    /// Who made it.
    creator: String,
    /// When it was made, in milliseconds since 1970.
    created: u64,
}

/// Makes a room; the creator joins first, then those named. May be repeated with its id.
#[utoipa::path(
    post, path = "/v1/rooms", tag = "rooms",
    request_body = NewRoomBody,
    params(("userId" = String, Query, description = "The caller, in development mode")),
    responses(
        (status = 201, body = Room, description = "Made"),
        (status = 400, body = Problem, content_type = "application/problem+json",
         description = "A bad body, or an id that is taken"),
        (status = 413, body = Problem, content_type = "application/problem+json",
         description = "The title or the body is over its limit"),
        (status = 415, body = Problem, content_type = "application/problem+json",
         description = "The body is not application/json"),
        (status = 503, body = Problem, content_type = "application/problem+json",
         description = "The store does not answer"),
    )
)]
pub(super) async fn create(
    State(chat): State<Arc<Chat>>,
    input: Input,
    JsonText(body): JsonText,
) -> Result<Response, Problem> {
    let caller = input.caller()?;
    let (conversation, head) =
        chat.create_room(&caller, NewRoomBody::parse(&body)?, input.of_service()).await?;
    let name = conversation.as_str();
    let room = Room {
        room: name.strip_prefix("room:").unwrap_or(name).to_owned(),
        conversation: name.to_owned(),
        title: head.title,
        public: head.public,
        creator: head.creator.unwrap_or(caller).to_string(),
        created: head.created,
    };
    Ok((StatusCode::CREATED, Json(room)).into_response())
}

/// Somebody joins: the creator's right, or one's own where the room is public.
#[utoipa::path(
    put, path = "/v1/rooms/{room}/members/{user}", tag = "rooms",
    params(
        ("room" = String, Path, description = "The room's id"),
        ("user" = String, Path, description = "Who joins"),
        ("userId" = String, Query, description = "The caller, in development mode"),
    ),
    responses(
        (status = 201, body = SentMessage, description = "The `joined` entry"),
        (status = 200, body = SentMessage, description = "A member already: that entry"),
        (status = 400, body = Problem, content_type = "application/problem+json",
         description = "A bad id"),
        (status = 403, body = Problem, content_type = "application/problem+json",
         description = "Not the caller's right"),
        (status = 404, body = Problem, content_type = "application/problem+json",
         description = "Unknown, or the caller has no part in it"),
        (status = 503, body = Problem, content_type = "application/problem+json",
         description = "The store does not answer"),
    )
)]
pub(super) async fn add(State(chat): State<Arc<Chat>>, input: Input) -> Result<Response, Problem> {
    let caller = input.caller()?;
    let (room, user): (RoomId, UserId) = (input.path("room")?, input.path("user")?);
    Ok(sent(chat.add_member(&caller, &room, &user, input.of_service()).await?))
}

/// Somebody leaves: the creator's right, or one's own.
#[utoipa::path(
    delete, path = "/v1/rooms/{room}/members/{user}", tag = "rooms",
    params(
        ("room" = String, Path, description = "The room's id"),
        ("user" = String, Path, description = "Who leaves"),
        ("userId" = String, Query, description = "The caller, in development mode"),
    ),
    responses(
        (status = 200, body = SentMessage, description = "The `left` entry, new or old"),
        (status = 400, body = Problem, content_type = "application/problem+json",
         description = "A bad id"),
        (status = 403, body = Problem, content_type = "application/problem+json",
         description = "Not the caller's right"),
        (status = 404, body = Problem, content_type = "application/problem+json",
         description = "Unknown, or the caller has no part in it"),
        (status = 503, body = Problem, content_type = "application/problem+json",
         description = "The store does not answer"),
    )
)]
pub(super) async fn remove(
    State(chat): State<Arc<Chat>>,
    input: Input,
) -> Result<Response, Problem> {
    let caller = input.caller()?;
    let (room, user): (RoomId, UserId) = (input.path("room")?, input.path("user")?);
    let left = chat.remove_member(&caller, &room, &user).await?;
    let mut response = sent(left);
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}
