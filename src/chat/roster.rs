//! Who belongs to a room, as pure functions over its member items and its log.
//!
//! A roster is sorted by user. It holds present and former members with the spans of the log that
//! each may see, so one snapshot judges old and new entries alike.
//!
//! **Invariant.** A member only changes by an entry newer than the one that the item tells of.

use crate::protocol::{ConversationId, Entry, Kind, Seq, UserId};
use crate::store::{Head, Member, Record, RecordPart, Span, Store, StoreError};

/// The role of the room's creator.
pub const OWNER: &str = "owner";
/// The role of everybody else.
pub const MEMBER: &str = "member";

/// The head of a conversation; `None` where it has none.
pub async fn head(
    store: &dyn Store,
    conversation: &ConversationId,
) -> Result<Option<Head>, StoreError> {
    let records = store.records(RecordPart::Head(conversation.clone())).await?;
    Ok(records.into_iter().find_map(Record::into_head))
}

/// The head and those of the members that `part` names, sorted; `None` where the room has no head.
pub async fn stands(
    store: &dyn Store,
    room: &ConversationId,
    part: RecordPart,
) -> Result<Option<(Head, Vec<Member>)>, StoreError> {
    let (head, records) = tokio::try_join!(head(store, room), store.records(part))?;
    let mut members: Vec<Member> = records.into_iter().filter_map(Record::into_member).collect();
    members.sort_unstable_by(|a, b| a.user.cmp(&b.user));
    Ok(head.map(|head| (head, members)))
}

/// The member item of a user, present or former.
pub fn find<'a>(roster: &'a [Member], user: &UserId) -> Option<&'a Member> {
    position(roster, user).ok().map(|at| &roster[at])
}

/// Whether the user belongs to the room now.
pub fn is_present(roster: &[Member], user: &UserId) -> bool {
    find(roster, user).is_some_and(Member::present)
}

/// Whether the user may see the entry at `seq` (P9).
pub fn may_see(roster: &[Member], user: &UserId, seq: Seq) -> bool {
    find(roster, user).is_some_and(|member| member.may_see(seq))
}

/// Where reading goes on for a member who has everything up to `after`: what lies between is not
/// for that person. `None` where nothing follows.
pub fn onwards(member: &Member, after: Seq) -> Option<Seq> {
    let ahead = member.spans.iter().filter(|span| span.until.is_none_or(|until| until > after));
    ahead.map(|span| span.after.max(after)).min()
}

/// Of a log that ends at `tail`: what follows `after` and the member may see lies between these.
pub fn within(member: &Member, after: Seq, tail: Seq) -> Option<(Seq, Seq)> {
    let begun = member.spans.iter().filter(|span| span.after < tail);
    let end = begun.map(|span| span.until.map_or(tail, |until| until.min(tail))).max()?;
    onwards(member, after).filter(|after| *after < end).map(|after| (after, end))
}

/// Those who belong to the room now.
pub fn present(roster: &[Member]) -> impl Iterator<Item = &Member> {
    roster.iter().filter(|member| member.present())
}

/// The seq of the entry that an asked-for change would repeat: of `joined` for somebody who is
/// there, of `left` for somebody who is gone. `None` where the change would be one.
pub fn standing(roster: &[Member], kind: &Kind, user: &UserId) -> Option<Seq> {
    let span = find(roster, user)?.spans.last()?;
    match (kind, span.until) {
        (Kind::Joined, None) => Some(span.after + 1),
        (Kind::Left, Some(until)) => Some(until),
        _ => None,
    }
}

/// The member as it is once `entry` is applied; `None` where the entry changes nobody, or the item
/// reflects it already.
pub fn applied(roster: &[Member], creator: Option<&UserId>, entry: &Entry) -> Option<Member> {
    let user = entry.to.as_ref()?;
    let known = find(roster, user);
    if known.is_some_and(|member| member.as_of >= entry.seq) {
        return None;
    }
    let mut member = known.cloned().unwrap_or_else(|| Member {
        user: user.clone(),
        role: if creator == Some(user) { OWNER } else { MEMBER }.to_owned(),
        spans: Vec::new(),
        as_of: 0,
    });
    let open = member.present();
    match entry.kind {
        Kind::Joined if !open => {
            member.spans.push(Span { after: entry.seq.saturating_sub(1), until: None });
        }
        Kind::Left if open => {
            if let Some(span) = member.spans.last_mut() {
                span.until = Some(entry.seq);
            }
        }
        _ => return None,
    }
    member.as_of = entry.seq;
    Some(member)
}

