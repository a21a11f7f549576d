//! A report as text: the verdict first, then what is broken, then what was seen.

use std::fmt;

use super::{Report, Verdict};

/// The most lines of evidence that are shown with a violation.
const EVIDENCE_SHOWN: usize = 16;

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "PASS",
            Self::Unknown => "UNKNOWN",
            Self::Fail => "FAIL",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missed = self.gates.iter().filter(|gate| gate.missed()).count();
        let broken: u64 = self.broken.values().sum();
        write!(f, "{}", self.verdict)?;
        match (broken, missed) {
            (0, 0) => {}
            (0, _) => write!(f, ": nothing is broken, but {missed} gates were missed")?,
            _ => write!(f, ": {broken} violations")?,
        }
        writeln!(f, "   (commit {}, seed {})", self.commit, self.seed)?;
        self.show_violations(f)?;
        self.show_counts(f)?;
        self.show_faults(f)?;
        self.gates.iter().try_for_each(|gate| writeln!(f, "  gate {gate}"))
    }
}

impl Report {
    fn show_violations(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (invariant, count) in &self.broken {
            writeln!(f, "\n{invariant:?}  {}: broken {count} times", invariant.name())?;
            let mut kept = 0;
            for violation in self.violations.iter().filter(|v| v.invariant == *invariant) {
                kept += 1;
                let (from, to) = (self.seconds(violation.from), self.seconds(violation.to));
                writeln!(f, "  {kept}. {}", violation.statement)?;
                writeln!(f, "     from {from:.6} s to {to:.6} s")?;
                match violation.faults.as_slice() {
                    [] => writeln!(f, "     no fault was active around it")?,
                    faults => writeln!(f, "     faults around it: {}", faults.join("; "))?,
                }
                let shown = violation.evidence.iter().take(EVIDENCE_SHOWN);
                shown.into_iter().try_for_each(|line| writeln!(f, "       {line}"))?;
                let rest = violation.evidence.len().saturating_sub(EVIDENCE_SHOWN);
                if rest > 0 {
                    writeln!(f, "       … and {rest} more lines")?;
                }
            }
            if *count > kept {
                writeln!(f, "  … and {} more", count - kept)?;
            }
        }
        if self.broken.is_empty() { Ok(()) } else { writeln!(f) }
    }

    fn show_counts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.counts;
        writeln!(
            f,
            "acked {}: lost {} (prefix {}, middle {}, postfix {}), shown twice {}, reordered {}, \
             missing statuses {} (of {} to be stored)",
            c.acked,
            c.lost,
            c.lost_prefix,
            c.lost_middle,
            c.lost_postfix,
            c.shown_twice,
            c.reordered,
            c.missing_statuses,
            c.stored_statuses
        )?;
        writeln!(
            f,
            "sends {}: refused {}, unanswered {} ({} of these happened), with an open try {}",
            c.sends, c.refused, c.unanswered, c.open_happened, c.open
        )?;
        writeln!(
            f,
            "texts {}: raw duplicates {}, redeliveries {}; connections {}: reconnects {}, \
             offline drains {}",
            c.received,
            c.raw_duplicates,
            c.redeliveries,
            c.connections,
            c.reconnects,
            c.offline_drains
        )?;
        writeln!(
            f,
            "devices {} ({} drained, {} stayed until all was still, {} of them since before the \
             faults were over), not handed on {}",
            c.devices, c.drained, c.stayed, c.stayed_through, c.unhanded
        )?;
        writeln!(
            f,
            "conversations {}, membership changes {}, walks {}",
            c.conversations, c.membership_changes, c.walks
        )?;
        let ((quiet, quiet99), (healed, healed99)) = (c.quiet_us, c.healed_us);
        writeln!(
            f,
            "send to receipt, p50/p99: {quiet}/{quiet99} µs before, {healed}/{healed99} µs after"
        )?;
        writeln!(
            f,
            "lines {}: torn {}, damaged {}, without a beginning {}",
            c.events, c.torn_lines, c.damaged_lines, c.strays
        )
    }

    fn show_faults(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let planned: u64 = self.counts.faults.values().sum();
        let effective: u64 = self.counts.effective.values().sum();
        writeln!(f, "faults {planned}, effective {effective}")?;
        for (kind, planned) in &self.counts.faults {
            let effective = self.counts.effective.get(kind).unwrap_or(&0);
            write!(f, "  {kind}: {effective} of {planned} effective")?;
            if let Some(recovery) = self.counts.recovery.get(kind) {
                let (median, max) = (recovery.median_ms, recovery.max_ms);
                if recovery.times > 0 {
                    write!(f, ", recovered in {median} ms (median), {max} ms (most)")?;
                }
                if recovery.never > 0 {
                    write!(f, ", {} times not at all", recovery.never)?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }

    /// Seconds since the first line.
    fn seconds(&self, t: u64) -> f64 {
        t.saturating_sub(self.began) as f64 / 1e9
    }
}
