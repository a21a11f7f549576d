//! Taking an item apart, attribute by attribute.

use aws_sdk_dynamodb::types::AttributeValue;

use super::Item;
use crate::store::StoreError;

/// Takes an item apart; every error names the item and the attribute.
pub struct Fields {
    pub(super) item: Item,
    pub(super) key: String,
}

impl Fields {
    /// Of an item.
    pub fn new(item: Item) -> Self {
        let part = |name| item.get(name).and_then(|v| v.as_s().ok()).map_or("?", String::as_str);
        let key = format!("{} / {}", part("pk"), part("sk"));
        Self { item, key }
    }

    /// The error for an attribute.
    pub fn damaged(&self, what: &str) -> StoreError {
        StoreError::Damaged(format!("{}: {what}", self.key))
    }

    /// The sort key.
    pub fn sk(&self) -> &str {
        self.item.get("sk").and_then(|v| v.as_s().ok()).map_or("", String::as_str)
    }

    /// Text that may be absent.
    pub fn maybe_text(&mut self, name: &str) -> Result<Option<String>, StoreError> {
        match self.item.remove(name) {
            None => Ok(None),
            Some(AttributeValue::S(text)) => Ok(Some(text)),
            Some(_) => Err(self.damaged(name)),
        }
    }

    /// Text.
    pub fn text(&mut self, name: &str) -> Result<String, StoreError> {
        self.maybe_text(name)?.ok_or_else(|| self.damaged(name))
    }

    /// A number that may be absent.
    pub fn maybe_number(&mut self, name: &str) -> Result<Option<u64>, StoreError> {
        match self.item.remove(name) {
            None => Ok(None),
            Some(value) => as_number(&value).map(Some).ok_or_else(|| self.damaged(name)),
        }
    }

    /// A number.
    pub fn number(&mut self, name: &str) -> Result<u64, StoreError> {
        self.maybe_number(name)?.ok_or_else(|| self.damaged(name))
    }

    /// A truth value; absent is false.
    pub fn flag(&mut self, name: &str) -> Result<bool, StoreError> {
        match self.item.remove(name) {
            None => Ok(false),
            Some(AttributeValue::Bool(flag)) => Ok(flag),
            Some(_) => Err(self.damaged(name)),
        }
    }

    /// Anything, absent or not.
    pub fn value(&mut self, name: &str) -> Option<AttributeValue> {
        self.item.remove(name)
    }

    /// An id that may be absent, checked as where it first entered.
    pub fn maybe_id<T: std::str::FromStr>(&mut self, name: &str) -> Result<Option<T>, StoreError> {
        match self.maybe_text(name)? {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| self.damaged(name)),
        }
    }

    /// An id.
    pub fn id<T: std::str::FromStr>(&mut self, name: &str) -> Result<T, StoreError> {
        self.maybe_id(name)?.ok_or_else(|| self.damaged(name))
    }

    /// What follows `prefix` in the sort key, as an id.
    pub fn sk_id<T: std::str::FromStr>(&self, prefix: &str) -> Result<T, StoreError> {
        let id = self.sk().strip_prefix(prefix).and_then(|rest| rest.parse().ok());
        id.ok_or_else(|| self.damaged("sk"))
    }
}

/// A number, if it is one that fits.
pub fn as_number(value: &AttributeValue) -> Option<u64> {
    value.as_n().ok().and_then(|n| n.parse().ok())
}
