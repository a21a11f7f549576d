//! The admin address of every role: `/healthz`, `/readyz`, `/metrics`.
//!
//! **Invariant:** readiness falls for local reasons only (starting, draining, own disk). Trouble
//! that all processes share, like a store that does not answer, stands in the body; were it a 503,
//! every server would be taken out at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::asker::{Asker, Paths, Tokens};
use super::error::Problem;
use super::exposition::{MEDIA_TYPE, exposition};
use super::{Guard, guarded, listen};
use crate::auth::Verifier;
use crate::chat::Chat;
use crate::edge::Edge;
use crate::protocol::Sizes;
use crate::telemetry::Metrics;

const TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTIONS_MAX: usize = 64;
/// How many of them another machine may have.
const OF_AN_ADDRESS_MAX: usize = 16;
const PATHS: Paths = Paths { open: &["/healthz"], telling: &["/readyz"] };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Starting,
    Ready,
    Draining,
}

impl Stage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

#[derive(Debug)]
struct Told {
    stage: Stage,
    local: BTreeMap<&'static str, String>,
    shared: BTreeMap<&'static str, String>,
}

/// Says what is wrong now, if anything is.
type Watch = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// Sets gauges.
type Measure = Box<dyn Fn(&Metrics) + Send + Sync>;

/// What a process says of itself. It begins as `starting`.
pub struct Health {
    metrics: Vec<Arc<Metrics>>,
    state: Mutex<Told>,
    watched: Mutex<Vec<(&'static str, Watch)>>,
    watched_local: Mutex<Vec<(&'static str, Watch)>>,
    gauges: Mutex<Vec<Measure>>,
}

impl Health {
    /// The health of a process with these parts.
    pub fn new(metrics: Vec<Arc<Metrics>>) -> Arc<Self> {
        let (local, shared) = (BTreeMap::new(), BTreeMap::new());
        let state = Mutex::new(Told { stage: Stage::Starting, local, shared });
        let (watched, watched_local, gauges) = Default::default();
        Arc::new(Self { metrics, state, watched, watched_local, gauges })
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything accepts.
    pub fn ready(&self) {
        self.lock().stage = Stage::Ready;
    }

    /// The process is going away; it is never ready again.
    pub fn draining(&self) {
        self.lock().stage = Stage::Draining;
    }

    /// Trouble of this process alone (`disk`): it takes readiness away until it is `None`.
    pub fn local(&self, part: &'static str, trouble: Option<String>) {
        set(&mut self.lock().local, part, trouble);
    }

    /// Trouble that others have too (`store`, `redis`): told, and nothing more, until it is `None`.
    pub fn shared(&self, part: &'static str, trouble: Option<String>) {
        set(&mut self.lock().shared, part, trouble);
    }

    /// Shared trouble that is asked for whenever somebody wants to know.
    pub fn watch(
        &self,
        part: &'static str,
        trouble: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.push((part, Box::new(trouble)));
    }

    /// Gauges that are set whenever somebody asks for metrics, of each part.
    pub fn measure(&self, set: impl Fn(&Metrics) + Send + Sync + 'static) {
        self.gauges.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(set));
    }

    fn exposition(&self) -> String {
        for set in self.gauges.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            self.metrics.iter().for_each(|metrics| set(metrics));
        }
        exposition(&self.metrics)
    }

    /// Local trouble that is asked for likewise.
    pub fn watch_local(
        &self,
        part: &'static str,
        trouble: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) {
        let mut watched = self.watched_local.lock().unwrap_or_else(PoisonError::into_inner);
        watched.push((part, Box::new(trouble)));
    }

    fn readiness(&self) -> (bool, serde_json::Value) {
        let mut local = self.lock().local.clone();
        let mut shared = self.lock().shared.clone();
        let of_stores = self.metrics.iter().filter_map(|metrics| metrics.store_trouble.lately());
        shared.extend(of_stores.map(|trouble| ("store", trouble)));
        for (watched, told) in [(&self.watched_local, &mut local), (&self.watched, &mut shared)] {
            for (part, trouble) in &*watched.lock().unwrap_or_else(PoisonError::into_inner) {
                told.extend(trouble().map(|trouble| (*part, trouble)));
            }
        }
        let stage = self.lock().stage;
        let ready = stage == Stage::Ready && local.is_empty();
        let body = json!({
            "ready": ready,
            "stage": stage.as_str(),
            "local": local,
            "shared": shared,
        });
        (ready, body)
    }
}

fn set(troubles: &mut BTreeMap<&'static str, String>, part: &'static str, trouble: Option<String>) {
    match trouble {
        Some(trouble) => troubles.insert(part, trouble),
        None => troubles.remove(part),
    };
}

/// Who may ask at the admin address.
#[derive(Clone)]
pub struct Admin {
    /// How connections come in, and what is taken of them.
    pub edge: Arc<Edge>,
    /// With a verifier metrics and reasons are for tokens of scope `admin`; whether a process lives
    /// and is ready is for whoever deals connections to it. Without one everything is for whoever
    /// reaches the address.
    pub auth: Option<Verifier>,
    /// Knows which tokens were taken back, in a process that has the store.
    pub chat: Option<Arc<Chat>>,
}

/// Serves `/healthz`, `/readyz` and `/metrics` until `stop`.
pub async fn serve_admin(
    listener: TcpListener,
    health: Arc<Health>,
    admin: Admin,
    stop: CancellationToken,
) {
    let bounds = listen::Bounds {
        connections_max: CONNECTIONS_MAX,
        of_an_address_max: Some(OF_AN_ADDRESS_MAX),
        header_timeout: TIMEOUT,
        drain: TIMEOUT,
    };
    let edge = admin.edge.clone();
    listen::listen(admin_router(health, admin), listener, edge, bounds, None, stop).await;
}

/// The routes of the admin address.
pub(super) fn admin_router(health: Arc<Health>, admin: Admin) -> Router {
    let Admin { edge, auth, chat } = admin;
    let tokens = Tokens::new(auth, chat, PATHS);
    let guard = Guard { limit: TIMEOUT, body_bytes: Sizes::MOST.frame, quota: None, edge, tokens };
    let routes = Router::new()
        .route("/healthz", get(async || Json(json!({"alive": true}))))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics));
    guarded(routes, guard).with_state(health)
}

