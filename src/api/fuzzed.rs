//! What the handlers read of a request before anything is done, for `fuzzing`.

use axum::http::{HeaderMap, Uri, header};
use axum::response::IntoResponse;

use super::asker::on_behalf_of;
use super::error::Problem;
use super::input::{self, Input};
use super::messages::{check_from, from, idempotency_key};
use super::revocation::margin;
use super::rooms::NewRoomBody;
use crate::chat::ChatError;
use crate::chat::conversations::parse_cursor;
use crate::chat::history::{HistoryQuery, LIMIT_DEFAULT};
use crate::protocol::frame::parse_send;
use crate::protocol::{ConversationId, RoomId, Sizes, UserId};

/// Reads a request as every handler would; how many of them would have gone on.
///
/// # Panics
///
/// Where a refusal is not one of the client's own making: a status other than 4xx.
pub(crate) fn read(target: &str, headers: &HeaderMap, body: &str) -> usize {
    let Ok(uri) = target.parse::<Uri>() else { return 0 };
    let read = [
        listing(&uri).map(drop),
        history(&uri).map(drop),
        sending(&uri, headers, body),
        NewRoomBody::parse(body).map(drop),
        acting(&uri, headers),
    ];
    for refusal in read.iter().filter_map(|read| read.as_ref().err()) {
        let answer = refusal.clone().into_response();
        assert!(answer.status().is_client_error(), "{target}: {refusal:?}");
        assert!(answer.headers().contains_key(header::CONTENT_TYPE));
    }
    read.iter().filter(|read| read.is_ok()).count()
}

/// The path as the guard judges it, each of its parts as an id, and the query.
fn asked(uri: &Uri) -> Result<(Input, UserId, Vec<String>), Problem> {
    let path = input::percent_decode(uri.path()).ok_or_else(input::bad_percent)?;
    let input = Input::of_query(uri.query().unwrap_or(""))?;
    let caller = input.caller()?;
    Ok((input, caller, path.split('/').map(str::to_owned).collect()))
}

fn listing(uri: &Uri) -> Result<usize, Problem> {
    let (input, caller, path) = asked(uri)?;
    for part in &path {
        let ids = [UserId::parse(part).is_ok(), RoomId::parse(part).is_ok()];
        assert!(!ids.contains(&true) || !part.contains([':', '/', '\r', '\n', '\0']), "{part:?}");
    }
    input.query("after")?.map(|text| parse_cursor(&caller, text)).transpose()?;
    input.limit(LIMIT_DEFAULT)
}

fn history(uri: &Uri) -> Result<HistoryQuery, Problem> {
    let (input, caller, path) = asked(uri)?;
    for conversation in path.iter().filter_map(|part| ConversationId::parse(part).ok()) {
        let other = conversation.other(&caller);
        assert!(other.is_none_or(|user| ConversationId::direct(&user, &caller) == conversation));
    }
    let (before, after) = (input.seq("before")?, input.seq("after")?);
    Ok(HistoryQuery::new(before, after, input.limit(LIMIT_DEFAULT)?)?)
}

/// For whom, and by how much an admin goes beyond now.
fn acting(uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let (input, ..) = asked(uri)?;
    if let Some(user) = on_behalf_of(headers)? {
        assert_eq!(UserId::parse(user.as_str()).as_ref(), Ok(&user));
    }
    assert!(margin(&input)? <= 300);
    Ok(())
}

fn sending(uri: &Uri, headers: &HeaderMap, body: &str) -> Result<(), Problem> {
    let (_, caller, _) = asked(uri)?;
    let reference = idempotency_key(headers)?;
    let send = parse_send(body, reference, &Sizes::MOST).map_err(ChatError::from)?;
    assert!(!send.message.trim().is_empty());
    check_from(&caller, from(body))
}
