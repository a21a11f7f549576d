//! The board on DynamoDB: rows in the partition `BOARD`, hints in one partition a process.
//!
//! It sends through the store's [`Link`], so that a process has one client and one count of units.
//! Invariant: a row is only ever written by its own life, or over exactly the row that was named.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};

use super::{Beat, Board, BoardRow, HINT_TTL_SECONDS, Role, SlowHint};
use crate::protocol::{Epoch, ProcessId};
use crate::store::StoreError;
use crate::store::dynamodb::table::TTL_ATTRIBUTE;
use crate::store::dynamodb::{Call, Failure, Fields, Item, Link, item, number, text};

/// The partition of all rows.
const BOARD_PK: &str = "BOARD";

/// The board in the store's table.
pub struct DynamoBoard {
    link: Arc<Link>,
}

impl DynamoBoard {
    /// A board on the store's table.
    pub fn new(link: Arc<Link>) -> Self {
        Self { link }
    }
}

#[async_trait]
impl Board for DynamoBoard {
    async fn beat(
        &self,
        row: &BoardRow,
        replacing: Option<(Epoch, u64)>,
    ) -> Result<Beat, StoreError> {
        // A beat that timed out may be applied after a later one: `beat` keeps it from going back.
        let own = "attribute_not_exists(pk) OR (epoch = :epoch AND beat <= :beat)";
        let other = " OR (epoch = :old_epoch AND beat = :old_beat)";
        let mut put = self
            .link
            .put_item(row_item(row))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .expression_attribute_values(":epoch", text(row.epoch.to_string()))
            .expression_attribute_values(":beat", number(row.beat));
        put = match replacing {
            None => put.condition_expression(own),
            Some((epoch, beat)) => put
                .condition_expression(format!("{own}{other}"))
                .expression_attribute_values(":old_epoch", text(epoch.to_string()))
                .expression_attribute_values(":old_beat", number(beat)),
        };
        match self.link.put(&Call::write("beat").ahead(), put).await {
            Ok(()) => Ok(Beat::Written),
            Err(Failure::Store(error)) => Err(error),
            Err(Failure::Condition { old, .. }) => {
                let held = old.and_then(|mut old| old.remove("epoch"));
                let mine = held == Some(text(row.epoch.to_string()));
                Ok(if mine { Beat::Written } else { Beat::Taken })
            }
        }
    }

    async fn read(&self) -> Result<Vec<BoardRow>, StoreError> {
        let query = self.link.query(BOARD_PK.to_owned(), "pk = :pk");
        let items = self.link.pages(&Call::read("board").ahead(), query).await?;
        Ok(items.into_iter().filter_map(|item| readable(read_row(item))).collect())
    }

    async fn remove(&self, id: &ProcessId, epoch: Epoch) -> Result<(), StoreError> {
        let delete = self
            .link
            .delete_item(BOARD_PK.to_owned(), id.to_string())
            .condition_expression("epoch = :epoch")
            .expression_attribute_values(":epoch", text(epoch.to_string()));
        match self.link.delete(&Call::write("board_remove").ahead(), delete).await {
            // Gone already, or another life's.
            Ok(()) | Err(Failure::Condition { .. }) => Ok(()),
            Err(Failure::Store(error)) => Err(error),
        }
    }

    async fn put_hints(
        &self,
        id: &ProcessId,
        ordinal: u64,
        hints: &[SlowHint],
    ) -> Result<(), StoreError> {
        let json = serde_json::to_string(hints)
            .map_err(|error| StoreError::Refused(format!("hints as JSON: {error}")))?;
        let mut put = item(hints_pk(id), hints_sk(ordinal));
        put.insert("hints".to_owned(), text(json));
        put.insert(TTL_ATTRIBUTE.to_owned(), number(now_seconds() + HINT_TTL_SECONDS));
        self.link.put(&Call::write("put_hints").ahead(), self.link.put_item(put)).await?;
        Ok(())
    }

