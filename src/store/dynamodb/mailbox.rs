//! A person's partition: rows are raised by one conditional update, and read page by page.

use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use tokio::time::timeout;

use super::DynamoStore;
use super::fields::as_number;
use super::items::{
    CURSOR_PREFIX, ITEM_VERSION, Item, REVOKED_SK, cursor_name, number, read_device, read_revoked,
    read_row, row_sk, text, user_pk,
};
use super::retry::{Call, Failure};
use crate::protocol::{ConversationId, Timestamp, UserId};
use crate::store::mailbox::cursors_beyond;
use crate::store::{CURSORS_MAX, MailboxPage, MailboxPart, PAGE_MAX, Raise, StoreError};

/// A value of a row that is to rise, with what is set along with it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rise {
    name: String,
    value: u64,
    /// `readN` rides on `read`.
    along: Option<(&'static str, u64)>,
}

impl Rise {
    fn new(name: impl Into<String>, value: u64) -> Self {
        Self { name: name.into(), value, along: None }
    }

    /// Whether it is above what the item holds.
    fn rises(&self, old: &Item) -> Result<bool, StoreError> {
        let Some(held) = old.get(&self.name) else { return Ok(true) };
        let damaged = || StoreError::Damaged(format!("a row's {:?}", self.name));
        Ok(self.value > as_number(held).ok_or_else(damaged)?)
    }
}

fn rises(raise: &Raise) -> Vec<Rise> {
    let mut rises = Vec::with_capacity(3 + raise.cursors.len());
    rises.extend(raise.last.map(|last| Rise::new("last", last)));
    rises.extend(raise.delivered.map(|delivered| Rise::new("delivered", delivered)));
    rises.extend(
        raise.read.map(|(seq, n)| Rise { along: Some(("readN", n)), ..Rise::new("read", seq) }),
    );
    for (device, seq) in &raise.cursors {
        let name = cursor_name(device);
        // An expression may set an attribute once.
        match rises.iter_mut().find(|rise| rise.name == name) {
            Some(rise) => rise.value = rise.value.max(*seq),
            None => rises.push(Rise::new(name, *seq)),
        }
    }
    rises
}

/// Sets every value, on the condition that every one of them rises.
fn set_all(mut update: UpdateItemFluentBuilder, rises: &[Rise]) -> UpdateItemFluentBuilder {
    let (mut sets, mut conditions) = ("SET v = :v".to_owned(), String::new());
    update = update.expression_attribute_values(":v", number(ITEM_VERSION));
    for (i, rise) in rises.iter().enumerate() {
        let and = if i == 0 { "" } else { " AND " };
        sets.push_str(&format!(", #n{i} = :n{i}"));
        conditions.push_str(&format!("{and}(attribute_not_exists(#n{i}) OR #n{i} < :n{i})"));
        update = update
            .expression_attribute_names(format!("#n{i}"), &rise.name)
            .expression_attribute_values(format!(":n{i}"), number(rise.value));
        if let Some((name, value)) = rise.along {
            sets.push_str(&format!(", #a{i} = :a{i}"));
            update = update
                .expression_attribute_names(format!("#a{i}"), name)
                .expression_attribute_values(format!(":a{i}"), number(value));
        }
    }
    update.update_expression(sets).condition_expression(conditions)
}

impl DynamoStore {
    /// Every failure shows the row, and at least one value that no longer rises: it is dropped, so
    /// the loop ends after at most as many rounds as there are values.
    pub(super) async fn raise_row(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        raise: &Raise,
    ) -> Result<(), StoreError> {
        let call = Call::write("raise");
        let mut rising = rises(raise);
        while !rising.is_empty() {
            let update = self.link.update_item(user_pk(user), row_sk(conversation));
            // What stood there costs nothing to be shown: a device that is new to the row is not.
            let update = set_all(update, &rising).return_values(ReturnValue::UpdatedOld);
            let old = match self.link.update(&call, update).await {
                Ok(before) => {
                    let before = before.unwrap_or_default();
                    let cursor = |rise: &&Rise| rise.name.starts_with(CURSOR_PREFIX);
                    if rising.iter().filter(cursor).any(|rise| !before.contains_key(&rise.name)) {
                        let dropping = self.drop_cursors(user, conversation, raise);
                        let _ = timeout(call.left(), dropping).await;
                    }
                    return Ok(());
                }
                Err(Failure::Store(error)) => return Err(error),
                Err(Failure::Condition { old, .. }) => old.unwrap_or_default(),
            };
            let before = rising.len();
            let mut kept = Vec::with_capacity(before);
            for rise in rising {
                if rise.rises(&old)? {
                    kept.push(rise);
                }
            }
            if kept.len() == before {
                let text = format!("{} / {}", user_pk(user), row_sk(conversation));
                return Err(StoreError::Damaged(text));
            }
            rising = kept;
        }
        Ok(())
    }

    /// After a device that is new to a row: whether it holds too many by now. The raise is done
    /// whatever comes of this; what could not be dropped goes with the next new device.
    async fn drop_cursors(&self, user: &UserId, conversation: &ConversationId, raise: &Raise) {
        if let Err(error) = self.try_drop_cursors(user, conversation, raise).await {
            tracing::debug!(%error, "cursors of forgotten devices stay");
        }
    }

