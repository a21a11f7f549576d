//! Bugs planted on purpose, to show that the tests would find them. Release builds have none.
//!
//! A place in the code asks [`planted`]; in a release build the answer is a constant `false`, and
//! the branch is gone. In a debug build it is the environment variable `PARLOR_PLANTED`, or for the
//! current thread what [`plant`] said.

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bug {
    /// `sent` leaves before the store has answered.
    AckBeforePersist,
    /// A send repeated with the same ref is stored again.
    RefsIgnored,
    /// After a gap of the bus nothing is read again.
    GapIgnored,
    /// History is sorted by time instead of by seq.
    OrderByTimestamp,
    /// A text is handed on before it is stored.
    DeliverBeforePersist,
    /// `delivered` is told when a text was written to a socket, without its receipt.
    DeliveredOnWrite,
    /// A release removes what stands in the map, whoever claimed it.
    ReleaseAny,
    /// A device's cursor is stored one too high.
    CursorOffByOne,
    /// A page of the store that ends early is taken for the whole.
    PageIsAll,
    /// History is read eventually consistent.
    StaleHistory,
    /// Who has left a room still gets and sees what comes later.
    MembershipUnchecked,
    /// `caughtup` is said without reading what was missed.
    CaughtupAlways,
    /// The embedded store answers without an fsync.
    FsyncSkipped,
    /// `from` of a frame is believed.
    SenderTrusted,
    /// An entry is put before the recipient's row says so.
    PutBeforeRaise,
    /// A repeated send is answered without raising and handing on again.
    HitAnsweredAtOnce,
    /// Where a person is, is asked once and then believed.
    LocateCached,
    /// A socket reads its mailbox before it claims its entry of the map.
    ReadBeforeClaim,
    /// After a death mailboxes are read again once, and not once more later.
    ReReadOnce,
    /// A put of unknown outcome is taken for one that failed.
    UnknownIsFailed,
}

impl Bug {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::AckBeforePersist,
        Self::RefsIgnored,
        Self::GapIgnored,
        Self::OrderByTimestamp,
        Self::DeliverBeforePersist,
        Self::DeliveredOnWrite,
        Self::ReleaseAny,
        Self::CursorOffByOne,
        Self::PageIsAll,
        Self::StaleHistory,
        Self::MembershipUnchecked,
        Self::CaughtupAlways,
        Self::FsyncSkipped,
        Self::SenderTrusted,
        Self::PutBeforeRaise,
        Self::HitAnsweredAtOnce,
        Self::LocateCached,
        Self::ReadBeforeClaim,
        Self::ReReadOnce,
        Self::UnknownIsFailed,
    ];

    /// The name in `PARLOR_PLANTED` and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::AckBeforePersist => "ack-before-persist",
            Self::RefsIgnored => "refs-ignored",
            Self::GapIgnored => "gap-ignored",
            Self::OrderByTimestamp => "order-by-timestamp",
            Self::DeliverBeforePersist => "deliver-before-persist",
            Self::DeliveredOnWrite => "delivered-on-write",
            Self::ReleaseAny => "release-any",
            Self::CursorOffByOne => "cursor-off-by-one",
            Self::PageIsAll => "page-is-all",
            Self::StaleHistory => "stale-history",
            Self::MembershipUnchecked => "membership-unchecked",
            Self::CaughtupAlways => "caughtup-always",
            Self::FsyncSkipped => "fsync-skipped",
            Self::SenderTrusted => "sender-trusted",
            Self::PutBeforeRaise => "put-before-raise",
            Self::HitAnsweredAtOnce => "hit-answered-at-once",
            Self::LocateCached => "locate-cached",
            Self::ReadBeforeClaim => "read-before-claim",
            Self::ReReadOnce => "re-read-once",
            Self::UnknownIsFailed => "unknown-is-failed",
        }
    }
}

/// Whether this bug is planted.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn planted(_: Bug) -> bool {
    false
}

#[cfg(debug_assertions)]
pub use debug::{plant, planted};

#[cfg(debug_assertions)]
mod debug {
    use std::cell::Cell;
    use std::sync::LazyLock;

    use super::Bug;

    thread_local! {
        static HERE: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    static EVERYWHERE: LazyLock<Option<Bug>> = LazyLock::new(|| {
        let name = std::env::var("PARLOR_PLANTED").ok()?;
        Bug::ALL.iter().copied().find(|bug| bug.name() == name)
    });

    /// Plants a bug for the current thread, or takes it out.
    pub fn plant(bug: Option<Bug>) {
        HERE.set(bug);
    }

    /// Whether this bug is planted.
    pub fn planted(bug: Bug) -> bool {
        HERE.get() == Some(bug) || *EVERYWHERE == Some(bug)
    }
}
