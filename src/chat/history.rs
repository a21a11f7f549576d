//! History: pages of a log, as far as the caller may see it, each entry with its status.
//!
//! `api` asks, `store` answers; `conversations` uses the same walk for the newest entry of a list.
//! **Invariant (P9):** entries are read first and the member record after them, so that an entry
//! which was stored after the caller had left is judged by a record that knows of the leaving.

use super::{Chat, ChatError, roster};
use crate::planted::{Bug, planted};
use crate::protocol::{ConversationId, ConversationKind, Entry, ErrorCode, Ref, Seq, UserId};
use crate::store::{
    Head, LogPage, LogRange, MailboxPart, Order, PAGE_MAX, Record, RecordPart, Row, Span,
};

/// How many entries a page holds when nobody says.
pub const LIMIT_DEFAULT: usize = 50;
/// The most entries of a page.
pub const LIMIT_MAX: usize = PAGE_MAX;
/// A page ends before it grows past so many bytes of JSON; it always holds one entry.
pub const PAGE_BYTES_MAX: usize = 1_000_000;
/// The fields of an entry beside its texts, in bytes of JSON, generously.
const FIELDS_BYTES: usize = 1_024;
/// How many pages of the store one page of history reads at most. Each one after the first yields
/// something visible, since the walk jumps over what is not.
const ROUNDS_MAX: usize = 8;

/// How far a message has come (P6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// The store has it.
    Sent,
    /// A device of the recipient has received it.
    Delivered,
    /// The recipient has seen it.
    Read,
}

impl Status {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Read => "read",
        }
    }
}

/// Which page of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryQuery {
    order: Order,
    edge: Option<Seq>,
    limit: usize,
}

impl HistoryQuery {
    /// `before` and `after` are exclusive; neither means the newest, both are refused.
    pub fn new(before: Option<Seq>, after: Option<Seq>, limit: usize) -> Result<Self, ChatError> {
        check_limit(limit)?;
        match (before, after) {
            (Some(_), Some(_)) => {
                let detail = "give \"before\" or \"after\", not both; neither means the newest";
                Err(ChatError::new(ErrorCode::BadRequest, detail))
            }
            (_, Some(_)) => Ok(Self { order: Order::Ascending, edge: after, limit }),
            (_, None) => Ok(Self { order: Order::Descending, edge: before, limit }),
        }
    }
}

/// Reads a `limit` as a client wrote it.
pub fn parse_limit(text: &str) -> Result<usize, ChatError> {
    // A number too large for the type is out of range as well.
    check_limit(text.parse().unwrap_or(0))
}

fn check_limit(limit: usize) -> Result<usize, ChatError> {
    if (1..=LIMIT_MAX).contains(&limit) {
        return Ok(limit);
    }
    let detail = format!("\"limit\" is a whole number from 1 to {LIMIT_MAX}");
    Err(ChatError::new(ErrorCode::BadRequest, detail))
}

/// An entry as the caller is shown it.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// The entry.
    pub entry: Entry,
    /// How far it has come; always `sent` in rooms.
    pub status: Status,
    /// The sender's own ref, for the sender alone.
    pub reference: Option<Ref>,
}

/// A page of history.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// Which log.
    pub conversation: ConversationId,
    /// Ascending.
    pub messages: Vec<Shown>,
    /// The caller may see more in the direction of the query.
    pub has_more: bool,
    /// Nothing below this is shown.
    pub floor: Seq,
}

impl Chat {
    /// A page of a conversation's log. Who never had part in it gets the same `not_found` as for
    /// one that does not exist.
    pub async fn history(
        &self,
        caller: &UserId,
        conversation: &ConversationId,
        query: HistoryQuery,
    ) -> Result<History, ChatError> {
        let (entries, has_more, sight) = self.visible(caller, conversation, query).await?;
        let progress = self.progress(caller, conversation, None, &entries).await?;
        let show = |entry| progress.show(caller, entry);
        let mut messages: Vec<Shown> = entries.into_iter().map(show).collect();
        if planted(Bug::OrderByTimestamp) {
            messages.sort_by_key(|shown| shown.entry.timestamp);
        }
        let floor = sight.floor();
        Ok(History { conversation: conversation.clone(), messages, has_more, floor })
    }

