//! The table itself: made, checked, and waited for.
//!
//! These calls are a person's or a start's, never a message's, so they may take longer than a call
//! of the port.

use std::error::Error;
use std::time::Duration;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::describe_table::DescribeTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    TableDescription, TableStatus, TimeToLiveSpecification, TimeToLiveStatus,
};
use tokio::time::{Instant, timeout};

use super::client::Link;
use super::retry::{Class, classify};
use crate::store::StoreError;

/// The attribute that DynamoDB deletes by.
pub const TTL_ATTRIBUTE: &str = "ttl";
/// How long one request may take: the first also loads the credentials.
const REQUEST_MS_MAX: u64 = 10_000;
/// How long a new table may take.
const ACTIVE_MS_MAX: u64 = 120_000;
/// How often it is asked for.
const ACTIVE_POLL_MS: u64 = 300;

/// What `create` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It was missing.
    Created,
    /// It was there; nothing but its TTL was touched.
    Existed,
}

/// Makes the table if it is missing, waits until it can be used, and switches TTL on.
pub async fn create(link: &Link) -> Result<Made, StoreError> {
    let made = match describe(link).await? {
        Some(_) => Made::Existed,
        None => make(link).await?,
    };
    wait_until_usable(link).await?;
    if ttl_fault(link).await?.is_some() {
        switch_ttl_on(link).await?;
    }
    Ok(made)
}

/// What is wrong with the table, in sentences; none when it is as Parlor needs it.
pub async fn check(link: &Link) -> Result<Vec<String>, StoreError> {
    let name = &link.place.table;
    let Some(table) = describe(link).await? else {
        return Ok(vec![format!("there is no table {name:?}: run {}", link.place.create())]);
    };
    let mut faults = Vec::new();
    if !usable(&table) {
        let status = table.table_status().map_or("unknown", |s| s.as_str());
        faults.push(format!("the table {name:?} is not active, its status is {status}"));
    }
    faults.extend(key_fault(&table));
    faults.extend(ttl_fault(link).await?);
    Ok(faults)
}

/// For the start of a role: the table is there, or is made where the endpoint is DynamoDB Local.
pub(super) async fn ready(link: &Link) -> Result<(), StoreError> {
    match describe(link).await? {
        Some(_) => wait_until_usable(link).await,
        None if link.local => create(link).await.map(|_| ()),
        None => {
            let name = &link.place.table;
            let text = format!("there is no table {name:?}: run {}", link.place.create());
            Err(StoreError::Refused(text))
        }
    }
}

/// A table that is being changed serves all along.
fn usable(table: &TableDescription) -> bool {
    matches!(table.table_status(), Some(TableStatus::Active | TableStatus::Updating))
}

async fn describe(link: &Link) -> Result<Option<TableDescription>, StoreError> {
    let answer = request(link.client.describe_table().table_name(&link.place.table).send()).await?;
    match answer {
        Ok(answer) => Ok(answer.table),
        Err(SdkError::ServiceError(failed))
            if matches!(failed.err(), DescribeTableError::ResourceNotFoundException(_)) =>
        {
            Ok(None)
        }
        Err(error) => Err(store_error(link, &error)),
    }
}

async fn make(link: &Link) -> Result<Made, StoreError> {
    let wrong = |error: aws_sdk_dynamodb::error::BuildError| StoreError::Refused(error.to_string());
    let mut create = link
        .client
        .create_table()
        .table_name(&link.place.table)
        .billing_mode(BillingMode::PayPerRequest);
    for (name, role) in [("pk", KeyType::Hash), ("sk", KeyType::Range)] {
        let definition = AttributeDefinition::builder().attribute_name(name);
        let definition =
            definition.attribute_type(ScalarAttributeType::S).build().map_err(wrong)?;
        let key = KeySchemaElement::builder().attribute_name(name).key_type(role).build();
        create = create.attribute_definitions(definition).key_schema(key.map_err(wrong)?);
    }
    match request(create.send()).await? {
        Ok(_) => Ok(Made::Created),
        // Somebody else was faster, which is as good.
        Err(error) if error.code() == Some("ResourceInUseException") => Ok(Made::Existed),
        Err(error) => Err(store_error(link, &error)),
    }
}

