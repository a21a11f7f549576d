//! The way to the table: one SDK client for everything in a process, metered and retried.
//!
//! `mod`, `log`, `mailbox`, `records` and the board build requests; every one of them is sent from
//! here, so that the time limit, the retry rules of `retry` and the count of units hold for all.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::StalledStreamProtectionConfig;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::delete_item::builders::DeleteItemFluentBuilder;
use aws_sdk_dynamodb::operation::get_item::builders::GetItemFluentBuilder;
use aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder;
use aws_sdk_dynamodb::operation::query::QueryOutput;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, ConsumedCapacity, ReturnConsumedCapacity, ReturnValuesOnConditionCheckFailure,
};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::budget::{Budget, Partition};
use super::items::Item;
use super::retry::{Call, Class, Conditional, Failure, Place, classify, pause};
use super::target::{BadTarget, Target, check_table_name};
use crate::planted::{Bug, planted};
use crate::store::StoreError;
use crate::telemetry::{self, Metrics};

/// How long a connection may take to stand.
const CONNECT_MS_MAX: u64 = 500;

/// How many requests are under way at a time, each on a connection of its own. When the store is
/// slow, what is beyond waits, so that it can't take all file descriptors from the sockets.
pub(super) const REQUESTS_MAX: usize = 256;

/// A table and the way to it; the store and the board of a process share one.
pub struct Link {
    /// The SDK's client, with its connections.
    pub(super) client: Client,
    /// The target and the table's name.
    pub(super) place: Place,
    /// The endpoint is this machine's: DynamoDB Local.
    pub(super) local: bool,
    metrics: Arc<Metrics>,
    budget: Budget,
    slots: Semaphore,
}

impl Link {
    /// Makes ready to talk to `target`: `aws`, or a URL. Sends nothing to the table yet.
    pub async fn new(
        target: &str,
        table: &str,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, BadTarget> {
        let place = Place { target: target.to_owned(), table: table.to_owned() };
        let target = Target::parse(target)?;
        check_table_name(table)?;
        let shared = target.load().await;
        let config = aws_sdk_dynamodb::config::Builder::from(&shared)
            .retry_config(RetryConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(Duration::from_millis(CONNECT_MS_MAX))
                    .build(),
            )
            // Every attempt has its own limit, which covers the body too.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .build();
        if config.region().is_none() {
            let text = "no AWS region is set: set AWS_REGION, or a region in the profile";
            return Err(BadTarget(text.to_owned()));
        }
        Ok(Arc::new(Self {
            client: Client::from_conf(config),
            place,
            local: target.is_loopback(),
            metrics,
            budget: Budget::full(),
            slots: Semaphore::new(REQUESTS_MAX),
        }))
    }

    /// Whether others on the network can read what it is told.
    pub fn is_readable(&self) -> bool {
        !self.local && self.place.target.starts_with("http://")
    }

    /// An unconditional or conditional PutItem.
    pub fn put_item(&self, item: Item) -> PutItemFluentBuilder {
        self.client
            .put_item()
            .table_name(&self.place.table)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .set_item(Some(item))
    }

    /// An UpdateItem that shows the old item where its condition fails.
    pub fn update_item(&self, pk: String, sk: String) -> UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(&self.place.table)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .key("pk", AttributeValue::S(pk))
            .key("sk", AttributeValue::S(sk))
    }

    /// A DeleteItem.
    pub fn delete_item(&self, pk: String, sk: String) -> DeleteItemFluentBuilder {
        self.client
            .delete_item()
            .table_name(&self.place.table)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .key("pk", AttributeValue::S(pk))
            .key("sk", AttributeValue::S(sk))
    }

    /// A strongly consistent Query; the key condition names `:pk`.
    pub fn query(&self, pk: String, condition: &str) -> QueryFluentBuilder {
        self.client
            .query()
            .table_name(&self.place.table)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .consistent_read(true)
            .key_condition_expression(condition)
            .expression_attribute_values(":pk", AttributeValue::S(pk))
    }

    /// Sends a PutItem.
    pub async fn put(&self, call: &Call, put: PutItemFluentBuilder) -> Result<(), Failure> {
        let partition = self.partition(put.get_item());
        let answer = self.run(call, partition, || put.clone().send()).await?;
        self.wrote(call, answer.consumed_capacity());
        Ok(())
    }

    /// Sends an UpdateItem; gives the attributes that it asked to be shown.
    pub async fn update(
        &self,
        call: &Call,
        up: UpdateItemFluentBuilder,
    ) -> Result<Option<Item>, Failure> {
        let partition = self.partition(up.get_key());
        let answer = self.run(call, partition, || up.clone().send()).await?;
        self.wrote(call, answer.consumed_capacity());
        Ok(answer.attributes)
    }

    /// Sends a DeleteItem.
    pub async fn delete(&self, call: &Call, del: DeleteItemFluentBuilder) -> Result<(), Failure> {
        let partition = self.partition(del.get_key());
        let answer = self.run(call, partition, || del.clone().send()).await?;
        self.wrote(call, answer.consumed_capacity());
        Ok(())
    }