    /// The entries of a page that the caller may see, ascending, and whether there are more.
    pub(super) async fn visible(
        &self,
        caller: &UserId,
        conversation: &ConversationId,
        query: HistoryQuery,
    ) -> Result<(Vec<Entry>, bool, Sight), ChatError> {
        let stranger = !conversation.is_between(caller);
        if stranger && !conversation.is_room() {
            return Err(ChatError::not_found("conversation"));
        }
        let (mut walk, mut own) = (Walk::new(query), Vec::new());
        loop {
            let page = self.store.log(conversation, walk.range()).await?;
            own.extend(
                page.entries.iter().filter(|entry| entry.to.as_ref() == Some(caller)).cloned(),
            );
            // After the entries, never before them: see the invariant of this module.
            let sight = self.sight(caller, conversation, &mut own).await?;
            if !walk.take(page, &sight) {
                let (entries, more) = walk.end();
                return Ok((entries, more, sight));
            }
        }
    }

    /// `own`: entries that tell of the caller's coming and going. An item follows its entry, and
    /// whoever was to write it may have died: what was read of the log may tell more.
    async fn sight(
        &self,
        caller: &UserId,
        conversation: &ConversationId,
        own: &mut [Entry],
    ) -> Result<Sight, ChatError> {
        if !conversation.is_room() {
            let head = roster::head(&*self.store, conversation).await?;
            return Ok(Sight { head, spans: vec![Span { after: 0, until: None }] });
        }
        let part = RecordPart::Member(conversation.clone(), caller.clone());
        let (head, records) =
            tokio::try_join!(roster::head(&*self.store, conversation), self.store.records(part))?;
        let mut members: Vec<_> =
            records.into_iter().find_map(Record::into_member).into_iter().collect();
        own.sort_unstable_by_key(|entry| entry.seq);
        for entry in own.iter() {
            let changed = roster::applied(&members, None, entry);
            changed.into_iter().for_each(|member| roster::set(&mut members, member));
        }
        let spans = members.pop().map(|member| member.spans).filter(|spans| !spans.is_empty());
        Ok(Sight { head, spans: spans.ok_or_else(|| ChatError::not_found("conversation"))? })
    }

    /// What is known of the receipts that the status of these entries is derived from.
    pub(super) async fn progress(
        &self,
        caller: &UserId,
        conversation: &ConversationId,
        own_row: Option<&Row>,
        entries: &[Entry],
    ) -> Result<Progress, ChatError> {
        let ConversationKind::Direct(a, b) = conversation.kind() else {
            return Ok(Progress::Room);
        };
        let mut known = Vec::new();
        for user in if a == b { vec![] } else { vec![a, b] } {
            let row = match own_row {
                Some(row) if user == *caller => Some(row.clone()),
                _ if entries.iter().all(|entry| entry.from == user) => None,
                _ => self.row(&user, conversation).await?,
            };
            known.push((user, row.as_ref().map_or((0, 0), |row| (row.delivered, row.read))));
        }
        Ok(Progress::Direct(known))
    }

    async fn row(
        &self,
        user: &UserId,
        conversation: &ConversationId,
    ) -> Result<Option<Row>, ChatError> {
        let part = MailboxPart::Row(conversation.clone());
        let rows = self.store.mailbox(user, part).await?.rows;
        Ok(rows.into_iter().find(|row| row.conversation == *conversation))
    }
}

/// How far people have received and seen a conversation.
#[derive(Debug)]
pub(super) enum Progress {
    /// Receipts of rooms have an endpoint of their own.
    Room,
    /// The two people (nobody for a note to oneself) with (delivered, read).
    Direct(Vec<(UserId, (Seq, Seq))>),
}

impl Progress {
    /// The status is the recipient's: the other one than the sender. A note to oneself is `read`,
    /// since who wrote it has seen it.
    fn status(&self, entry: &Entry) -> Status {
        let Self::Direct(known) = self else { return Status::Sent };
        match known.iter().find(|(user, _)| *user != entry.from) {
            None => Status::Read,
            Some((_, (_, read))) if *read >= entry.seq => Status::Read,
            Some((_, (delivered, _))) if *delivered >= entry.seq => Status::Delivered,
            Some(_) => Status::Sent,
        }
    }

    pub(super) fn show(&self, caller: &UserId, entry: Entry) -> Shown {
        let reference = entry.shown_ref().filter(|_| entry.from == *caller).cloned();
        Shown { status: self.status(&entry), reference, entry }
    }
}

/// What of a conversation the caller may see.
#[derive(Debug)]
pub(super) struct Sight {
    pub(super) head: Option<Head>,
    pub(super) spans: Vec<Span>,
}

impl Sight {
    fn floor(&self) -> Seq {
        self.head.as_ref().map_or(0, |head| head.floor)
    }

    fn may_see(&self, seq: Seq) -> bool {
        seq >= self.floor() && self.spans.iter().any(|span| span.contains(seq))
    }

