//! A device that was never seen: where it starts, and who gives way to it.

use super::Chat;
use super::reads::InTurn;
use crate::hub::Outbox;
use crate::protocol::{ConversationId, DEVICES_PER_USER_MAX, Seq};
use crate::store::{Device, Record, Row, StoreError};

/// How many starting positions one item holds.
const STARTS_PER_CHUNK: usize = 1_000;

impl Chat {
    /// Registers the socket's device. Its starts are written first: from the moment that it is
    /// known, a row without its cursor stands where the starts say.
    pub(super) async fn register(
        &self,
        store: &InTurn<'_>,
        outbox: &Outbox,
        rows: &[Row],
        mut devices: Vec<Device>,
    ) -> Result<(), StoreError> {
        let (user, device) = (&outbox.who.user, &outbox.who.device);
        let received = rows.iter().filter(|row| row.delivered > 0);
        let starts: Vec<(ConversationId, Seq)> =
            received.map(|row| (row.conversation.clone(), row.delivered)).collect();
        for (chunk, starts) in (0..).zip(starts.chunks(STARTS_PER_CHUNK)) {
            let (user, device) = (user.clone(), device.clone());
            let starts = starts.to_vec();
            store.write(Record::Starts { user, device, chunk, starts }).await?;
        }
        let now = (self.clock)();
        let new = Device { device: device.clone(), first_seen: now, last_seen: now };
        store.write(Record::Device(user.clone(), new)).await?;
        devices.sort_by_key(|known| known.last_seen);
        let over = (devices.len() + 1).saturating_sub(DEVICES_PER_USER_MAX);
        for longest_unseen in devices.into_iter().take(over) {
            store.write(Record::ForgetDevice(user.clone(), longest_unseen.device)).await?;
        }
        Ok(())
    }
}
