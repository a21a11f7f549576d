//! Rooms: making them, joining and leaving.

use std::sync::Arc;

use super::{Chat, ChatError, Sent};
use crate::protocol::{ConversationId, RoomId, UserId};
use crate::store::Head;

/// A room that was asked for.
#[derive(Debug, Clone)]
pub struct NewRoom {
    /// Its id; the server makes one where there is none.
    pub room: Option<RoomId>,
    /// What people see.
    pub title: Option<String>,
    /// Anybody may join.
    pub public: bool,
    /// Who joins at once beside the creator.
    pub members: Vec<UserId>,
}

impl Chat {
    /// Makes a room; the creator joins first. An id that is taken is `bad_request`.
    pub async fn create_room(
        self: &Arc<Self>,
        _caller: &UserId,
        _room: NewRoom,
    ) -> Result<(ConversationId, Head), ChatError> {
        unimplemented!()
    }

    /// `user` joins: the creator's right, or anybody's own where the room is public. Repeating it
    /// changes nothing and answers with the entry that stands.
    pub async fn add_member(
        self: &Arc<Self>,
        _caller: &UserId,
        _room: &RoomId,
        _user: &UserId,
    ) -> Result<Sent, ChatError> {
        unimplemented!()
    }

    /// `user` leaves: the creator's right, or one's own. Repeating it changes nothing.
    pub async fn remove_member(
        self: &Arc<Self>,
        _caller: &UserId,
        _room: &RoomId,
        _user: &UserId,
    ) -> Result<Sent, ChatError> {
        unimplemented!()
    }
}