async fn readyz(State(health): State<Arc<Health>>, Extension(asker): Extension<Asker>) -> Response {
    let (ready, mut body) = health.readiness();
    if !asker.runs_it() {
        body = json!({"ready": ready});
    }
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

async fn metrics(
    State(health): State<Arc<Health>>,
    Extension(asker): Extension<Asker>,
) -> Result<Response, Problem> {
    if !asker.runs_it() {
        asker.administers()?;
    }
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], health.exposition()).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_trouble_takes_readiness_away() {
        let metrics = Arc::new(Metrics::new("test"));
        let health = Health::new(vec![metrics.clone()]);
        assert!(!health.readiness().0);
        health.ready();
        assert!(health.readiness().0);
        metrics.store_trouble.note("throttled");
        assert_eq!(health.readiness().1["shared"]["store"], "throttled");
        assert!(health.readiness().0);
        health.watch("store", || Some("no answer".into()));
        let (ready, body) = health.readiness();
        assert!(ready);
        assert_eq!(body["shared"]["store"], "no answer");
        health.watch("redis", || Some("no answer either".into()));
        health.watch("disk", || None);
        let (ready, body) = health.readiness();
        assert!(ready);
        let expected = json!({"redis": "no answer either", "store": "no answer"});
        assert_eq!(body["shared"], expected);
        health.local("disk", Some("full".into()));
        assert!(!health.readiness().0);
        health.local("disk", None);
        assert!(health.readiness().0);
        let full = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let asked = full.clone();
        health.watch_local("disk", move || {
            asked.load(std::sync::atomic::Ordering::Relaxed).then(|| "full".into())
        });
        let (ready, body) = health.readiness();
        assert_eq!((ready, &body["local"]["disk"]), (false, &json!("full")));
        full.store(false, std::sync::atomic::Ordering::Relaxed);
        assert!(health.readiness().0);
        health.draining();
        assert_eq!(health.readiness().1["stage"], "draining");
        assert!(!health.readiness().0);
    }
}
