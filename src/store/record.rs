//! Items beside logs and rows: members and what they may see, heads of rooms, devices' starts, and
//! which tokens of a person are dead.

use super::Device;
use crate::planted::{Bug, planted};
use crate::protocol::{ConversationId, DeviceId, Seq, Timestamp, UserId};

/// What a member may see: everything above `after`, up to and with `until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The seq before the `joined` entry.
    pub after: Seq,
    /// The `left` entry, once there is one.
    pub until: Option<Seq>,
}

impl Span {
    /// Whether the entry at `seq` lies within.
    pub fn contains(&self, seq: Seq) -> bool {
        seq > self.after && self.until.is_none_or(|until| seq <= until)
    }
}

/// A room's member, present or former.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub user: UserId,
    /// `owner` for the creator, `member` for others.
    pub role: String,
    /// What the member may see, oldest first.
    pub spans: Vec<Span>,
    /// The seq of the entry that this item tells of; an item only gives way to a higher one.
    pub as_of: Seq,
}

impl Member {
    /// Whether the member belongs to the room now.
    pub fn present(&self) -> bool {
        self.spans.last().is_some_and(|span| span.until.is_none())
    }

    /// Whether the member may see the entry at `seq` (P9).
    pub fn may_see(&self, seq: Seq) -> bool {
        self.spans.iter().any(|span| span.contains(seq)) || planted(Bug::MembershipUnchecked)
    }
}

/// What a conversation is beside its log. A direct one has none until it needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// No entry below this is shown or walked.
    pub floor: Seq,
    /// What people see.
    pub title: Option<String>,
    /// Who made the room.
    pub creator: Option<UserId>,
    /// Anybody may join.
    pub public: bool,
    /// When it was made.
    pub created: Timestamp,
}

/// Items beside logs and rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A device of a person. `first_seen` of an existing one stays, `last_seen` only rises.
    Device(UserId, Device),
    /// A device that is to be forgotten, with its starts.
    ForgetDevice(UserId, DeviceId),
    /// Where a new device starts: seqs of rows with `delivered` > 0, in chunks of at most 1,000.
    Starts {
        /// Whose.
        user: UserId,
        /// Which device.
        device: DeviceId,
        /// Numbered from 0.
        chunk: u32,
        /// The starting seqs.
        starts: Vec<(ConversationId, Seq)>,
    },
    /// A member of a room. Written only if `as_of` is higher than what stands there.
    Member(ConversationId, Member),
    /// A conversation's head. Written only where none stands.
    Head(ConversationId, Head),
    /// A person's tokens made up to this moment are dead. It only rises.
    Revoked(UserId, Timestamp),
}

impl Record {
    /// The head, where this is one.
    pub fn into_head(self) -> Option<Head> {
        match self {
            Self::Head(_, head) => Some(head),
            _ => None,
        }
    }

    /// The member, where this is one.
    pub fn into_member(self) -> Option<Member> {
        match self {
            Self::Member(_, member) => Some(member),
            _ => None,
        }
    }
}

/// Which records to read.
#[derive(Debug, Clone)]
pub enum RecordPart {
    /// The head of a conversation, if it has one.
    Head(ConversationId),
    /// All members of a conversation, present and former.
    Roster(ConversationId),
    /// One member, if there is one of that name.
    Member(ConversationId, UserId),
    /// The starts of a device.
    Starts(UserId, DeviceId),
    /// Up to when a person's tokens are dead, if any are.
    Revoked(UserId),
}