    async fn try_drop_cursors(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        raise: &Raise,
    ) -> Result<(), StoreError> {
        let row = self.mailbox_part(user, MailboxPart::Row(conversation.clone())).await?;
        let cursors = row.rows.into_iter().next().map(|row| row.cursors).unwrap_or_default();
        if cursors.len() <= CURSORS_MAX {
            return Ok(());
        }
        let page = self.mailbox_part(user, MailboxPart::Devices).await?;
        let registered: Vec<_> = page.devices.into_iter().map(|device| device.device).collect();
        let gone = cursors_beyond(&cursors, &registered, raise);
        let mut update = self.link.update_item(user_pk(user), row_sk(conversation));
        let (mut names, mut stand) = (Vec::new(), Vec::new());
        for (i, (device, seq)) in gone.iter().enumerate() {
            names.push(format!("#n{i}"));
            stand.push(format!("#n{i} = :n{i}"));
            update = update
                .expression_attribute_names(format!("#n{i}"), cursor_name(device))
                .expression_attribute_values(format!(":n{i}"), number(*seq));
        }
        if gone.is_empty() {
            return Ok(());
        }
        // One that has risen meanwhile is of a device that is back.
        let update = update
            .update_expression(format!("REMOVE {}", names.join(", ")))
            .condition_expression(stand.join(" AND "));
        match self.link.update(&Call::write("drop_cursors"), update).await {
            Ok(_) | Err(Failure::Condition { .. }) => Ok(()),
            Err(Failure::Store(error)) => Err(error),
        }
    }

    /// Reads what was asked for.
    pub(super) async fn mailbox_part(
        &self,
        user: &UserId,
        part: MailboxPart,
    ) -> Result<MailboxPage, StoreError> {
        let mut page = MailboxPage::default();
        match part {
            MailboxPart::Page { after, consistent } => {
                return self.mailbox_page(user, after, consistent).await;
            }
            MailboxPart::Row(conversation) => {
                let call = Call::read("mailbox_row");
                let row = self.link.get(&call, user_pk(user), row_sk(&conversation)).await?;
                page.rows.extend(row.map(read_row).transpose()?);
            }
            MailboxPart::Devices => {
                let query = self
                    .link
                    .query(user_pk(user), "pk = :pk AND begins_with(sk, :device)")
                    .expression_attribute_values(":device", text("D#"));
                for item in self.link.pages(&Call::read("devices"), query).await? {
                    page.devices.push(read_device(item)?);
                }
            }
        }
        Ok(page)
    }

    /// One Query of the whole partition: rows (`C#`) sort before devices (`D#`), and those before
    /// what says which tokens are dead.
    async fn mailbox_page(
        &self,
        user: &UserId,
        after: Option<String>,
        consistent: bool,
    ) -> Result<MailboxPage, StoreError> {
        let start = after.map(|sk| {
            let key = [("pk", user_pk(user)), ("sk", sk)];
            key.map(|(name, value)| (name.to_owned(), AttributeValue::S(value))).into()
        });
        let query = self
            .link
            .query(user_pk(user), "pk = :pk")
            .consistent_read(consistent)
            .limit(i32::try_from(PAGE_MAX).unwrap_or(i32::MAX))
            .set_exclusive_start_key(start);
        let answer = self.link.page(&Call::read("mailbox"), query).await?;
        let mut page = MailboxPage::default();
        for item in answer.items.unwrap_or_default() {
            let sk = item.get("sk").and_then(|sk| sk.as_s().ok()).map_or("", String::as_str);
            let read = match sk.get(..2) {
                Some("C#") => read_row(item).map(|row| page.rows.push(row)),
                Some("D#") => read_device(item).map(|device| page.devices.push(device)),
                _ if sk == REVOKED_SK => {
                    // What can't be read must not open a door.
                    page.revoked = Some(Timestamp::MAX);
                    read_revoked(item).map(|until| page.revoked = Some(until))
                }
                // Of a later version.
                _ => Ok(()),
            };
            page.damaged.extend(read.err().map(|error| error.to_string()));
        }
        page.next = match answer.last_evaluated_key.and_then(|mut key| key.remove("sk")) {
            Some(AttributeValue::S(sk)) => Some(sk),
            _ => None,
        };
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::DeviceId;

    #[test]
    fn what_no_longer_rises_is_dropped() {
        let phone = DeviceId::parse("phone").unwrap();
        let raise = Raise {
            last: Some(7),
            delivered: Some(5),
            read: Some((5, 4)),
            cursors: vec![(phone.clone(), 3), (phone, 6)],
        };
        let all = rises(&raise);
        let names: Vec<_> = all.iter().map(|r| (r.name.as_str(), r.value)).collect();
        assert_eq!(names, [("last", 7), ("delivered", 5), ("read", 5), ("c.phone", 6)]);
        let old = Item::from([
            ("last".to_owned(), number(9)),
            ("delivered".to_owned(), number(5)),
            ("c.phone".to_owned(), number(5)),
        ]);
        let left: Vec<_> = all.iter().filter(|r| r.rises(&old).unwrap()).collect();
        assert_eq!(left, [&all[2], &all[3]]);
        let damaged = Item::from([("last".to_owned(), text("9"))]);
        assert!(matches!(all[0].rises(&damaged), Err(StoreError::Damaged(_))));
    }
}
