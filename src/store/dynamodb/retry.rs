//! What a failed DynamoDB request means, and whether to send it again.
//!
//! The SDK's own retries are off: it counts a lost answer as a failure like any other, while here
//! everything hangs on the difference. Only a 200, a failed condition, a validation, access or
//! throttle error, and a connection that never stood say what happened; all else is "maybe
//! applied". `client` runs the attempts by these rules.

use std::error::Error;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::get_item::GetItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::query::QueryError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use tokio::time::Instant;

use super::items::Item;
use crate::store::{CALL_MS_MAX, StoreError};

/// How long one attempt may take.
pub const ATTEMPT_MS_MAX: u64 = 1_000;
/// What is kept back of [`CALL_MS_MAX`], so that the caller hears within it.
const SLACK_MS: u64 = 100;
/// The first pause lasts up to this, each further one up to double.
const PAUSE_MS_BASE: u64 = 50;
/// No pause is longer.
const PAUSE_MS_MAX: u64 = 400;
/// No call is tried again more often: the senders behind it hear `unavailable` sooner, and who
/// holds the lane has patience of its own.
const RETRIES_MAX: u32 = 3;

/// What a call does if its outcome is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Reads: nothing can have happened.
    None,
    /// Writes that may be repeated without harm.
    Repeatable,
    /// Writes that the caller must decide on by reading.
    Once,
}

/// One call of a port: a name for the metrics, and a time by which it ends.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// For the metrics.
    pub operation: &'static str,
    /// What may happen when no answer comes.
    pub effect: Effect,
    /// It does not queue behind other requests.
    pub ahead: bool,
    deadline: Instant,
}

impl Call {
    /// A call that begins now.
    pub fn new(operation: &'static str, effect: Effect) -> Self {
        let deadline = Instant::now() + Duration::from_millis(CALL_MS_MAX - SLACK_MS);
        Self { operation, effect, ahead: false, deadline }
    }

    /// A call that reads.
    pub fn read(operation: &'static str) -> Self {
        Self::new(operation, Effect::None)
    }

    /// A write that may be repeated.
    pub fn write(operation: &'static str) -> Self {
        Self::new(operation, Effect::Repeatable)
    }

    /// The same call, ahead of all others: for the few that say whether this process is alive.
    pub fn ahead(self) -> Self {
        Self { ahead: true, ..self }
    }

    /// What an attempt that begins now may take.
    pub fn attempt_time(&self) -> Duration {
        self.left().min(Duration::from_millis(ATTEMPT_MS_MAX))
    }

    /// What is left of the call.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The error for a call that came to nothing.
    pub fn error(&self, class: Class, doubtful: bool, text: String) -> StoreError {
        match (self.effect, class) {
            (Effect::Repeatable | Effect::Once, _) if doubtful => StoreError::Unknown(text),
            (_, Class::Refused) => StoreError::Refused(text),
            _ => StoreError::Unavailable(text),
        }
    }

    /// Whether an attempt that ended so, after so many others, may be followed by another.
    pub fn may_repeat(&self, class: Class, tries: u32) -> bool {
        match class {
            _ if tries >= RETRIES_MAX => false,
            Class::Refused => false,
            Class::Throttled | Class::NotSent => true,
            Class::MaybeApplied => self.effect != Effect::Once,
        }
    }
}

/// Why an attempt, and with it a call, ended without success.
#[derive(Debug)]
pub enum Failure {
    /// The condition did not hold.
    Condition {
        /// The item as it stands, where the request asked for it.
        old: Option<Item>,
        /// An earlier attempt of the same call may be what the condition met.
        doubtful: bool,
    },
    /// Anything else.
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            // Only for requests without a condition, which can't fail so.
            Failure::Condition { .. } => Self::Refused("an unexpected condition".to_owned()),
            Failure::Store(error) => error,
        }
    }
}

/// What an error says about the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Not done: too much at once.
    Throttled,
    /// Not done: no connection, or nothing to sign with.
    NotSent,
    /// Not done, and never will be as it is.
    Refused,
    /// Nobody knows.
    MaybeApplied,
}

impl Class {
    /// The outcome's name in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::NotSent => "not_sent",
            Self::Refused => "refused",
            Self::MaybeApplied => "unknown",
        }
    }
}

/// Errors that may be a failed condition.
pub trait Conditional {
    /// `Some` if the condition failed, with the old item where it came along.
    fn failed_condition(self) -> Option<Option<Item>>;
}

macro_rules! conditional {
    ($($error:ident)*) => { $(
        impl Conditional for $error {
            fn failed_condition(self) -> Option<Option<Item>> {
                match self {
                    Self::ConditionalCheckFailedException(failed) => Some(failed.item),
                    _ => None,
                }
            }
        }
    )* };
}

macro_rules! unconditional {
    ($($error:ident)*) => { $(
        impl Conditional for $error {
            fn failed_condition(self) -> Option<Option<Item>> {
                None
            }
        }
    )* };
}

conditional!(PutItemError UpdateItemError DeleteItemError);
unconditional!(GetItemError QueryError);

/// Where requests go, for the sentences that say what to do.
#[derive(Debug, Clone)]
pub struct Place {
    /// `aws`, or the URL.
    pub target: String,
    /// The table's name.
    pub table: String,
}

impl Place {
    /// What makes the table, to be copied.
    pub fn create(&self) -> String {
        let Self { target, table } = self;
        format!("`parlor table create --dynamodb {target} --table {table}`")
    }
}

