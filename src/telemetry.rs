//! Logs and metrics.
//!
//! Every process part (a server, the API, a balancer) has its own [`Metrics`], so that three
//! servers in one process can be told apart and tests never share a registry.

use std::io::IsTerminal;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tracing_subscriber::EnvFilter;

/// An operation and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Call {
    /// Which operation.
    pub operation: &'static str,
    /// `ok` or the kind of failure.
    pub outcome: &'static str,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Operation {
    /// Which.
    pub operation: &'static str,
}

/// How something ended, or what kind it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// The name.
    pub outcome: &'static str,
}

/// What was refused because of a limit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Limited {
    /// Which limit.
    pub limit: &'static str,
}

/// How long a trouble counts as one of now.
const LATELY: Duration = Duration::from_secs(10);

/// The last trouble of a kind, in words.
#[derive(Debug, Default)]
pub struct Trouble(Mutex<Option<(Instant, String)>>);

impl Trouble {
    /// It has just been seen.
    pub fn note(&self, what: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), what.to_owned()));
    }

    /// What was seen lately, if anything was.
    pub fn lately(&self) -> Option<String> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.as_ref().filter(|(at, _)| at.elapsed() < LATELY).map(|(_, what)| what.clone())
    }
}

/// The metrics of one process part.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Sockets open now.
    pub sockets: Gauge,
    /// Sockets opened.
    pub sockets_opened: Counter,
    /// Sockets closed, by the sentence of the close frame, `client` or `aborted`.
    pub sockets_closed: Family<Outcome, Counter>,
    /// Sends, by outcome: `stored`, `repeated`, or an error code.
    pub messages: Family<Outcome, Counter>,
    /// The counter of `messages` that is `stored`. What the chat itself counts with each message
    /// is looked up once: a look into a family's map costs more than all other metrics of it.
    stored: Counter,
    /// Texts received by a device (a receipt came back).
    pub received: Counter,
    /// From the store's timestamp to the device's receipt, in seconds.
    pub delivery_seconds: Histogram,
    /// Hints, by what became of them: `local`, `bus`, `again`, `board`, `offline`.
    pub hints: Family<Outcome, Counter>,
    /// The counter of `hints` that is `local`.
    pub hints_local: Counter,
    /// The counter of `hints` that is `bus`.
    pub hints_bus: Counter,
    /// Redis calls.
    pub redis_calls: Family<Call, Counter>,
    /// Store calls.
    pub store_calls: Family<Call, Counter>,
    /// Retries of store calls: `sent`, or `no_budget` where the bucket was empty.
    pub store_retries: Family<Outcome, Counter>,
    /// Why the last store call failed that did; `/readyz` tells it, and stays ready.
    pub store_trouble: Trouble,
    /// Write units by kind of call, as DynamoDB bills them (failed conditions included). Their sum
    /// divided by `messages` of outcome `stored` is what a message costs.
    pub write_units: Family<Operation, Counter<f64, AtomicU64>>,
    /// Read units by kind of call, as DynamoDB bills them.
    pub read_units: Family<Operation, Counter<f64, AtomicU64>>,
    /// Frames and requests that were refused, by error code.
    pub refused: Family<Outcome, Counter>,
    /// What was refused or kept waiting by a limit of a client or of this process.
    pub limited: Family<Limited, Counter>,
    /// Sockets handed over between processes of a host, by outcome: `taken`, or why not.
    pub handoffs: Family<Outcome, Counter>,
    /// How many sockets may be open; 0 where as many as come.
    pub sockets_max: Gauge,
    /// When the certificate of the process ends, in Unix seconds; 0 without one.
    pub certificate_ends: Gauge,
}

impl Metrics {
    /// Empty metrics; every line carries `process="…"`.
    pub fn new(process: &str) -> Self {
        let labels = [("process".into(), process.to_owned().into())];
        let mut registry = Registry::with_prefix_and_labels("parlor", labels.into_iter());
        // 1 ms to 16 s, doubling.
        let buckets = prometheus_client::metrics::histogram::exponential_buckets(0.001, 2.0, 15);
        let (messages, hints) = (Family::default(), Family::default());
        let counter = |family: &Family<Outcome, Counter>, outcome| {
            family.get_or_create_owned(&Outcome { outcome })
        };
        let m = Self {
            sockets: Gauge::default(),
            sockets_opened: Counter::default(),
            sockets_closed: Family::default(),
            stored: counter(&messages, "stored"),
            messages,
            received: Counter::default(),
            delivery_seconds: Histogram::new(buckets),
            hints_local: counter(&hints, "local"),
            hints_bus: counter(&hints, "bus"),
            hints,
            redis_calls: Family::default(),
            store_calls: Family::default(),
            store_retries: Family::default(),
            store_trouble: Trouble::default(),
            write_units: Family::default(),
            read_units: Family::default(),
            refused: Family::default(),
            limited: Family::default(),
            handoffs: Family::default(),
            sockets_max: Gauge::default(),
            certificate_ends: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("sockets", "Sockets open now", m.sockets.clone());
        registry.register("sockets_opened", "Sockets opened", m.sockets_opened.clone());
        registry.register("sockets_closed", "Sockets closed, by reason", m.sockets_closed.clone());
        registry.register("messages", "Sends, by outcome", m.messages.clone());
        registry.register("received", "Texts that a device received", m.received.clone());
        registry.register_with_unit(
            "delivery",
            "From stored to received by a device",
            Unit::Seconds,
            m.delivery_seconds.clone(),
        );
        registry.register("hints", "Hints, by what became of them", m.hints.clone());
        registry.register("redis_calls", "Redis calls", m.redis_calls.clone());
        registry.register("store_calls", "Store calls", m.store_calls.clone());
        registry.register("store_retries", "Retries of store calls", m.store_retries.clone());
        registry.register("store_write_units", "Write units, by call", m.write_units.clone());
        registry.register("store_read_units", "Read units, by call", m.read_units.clone());
        registry.register("refused", "Refused frames and requests, by code", m.refused.clone());
        registry.register("limited", "Refused or kept waiting, by limit", m.limited.clone());
        registry.register("handoffs", "Sockets handed over, by outcome", m.handoffs.clone());
        registry.register("sockets_max", "Sockets that may be open", m.sockets_max.clone());
        registry.register_with_unit(
            "certificate_ends",
            "When the certificate ends, by the Unix clock; 0 without one",
            Unit::Seconds,
            m.certificate_ends.clone(),
        );
        Self { registry, ..m }
    }

    /// One more call of a family.
    pub fn count(family: &Family<Outcome, Counter>, outcome: &'static str) {
        family.get_or_create(&Outcome { outcome }).inc();
    }

    /// How a send ended, by `messages`.
    pub fn count_message(&self, outcome: &'static str) {
        match outcome {
            "stored" => _ = self.stored.inc(),
            _ => Self::count(&self.messages, outcome),
        }
    }

    /// Something went over this limit.
    pub fn count_limited(&self, limit: &'static str) {
        self.limited.get_or_create(&Limited { limit }).inc();
    }

    /// The registry, for encoding.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

/// Logs to stderr: `PARLOR_LOG` chooses (like `info` or `parlor=debug`), default `info`.
pub fn start_logs() {
    let filter = EnvFilter::try_from_env("PARLOR_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // It would be told to the same stderr, by a macro that panics where that takes nothing.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .try_init();
}
