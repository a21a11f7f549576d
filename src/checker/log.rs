//! Conversations as the history shows them: what stands at each seq, and who may see it.
//!
//! A participant of a direct conversation sees all of it. A member of a room sees from the entry
//! that tells of his joining up to the one that tells of his leaving, both included.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::names::{Name, Names};
use super::ranges::Ranges;
use super::send::SendId;

pub(super) type LogId = usize;

/// What stands at a seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Message(SendId),
    Joined {
        by: Name,
        who: Name,
    },
    Left {
        by: Name,
        who: Name,
    },
    /// A kind that the checker doesn't know.
    Other(u128),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub content: Content,
    /// When it was first seen, or acked.
    pub first: u64,
    pub acked: bool,
    /// The store has something else here.
    pub replaced: bool,
}

/// How far people's receipts are, as histories have shown it: by the sender of the messages.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shown {
    pub delivered: u64,
    pub read: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Log {
    pub id: Name,
    /// The two of a direct conversation, those of a room at the start.
    pub starters: Vec<Name>,
    pub direct: bool,
    pub canary: String,
    pub entries: BTreeMap<u64, Entry>,
    /// Whose membership somebody asked to change, and which way.
    pub asked: HashSet<(Name, bool)>,
    /// The highest seq that anybody has seen; the log is dense, so all up to it is stored.
    pub seen: u64,
    /// The highest seq that was acked.
    pub acked: u64,
    /// What was seen when sending ended.
    pub at_drain: Option<u64>,
    /// What the store has.
    pub stored: Option<Ranges>,
    /// What walks after the drain have shown.
    pub walked: Ranges,
    /// When the last walk that was done had begun.
    pub walk_begun: u64,
    pub shown: HashMap<Name, Shown>,
}

impl Log {
    /// Notes what somebody saw at a seq; says whether it is what others see.
    pub fn observe(&mut self, seq: u64, content: Content, t: u64) -> bool {
        self.seen = self.seen.max(seq);
        let new = Entry { content, first: t, acked: false, replaced: false };
        self.entries.entry(seq).or_insert(new).content == content
    }

    /// Who sees what, by all that is known of joining and leaving.
    pub fn sight(&self) -> Sight {
        let mut spans: HashMap<Name, Ranges> = HashMap::new();
        let whole: Ranges = [(1, u64::MAX - 1)].into_iter().collect();
        if self.direct {
            spans.extend(self.starters.iter().map(|user| (*user, whole.clone())));
            return Sight { spans };
        }
        let mut since: HashMap<Name, u64> = HashMap::new();
        // One whose first change is not a joining was there from the start.
        let mut first: HashMap<Name, bool> = HashMap::new();
        for entry in self.entries.values() {
            match entry.content {
                Content::Joined { who, .. } => first.entry(who).or_insert(true),
                Content::Left { who, .. } => first.entry(who).or_insert(false),
                _ => continue,
            };
        }
        let there = |user: &&Name| !first.get(*user).copied().unwrap_or(false);
        since.extend(self.starters.iter().filter(there).map(|user| (*user, 1)));
        for (seq, entry) in &self.entries {
            match entry.content {
                Content::Joined { who, .. } => {
                    since.entry(who).or_insert(*seq);
                }
                Content::Left { who, .. } => {
                    if let Some(from) = since.remove(&who) {
                        spans.entry(who).or_default().insert_range(from, *seq);
                    }
                }
                _ => {}
            }
        }
        for (user, from) in since {
            spans.entry(user).or_default().insert_range(from, u64::MAX - 1);
        }
        Sight { spans }
    }

    /// What there is in the end: what the store has, or else what the last walks have shown.
    pub fn inventory(&self) -> Option<&Ranges> {
        let walked = Some(&self.walked).filter(|walked| !walked.is_empty());
        self.stored.as_ref().or(walked)
    }

    /// Whether something is known of every seq up to the highest.
    pub fn complete(&self) -> bool {
        self.entries.len() as u64 == self.seen
    }
}

/// Who may see what of a conversation.
#[derive(Debug)]
pub(super) struct Sight {
    spans: HashMap<Name, Ranges>,
}

impl Sight {
    pub fn of(&self, user: Name) -> Ranges {
        self.spans.get(&user).cloned().unwrap_or_default()
    }

    pub fn sees(&self, user: Name, seq: u64) -> bool {
        self.spans.get(&user).is_some_and(|spans| spans.contains(seq))
    }

    pub fn participants(&self) -> impl Iterator<Item = Name> + '_ {
        self.spans.keys().copied()
    }
}

/// All conversations.
#[derive(Debug, Default)]
pub(super) struct Logs {
    pub list: Vec<Log>,
    by_id: HashMap<Name, LogId>,
}

impl Logs {
    /// The conversation with this id; one that was not announced is known by its id alone.
    pub fn open(&mut self, id: &str, names: &mut Names) -> LogId {
        let name = names.name(id);
        if let Some(log) = self.by_id.get(&name) {
            return *log;
        }
        let two = id.strip_prefix("dm:").and_then(|two| two.split_once(':'));
        let mut starters = Vec::new();
        if let Some((a, b)) = two {
            starters.extend([names.name(a), names.name(b)]);
            starters.dedup();
        }
        self.list.push(Log {
            id: name,
            starters,
            direct: two.is_some(),
            canary: String::new(),
            entries: BTreeMap::new(),
            asked: HashSet::new(),
            seen: 0,
            acked: 0,
            at_drain: None,
            stored: None,
            walked: Ranges::default(),
            walk_begun: 0,
            shown: HashMap::new(),
        });
        self.by_id.insert(name, self.list.len() - 1);
        self.list.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_see_from_their_joining_to_their_leaving() {
        let (mut names, mut logs) = (Names::default(), Logs::default());
        let [a, b, c] = ["a", "b", "c"].map(|user| names.name(user));
        let log = logs.open("room:r", &mut names);
        let log = &mut logs.list[log];
        log.starters = vec![a, b];
        log.observe(1, Content::Joined { by: a, who: a }, 1);
        log.observe(3, Content::Joined { by: a, who: c }, 1);
        log.observe(5, Content::Left { by: a, who: c }, 1);
        log.observe(6, Content::Left { by: a, who: b }, 1);
        log.observe(8, Content::Joined { by: a, who: c }, 1);
        let sight = log.sight();
        let seen = |user| (1..10).filter(|seq| sight.sees(user, *seq)).collect::<Vec<_>>();
        assert_eq!(seen(a), (1..10).collect::<Vec<_>>());
        assert_eq!(seen(b), (1..7).collect::<Vec<_>>());
        assert_eq!(seen(c), [3, 4, 5, 8, 9]);
        assert!(!log.complete());
        let log = logs.open("dm:a:b", &mut names);
        let sight = logs.list[log].sight();
        assert!(sight.sees(a, 1) && sight.sees(b, 1) && !sight.sees(c, 1));
    }
}
