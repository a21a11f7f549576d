//! G and H: what comes from Redis and from the store is not believed either.

use crate::case::Answer::Seen;
use crate::case::{Case, row, scene};
use crate::scenes::{envelopes, store};

pub fn lines() -> Vec<Case> {
    let lines = vec![
        row(
            "G1",
            "further fields, a later version, an earlier one",
            scene!(envelopes::other_versions),
            Seen,
        )
        .differs("a default for an earlier one: 1 is the first version, others are dropped"),
        row("G2", "garbage, depth, fields twice, 1 MiB", scene!(envelopes::garbage), Seen),
        row("G3", "no member, not in the store, not signed", scene!(envelopes::forged), Seen),
        row("G4", "heard before, a gap, one's own", scene!(envelopes::out_of_order), Seen),
        row(
            "G5",
            "unknown kinds, an end of nobody's socket",
            scene!(envelopes::unknown_kinds),
            Seen,
        ),
        row("G6", "entries of the map that are wrong", scene!(envelopes::wrong_entries), Seen)
            .differs(
                "one without an end is swept: it gets one when its person comes again or is there; \
                 else it stays, and its server is dead to who reads it",
            ),
        row("H1", "items of the store that are wrong", scene!(store::wrong_items), Seen).differs(
            "item skipped with an alarm: its conversation rests with a 503 and a line in the log, \
             since a gap that looks like none is worse; all others go on",
        ),
        row("H1", "rows, devices, members, heads", scene!(store::wrong_records), Seen),
    ];
    lines.into_iter().map(Case::real).collect()
}