/// Puts a member into its place.
pub fn set(roster: &mut Vec<Member>, member: Member) {
    match position(roster, &member.user) {
        Ok(at) => roster[at] = member,
        Err(at) => roster.insert(at, member),
    }
}

fn position(roster: &[Member], user: &UserId) -> Result<usize, usize> {
    roster.binary_search_by(|member| member.user.cmp(user))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::DeviceId;

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    fn entry(seq: Seq, kind: Kind, who: &str) -> Entry {
        Entry {
            seq,
            kind,
            from: user("owner"),
            to: Some(user(who)),
            message: None,
            data: None,
            reference: None,
            device: DeviceId::api(),
            timestamp: 0,
            n: 0,
        }
    }

    fn apply(roster: &mut Vec<Member>, entry: &Entry) -> bool {
        let changed = applied(roster, Some(&user("owner")), entry);
        let did = changed.is_some();
        if let Some(member) = changed {
            set(roster, member);
        }
        did
    }

    #[test]
    fn spans_open_and_close_in_log_order() {
        let mut roster = Vec::new();
        assert!(apply(&mut roster, &entry(1, Kind::Joined, "owner")));
        assert!(apply(&mut roster, &entry(2, Kind::Joined, "b")));
        assert!(apply(&mut roster, &entry(5, Kind::Left, "b")));
        assert!(apply(&mut roster, &entry(9, Kind::Joined, "b")));
        let seen: Vec<Seq> = (1..12).filter(|seq| may_see(&roster, &user("b"), *seq)).collect();
        assert_eq!(seen, [2, 3, 4, 5, 9, 10, 11]);
        assert_eq!(find(&roster, &user("owner")).map(|m| m.role.as_str()), Some(OWNER));
        assert_eq!(find(&roster, &user("b")).map(|m| m.role.as_str()), Some(MEMBER));
        assert_eq!(present(&roster).count(), 2);
    }

    #[test]
    fn reading_goes_on_where_there_is_something_to_see() {
        let span = |after, until| Span { after, until };
        let spans = vec![span(3, Some(5)), span(8, None)];
        let member = Member { user: user("b"), role: MEMBER.to_owned(), spans, as_of: 9 };
        let all: Vec<_> = (0..10).map(|after| onwards(&member, after).unwrap()).collect();
        assert_eq!(all, [3, 3, 3, 3, 4, 8, 8, 8, 8, 9]);
        assert_eq!(within(&member, 0, 20), Some((3, 20)));
        assert_eq!(within(&member, 20, 20), None);
        let gone = Member { spans: vec![span(3, Some(5))], ..member };
        assert_eq!((onwards(&gone, 4), onwards(&gone, 5)), (Some(4), None));
        assert_eq!((within(&gone, 0, 20), within(&gone, 5, 20)), (Some((3, 5)), None));
    }

    #[test]
    fn what_an_item_reflects_is_not_applied_again() {
        let mut roster = Vec::new();
        assert!(apply(&mut roster, &entry(2, Kind::Joined, "b")));
        assert!(!apply(&mut roster, &entry(2, Kind::Joined, "b")));
        assert!(apply(&mut roster, &entry(5, Kind::Left, "b")));
        assert!(!apply(&mut roster, &entry(2, Kind::Joined, "b")));
        assert!(!apply(&mut roster, &entry(6, Kind::Left, "b")));
        assert!(!apply(&mut roster, &entry(7, Kind::Left, "stranger")));
        assert!(!is_present(&roster, &user("b")));
    }

    #[test]
    fn a_repeated_change_names_the_entry_that_stands() {
        let mut roster = Vec::new();
        let b = user("b");
        assert_eq!(standing(&roster, &Kind::Left, &b), None);
        apply(&mut roster, &entry(4, Kind::Joined, "b"));
        assert_eq!(standing(&roster, &Kind::Joined, &b), Some(4));
        assert_eq!(standing(&roster, &Kind::Left, &b), None);
        apply(&mut roster, &entry(7, Kind::Left, "b"));
        assert_eq!(standing(&roster, &Kind::Left, &b), Some(7));
        assert_eq!(standing(&roster, &Kind::Joined, &b), None);
    }
}