/// Says what an error means, in a class and in words that name what to do.
pub fn classify<E>(error: &SdkError<E>, place: &Place) -> (Class, String)
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(answer) => {
            let meta = answer.err().meta();
            let (code, message) = (meta.code().unwrap_or(""), meta.message().unwrap_or(""));
            classify_code(code, message, answer.raw().status().as_u16(), place)
        }
        SdkError::ConstructionFailure(_) => (Class::Refused, in_words(error)),
        SdkError::DispatchFailure(_) => match find::<CredentialsError>(error) {
            Some(CredentialsError::CredentialsNotLoaded(_)) => (
                Class::Refused,
                "no AWS credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a \
                 profile or a role"
                    .to_owned(),
            ),
            Some(_) => (
                Class::NotSent,
                format!(
                    "the AWS credentials can't be had: {}; check the profile or the role",
                    last_cause(error)
                ),
            ),
            None if never_connected(error) => {
                let (target, why) = (&place.target, last_cause(error));
                let check = "check --dynamodb, and that something listens there";
                (Class::NotSent, format!("no connection to {target}: {why}; {check}"))
            }
            None => {
                let why = last_cause(error);
                (Class::MaybeApplied, format!("the connection to {} broke: {why}", place.target))
            }
        },
        _ => (Class::MaybeApplied, in_words(error)),
    }
}

fn classify_code(code: &str, message: &str, status: u16, place: &Place) -> (Class, String) {
    let table = &place.table;
    match code {
        "ProvisionedThroughputExceededException"
        | "ThrottlingException"
        | "Throttling"
        | "RequestLimitExceeded" => (Class::Throttled, format!("throttled: {message}")),
        "ResourceNotFoundException" => {
            (Class::Refused, format!("there is no table {table:?} here: run {}", place.create()))
        }
        "AccessDeniedException" => (
            Class::Refused,
            format!(
                "no rights: {message}; Parlor needs GetItem, PutItem, UpdateItem, DeleteItem, \
                 Query and DescribeTable on the table"
            ),
        ),
        "ExpiredTokenException" | "ExpiredToken" => {
            (Class::Refused, format!("the AWS credentials have expired: {message}"))
        }
        "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "IncompleteSignatureException"
        | "MissingAuthenticationTokenException"
        | "MissingAuthenticationToken" => (
            Class::Refused,
            format!("AWS does not accept these credentials: {message}; check them and the clock"),
        ),
        "ValidationException" | "SerializationException" => (
            Class::Refused,
            format!(
                "{message}; `parlor table check --dynamodb {} --table {table}` says whether it \
                 fits",
                place.target
            ),
        ),
        _ => (Class::MaybeApplied, format!("HTTP {status} {code} {message}")),
    }
}

/// What caused the error, each in its words; the SDK's own says no more than its kind.
fn in_words<E: Error + 'static>(error: &SdkError<E>) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

/// What is at the bottom of an error, which the SDK wraps several times.
fn last_cause(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// Whether the connection was never made, so that nothing can have been sent.
fn never_connected(error: &(dyn Error + 'static)) -> bool {
    find::<hyper_util::client::legacy::Error>(error).is_some_and(|e| e.is_connect())
}

fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Full jitter: a random part of a bound that doubles.
pub fn pause(tries: u32) -> Duration {
    let bound = PAUSE_MS_BASE.saturating_mul(1 << tries.min(10)).min(PAUSE_MS_MAX);
    Duration::from_micros(rand::random_range(0..=bound * 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_so_was_not_done() {
        let place = Place { target: "aws".to_owned(), table: "parlor".to_owned() };
        let class = |code| classify_code(code, "", 400, &place).0;
        assert_eq!(class("ThrottlingException"), Class::Throttled);
        assert_eq!(class("RequestLimitExceeded"), Class::Throttled);
        assert_eq!(class("ValidationException"), Class::Refused);
        assert_eq!(class("AccessDeniedException"), Class::Refused);
        assert_eq!(class("InternalServerError"), Class::MaybeApplied);
        assert_eq!(class("ServiceUnavailable"), Class::MaybeApplied);
        assert_eq!(class(""), Class::MaybeApplied);
    }

    #[test]
    fn an_unknown_outcome_stays_unknown_for_writes_only() {
        let error = |effect, class| Call::new("x", effect).error(class, true, String::new());
        assert!(matches!(error(Effect::Once, Class::MaybeApplied), StoreError::Unknown(_)));
        assert!(matches!(error(Effect::Repeatable, Class::Refused), StoreError::Unknown(_)));
        assert!(matches!(error(Effect::None, Class::MaybeApplied), StoreError::Unavailable(_)));
        assert!(!Call::new("x", Effect::Once).may_repeat(Class::MaybeApplied, 0));
        assert!(Call::new("x", Effect::Once).may_repeat(Class::Throttled, 0));
        assert!(!Call::read("x").may_repeat(Class::Throttled, RETRIES_MAX));
    }

    /// So that the caller hears within the time that the port promises.
    #[tokio::test(start_paused = true)]
    async fn a_call_ends_a_little_before_its_time() {
        let call = Call::read("x");
        tokio::time::advance(Duration::from_millis(CALL_MS_MAX - SLACK_MS - 1)).await;
        assert_eq!(call.attempt_time(), Duration::from_millis(1));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(call.left(), Duration::ZERO);
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        for tries in 0..40 {
            assert!(pause(tries) <= Duration::from_millis(PAUSE_MS_MAX));
        }
        assert!((0..100).all(|_| pause(0) <= Duration::from_millis(PAUSE_MS_BASE)));
    }
}
