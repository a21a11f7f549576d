//! What each device should have in the end, and may have (I1, I6, I13, I14).

use std::collections::HashSet;

use super::super::judge::Checker;
use super::super::log::{Content, LogId, Sight};
use super::super::ranges::Ranges;
use super::super::report::Invariant;
use super::{DeviceId, Gap, Got};

/// Messages that are lost, and where in what others have of the conversation.
#[derive(Debug, Default)]
pub(in crate::checker) struct Losses {
    lost: HashSet<(LogId, u64)>,
    prefix: u64,
    middle: u64,
    postfix: u64,
}

impl Losses {
    /// A message is missing in this set.
    pub fn note(&mut self, log: LogId, seq: u64, of: &Ranges) {
        if !self.lost.insert((log, seq)) {
            return;
        }
        match (of.first(), of.last()) {
            (Some(first), _) if seq < first => self.prefix += 1,
            (_, Some(last)) if seq < last => self.middle += 1,
            _ => self.postfix += 1,
        }
    }
}

impl Checker {
    /// All that the log has for a device, it has: I1 for what was acked, I6 for the rest.
    pub(in crate::checker) fn judge_devices(&mut self, sights: &[Sight], losses: &mut Losses) {
        let nothing = Got::default();
        let mut drained = 0;
        let known = self.devices.list.iter().filter(|device| device.known).count();
        for (id, device) in self.devices.list.iter().enumerate().filter(|(_, d)| d.known) {
            let mut complete = true;
            for log in self.devices.logs_of.get(&device.user).into_iter().flatten() {
                let got = self.devices.got.get(&(id, *log)).unwrap_or(&nothing);
                self.judge_sight(id, *log, got, &sights[*log]);
                for seq in self.lacking(id, *log, got, &sights[*log]) {
                    complete = false;
                    if device.drained {
                        self.judge_lack((id, *log, seq), got, losses);
                    }
                }
            }
            drained += u64::from(complete || device.drained);
        }
        (self.counts.devices, self.counts.drained) = (known as u64, drained);
        for gap in &self.devices.gaps {
            self.judge_gap(gap, sights);
        }
    }

    /// Where the device starts: at what others had received when it came, and behind what needs no
    /// receipt there.
    fn start(&self, device: DeviceId, log: LogId, sight: &Sight) -> u64 {
        let user = self.devices.list[device].user;
        let Some((since, starts)) = &self.devices.list[device].start else { return 0 };
        let passes = |seq| match self.logs.list[log].entries.get(&seq).map(|entry| entry.content) {
            Some(Content::Message(send)) => {
                let send = &self.sends.list[send as usize];
                !sight.sees(user, seq) || send.user == user && send.first < *since
            }
            Some(_) => !sight.sees(user, seq),
            None => false,
        };
        let start = starts.get(&log).copied().unwrap_or(0);
        (start + 1..).take_while(|seq| passes(*seq)).last().unwrap_or(start)
    }

    fn is_own(&self, device: DeviceId, content: Content) -> bool {
        match content {
            Content::Message(send) => self.sends.list[send as usize].device == Some(device),
            _ => false,
        }
    }

    fn lacking(&self, device: DeviceId, log: LogId, got: &Got, sight: &Sight) -> Vec<u64> {
        self.owed(device, log, &got.gaps_in(&self.logs.list[log]), sight)
    }

    /// What of these a device is to get.
    pub(super) fn owed(
        &self,
        device: DeviceId,
        log: LogId,
        gaps: &Ranges,
        sight: &Sight,
    ) -> Vec<u64> {
        if gaps.is_empty() {
            return Vec::new();
        }
        let (user, known) = (self.devices.list[device].user, &self.logs.list[log]);
        let start = self.start(device, log, sight);
        let entries = gaps.iter().flat_map(|(from, to)| known.entries.range(from..=to));
        let due = entries.filter(|(seq, entry)| {
            **seq > start && sight.sees(user, **seq) && !self.is_own(device, entry.content)
        });
        due.map(|(seq, _)| *seq).collect()
    }

