//! Pages of a log, and how they are asked for.

use crate::protocol::{Entry, Seq};

/// Which way a page of a log runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// From the lowest seq up.
    Ascending,
    /// From the highest seq down.
    Descending,
}

/// Which part of a log to read.
#[derive(Debug, Clone, Copy)]
pub struct LogRange {
    /// Only entries with a higher seq.
    pub after: Seq,
    /// Only entries with a lower seq.
    pub before: Option<Seq>,
    /// Which end comes first.
    pub order: Order,
    /// At most so many entries (1 to [`PAGE_MAX`](super::PAGE_MAX)).
    pub limit: usize,
}

impl LogRange {
    /// What follows `after`, lowest first.
    pub fn following(after: Seq, limit: usize) -> Self {
        Self { after, before: None, order: Order::Ascending, limit }
    }

    /// The newest entries, highest first.
    pub fn newest(limit: usize) -> Self {
        Self { after: 0, before: None, order: Order::Descending, limit }
    }
}

/// A page of a log.
#[derive(Debug, Clone, Default)]
pub struct LogPage {
    /// In the order that was asked for.
    pub entries: Vec<Entry>,
    /// The range may hold more beyond this page.
    pub more: bool,
}
