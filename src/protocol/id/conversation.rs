//! Names of conversations: of two people, or of a room.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{BadId, RoomId, UserId};
use crate::protocol::word::read_text;

/// What a conversation is, with the ids that its name is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConversationKind {
    /// Two people, sorted bytewise; the same one twice is a note to oneself.
    Direct(UserId, UserId),
    /// A room of any size.
    Room(RoomId),
}

/// `dm:{a}:{b}` with the two users sorted bytewise, or `room:{id}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConversationId(Arc<str>);

impl ConversationId {
    /// The direct conversation of two people, whoever writes first.
    pub fn direct(a: &UserId, b: &UserId) -> Self {
        let (a, b) = (a.as_str(), b.as_str());
        let (first, second) = if a <= b { (a, b) } else { (b, a) };
        Self(["dm:", first, ":", second].concat().into())
    }

    /// The conversation of a room.
    pub fn room(room: &RoomId) -> Self {
        Self(format!("room:{room}").into())
    }

    /// Checks form and order; `dm:b:a` is refused, since it would be a second log of the same pair.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        let bad = BadId { what: "a conversation", pattern: "dm:{a}:{b} (sorted) or room:{id}" };
        if let Some(room) = text.strip_prefix("room:") {
            return if RoomId::fits(room) { Ok(Self(text.into())) } else { Err(bad) };
        }
        let (a, b) =
            text.strip_prefix("dm:").and_then(|pair| pair.split_once(':')).ok_or(bad.clone())?;
        let users = UserId::fits(a) && UserId::fits(b);
        if users && a <= b { Ok(Self(text.into())) } else { Err(bad) }
    }

    /// The id as it stands on the wire and in keys.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is a room.
    pub fn is_room(&self) -> bool {
        self.0.starts_with("room:")
    }

    /// The parts that the name is made of.
    pub fn kind(&self) -> ConversationKind {
        if let Some(room) = self.0.strip_prefix("room:") {
            return ConversationKind::Room(RoomId(room.into()));
        }
        let (a, b) = self.pair().unwrap_or_default();
        ConversationKind::Direct(UserId(a.into()), UserId(b.into()))
    }

    /// The two names of a direct conversation.
    fn pair(&self) -> Option<(&str, &str)> {
        self.0.strip_prefix("dm:")?.split_once(':')
    }

    /// Whether this is a direct conversation of this person.
    pub fn is_between(&self, user: &UserId) -> bool {
        self.pair().is_some_and(|(a, b)| a == user.as_str() || b == user.as_str())
    }

    /// The other one of a direct conversation (oneself in a note to oneself); `None` for a room or
    /// a stranger.
    pub fn other(&self, user: &UserId) -> Option<UserId> {
        let other = match self.pair()? {
            (a, b) if a == user.as_str() => b,
            (a, b) if b == user.as_str() => a,
            _ => return None,
        };
        Some(UserId(other.into()))
    }
}

impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl std::str::FromStr for ConversationId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        Self::parse(text)
    }
}

impl Serialize for ConversationId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ConversationId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        read_text(d, Self::parse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direct_conversation_has_one_name() {
        let (a, b) = (UserId::parse("userA").unwrap(), UserId::parse("userB").unwrap());
        assert_eq!(ConversationId::direct(&a, &b), ConversationId::direct(&b, &a));
        assert_eq!(ConversationId::direct(&b, &a).as_str(), "dm:userA:userB");
        assert!(ConversationId::parse("dm:userB:userA").is_err());
        assert_eq!(ConversationId::direct(&a, &b).other(&a), Some(b.clone()));
        let (dm, room) = (ConversationId::direct(&a, &b), ConversationId::parse("room:userA"));
        let stranger = UserId::parse("user").unwrap();
        assert!(dm.is_between(&a) && dm.is_between(&b) && !dm.is_between(&stranger));
        assert!(!room.unwrap().is_between(&a));
        assert_eq!(ConversationId::direct(&a, &a).other(&a), Some(a));
    }
}
