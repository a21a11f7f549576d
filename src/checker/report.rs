//! The verdict on a history, with what a person needs to see at once.

mod counts;
mod show;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::gate::Gate;

pub use counts::{Counts, Recovery};

/// What must hold of every history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each is named by `Invariant::name`")]
pub enum Invariant {
    I1,
    I2,
    I3,
    I4,
    I5,
    I6,
    I7,
    I8,
    I9,
    I10,
    I11,
    I12,
    I13,
    I14,
    I15,
    I16,
}

impl Invariant {
    /// What it says.
    pub fn name(self) -> &'static str {
        match self {
            Self::I1 => "no acked message is lost",
            Self::I2 => "nothing comes from nowhere",
            Self::I3 => "nothing is shown twice",
            Self::I4 => "everybody sees the same at a seq",
            Self::I5 => "a device sees seqs rise",
            Self::I6 => "no entry is skipped",
            Self::I7 => "a connection's sends keep their order",
            Self::I8 => "what was seen before a send stands before it",
            Self::I9 => "a ref has one seq",
            Self::I10 => "a status is true, and comes",
            Self::I11 => "every history is the whole log",
            Self::I12 => "a history holds what was seen before it was asked for",
            Self::I13 => "only participants see content",
            Self::I14 => "caughtup means caught up",
            Self::I15 => "after the faults all is as before",
            Self::I16 => "nothing breaks, nothing leaks",
        }
    }
}

/// The end of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All invariants held, and enough was seen.
    Pass,
    /// All invariants held, but a gate was missed: it counts as not passed.
    Unknown,
    /// An invariant is broken.
    Fail,
}

/// What a violation is about: enough to find its lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct About {
    /// The conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// The entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The message's ref.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The device, as `user/device`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// An invariant that is broken, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What happened: which message, which devices.
    pub statement: String,
    /// What it is about.
    pub about: About,
    /// When it began, in nanoseconds of the history's clock.
    pub from: u64,
    /// When it was seen.
    pub to: u64,
    /// The faults that were active around it.
    pub faults: Vec<String>,
    /// The lines of the history that tell it, where the history could be read again.
    pub evidence: Vec<String>,
}

/// The verdict with its reasons.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The end of it.
    pub verdict: Verdict,
    /// The commit of the servers.
    pub commit: String,
    /// The seed of load and faults.
    pub seed: u64,
    /// The time of the first line, from which statements count.
    pub began: u64,
    /// How often each invariant is broken.
    pub broken: BTreeMap<Invariant, u64>,
    /// The first of each invariant.
    pub violations: Vec<Violation>,
    /// The gates that were wanted.
    pub gates: Vec<Gate>,
    /// What was counted.
    pub counts: Counts,
}

/// The most violations of an invariant that are kept.
const KEPT_MAX: u64 = 20;

/// Collects violations: all are counted, the first of each invariant kept.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub broken: BTreeMap<Invariant, u64>,
    pub kept: Vec<Violation>,
}

impl Findings {
    /// `time`: from its begin to when it was seen.
    pub fn add(
        &mut self,
        invariant: Invariant,
        (from, to): (u64, u64),
        about: impl FnOnce() -> (About, String),
    ) {
        let count = self.broken.entry(invariant).or_default();
        *count += 1;
        if *count <= KEPT_MAX {
            let (about, statement) = about();
            let (faults, evidence) = (Vec::new(), Vec::new());
            self.kept.push(Violation { invariant, statement, about, from, to, faults, evidence });
        }
    }
}
