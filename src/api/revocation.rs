//! Taking tokens back.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::Problem;
use super::input::Input;
use crate::chat::Chat;
use crate::protocol::UserId;

/// The longest margin, in seconds.
const MARGIN_MAX: u64 = 300;

/// What was taken back.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Revocation {
    /// Whose tokens.
    user_id: String,
    /// Those made up to here, in milliseconds since 1970, are dead.
    until: u64,
}

/// Takes back all tokens of a person that were made so far, and ends the person's sockets on all
/// servers with 4401.
#[utoipa::path(
    post, path = "/v1/users/{user}/revoke", tag = "users",
    params(
        ("user" = String, Path, description = "Whose tokens"),
        ("margin" = Option<u64>, Query,
         description = "Seconds from now on that count too, 0 to 300: as many as the clock of \
                        whoever signs may be ahead. Nobody signs in before they are over"),
    ),
    responses(
        (status = 200, body = Revocation, description = "Stored; may be repeated"),
        (status = 400, body = Problem, content_type = "application/problem+json",
         description = "A bad id, or a bad margin"),
        (status = 403, body = Problem, content_type = "application/problem+json",
         description = "Not with scope `admin`, or tokens are not in use"),
        (status = 503, body = Problem, content_type = "application/problem+json",
         description = "The store does not answer"),
    )
)]
pub(super) async fn revoke(
    State(chat): State<Arc<Chat>>,
    input: Input,
) -> Result<Json<Revocation>, Problem> {
    input.asked_by().administers()?;
    let user: UserId = input.path("user")?;
    let margin = margin(&input)?;
    let until = chat.revoke(&user, margin).await?;
    Ok(Json(Revocation { user_id: user.to_string(), until }))
}

pub(super) fn margin(input: &Input) -> Result<u64, Problem> {
    let bad = || Problem::bad(format!("\"margin\" is seconds: a whole number, up to {MARGIN_MAX}"));
    let Some(text) = input.query("margin")? else { return Ok(0) };
    let margin = text.parse().ok().filter(|margin| *margin <= MARGIN_MAX);
    margin.filter(|_| !text.starts_with('+')).ok_or_else(bad)
}
