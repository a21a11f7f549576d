//! A conversation's log: conditional puts, and Queries between two seqs.

use std::collections::HashMap;

use super::DynamoStore;
use super::items::{Item, conversation_pk, entry_item, entry_sk, read_entry, text};
use super::retry::{Call, Effect, Failure};
use crate::planted::{Bug, planted};
use crate::protocol::{ConversationId, Entry, Seq};
use crate::store::{LogPage, LogRange, Order, StoreError};

/// A page is full at about this many bytes: what DynamoDB reads in one Query.
const PAGE_BYTES_MAX: usize = 1_000_000;
/// What an entry takes beside its text and data, about.
const ENTRY_BYTES: usize = 200;

impl DynamoStore {
    /// Puts the first entry alone: two items in one request would be a transaction, at twice the
    /// price of two puts.
    pub(super) async fn append_first(
        &self,
        conversation: &ConversationId,
        entries: &[Entry],
    ) -> Result<usize, StoreError> {
        let Some(entry) = entries.first() else { return Ok(0) };
        let put = self
            .link
            .put_item(entry_item(conversation, entry))
            .condition_expression("attribute_not_exists(pk)");
        match self.link.put(&Call::new("append", Effect::Once), put).await {
            Ok(()) => Ok(1),
            Err(Failure::Condition { .. }) => Ok(0),
            Err(Failure::Store(error)) => Err(error),
        }
    }

    /// Follows the keys until the limit or 1 MB: DynamoDB may end a page before either.
    pub(super) async fn log_page(
        &self,
        conversation: &ConversationId,
        range: LogRange,
    ) -> Result<LogPage, StoreError> {
        let Some((low, high)) = bounds(&range) else { return Ok(LogPage::default()) };
        let call = Call::read("log");
        let query = self
            .link
            .query(conversation_pk(conversation), "pk = :pk AND sk BETWEEN :low AND :high")
            .expression_attribute_values(":low", text(entry_sk(low)))
            .expression_attribute_values(":high", text(entry_sk(high)))
            .consistent_read(!planted(Bug::StaleHistory))
            .scan_index_forward(range.order == Order::Ascending);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let mut from: Option<Item> = None;
        loop {
            let left = range.limit.saturating_sub(entries.len());
            let page = query
                .clone()
                .limit(i32::try_from(left).unwrap_or(i32::MAX))
                .set_exclusive_start_key(from);
            let answer = self.link.page(&call, page).await?;
            for item in answer.items.unwrap_or_default() {
                let entry = read_entry(item)?;
                bytes += size(&entry);
                entries.push(entry);
            }
            from = answer.last_evaluated_key.filter(|key| !ends_at(key, &range, low, high));
            if from.is_none() || entries.len() >= range.limit || bytes >= PAGE_BYTES_MAX {
                return Ok(LogPage { entries, more: from.is_some() });
            }
        }
    }
}

/// The lowest and highest seq in a range; `None` where it is empty, which BETWEEN would refuse.
fn bounds(range: &LogRange) -> Option<(Seq, Seq)> {
    let low = range.after.checked_add(1)?;
    let high = range.before.map_or(Some(Seq::MAX), |before| before.checked_sub(1))?;
    (range.limit > 0 && low <= high).then_some((low, high))
}

/// Whether the last key of a page is the range's very last seq: DynamoDB gives a key there too.
fn ends_at(
    key: &HashMap<String, aws_sdk_dynamodb::types::AttributeValue>,
    range: &LogRange,
    low: Seq,
    high: Seq,
) -> bool {
    let end = if range.order == Order::Ascending { high } else { low };
    key.get("sk").and_then(|sk| sk.as_s().ok()).is_some_and(|sk| *sk == entry_sk(end))
}

fn size(entry: &Entry) -> usize {
    let message = entry.message.as_ref().map_or(0, |m| m.len());
    ENTRY_BYTES + message + entry.data.as_ref().map_or(0, |d| d.get().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_range_is_not_asked_for() {
        let range = |after, before, limit| {
            bounds(&LogRange { after, before, order: Order::Ascending, limit })
        };
        assert_eq!(range(0, None, 5), Some((1, Seq::MAX)));
        assert_eq!(range(3, Some(6), 5), Some((4, 5)));
        assert_eq!(range(3, Some(4), 5), None);
        assert_eq!(range(0, Some(0), 5), None);
        assert_eq!(range(Seq::MAX, None, 5), None);
        assert_eq!(range(0, None, 0), None);
    }
}
