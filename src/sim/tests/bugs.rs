//! Every planted bug is caught, by what clients see, within 100 seeds.
#![cfg(test)]

use super::{Outcome, run_many};
use crate::planted::Bug;

const SEEDS: u64 = 100;

/// What the checker says; what only the simulation's own eyes see does not count here.
fn caught(outcome: &Outcome) -> Option<&String> {
    outcome.violations.iter().find(|violation| violation.starts_with('I') && !white(violation))
}

fn white(violation: &str) -> bool {
    violation.contains("a put at")
}

fn is_caught(bug: Bug) {
    let outcomes = run_many(0..SEEDS, Some(bug), |outcome| caught(outcome).is_some());
    let found = outcomes.iter().find_map(|outcome| Some((outcome.seed, caught(outcome)?)));
    let (seed, violation) = found.unwrap_or_else(|| panic!("{} was not caught", bug.name()));
    println!("{} caught at seed {seed}: {violation}", bug.name());
}

macro_rules! bugs {
    ($($name:ident: $bug:ident,)*) => {
        $(#[test]
        fn $name() {
            is_caught(Bug::$bug);
        })*
    };
}

bugs! {
    ack_before_persist: AckBeforePersist,
    refs_ignored: RefsIgnored,
    gap_ignored: GapIgnored,
    order_by_timestamp: OrderByTimestamp,
    deliver_before_persist: DeliverBeforePersist,
    delivered_on_write: DeliveredOnWrite,
    release_any: ReleaseAny,
    cursor_off_by_one: CursorOffByOne,
    page_is_all: PageIsAll,
    stale_history: StaleHistory,
    membership_unchecked: MembershipUnchecked,
    caughtup_always: CaughtupAlways,
    sender_trusted: SenderTrusted,
    put_before_raise: PutBeforeRaise,
    hit_answered_at_once: HitAnsweredAtOnce,
    locate_cached: LocateCached,
    read_before_claim: ReadBeforeClaim,
    re_read_once: ReReadOnce,
    unknown_is_failed: UnknownIsFailed,
}