    /// The nearest place beyond `edge` that the caller may see, whether the log reaches it or not.
    fn next(&self, order: Order, edge: Seq) -> Option<Seq> {
        let lowest = self.floor().max(1);
        let within = |span: &Span| {
            let (first, last) = (span.after + 1, span.until.unwrap_or(Seq::MAX));
            let seq = match order {
                Order::Ascending => first.max(lowest).max(edge.saturating_add(1)),
                Order::Descending => last.min(edge.saturating_sub(1)),
            };
            (seq >= first.max(lowest) && seq <= last).then_some(seq)
        };
        let places = self.spans.iter().filter_map(within);
        match order {
            Order::Ascending => places.min(),
            Order::Descending => places.max(),
        }
    }
}

/// A walk over a log that collects what may be seen, and jumps over what may not.
struct Walk {
    order: Order,
    /// Everything up to here, seen in the direction of the walk, is behind it.
    edge: Option<Seq>,
    limit: usize,
    taken: Vec<Entry>,
    bytes: usize,
    rounds: usize,
    more: bool,
}

impl Walk {
    fn new(HistoryQuery { order, edge, limit }: HistoryQuery) -> Self {
        Self { order, edge, limit, taken: Vec::new(), bytes: 0, rounds: 0, more: false }
    }

    /// One more than is wanted, so that "is there more" is known for certain.
    fn range(&self) -> LogRange {
        let limit = (self.limit - self.taken.len() + 1).min(PAGE_MAX);
        match self.order {
            Order::Ascending => LogRange::following(self.edge.unwrap_or(0), limit),
            Order::Descending => LogRange { before: self.edge, ..LogRange::newest(limit) },
        }
    }

    /// Takes what may be seen of a page; says whether another page is to be read.
    fn take(&mut self, page: LogPage, sight: &Sight) -> bool {
        self.rounds += 1;
        let mut full = false;
        let mut log_goes_on = page.more;
        let nothing = page.entries.is_empty();
        for entry in page.entries {
            let seen = sight.may_see(entry.seq);
            let bytes = if seen { json_bytes(&entry) } else { 0 };
            full = self.taken.len() == self.limit
                || !self.taken.is_empty() && self.bytes + bytes > PAGE_BYTES_MAX;
            if full {
                log_goes_on = true;
                break;
            }
            self.edge = Some(entry.seq);
            self.bytes += bytes;
            if seen {
                self.taken.push(entry);
            }
        }
        // A dense log goes on downwards as long as its floor allows, upwards as long as it says so.
        let goes_on = if self.order == Order::Descending { !nothing } else { log_goes_on };
        let next = self.edge.and_then(|edge| sight.next(self.order, edge)).filter(|_| goes_on);
        self.more = next.is_some();
        let Some(next) = next else { return false };
        self.edge = Some(match self.order {
            Order::Ascending => next - 1,
            Order::Descending => next + 1,
        });
        !full && self.taken.len() < self.limit && self.rounds < ROUNDS_MAX
    }

    fn end(mut self) -> (Vec<Entry>, bool) {
        if self.order == Order::Descending {
            self.taken.reverse();
        }
        (self.taken, self.more)
    }
}

