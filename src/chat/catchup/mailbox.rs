//! What waits for a device: its mailbox, row by row, and where it stands in each.

use std::collections::HashMap;

use super::{Done, Waiting, member};
use crate::chat::reads::InTurn;
use crate::chat::{Chat, revocation, roster};
use crate::hub::Outbox;
use crate::protocol::{ConversationId, Seq};
use crate::store::{MailboxPart, Record, RecordPart, Row, StoreError};

impl Chat {
    /// The whole mailbox: what waits for the device, which is known from then on.
    pub(super) async fn read_mailbox(
        &self,
        store: &InTurn<'_>,
        outbox: &Outbox,
        catchup: Option<u64>,
        here: &HashMap<ConversationId, Seq>,
        consistent: bool,
    ) -> Result<Done, StoreError> {
        let user = &outbox.who.user;
        // Another socket of the device may have moved its cursor past what this one has.
        let at =
            |id: &ConversationId, cursor: Seq| here.get(id).map_or(cursor, |at| cursor.min(*at));
        let (mut rows, mut devices, mut after) = (Vec::new(), Vec::new(), None);
        let mut revoked = None;
        loop {
            let part = MailboxPart::Page { after, consistent };
            let page = match store.mailbox(user, part).await {
                Err(error @ StoreError::Damaged(_)) => {
                    return without_rows(self, store, outbox, error).await;
                }
                page => page?,
            };
            // Of a row with nothing waiting nothing is kept: mailboxes can be long.
            let device = &outbox.who.device;
            let waits = |row: &Row| match row.cursors.iter().find(|(known, _)| known == device) {
                Some((_, cursor)) => {
                    row.conversation.is_room() || row.last > at(&row.conversation, *cursor)
                }
                None => true,
            };
            rows.extend(page.rows.into_iter().filter(waits));
            devices.extend(page.devices);
            revoked = revoked.max(page.revoked);
            for what in &page.damaged {
                tracing::error!(%user, what, "left out of a mailbox");
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        if self.is_taken_back(outbox, revoked).await? {
            return Ok(Done::Revoked);
        }
        let known = devices.iter().any(|known| known.device == outbox.who.device);
        if !known && !consistent {
            // It registered a moment ago. Made known twice, it would start behind what it lacks.
            return Ok(Done::Mailbox(Vec::new()));
        }
        if !known {
            self.register(store, outbox, &rows, devices).await?;
        }
        let waiting = waiting_in_all(store, outbox, &rows, known, catchup, at).await?;
        Ok(Done::Mailbox(waiting))
    }
}

/// What waits in these rows. A device that was not `known` starts at what the person has received;
/// `at` says where its other sockets have moved a cursor.
async fn waiting_in_all(
    store: &InTurn<'_>,
    outbox: &Outbox,
    rows: &[Row],
    known: bool,
    catchup: Option<u64>,
    at: impl Fn(&ConversationId, Seq) -> Seq,
) -> Result<Vec<Waiting>, StoreError> {
    let (mut waiting, mut starts) = (Vec::new(), None);
    for row in rows {
        let cursor = match known {
            true => cursor(store, outbox, row, &mut starts).await,
            false => Ok(row.delivered),
        };
        let found = match cursor {
            Ok(cursor) => {
                let cursor = at(&row.conversation, cursor);
                waiting_in(store, outbox, row, cursor, catchup).await
            }
            Err(error) => Err(error),
        };
        match found {
            Ok(found) => waiting.extend(found),
            Err(error) if error.retryable() => return Err(error),
            Err(error) => tracing::warn!(%error, conversation = %row.conversation, "left out"),
        }
    }
    Ok(waiting)
}

/// What waits in a row, if anything does.
async fn waiting_in(
    store: &InTurn<'_>,
    outbox: &Outbox,
    row: &Row,
    cursor: Seq,
    catchup: Option<u64>,
) -> Result<Option<Waiting>, StoreError> {
    let conversation = row.conversation.clone();
    if conversation.is_room() {
        return waiting_in_room(store, outbox, row, cursor, catchup).await;
    }
    let (mut start, mut end) = (cursor, row.last);
    if end > cursor && catchup.is_some() {
        // `last` is an upper bound, and `catchup` counts from the end.
        end = store.tail(&conversation).await?;
        start = newest(cursor, end, catchup);
    }
    Ok((end > cursor).then_some(Waiting { conversation, cursor, start, end }))
}

/// `last` is not raised for a room's messages: what waits there shows its log, within what the
/// member may see.
async fn waiting_in_room(
    store: &InTurn<'_>,
    outbox: &Outbox,
    row: &Row,
    cursor: Seq,
    catchup: Option<u64>,
) -> Result<Option<Waiting>, StoreError> {
    let conversation = row.conversation.clone();
    let tail = store.shared_tail(&conversation).await?;
    if tail <= cursor {
        return Ok(None);
    }
    let member = member(store, &outbox.who.user, &conversation).await?;
    let (cursor, end) = match member.and_then(|member| roster::within(&member, cursor, tail)) {
        Some(within) => within,
        // Nothing for a former member, but a change that the item does not tell of yet.
        None if row.last > cursor => (cursor, tail),
        None => return Ok(None),
    };
    let start = newest(cursor, end, catchup);
    Ok(Some(Waiting { conversation, cursor, start, end }))
}

/// A page that can't be read hides all rows of a mailbox; each is read by itself as soon as
/// something comes for it. Not so for a device that is not known: its starts are in the rows.
async fn without_rows(
    chat: &Chat,
    store: &InTurn<'_>,
    outbox: &Outbox,
    error: StoreError,
) -> Result<Done, StoreError> {
    let devices = store.mailbox(&outbox.who.user, MailboxPart::Devices).await?.devices;
    if !devices.iter().any(|known| known.device == outbox.who.device) {
        return Err(error);
    }
    let revoked = store.records(RecordPart::Revoked(outbox.who.user.clone())).await?;
    if chat.is_taken_back(outbox, revocation::until(revoked)).await? {
        return Ok(Done::Revoked);
    }
    tracing::error!(%error, user = %outbox.who.user, "a mailbox can't be read");
    Ok(Done::Mailbox(Vec::new()))
}

/// Where this device stands in a row.
pub(super) async fn cursor(
    store: &InTurn<'_>,
    outbox: &Outbox,
    row: &Row,
    starts: &mut Option<Vec<(ConversationId, Seq)>>,
) -> Result<Seq, StoreError> {
    let who = &outbox.who;
    if let Some((_, cursor)) = row.cursors.iter().find(|(device, _)| *device == who.device) {
        return Ok(*cursor);
    }
    // What nobody has received, this device has not either: no need to ask where it started.
    if row.delivered == 0 {
        return Ok(0);
    }
    if starts.is_none() {
        let part = RecordPart::Starts(who.user.clone(), who.device.clone());
        let chunks = store.records(part).await?.into_iter().filter_map(|r| match r {
            Record::Starts { starts, .. } => Some(starts),
            _ => None,
        });
        *starts = Some(chunks.flatten().collect());
    }
    let found = starts.iter().flatten().find(|(known, _)| *known == row.conversation);
    Ok(found.map_or(0, |(_, seq)| *seq))
}

/// Where pushing starts, if only the newest are pushed.
fn newest(cursor: Seq, end: Seq, catchup: Option<u64>) -> Seq {
    cursor.max(catchup.map_or(0, |count| end.saturating_sub(count)))
}