    async fn hints(&self, id: &ProcessId, after: u64) -> Result<(u64, Vec<SlowHint>), StoreError> {
        let query = self
            .link
            .query(hints_pk(id), "pk = :pk AND sk > :after")
            .expression_attribute_values(":after", text(hints_sk(after)));
        let (mut highest, mut hints) = (after, Vec::new());
        for item in self.link.pages(&Call::read("hints").ahead(), query).await? {
            let mut fields = Fields::new(item);
            highest = highest.max(fields.sk_id("")?);
            let read = fields.text("hints").and_then(|json| {
                serde_json::from_str::<Vec<SlowHint>>(&json).map_err(|_| fields.damaged("hints"))
            });
            hints.extend(readable(read).into_iter().flatten());
        }
        Ok((highest, hints))
    }
}

/// One item that can't be read must not hide all others: deaths would go unnoticed.
fn readable<T>(read: Result<T, StoreError>) -> Option<T> {
    read.inspect_err(|error| tracing::error!(%error, "left out of the board")).ok()
}

fn hints_pk(id: &ProcessId) -> String {
    format!("B#{id}")
}

/// 20 digits hold every u64, so that text sorts as numbers do.
fn hints_sk(number: u64) -> String {
    format!("{number:020}")
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn row_item(row: &BoardRow) -> Item {
    let mut put = item(BOARD_PK.to_owned(), row.id.to_string());
    let role = match row.role {
        Role::Server => "server",
        Role::Api => "api",
    };
    let mut set = |name: &str, value| put.insert(name.to_owned(), value);
    set("epoch", text(row.epoch.to_string()));
    set("beat", number(row.beat));
    set("role", text(role));
    set("address", text(row.address.as_str()));
    if let Some(url) = &row.public_url {
        set("publicUrl", text(url.as_str()));
    }
    set("sockets", number(row.sockets.into()));
    set("accepting", AttributeValue::Bool(row.accepting));
    set("hints", number(row.hints));
    set("deaf", AttributeValue::Bool(row.deaf));
    put
}

/// What says that somebody lives must be there. Of the rest what can't be read, as of a later
/// version, gets the value that does the least harm: no new sockets, and hints over the board.
fn read_row(item: Item) -> Result<BoardRow, StoreError> {
    let mut fields = Fields::new(item);
    let epoch = fields.text("epoch")?;
    let epoch = u64::from_str_radix(&epoch, 16).map_err(|_| fields.damaged("epoch"))?;
    let role = match fields.text("role").as_deref() {
        Ok("api") => Role::Api,
        _ => Role::Server,
    };
    let sockets = fields.number("sockets").unwrap_or(0);
    Ok(BoardRow {
        id: fields.sk_id("")?,
        epoch: Epoch(epoch),
        beat: fields.number("beat")?,
        role,
        address: fields.text("address").unwrap_or_default(),
        public_url: fields.maybe_text("publicUrl").unwrap_or_default(),
        sockets: u32::try_from(sockets).unwrap_or(u32::MAX),
        accepting: fields.flag("accepting").unwrap_or(false),
        hints: fields.number("hints").unwrap_or(0),
        deaf: fields.flag("deaf").unwrap_or(true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back() {
        let row = BoardRow {
            id: ProcessId::parse("ws1").unwrap(),
            epoch: Epoch(0xfeed),
            beat: 9,
            role: Role::Server,
            address: "127.0.0.1:3001".to_owned(),
            public_url: Some("wss://chat.example/ws".to_owned()),
            sockets: 12,
            accepting: true,
            hints: 3,
            deaf: false,
        };
        assert_eq!(read_row(row_item(&row)).unwrap(), row);
        let plain = BoardRow { public_url: None, accepting: false, deaf: true, ..row.clone() };
        assert_eq!(read_row(row_item(&plain)).unwrap(), plain);
        for name in ["epoch", "beat", "sk"] {
            let mut gone = row_item(&plain);
            gone.remove(name);
            assert!(matches!(read_row(gone), Err(StoreError::Damaged(_))), "{name}");
        }
        let mut later = row_item(&row);
        later.insert("role".to_owned(), text("of a later version"));
        for name in ["address", "sockets", "accepting", "hints", "deaf"] {
            later.insert(name.to_owned(), AttributeValue::Null(true));
        }
        let read = read_row(later).unwrap();
        assert_eq!((read.id, read.epoch, read.beat), (row.id, row.epoch, row.beat), "it lives");
        assert!(read.deaf && !read.accepting);
    }
}
