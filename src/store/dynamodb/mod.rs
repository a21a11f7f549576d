//! The store on DynamoDB: one table, any number of processes.
//!
//! `items` says how things are named and read back, `client` sends requests by the rules of `retry`
//! with the retries of `budget`, `log`, `mailbox` and `records` are the port's methods, `table`
//! makes and checks the table. No call is a batch, so none comes back half done. Invariant: every
//! write is conditional, only rises, or may be repeated without harm.

mod target;
mod client;
mod items;
mod fields;
mod log;
mod mailbox;
mod records;
mod retry;
mod budget;
pub mod table;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use async_trait::async_trait;

pub use client::Link;
pub(crate) use fields::Fields;
pub(crate) use items::{Item, item, number, text};
pub(crate) use retry::{Call, Failure};
pub use target::BadTarget;

use crate::protocol::{ConversationId, Entry, UserId};
use crate::store::{
    LogPage, LogRange, MailboxPage, MailboxPart, Raise, Record, RecordPart, Store, StoreError,
};

/// The store on one table.
pub struct DynamoStore {
    link: Arc<Link>,
}

impl DynamoStore {
    /// Opens the table. On a loopback URL, which is DynamoDB Local, it is made where it is missing;
    /// elsewhere its absence is said.
    pub async fn open(link: Arc<Link>) -> Result<Self, StoreError> {
        table::ready(&link).await?;
        Ok(Self { link })
    }

    /// The way to the table, for the board of the same process.
    pub fn link(&self) -> Arc<Link> {
        self.link.clone()
    }
}

#[async_trait]
impl Store for DynamoStore {
    async fn append(
        &self,
        conversation: &ConversationId,
        entries: &[Entry],
    ) -> Result<usize, StoreError> {
        self.append_first(conversation, entries).await
    }

    async fn log(
        &self,
        conversation: &ConversationId,
        range: LogRange,
    ) -> Result<LogPage, StoreError> {
        self.log_page(conversation, range).await
    }

    async fn raise(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        raise: &Raise,
    ) -> Result<(), StoreError> {
        self.raise_row(user, conversation, raise).await
    }

    async fn mailbox(&self, user: &UserId, part: MailboxPart) -> Result<MailboxPage, StoreError> {
        self.mailbox_part(user, part).await
    }

    async fn write(&self, record: Record) -> Result<bool, StoreError> {
        self.write_record(record).await
    }

    async fn records(&self, part: RecordPart) -> Result<Vec<Record>, StoreError> {
        self.read_records(part).await
    }
}
