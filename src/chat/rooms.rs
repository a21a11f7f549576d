//! Rooms: making them, joining and leaving.
//!
//! Who may is decided here, by the head, which never changes; what a change comes to is decided by
//! the room's lane, in the order of the log.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::lane::{Append, Opens, Origin, Reply};
use super::send::answered;
use super::{Chat, ChatError, Sent, roster};
use crate::limits::Limit;
use crate::protocol::{ConversationId, DeviceId, ErrorCode, Kind, RoomId, UserId};
use crate::store::{Head, Member, Record, RecordPart};

/// How many joins of a new room are under way at a time.
const JOINS_MAX: usize = 256;

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
    /// Makes a room; the creator joins first. An id that is taken is `bad_request`. Repeated by its
    /// creator with the same fields it makes good what the first try left undone. For its creator
    /// it counts as a conversation opened, and so does everybody who joins at once, but for a
    /// service.
    pub async fn create_room(
        self: &Arc<Self>,
        caller: &UserId,
        room: NewRoom,
        service: bool,
    ) -> Result<(ConversationId, Head), ChatError> {
        let named = room.room.is_some();
        let id = match room.room {
            Some(id) => id,
            None => random_id()?,
        };
        let conversation = ConversationId::room(&id);
        let head = Head {
            floor: 0,
            title: room.title,
            creator: Some(caller.clone()),
            public: room.public,
            created: (self.clock)(),
        };
        let others: Vec<&UserId> = room.members.iter().filter(|user| *user != caller).collect();
        if !service && self.limits_openings() {
            let mut members = others.clone();
            members.insert(0, caller);
            if named {
                self.leave_out_present(&conversation, &head, &mut members).await?;
            }
            self.may_bring(caller, &conversation, &members, true).await?;
        }
        let head = self.found_room(&conversation, head).await?;
        self.change(caller, &conversation, Kind::Joined, caller).await?;
        for some in others.chunks(JOINS_MAX) {
            let joins: Vec<_> = some
                .iter()
                .map(|member| self.begin_change(caller, &conversation, Kind::Joined, member))
                .collect();
            for join in joins {
                answered(join).await?;
            }
        }
        Ok((conversation, head))
    }

    /// What an earlier try has done costs nothing, and an id that is taken neither: nobody reads
    /// the members of a room that others have made.
    async fn leave_out_present(
        &self,
        conversation: &ConversationId,
        head: &Head,
        members: &mut Vec<&UserId>,
    ) -> Result<(), ChatError> {
        if let Some(stands) = roster::head(&*self.store, conversation).await? {
            is_repeated(&stands, head)?;
            let part = RecordPart::Roster(conversation.clone());
            let stands = roster::stands(&*self.store, conversation, part).await?;
            let (_, roster) = stands.ok_or_else(taken)?;
            members.retain(|user| !roster::is_present(&roster, user));
        }
        Ok(())
    }

    /// Writes the head, or takes the one that stands for it where it is of an earlier try.
    async fn found_room(
        &self,
        conversation: &ConversationId,
        head: Head,
    ) -> Result<Head, ChatError> {
        if self.store.write(Record::Head(conversation.clone(), head.clone())).await? {
            return Ok(head);
        }
        let stands = roster::head(&*self.store, conversation).await?.ok_or_else(taken)?;
        is_repeated(&stands, &head)?;
        Ok(stands)
    }

    /// `user` joins: the creator's right, or anybody's own where the room is public. Repeating it
    /// changes nothing and answers with the entry that stands. For a creator who is no service
    /// each counts as a conversation opened.
    pub async fn add_member(
        self: &Arc<Self>,
        caller: &UserId,
        room: &RoomId,
        user: &UserId,
        service: bool,
    ) -> Result<Sent, ChatError> {
        let conversation = ConversationId::room(room);
        let (head, member) = self.standing_in(&conversation, caller).await?;
        if !may_add(&head, caller, user) {
            return Err(refusal(&head, member.as_ref()));
        }
        if !service && self.limits_openings() {
            let (_, member) = self.standing_in(&conversation, user).await?;
            if !member.as_ref().is_some_and(Member::present) {
                self.may_bring(caller, &conversation, &[user], caller != user).await?;
            }
        }
        self.change(caller, &conversation, Kind::Joined, user).await
    }

    /// `user` leaves: the creator's right, or one's own. Repeating it changes nothing.
    pub async fn remove_member(
        self: &Arc<Self>,
        caller: &UserId,
        room: &RoomId,
        user: &UserId,
    ) -> Result<Sent, ChatError> {
        let conversation = ConversationId::room(room);
        let (head, member) = self.standing_in(&conversation, caller).await?;
        if !may_remove(&head, caller, user) {
            return Err(refusal(&head, member.as_ref()));
        }
        let known = head.public || head.creator.as_ref() == Some(caller) || member.is_some();
        if !known {
            // To a stranger a private room does not exist.
            return Err(ChatError::not_found("conversation"));
        }
        self.change(caller, &conversation, Kind::Left, user).await
    }

    /// The room's head and a user's member item.
    async fn standing_in(
        &self,
        conversation: &ConversationId,
        user: &UserId,
    ) -> Result<(Head, Option<Member>), ChatError> {
        let part = RecordPart::Member(conversation.clone(), user.clone());
        let found = roster::stands(&*self.store, conversation, part).await?;
        let (head, members) = found.ok_or_else(|| ChatError::not_found("conversation"))?;
        Ok((head, members.into_iter().find(|member| member.user == *user)))
    }

    async fn change(
        self: &Arc<Self>,
        caller: &UserId,
        conversation: &ConversationId,
        kind: Kind,
        user: &UserId,
    ) -> Result<Sent, ChatError> {
        answered(self.begin_change(caller, conversation, kind, user)).await
    }

    fn begin_change(
        self: &Arc<Self>,
        caller: &UserId,
        conversation: &ConversationId,
        kind: Kind,
        user: &UserId,
    ) -> oneshot::Receiver<Result<Sent, ChatError>> {
        let (reply, answer) = oneshot::channel();
        let origin: Arc<dyn Origin> = self.clone();
        let has_room = self.lanes.submit(Append {
            opens: Opens::Freely,
            conversation: conversation.clone(),
            from: caller.clone(),
            device: DeviceId::api(),
            kind,
            to: Some(user.clone()),
            message: None,
            data: None,
            reference: None,
            after: None,
            reply: Reply::Call(reply),
            origin,
        });
        if !has_room {
            self.metrics.count_limited(Limit::Appends.as_str());
        }
        answer
    }
}

