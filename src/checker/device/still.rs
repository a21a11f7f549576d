//! Lost hints: what a device that stayed connected was never handed (I1, I6).
//!
//! Once everybody has connected anew nothing of this shows: catching up reads the store.

use super::super::judge::Checker;
use super::super::log::{LogId, Sight};
use super::super::ranges::Ranges;
use super::super::report::Invariant;
use super::{ConnectionId, Got};

const MS: u64 = 1_000_000;

/// What a device lacked when all was still; whether it was owed that is known in the end.
#[derive(Debug)]
pub(super) struct Unhanded {
    connection: ConnectionId,
    log: LogId,
    t: u64,
    seqs: Ranges,
}

impl Checker {
    /// All is still: what do those lack that have been connected for so long?
    pub(in crate::checker) fn stands_still(&mut self, t: u64) {
        let Some(old) = t.checked_sub(self.gates.limits.hand_on_ms * MS) else { return };
        if !self.upkeep.is_calm_since(old) {
            return;
        }
        let (nothing, healed) = (Got::default(), self.upkeep.calm_from());
        let devices = &mut self.devices;
        for (id, device) in devices.list.iter().enumerate() {
            let Some(newest) = device.newest else { continue };
            let connection = &devices.connections[newest];
            let Some(since) = connection.caughtup.filter(|at| *at <= old) else { continue };
            if connection.closed {
                continue;
            }
            self.counts.stayed += 1;
            self.counts.stayed_through += u64::from(since < healed);
            for log in devices.logs_of.get(&device.user).into_iter().flatten() {
                let got = devices.got.get(&(id, *log)).unwrap_or(&nothing);
                let seqs = got.gaps_in(&self.logs.list[*log]);
                if !seqs.is_empty() {
                    devices.unhanded.push(Unhanded { connection: newest, log: *log, t, seqs });
                }
            }
        }
    }

    /// I1 for what was acked, I6 for the rest, where it was there for long enough.
    pub(in crate::checker) fn judge_unhanded(&mut self, sights: &[Sight]) {
        let mut unhanded = 0;
        for Unhanded { connection, log, t, seqs } in &self.devices.unhanded {
            let device = self.devices.device_of(*connection);
            let old = t - self.gates.limits.hand_on_ms * MS;
            for seq in self.owed(device, *log, seqs, &sights[*log]) {
                let Some(entry) = self.logs.list[*log].entries.get(&seq) else { continue };
                if entry.first > old {
                    continue;
                }
                unhanded += 1;
                let invariant = if entry.acked { Invariant::I1 } else { Invariant::I6 };
                let acked = if entry.acked { "acked " } else { "" };
                self.broken(invariant, (entry.first, *t), || {
                    let who = self.connection_text(*connection);
                    let what = self.entry_text(*log, seq);
                    let what =
                        format!("{acked}{what} was not handed on to a connected device: {who}");
                    (self.about_at(device, *log, seq), what)
                });
            }
        }
        self.counts.unhanded = unhanded;
    }
}