    /// Reads one item, strongly consistent.
    pub async fn get(
        &self,
        call: &Call,
        pk: String,
        sk: String,
    ) -> Result<Option<Item>, StoreError> {
        let get: GetItemFluentBuilder = self
            .client
            .get_item()
            .table_name(&self.place.table)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .consistent_read(true)
            .key("pk", AttributeValue::S(pk))
            .key("sk", AttributeValue::S(sk));
        let partition = self.partition(get.get_key());
        let answer = self.run(call, partition, || get.clone().send()).await?;
        self.read(call, answer.consumed_capacity());
        Ok(answer.item)
    }

    /// Sends one Query.
    pub async fn page(
        &self,
        call: &Call,
        query: QueryFluentBuilder,
    ) -> Result<QueryOutput, StoreError> {
        let partition = self.partition(query.get_expression_attribute_values());
        let mut answer = self.run(call, partition, || query.clone().send()).await?;
        self.read(call, answer.consumed_capacity());
        if planted(Bug::PageIsAll) {
            answer.last_evaluated_key = None;
        }
        Ok(answer)
    }

    /// Sends a Query until nothing is left. Only for partitions that are bounded.
    pub async fn pages(
        &self,
        call: &Call,
        query: QueryFluentBuilder,
    ) -> Result<Vec<Item>, StoreError> {
        let (mut items, mut from) = (Vec::new(), None);
        loop {
            let answer = self.page(call, query.clone().set_exclusive_start_key(from)).await?;
            items.extend(answer.items.unwrap_or_default());
            from = answer.last_evaluated_key;
            if from.is_none() {
                return Ok(items);
            }
        }
    }

    /// Sends a request until it has an outcome, the rules forbid another try, or time is up.
    async fn run<T, E, F>(
        &self,
        call: &Call,
        partition: Partition,
        attempt: impl Fn() -> F,
    ) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + Conditional + Error + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        let (mut tries, mut doubtful) = (0, false);
        loop {
            let slot = self.slot(call).await.map_err(|text| {
                self.count(call, Class::NotSent.name());
                self.failed(call, Class::NotSent, doubtful, text)
            })?;
            let answer = timeout(call.attempt_time(), attempt()).await;
            drop(slot);
            let (class, text) = match answer {
                Ok(Ok(answer)) => {
                    self.count(call, "ok");
                    self.budget.pay_back(partition);
                    return Ok(answer);
                }
                Ok(Err(error)) => {
                    let (class, text) = classify(&error, &self.place);
                    match failed_condition(error) {
                        Some(old) => {
                            self.count(call, "condition");
                            self.budget.pay_back(partition);
                            // Billed, but in no answer's ConsumedCapacity.
                            self.write_units(call, 1.0);
                            return Err(Failure::Condition { old, doubtful });
                        }
                        None => (class, text),
                    }
                }
                Err(_) => (Class::MaybeApplied, "no answer in time".to_owned()),
            };
            self.count(call, class.name());
            doubtful |= class == Class::MaybeApplied;
            let pause = pause(tries);
            let may = call.may_repeat(class, tries) && pause < call.left();
            if !may || !self.takes_retry(call, partition) {
                return Err(self.failed(call, class, doubtful, text));
            }
            tries += 1;
            tokio::time::sleep(pause).await;
        }
    }

    async fn slot(&self, call: &Call) -> Result<Option<SemaphorePermit<'_>>, String> {
        if call.ahead {
            return Ok(None);
        }
        let slot = timeout(call.left(), self.slots.acquire()).await;
        let text = || format!("{REQUESTS_MAX} requests are under way, none was done in time");
        slot.ok().and_then(Result::ok).map(Some).ok_or_else(text)
    }

    fn count(&self, call: &Call, outcome: &'static str) {
        let labels = telemetry::Call { operation: call.operation, outcome };
        self.metrics.store_calls.get_or_create(&labels).inc();
    }

    fn failed(&self, call: &Call, class: Class, doubtful: bool, text: String) -> Failure {
        self.metrics.store_trouble.note(&text);
        call.error(class, doubtful, text).into()
    }

    fn takes_retry(&self, call: &Call, partition: Partition) -> bool {
        let taken = self.budget.take(partition, call.ahead);
        Metrics::count(&self.metrics.store_retries, if taken { "sent" } else { "no_budget" });
        taken
    }

    /// The bucket of the partition that a request names, in its item, its key or its values.
    fn partition(&self, named: &Option<Item>) -> Partition {
        let value = named.as_ref().and_then(|item| item.get("pk").or_else(|| item.get(":pk")));
        self.budget.partition(value.and_then(|pk| pk.as_s().ok()).map_or("", String::as_str))
    }

    fn wrote(&self, call: &Call, capacity: Option<&ConsumedCapacity>) {
        self.write_units(call, units(capacity));
    }

    fn write_units(&self, call: &Call, units: f64) {
        let labels = telemetry::Operation { operation: call.operation };
        self.metrics.write_units.get_or_create(&labels).inc_by(units);
    }

    fn read(&self, call: &Call, capacity: Option<&ConsumedCapacity>) {
        let labels = telemetry::Operation { operation: call.operation };
        self.metrics.read_units.get_or_create(&labels).inc_by(units(capacity));
    }
}

fn units(capacity: Option<&ConsumedCapacity>) -> f64 {
    capacity.and_then(|c| c.capacity_units).unwrap_or(0.0)
}

fn failed_condition<E: Conditional>(error: SdkError<E>) -> Option<Option<Item>> {
    match error {
        SdkError::ServiceError(answer) => answer.into_err().failed_condition(),
        _ => None,
    }
}
