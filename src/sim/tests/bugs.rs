//! Every planted bug is caught, by what clients see, most within 100 seeds.
#![cfg(test)]

use super::{Outcome, run_many};
use crate::planted::Bug;
use crate::sim::faults::Finale;

/// A change of the code moves all seeds: windows that are rare may need more than a hundred.
const SEEDS: u64 = 600;

/// What the checker says, or what the simulation knows of the store, the map and the clock; not
/// what a put looks like from inside.
fn caught(outcome: &Outcome) -> Option<&String> {
    outcome.violations.iter().find(|violation| !violation.contains("a put at"))
}

fn is_caught(bug: Bug, finale: Option<Finale>) {
    let outcomes = run_many(0..SEEDS, Some((bug, finale)), |outcome| caught(outcome).is_some());
    let found = outcomes.iter().find_map(|outcome| Some((outcome.seed, caught(outcome)?)));
    let (seed, violation) = found.unwrap_or_else(|| panic!("{} was not caught", bug.name()));
    println!("{} caught at seed {seed}: {violation}", bug.name());
}

/// Each with the last act that leads to its window, where one does.
macro_rules! bugs {
    ($($name:ident: $bug:ident $($finale:ident)?,)*) => {
        $(#[test]
        fn $name() {
            is_caught(Bug::$bug, [$(Finale::$finale)?].first().copied());
        })*
    };
}

bugs! {
    ack_before_persist: AckBeforePersist,
    refs_ignored: RefsIgnored,
    gap_ignored: GapIgnored Gap,
    order_by_timestamp: OrderByTimestamp,
    deliver_before_persist: DeliverBeforePersist,
    delivered_on_write: DeliveredOnWrite,
    release_any: ReleaseAny None,
    cursor_off_by_one: CursorOffByOne,
    page_is_all: PageIsAll,
    stale_history: StaleHistory,
    membership_unchecked: MembershipUnchecked,
    caughtup_always: CaughtupAlways,
    sender_trusted: SenderTrusted,
    put_before_raise: PutBeforeRaise CrashForgotten,
    hit_answered_at_once: HitAnsweredAtOnce Crash,
    locate_cached: LocateCached,
    read_before_claim: ReadBeforeClaim Crowd,
    re_read_once: ReReadOnce LastGasp,
    unknown_is_failed: UnknownIsFailed CutForgotten,
}
