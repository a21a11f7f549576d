//! A device that was never seen: where it starts, and who gives way to it.

use super::Chat;
use super::reads::InTurn;
use crate::hub::Outbox;
use crate::protocol::{ConversationId, DEVICES_PER_USER_MAX, DeviceId, Seq, UserId};
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
        let over = (devices.len() + 1).saturating_sub(DEVICES_PER_USER_MAX);
        if over > 0 {
            // When a device was last seen is stored as its socket ends.
            let open = self.devices_here_now(user).await;
            devices.sort_by_key(|known| (open.contains(&known.device), known.last_seen));
        }
        for longest_unseen in devices.into_iter().take(over) {
            store.write(Record::ForgetDevice(user.clone(), longest_unseen.device)).await?;
        }
        Ok(())
    }

    /// Devices of a person that have a socket, as far as the map tells.
    async fn devices_here_now(&self, user: &UserId) -> Vec<DeviceId> {
        let local = self.hub.of(user).into_iter().map(|outbox| outbox.who.device.clone());
        let view = self.liveness.view();
        let located = self.directory.locate(std::slice::from_ref(user)).await.unwrap_or_default();
        let alive = located.into_iter().flatten();
        let alive = alive.filter(|entry| view.is_alive(&entry.server, entry.epoch));
        local.chain(alive.map(|entry| entry.device)).collect()
    }
}