    fn judge_lack(
        &self,
        (device, log, seq): (DeviceId, LogId, u64),
        got: &Got,
        losses: &mut Losses,
    ) {
        let Some(entry) = self.logs.list[log].entries.get(&seq) else { return };
        if !entry.acked {
            return self.broken(Invariant::I6, (entry.first, self.now), || {
                let (who, what) = (self.device_text(device), self.entry_text(log, seq));
                (self.about_at(device, log, seq), format!("{who} never got {what}"))
            });
        }
        losses.note(log, seq, &got.known);
        let Content::Message(send) = entry.content else { return };
        let (first, done) = (self.sends.list[send as usize].first, entry.first);
        self.broken(Invariant::I1, (first, done), || {
            let (who, what) = (self.device_text(device), self.entry_text(log, seq));
            let has = match (got.known.first(), got.known.last()) {
                (Some(first), Some(last)) => format!("it has others from {first} to {last}"),
                _ => "it has nothing of that conversation".to_owned(),
            };
            (self.about_at(device, log, seq), format!("acked {what} never got to {who}; {has}"))
        });
    }

    /// I13: nothing came from before joining or from after leaving.
    fn judge_sight(&self, device: DeviceId, log: LogId, got: &Got, sight: &Sight) {
        let known = &self.logs.list[log];
        // Where an entry is unknown, it may tell of a joining.
        if known.direct || !known.complete() {
            return;
        }
        let user = self.devices.list[device].user;
        for (from, to) in got.known.without(&sight.of(user)).iter() {
            let first = known.entries.get(&from).map_or(0, |entry| entry.first);
            self.broken(Invariant::I13, (first, first), || {
                let (who, what) = (self.device_text(device), self.entry_text(log, from));
                let what = format!(
                    "{who} got {what} (up to {to}), and {} did not belong to it then",
                    self.names.text(user)
                );
                (self.about_at(device, log, from), what)
            });
        }
    }

    /// I14: what had been acked before the connection began, and is not the person's own, came
    /// before `caughtup`.
    fn judge_gap(&self, gap: &Gap, sights: &[Sight]) {
        let connection = &self.devices.connections[gap.connection];
        let (device, sight) = (connection.device, &sights[gap.log]);
        let user = self.devices.list[device].user;
        let log = &self.logs.list[gap.log];
        let start = self.start(device, gap.log, sight);
        // A span that the person had seen nothing of may not have been written down yet.
        let spans = sight.of(user);
        let settled = |seq| {
            let span = spans.iter().find(|(from, to)| (*from..=*to).contains(&seq));
            span.is_some_and(|(from, _)| log.direct || from <= gap.sees)
        };
        let from_others = |content| match content {
            Content::Message(send) => self.sends.list[send as usize].user != user,
            Content::Joined { by, .. } | Content::Left { by, .. } => by != user,
            Content::Other(_) => false,
        };
        let entries = gap.seqs.iter().flat_map(|(from, to)| log.entries.range(from..=to));
        let mut late = entries
            .filter(|(seq, entry)| **seq > start && from_others(entry.content) && settled(**seq));
        let Some((seq, _)) = late.next() else { return };
        self.broken(Invariant::I14, (connection.begun, gap.t), || {
            let connection = self.connection_text(gap.connection);
            let (what, more) = (self.entry_text(gap.log, *seq), late.count());
            let what = format!(
                "caughtup came on {connection} without {what} and {more} more, acked before it"
            );
            (self.about_at(device, gap.log, *seq), what)
        });
    }

    pub(in crate::checker) fn count_losses(&mut self, losses: &Losses) {
        self.counts.lost = losses.lost.len() as u64;
        self.counts.lost_prefix = losses.prefix;
        self.counts.lost_middle = losses.middle;
        self.counts.lost_postfix = losses.postfix;
    }
}