/// 128 random bits in the alphabet of room ids.
fn random_id() -> Result<RoomId, ChatError> {
    let id = RoomId::parse(&format!("{:032x}", crate::chance::bits()));
    id.map_err(|bad| ChatError::new(ErrorCode::BadRequest, bad.to_string()))
}

fn taken() -> ChatError {
    ChatError::new(ErrorCode::BadRequest, "that room id is taken")
}

/// Whether the head that stands is of an earlier try to make this room.
fn is_repeated(stands: &Head, head: &Head) -> Result<(), ChatError> {
    let asked = Head { floor: stands.floor, created: stands.created, ..head.clone() };
    if *stands == asked { Ok(()) } else { Err(taken()) }
}

fn may_add(head: &Head, caller: &UserId, user: &UserId) -> bool {
    head.creator.as_ref() == Some(caller) || (head.public && caller == user)
}

fn may_remove(head: &Head, caller: &UserId, user: &UserId) -> bool {
    head.creator.as_ref() == Some(caller) || caller == user
}

/// `forbidden` for somebody who may know of the room, else what an unknown room gets (P9).
fn refusal(head: &Head, member: Option<&Member>) -> ChatError {
    if head.public || member.is_some_and(Member::present) {
        ChatError::new(ErrorCode::Forbidden, "only the room's creator may do this")
    } else {
        ChatError::not_found("conversation")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::testing::{Part, user};
    use crate::limits::{Limits, Rate, Settings};
    use crate::store::Span;

    /// Where openings have a limit, what others have made costs the one read that shows it.
    #[tokio::test]
    async fn an_id_that_is_taken_is_refused_by_the_head() {
        let new_conversations = Some(Rate::new(100, 100));
        let settings = Settings { new_conversations, ..Settings::default() };
        let part = Part::limited(Limits::new(settings)).await;
        let asked = || NewRoom {
            room: Some(RoomId::parse("general").unwrap()),
            title: None,
            public: true,
            members: vec![user("a"), user("b")],
        };
        let make = async |name: &str| part.chat.create_room(&user(name), asked(), false).await;
        make("creator").await.unwrap();
        part.ports.trace();
        assert_eq!(make("other").await.unwrap_err(), taken());
        let read = part.ports.trace();
        assert!(!read.contains(&"roster".to_owned()), "{read:?}");
        make("creator").await.unwrap();
        assert!(part.ports.trace().contains(&"roster".to_owned()), "who are there cost nothing");
    }

    #[test]
    fn rights_are_the_creators_and_ones_own() {
        let (creator, a, b) = (user("creator"), user("a"), user("b"));
        let mut head = Head {
            floor: 0,
            title: None,
            creator: Some(creator.clone()),
            public: false,
            created: 0,
        };
        assert!(may_add(&head, &creator, &a) && may_remove(&head, &creator, &a));
        assert!(!may_add(&head, &a, &a) && !may_add(&head, &a, &b));
        assert!(may_remove(&head, &a, &a) && !may_remove(&head, &a, &b));
        let spans = vec![Span { after: 0, until: None }];
        let member = Member { user: a.clone(), role: "member".into(), spans, as_of: 1 };
        assert_eq!(refusal(&head, None), ChatError::not_found("conversation"));
        assert_eq!(refusal(&head, Some(&member)).code, ErrorCode::Forbidden);
        head.public = true;
        assert!(may_add(&head, &a, &a) && !may_add(&head, &a, &b));
        assert_eq!(refusal(&head, None).code, ErrorCode::Forbidden);
    }
}
