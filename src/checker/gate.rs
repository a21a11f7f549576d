//! Gates: how much a run must have seen for its silence to mean something, and the limits that
//! some invariants are judged by.

mod limits;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use limits::Limits;

/// What gates ask for: so much is wanted of a run, or was seen of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Messages that were acked.
    pub acked: f64,
    /// Share of the messages sent while no fault was active that were acked.
    pub acked_share: f64,
    /// Share of the messages with a try of unknown outcome.
    pub open_share: f64,
    /// Texts that a device got again.
    pub redeliveries: f64,
    /// Connections of devices that had been connected before.
    pub resumes: f64,
    /// Connections on which something had waited.
    pub offline_drains: f64,
    /// Changes of membership that were done.
    pub membership_changes: f64,
    /// Faults that were seen to bite.
    pub effective: f64,
    /// Share of the faults that were seen to bite.
    pub effective_share: f64,
    /// Faults seen to bite of the kind that bit least.
    pub effective_per_kind: f64,
    /// Share of the devices that were connected and caught up when the drain ended.
    pub drained_share: f64,
    /// Share of the devices that stayed connected until all was still, so that a lost hint shows.
    pub stayed_share: f64,
    /// Share of (conversation, participant) whose history was read after the drain, one way at
    /// least.
    pub histories_share: f64,
    /// Share of the conversations that one participant at least read both ways after the drain.
    pub both_ways_share: f64,
    /// Share of the conversations of which the store's own content was read.
    pub stored_share: f64,
    /// Share of the acked direct messages whose final status was seen, or looked for late enough.
    pub statuses_share: f64,
    /// Statuses that a history showed when what it shows had to be stored.
    pub stored_statuses: f64,
    /// Direct sends of which the time to the recipient was measured, before the faults and after.
    pub latencies: f64,
}

/// What a run is judged by. A gate that is missed makes a verdict `unknown`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gates {
    /// What is wanted of it; 0 switches a gate off.
    #[serde(flatten)]
    pub wanted: Measures,
    /// What invariants are judged by.
    pub limits: Limits,
}

impl Default for Gates {
    /// What the specification asks of a full run. Not every history has a part in which all is
    /// still: who makes one that has asks for what it shows.
    fn default() -> Self {
        let wanted = Measures {
            acked: 1_000.0,
            acked_share: 0.7,
            open_share: 0.01,
            redeliveries: 100.0,
            resumes: 100.0,
            offline_drains: 50.0,
            membership_changes: 20.0,
            effective: 20.0,
            effective_share: 0.95,
            effective_per_kind: 1.0,
            drained_share: 1.0,
            stayed_share: 0.0,
            histories_share: 1.0,
            both_ways_share: 1.0,
            stored_share: 1.0,
            statuses_share: 0.9,
            stored_statuses: 0.0,
            latencies: 100.0,
        };
        Self { wanted, limits: Limits::default() }
    }
}

impl Gates {
    /// No gate at all: for a history that shows one thing.
    pub fn none() -> Self {
        Self { wanted: Measures::default(), limits: Limits::default() }
    }

    /// The same for a shorter run: what is counted shrinks to this part, shares stay.
    pub fn scaled(mut self, part: f64) -> Self {
        for count in [
            &mut self.wanted.acked,
            &mut self.wanted.redeliveries,
            &mut self.wanted.resumes,
            &mut self.wanted.offline_drains,
            &mut self.wanted.membership_changes,
            &mut self.wanted.effective,
            &mut self.wanted.stored_statuses,
            &mut self.wanted.latencies,
        ] {
            *count = (*count * part).ceil();
        }
        self
    }

    /// The gates that are wanted, with what was seen.
    pub(super) fn judge(&self, seen: &Measures) -> Vec<Gate> {
        let wanted = &self.wanted;
        let gates = [
            ("messages acked", wanted.acked, seen.acked),
            ("share acked outside faults", wanted.acked_share, seen.acked_share),
            ("share of open sends", wanted.open_share, seen.open_share),
            ("redeliveries", wanted.redeliveries, seen.redeliveries),
            ("resumes", wanted.resumes, seen.resumes),
            ("offline drains", wanted.offline_drains, seen.offline_drains),
            ("membership changes", wanted.membership_changes, seen.membership_changes),
            ("effective faults", wanted.effective, seen.effective),
            ("share of effective faults", wanted.effective_share, seen.effective_share),
            ("effective faults of each kind", wanted.effective_per_kind, seen.effective_per_kind),
            ("share of drained devices", wanted.drained_share, seen.drained_share),
            ("share of devices that stayed", wanted.stayed_share, seen.stayed_share),
            ("share of histories read", wanted.histories_share, seen.histories_share),
            ("share of conversations read both ways", wanted.both_ways_share, seen.both_ways_share),
            ("share of conversations dumped", wanted.stored_share, seen.stored_share),
            ("share of statuses seen", wanted.statuses_share, seen.statuses_share),
            ("stored statuses seen", wanted.stored_statuses, seen.stored_statuses),
            ("latencies measured", wanted.latencies, seen.latencies),
        ];
        let asked = gates.into_iter().filter(|(_, wanted, _)| *wanted > 0.0);
        asked.map(|(name, wanted, seen)| Gate { name: name.to_owned(), wanted, seen }).collect()
    }
}

/// A share; of nothing there is nothing.
pub(super) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// A gate, and whether the run went through it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// What is counted.
    pub name: String,
    /// At least so much.
    pub wanted: f64,
    /// So much there was.
    pub seen: f64,
}

impl Gate {
    /// There was less than wanted.
    pub fn missed(&self) -> bool {
        self.seen < self.wanted
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.missed() { "MISSED" } else { "ok" };
        let digits = if self.name.starts_with("share") { 3 } else { 0 };
        let Self { name, wanted, seen } = self;
        write!(f, "{mark:<6} {name}: {seen:.digits$} (at least {wanted:.digits$})")
    }
}
