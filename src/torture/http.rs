//! A proxy before DynamoDB that answers as the real one does on a bad day: it throttles, fails,
//! hangs, and applies what it then does not answer. DynamoDB Local does none of this by itself.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::CONTENT_LENGTH;
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::journal::locked;

/// How long a listener waits before it tries to get its port back.
const REBIND: Duration = Duration::from_millis(20);
/// What a page of a query ends at, where pages end early.
const EARLY_LIMIT: u64 = 2;

/// What happens to a call that a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mood {
    /// Nothing.
    #[default]
    Well,
    /// 400 with ProvisionedThroughputExceededException.
    Throttled,
    /// 400 with ThrottlingException, the other spelling.
    Throttling,
    /// 500 InternalServerError.
    Error500,
    /// 503 ServiceUnavailable, without JSON.
    Error503,
    /// It takes so many milliseconds longer, at most.
    Slow(u64),
    /// It is neither done nor answered.
    Hung,
    /// It is done, and the connection ends without an answer.
    AppliedThenDropped,
    /// It is done, and the answer never comes.
    AppliedThenHung,
    /// A query's page ends after a few items, as pages may.
    EarlyPages,
    /// Connections are refused, open ones end.
    Refused,
}

/// How often a fault hits, in percent, and which calls.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weather {
    /// What happens.
    pub mood: Mood,
    /// To so many calls in a hundred.
    pub percent: u32,
    /// Only to calls that write.
    pub writes_only: bool,
}

struct Shared {
    weather: watch::Sender<Weather>,
    bites: AtomicU64,
    upstream: SocketAddr,
    pool: Client<HttpConnector, Full<Bytes>>,
    random: Mutex<SmallRng>,
}

/// The proxy. Ends with all its connections when it is dropped.
pub(super) struct Http {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Http {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Http {
    /// Listens at `address` and goes on to `upstream`.
    pub async fn start(
        address: SocketAddr,
        upstream: SocketAddr,
        seed: u64,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            weather: watch::Sender::default(),
            bites: AtomicU64::new(0),
            upstream,
            pool: Client::builder(TokioExecutor::new()).build_http(),
            random: Mutex::new(SmallRng::seed_from_u64(seed)),
        });
        let task = tokio::spawn(accept(listener, address, shared.clone()));
        Ok(Self { address, shared, task })
    }

    /// How many calls were hit so far.
    pub fn bites(&self) -> u64 {
        self.shared.bites.load(Ordering::Relaxed)
    }

    /// Sets what happens from now on.
    pub fn weather(&self, weather: Weather) {
        self.shared.weather.send_replace(weather);
    }
}

async fn accept(listener: TcpListener, address: SocketAddr, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut weather = shared.weather.subscribe();
    let mut listener = Some(listener);
    loop {
        if weather.borrow_and_update().mood == Mood::Refused {
            listener = None;
            shared.bite(connections.len() as u64);
            connections.shutdown().await;
            if weather.changed().await.is_err() {
                return;
            }
            continue;
        }
        let Some(open) = &listener else {
            listener = TcpListener::bind(address).await.ok();
            sleep(REBIND).await;
            continue;
        };
        tokio::select! {
            accepted = open.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                connections.spawn(serve(stream, shared.clone()));
            }
            _ = weather.changed() => {}
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let service = hyper::service::service_fn(|request| answer(request, &shared));
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // An answer that is to be dropped ends the connection as an error.
    let _ = connection.await;
}

impl Shared {
    fn bite(&self, count: u64) {
        self.bites.fetch_add(count, Ordering::Relaxed);
    }

    /// What happens to this call.
    fn mood(&self, operation: &str) -> Mood {
        let weather = *self.weather.borrow();
        let reads = matches!(operation, "Query" | "GetItem" | "BatchGetItem" | "DescribeTable");
        let meant = match weather.mood {
            Mood::EarlyPages => operation == "Query",
            _ => !(weather.writes_only && reads),
        };
        let hit = meant && locked(&self.random).random_range(0..100) < weather.percent;
        if hit && weather.mood != Mood::Well {
            self.bite(1);
            return weather.mood;
        }
        Mood::Well
    }

    async fn forward(&self, request: Request<Bytes>) -> anyhow::Result<Response<Full<Bytes>>> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = format!("http://{}{path}", self.upstream).parse()?;
        head.headers.remove(CONTENT_LENGTH);
        let sent = self.pool.request(Request::from_parts(head, Full::new(body))).await?;
        let (head, body) = sent.into_parts();
        Ok(Response::from_parts(head, Full::new(body.collect().await?.to_bytes())))
    }

    /// Until the weather is another.
    async fn hang(&self) {
        let mut weather = self.weather.subscribe();
        let _ = weather.changed().await;
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: &Arc<Shared>,
) -> anyhow::Result<Response<Full<Bytes>>> {
    let target = request.headers().get("x-amz-target").and_then(|value| value.to_str().ok());
    let operation = target.and_then(|target| target.rsplit('.').next()).unwrap_or_default();
    let mood = shared.mood(operation);
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let mut request = Request::from_parts(head, body);
    match mood {
        Mood::Well | Mood::Refused => {}
        Mood::Throttled => return error(400, "ProvisionedThroughputExceededException"),
        Mood::Throttling => return error(400, "ThrottlingException"),
        Mood::Error500 => return error(500, "InternalServerError"),
        Mood::Error503 => {
            let body = Full::new(Bytes::from_static(b"<html>Service Unavailable</html>"));
            return Ok(Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).body(body)?);
        }
        Mood::Slow(most) => {
            let wait = locked(&shared.random).random_range(0..=most);
            sleep(Duration::from_millis(wait)).await;
        }
        Mood::Hung => {
            shared.hang().await;
            anyhow::bail!("the fault is over, and this call with it");
        }
        Mood::AppliedThenDropped => {
            shared.forward(request).await?;
            anyhow::bail!("done, and not answered");
        }
        Mood::AppliedThenHung => {
            shared.forward(request).await?;
            shared.hang().await;
            anyhow::bail!("done, and not answered");
        }
        Mood::EarlyPages => *request.body_mut() = ending_early(request.body())?,
    }
    shared.forward(request).await
}