/// How long an entry is at most as JSON; control characters count with their escapes.
fn json_bytes(entry: &Entry) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    let message = entry.message.as_ref().map_or(0, |text| text.bytes().map(escaped).sum());
    message + entry.data.as_ref().map_or(0, |data| data.get().len()) + FIELDS_BYTES
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::{DeviceId, Kind};

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    fn entry(seq: Seq, text: &str) -> Entry {
        Entry {
            seq,
            kind: Kind::Message,
            from: user("a"),
            to: None,
            message: Some(Arc::from(text)),
            data: None,
            reference: None,
            device: DeviceId::plain(),
            timestamp: seq,
            n: seq,
        }
    }

    /// A page as a store gives it, which may say "more" where there is none.
    fn page(log: &[Entry], range: LogRange, most: usize, overstate: bool) -> LogPage {
        let within =
            |e: &&Entry| e.seq > range.after && range.before.is_none_or(|before| e.seq < before);
        let mut entries: Vec<Entry> = log.iter().filter(within).cloned().collect();
        if range.order == Order::Descending {
            entries.reverse();
        }
        let held = range.limit.min(most);
        let more = entries.len() > held || overstate && entries.len() == held;
        entries.truncate(held);
        LogPage { entries, more }
    }

    fn read(log: &[Entry], sight: &Sight, query: HistoryQuery, most: usize) -> (Vec<Seq>, bool) {
        let mut walk = Walk::new(query);
        while walk.take(page(log, walk.range(), most, most.is_multiple_of(2)), sight) {}
        let (entries, more) = walk.end();
        (entries.iter().map(|entry| entry.seq).collect(), more)
    }

    #[test]
    fn limits_say_their_range() {
        for bad in ["0", "-1", "501", "1000000000", "99999999999999999999", "abc", "", "1.5"] {
            let error = parse_limit(bad).expect_err(bad);
            assert_eq!(error.code, ErrorCode::BadRequest);
            assert!(error.detail.contains("from 1 to 500"), "{}", error.detail);
        }
        assert_eq!(parse_limit("1"), Ok(1));
        assert_eq!(parse_limit("500"), Ok(500));
        assert!(HistoryQuery::new(Some(1), Some(1), 5).is_err());
    }

    #[test]
    fn a_page_ends_at_a_megabyte_and_the_next_one_goes_on() {
        let log: Vec<Entry> = (1..=300).map(|seq| entry(seq, &"x".repeat(16_384))).collect();
        let sight = Sight { head: None, spans: vec![Span { after: 0, until: None }] };
        let (mut after, mut seen) = (0, Vec::new());
        loop {
            let query = HistoryQuery::new(None, Some(after), 500).unwrap();
            let (seqs, more) = read(&log, &sight, query, 500);
            assert!(seqs.len() <= 60 && !seqs.is_empty(), "{}", seqs.len());
            after = *seqs.last().unwrap();
            seen.extend(seqs);
            if !more {
                break;
            }
        }
        assert_eq!(seen, (1..=300).collect::<Vec<_>>());
    }

    #[test]
    fn a_former_member_of_a_long_room_gets_his_part_at_once() {
        let log: Vec<Entry> = (1..=5_000).map(|seq| entry(seq, "x")).collect();
        let sight = Sight { head: None, spans: vec![Span { after: 9, until: Some(12) }] };
        let newest = HistoryQuery::new(None, None, 50).unwrap();
        assert_eq!(read(&log, &sight, newest, 500), (vec![10, 11, 12], false));
        let oldest = HistoryQuery::new(None, Some(0), 2).unwrap();
        assert_eq!(read(&log, &sight, oldest, 500), (vec![10, 11], true));
    }

    fn spans() -> impl Strategy<Value = Vec<Span>> {
        (proptest::collection::vec(1u64..12, 1..12), any::<bool>()).prop_map(|(steps, present)| {
            let mut at = 0;
            let mut spans = Vec::new();
            for pair in steps.chunks(2) {
                let after = at + pair[0] - 1;
                at = after + 1 + pair.get(1).copied().unwrap_or(1);
                spans.push(Span { after, until: Some(at) });
            }
            if let Some(last) = spans.last_mut().filter(|_| present) {
                last.until = None;
            }
            spans
        })
    }

    proptest! {
        /// P8: whatever the page size and the direction, paging shows what may be seen, once.
        #[test]
        fn paging_shows_exactly_what_may_be_seen(
            spans in spans(), tail in 0u64..90, floor in 0u64..40, limit in 1usize..9,
            most in 1usize..9, ascending: bool,
        ) {
            let log: Vec<Entry> =
                (floor.max(1)..=tail).map(|seq| entry(seq, "x")).collect();
            let head = Head { floor, title: None, creator: None, public: false, created: 0 };
            let sight = Sight { head: Some(head), spans };
            let expected: Vec<Seq> =
                log.iter().map(|e| e.seq).filter(|seq| sight.may_see(*seq)).collect();
            let mut shown = Vec::new();
            let mut edge = None;
            for round in 0.. {
                prop_assert!(round < 1_000, "paging does not end");
                let (before, after) = match ascending {
                    true => (None, Some(edge.unwrap_or(0))),
                    false => (edge, None),
                };
                let query = HistoryQuery::new(before, after, limit).unwrap();
                let (seqs, more) = read(&log, &sight, query, most);
                prop_assert!(seqs.len() <= limit);
                prop_assert!(seqs.is_sorted());
                edge = if ascending { seqs.last() } else { seqs.first() }.copied().or(edge);
                if ascending { shown.extend(&seqs) } else { shown.splice(0..0, seqs.clone()); }
                if !more { break }
                // A store that overstates may cost one empty page at the end, never two.
                prop_assert!(!seqs.is_empty(), "an empty page says that there is more");
            }
            prop_assert_eq!(shown, expected);
        }

        #[test]
        fn no_entry_is_longer_as_json_than_it_counts(text in ".{0,64}") {
            let entry = entry(1, &text);
            let json = serde_json::to_string(&*text).unwrap();
            prop_assert!(json.len() + 900 < json_bytes(&entry));
        }
    }
}
