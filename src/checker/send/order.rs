//! Sends stand in the order in which they were made (I7, I8), and none that was refused (I2).

use std::collections::HashMap;

use super::super::device::ConnectionId;
use super::super::judge::Checker;
use super::super::log::LogId;
use super::super::report::Invariant;
use super::SendId;

impl Checker {
    /// I2 for what was refused, I7, I8.
    pub(in crate::checker) fn judge_sends(&mut self) {
        let mut reordered = 0;
        let mut highest: HashMap<(ConnectionId, LogId), (u64, SendId)> = HashMap::new();
        for (id, send) in (0..).zip(&self.sends.list) {
            let place = if send.done.is_some() { send.seq } else { send.place };
            if place == 0 {
                continue;
            }
            let (log, span) = (send.log, (send.first, send.done.unwrap_or(send.first)));
            let about = |what: String| (self.about(log, place, Some(id)), what);
            if send.is_refused() {
                self.broken(Invariant::I2, span, || {
                    let text = self.message_text(id);
                    about(format!("{text} was refused, and stands at {place}"))
                });
            }
            if place <= send.floor {
                reordered += 1;
                self.broken(Invariant::I8, span, || {
                    let (text, floor) = (self.message_text(id), send.floor);
                    let before = self.entry_text(log, floor);
                    about(format!(
                        "{text} left when {before} had been seen, and stands before it, at {place}"
                    ))
                });
            }
            let Some(connection) = send.connection.filter(|_| send.once() && send.done.is_some())
            else {
                continue;
            };
            let (before, earlier) = highest.get(&(connection, log)).copied().unwrap_or((0, id));
            if place < before {
                reordered += 1;
                self.broken(Invariant::I7, span, || {
                    let (text, other) = (self.message_text(id), self.message_text(earlier));
                    let connection = self.connection_text(connection);
                    about(format!(
                        "on {connection}, {other} left before {text}; they stand at {before} and \
                         {place}"
                    ))
                });
            } else {
                highest.insert((connection, log), (place, id));
            }
        }
        self.counts.reordered += reordered;
    }
}