/// The same query with a small limit.
fn ending_early(body: &Bytes) -> anyhow::Result<Bytes> {
    let mut query: Value = serde_json::from_slice(body)?;
    let fields = query.as_object_mut().context("not a query")?;
    let limit = fields.get("Limit").and_then(Value::as_u64).unwrap_or(EARLY_LIMIT);
    fields.insert("Limit".to_owned(), json!(limit.min(EARLY_LIMIT)));
    Ok(Bytes::from(serde_json::to_vec(&query)?))
}

fn error(status: u16, code: &str) -> anyhow::Result<Response<Full<Bytes>>> {
    let kind = format!("com.amazonaws.dynamodb.v20120810#{code}");
    let body = json!({"__type": kind, "message": "said by the fault proxy"}).to_string();
    Ok(Response::builder()
        .status(status)
        .header("content-type", "application/x-amz-json-1.0")
        .body(Full::new(Bytes::from(body)))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Answer, Api};
    use std::net::Ipv4Addr;
    use tokio::time::timeout;

    /// Long enough for an answer on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(2);

    /// Counts calls, and repeats their bodies.
    async fn upstream() -> (SocketAddr, Arc<AtomicU64>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, calls) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
        let counted = calls.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counted = counted.clone();
                let repeat = move |request: Request<Incoming>| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    async move {
                        let body = request.into_body().collect().await?.to_bytes();
                        Ok::<_, hyper::Error>(Response::new(Full::new(body)))
                    }
                };
                let service = hyper::service::service_fn(repeat);
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(serving);
            }
        });
        (address, calls)
    }

    async fn call(proxy: &Http, operation: &str) -> Option<Answer> {
        let api = Api::new(format!("http://{}", proxy.address));
        let target = format!("DynamoDB_20120810.{operation}");
        let headers = [("x-amz-target", target.as_str())];
        let body = json!({"TableName": "t", "Limit": 9});
        timeout(PATIENCE, api.call("POST", "/", Some(&body), &headers)).await.ok()?.ok()
    }

    #[tokio::test]
    async fn every_mood_does_what_its_name_says() {
        let (upstream, calls) = upstream().await;
        let proxy = Http::start((Ipv4Addr::LOCALHOST, 0).into(), upstream, 7).await.unwrap();
        let mut done = 0;
        // What is answered, and whether the call is done.
        for (mood, status, is_done) in [
            (Mood::Well, Some(200), true),
            (Mood::Throttled, Some(400), false),
            (Mood::Throttling, Some(400), false),
            (Mood::Error500, Some(500), false),
            (Mood::Error503, Some(503), false),
            (Mood::Slow(20), Some(200), true),
            (Mood::Hung, None, false),
            (Mood::AppliedThenDropped, None, true),
            (Mood::AppliedThenHung, None, true),
            (Mood::Refused, None, false),
            (Mood::Well, Some(200), true),
        ] {
            let before = proxy.bites();
            proxy.weather(Weather { mood, percent: 100, writes_only: false });
            // A listener is given up, or back, a moment later.
            let as_meant = async {
                let refused = mood == Mood::Refused;
                while TcpStream::connect(proxy.address).await.is_err() != refused {
                    sleep(REBIND).await;
                }
            };
            timeout(PATIENCE, as_meant).await.unwrap();
            let answer = call(&proxy, "PutItem").await;
            done += u64::from(is_done);
            assert_eq!(answer.as_ref().map(|answer| answer.status), status, "{mood:?}");
            assert_eq!(calls.load(Ordering::Relaxed), done, "{mood:?}");
            // A refusal bites once for each connection that it ends, and who knows how many there
            // are.
            if mood != Mood::Refused {
                assert_eq!(proxy.bites() - before, u64::from(mood != Mood::Well), "{mood:?}");
            }
            if let (Mood::Throttling, Some(answer)) = (mood, answer) {
                let kind = answer.body["__type"].as_str().unwrap().to_owned();
                assert!(kind.ends_with("#ThrottlingException"), "{kind}");
            }
        }
    }

    #[tokio::test]
    async fn pages_end_early_for_queries_and_reads_pass_where_writes_are_meant() {
        let (upstream, _) = upstream().await;
        let proxy = Http::start((Ipv4Addr::LOCALHOST, 0).into(), upstream, 7).await.unwrap();
        let early = Weather { mood: Mood::EarlyPages, percent: 100, writes_only: false };
        proxy.weather(early);
        assert_eq!(call(&proxy, "Query").await.unwrap().body["Limit"], EARLY_LIMIT);
        assert_eq!(call(&proxy, "PutItem").await.unwrap().body["Limit"], 9);
        let writes = Weather { mood: Mood::Error500, percent: 100, writes_only: true };
        proxy.weather(writes);
        assert_eq!(call(&proxy, "Query").await.unwrap().status, 200);
        assert_eq!(call(&proxy, "UpdateItem").await.unwrap().status, 500);
    }
}
