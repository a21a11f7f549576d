//! What a person's page needs beside messages: the list of conversations, who is there, and which
//! servers live.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{Cost, Problem};
use super::input::Input;
use super::messages::Message;
use crate::board::{BoardRow, Role};
use crate::chat::conversations::Summary;
use crate::chat::history::LIMIT_DEFAULT;
use crate::chat::{Chat, ChatError};
use crate::protocol::UserId;

/// So many conversations that are looked at for a list cost as much as a request.
const LOOKS_A_REQUEST: usize = 50;

/// One conversation of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Conversation {
    /// Which.
    conversation: String,
    /// `direct` or `room`.
    #[schema(value_type = String)]
    kind: &'static str,
    /// The other person of a direct conversation, oneself in a note to oneself.
    #[serde(skip_serializing_if = "Option::is_none")]
    with: Option<String>,
    /// The title of a room that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    /// The newest entry that the person may see.
    last: Message,
    /// Messages after what the person has seen.
    unread: u64,
    /// The highest seq that a device of the person has received.
    delivered: u64,
    /// The highest seq that the person has seen.
    read: u64,
}

impl From<Summary> for Conversation {
    fn from(summary: Summary) -> Self {
        Self {
            kind: if summary.conversation.is_room() { "room" } else { "direct" },
            conversation: summary.conversation.to_string(),
            with: summary.with.map(|user| user.to_string()),
            title: summary.title,
            last: Message::new(&summary.conversation, summary.last),
            unread: summary.unread,
            delivered: summary.delivered,
            read: summary.read,
        }
    }
}

/// A page of a person's conversations.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConversationPage {
    /// Newest first.
    conversations: Vec<Conversation>,
    /// Unread messages of all conversations, not only of this page.
    unread_total: u64,
    /// Pass this as `after` for what follows; null at the end.
    next: Option<String>,
}

/// A person's conversations, newest first.
#[utoipa::path(
    get, path = "/v1/users/{user}/conversations", tag = "users",
    params(
        ("user" = String, Path, description = "The person: the caller"),
        ("userId" = String, Query, description = "The caller, in development mode"),
        ("after" = Option<String>, Query, description = "The `next` of the page before"),
        ("limit" = Option<u64>, Query, description = "1 to 500, default 50"),
    ),
    responses(
        (status = 200, body = ConversationPage, description = "A page"),
        (status = 400, body = Problem, content_type = "application/problem+json",
         description = "A bad id, cursor or limit"),
        (status = 404, body = Problem, content_type = "application/problem+json",
         description = "Not the caller's own"),
        (status = 503, body = Problem, content_type = "application/problem+json",
         description = "The store does not answer"),
    )
)]
pub(super) async fn list(
    State(chat): State<Arc<Chat>>,
    input: Input,
) -> Result<(Extension<Cost>, Json<ConversationPage>), Problem> {
    let user: UserId = input.path("user")?;
    let caller = input.caller_or(Some(&user))?;
    let (after, limit) = (input.query("after")?, input.limit(LIMIT_DEFAULT)?);
    if user != caller {
        return Err(ChatError::not_found("list of conversations").into());
    }
    let page = chat.conversations(&user, after, limit).await?;
    let cost = Cost((page.looked_at / LOOKS_A_REQUEST) as u64);
    let conversations = page.conversations.into_iter().map(Conversation::from).collect();
    let (unread_total, next) = (page.unread_total, page.next);
    Ok((Extension(cost), Json(ConversationPage { conversations, unread_total, next })))
}

/// Whether a person is connected.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PresenceAnswer {
    /// Who.
    user_id: String,
    /// A living server holds a socket of the person.
    online: bool,
    /// When a device of the person was last seen, in milliseconds since 1970; null for never.
    last_seen: Option<u64>,
}

/// Whether a person is connected.
#[utoipa::path(
    get, path = "/v1/users/{user}/presence", tag = "users",
    params(
        ("user" = String, Path, description = "The person"),
        ("userId" = String, Query, description = "The caller, in development mode"),
    ),
    responses(
        (status = 200, body = PresenceAnswer, description = "Anybody's, also of who never came"),
        (status = 400, body = Problem, content_type = "application/problem+json",
         description = "A bad id"),
        (status = 503, body = Problem, content_type = "application/problem+json",
         description = "The socket map or the store does not answer; never told as offline"),
    )
)]
pub(super) async fn presence(
    State(chat): State<Arc<Chat>>,
    input: Input,
) -> Result<Json<PresenceAnswer>, Problem> {
    let caller = input.caller()?;
    let presence = chat.presence(&caller, &input.path("user")?).await?;
    Ok(Json(PresenceAnswer {
        user_id: presence.user.to_string(),
        online: presence.online,
        last_seen: presence.last_seen,
    }))
}

/// A process on the board.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Server {
    /// Its name, and that of its channel.
    id: String,
    /// `server` or `api`.
    #[schema(value_type = String)]
    role: &'static str,
    /// Where balancers reach it.
    address: String,
    /// Where browsers reach it themselves, if they can.
    #[serde(skip_serializing_if = "Option::is_none")]
    public_url: Option<String>,
    /// How many sockets it holds, as of its last beat.
    sockets: u32,
    /// It takes new sockets.
    accepting: bool,
    /// It does not reach Redis, or hears nothing from it: its messages go over the store.
    deaf: bool,
    /// Its row moves; the dead are not listed.
    alive: bool,
}

impl From<&BoardRow> for Server {
    fn from(row: &BoardRow) -> Self {
        Self {
            id: row.id.to_string(),
            role: match row.role {
                Role::Server => "server",
                Role::Api => "api",
            },
            address: row.address.clone(),
            public_url: row.public_url.clone(),
            sockets: row.sockets,
            accepting: row.accepting,
            deaf: row.deaf,
            alive: true,
        }
    }
}

/// The living processes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Servers {
    /// By name.
    servers: Vec<Server>,
}

/// The living servers and APIs, as the board shows them.
#[utoipa::path(
    get, path = "/v1/servers", tag = "servers",
    responses(
        (status = 200, body = Servers, description = "By name"),
        (status = 403, body = Problem, content_type = "application/problem+json",
         description = "Not with scope `service` or `admin`"),
    )
)]
pub(super) async fn servers(
    State(chat): State<Arc<Chat>>,
    input: Input,
) -> Result<Json<Servers>, Problem> {
    input.asked_by().operates()?;
    let view = chat.liveness.view();
    let mut servers: Vec<Server> = view.alive.iter().map(Server::from).collect();
    servers.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(Json(Servers { servers }))
}