async fn wait_until_usable(link: &Link) -> Result<(), StoreError> {
    let deadline = Instant::now() + Duration::from_millis(ACTIVE_MS_MAX);
    loop {
        let table = describe(link).await?;
        let status = table.as_ref().and_then(|table| table.table_status());
        match (table.as_ref(), status) {
            (Some(table), _) if usable(table) => {
                return key_fault(table).map_or(Ok(()), |f| Err(StoreError::Refused(f)));
            }
            (Some(_), Some(TableStatus::Deleting)) => {
                let text = format!("the table {:?} is being deleted", link.place.table);
                return Err(StoreError::Refused(text));
            }
            _ if Instant::now() >= deadline => {
                let text = format!("the table {:?} did not become active", link.place.table);
                return Err(StoreError::Unavailable(text));
            }
            _ => tokio::time::sleep(Duration::from_millis(ACTIVE_POLL_MS)).await,
        }
    }
}

async fn switch_ttl_on(link: &Link) -> Result<(), StoreError> {
    let specification = TimeToLiveSpecification::builder()
        .enabled(true)
        .attribute_name(TTL_ATTRIBUTE)
        .build()
        .map_err(|error| StoreError::Refused(error.to_string()))?;
    let update = link
        .client
        .update_time_to_live()
        .table_name(&link.place.table)
        .time_to_live_specification(specification);
    match request(update.send()).await? {
        Ok(_) => Ok(()),
        // Processes that start together: another one has just done it.
        Err(error) => match ttl_fault(link).await? {
            None => Ok(()),
            Some(_) => Err(store_error(link, &error)),
        },
    }
}

/// What is wrong with the key schema.
fn key_fault(table: &TableDescription) -> Option<String> {
    let key = |role: KeyType| {
        let element = table.key_schema().iter().find(|key| *key.key_type() == role)?;
        let name = element.attribute_name();
        let definition = table.attribute_definitions().iter().find(|d| d.attribute_name() == name);
        Some((name, definition?.attribute_type().as_str()))
    };
    let (hash, range) = (key(KeyType::Hash), key(KeyType::Range));
    let right = hash == Some(("pk", "S")) && range == Some(("sk", "S"));
    let name = table.table_name().unwrap_or_default();
    (!right).then(|| {
        format!(
            "the key of the table {name:?} is not `pk` (partition) and `sk` (sort), both strings; \
             a key can't be changed: choose another name with --table"
        )
    })
}

/// What is wrong with the TTL.
async fn ttl_fault(link: &Link) -> Result<Option<String>, StoreError> {
    let describe = link.client.describe_time_to_live().table_name(&link.place.table);
    let answer = request(describe.send()).await?;
    let answer = answer.map_err(|error| store_error(link, &error))?;
    let ttl = answer.time_to_live_description;
    let status = ttl.as_ref().and_then(|ttl| ttl.time_to_live_status());
    let on = matches!(status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling));
    let attribute = ttl.as_ref().and_then(|ttl| ttl.attribute_name()).unwrap_or_default();
    Ok(match (on, attribute) {
        (true, TTL_ATTRIBUTE) => None,
        (true, other) => Some(format!(
            "TTL is on for the attribute {other:?}, it must be {TTL_ATTRIBUTE:?}: switch it off, \
             then run {}",
            link.place.create()
        )),
        (false, _) => Some(format!(
            "TTL is off, it must be on for the attribute {TTL_ATTRIBUTE:?}: run {}",
            link.place.create()
        )),
    })
}

async fn request<T>(send: impl Future<Output = T>) -> Result<T, StoreError> {
    let limit = Duration::from_millis(REQUEST_MS_MAX);
    timeout(limit, send)
        .await
        .map_err(|_| StoreError::Unavailable("DynamoDB did not answer within 10 s".to_owned()))
}

fn store_error<E>(link: &Link, error: &SdkError<E>) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let (class, text) = classify(error, &link.place);
    match class {
        Class::Refused => StoreError::Refused(text),
        _ => StoreError::Unavailable(text),
    }
}
