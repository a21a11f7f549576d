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
}

impl Bug {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::AckBeforePersist];

    /// The name in `PARLOR_PLANTED` and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::AckBeforePersist => "ack-before-persist",
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
