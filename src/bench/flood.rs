//! `flood`: one user writes as fast as it is read, and others talk as if nothing were.
//!
//! With it and without it by turns, so that what else the machine does falls on both alike. The
//! one who floods stands for another machine: it has a thread of its own, of the lowest priority.

use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::runtime::Builder;
use tokio::sync::watch;

use super::Common;
use super::calm::{Calm, latency};
use super::crowd::fresh_prefix;
use super::door::Door;
use super::flow::Faults;
use super::report::{Latency, Report, Row, progress};
use super::target::Target;

/// How often each pair says something: seldom enough for the usual limits.
const EVERY: Duration = Duration::from_millis(50);
/// What a turn may leave behind for the next.
const REST: Duration = Duration::from_millis(500);
/// How long it takes whoever was shut out to come again.
const AGAIN: Duration = Duration::from_millis(100);
/// How much is written at once, in frames or requests.
const AT_ONCE: usize = 100;
/// The priority of the one who floods (`nice`).
const LOWEST: i32 = 19;

/// What a flood is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Messages to one person
    Messages,
    /// Messages of 500 empty fragments, and one without an end
    Fragments,
    /// Signals to one person
    Signals,
    /// Requests to the Message API: one's conversations
    Requests,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Fragments => "fragments",
            Self::Signals => "signals",
            Self::Requests => "requests",
        }
    }
}

/// `parlor bench flood`
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// What the flood is made of, one kind after the other [default: all]
    #[arg(long, value_enum, value_delimiter = ',', env = "PARLOR_BENCH_KIND")]
    pub kind: Vec<Kind>,
    /// Sockets, or connections, of the one who floods
    #[arg(long, default_value_t = 6, env = "PARLOR_BENCH_SOCKETS",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=16))]
    pub sockets: usize,
    /// Pairs of users who talk meanwhile, 20 messages a second each
    #[arg(long, default_value_t = 20, env = "PARLOR_BENCH_PAIRS",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=500))]
    pub pairs: usize,
    /// How often the flood comes and goes
    #[arg(long, default_value_t = 10, env = "PARLOR_BENCH_TURNS",
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub turns: u32,
    /// How long each turn lasts, with it and without it
    #[arg(long, default_value_t = 3, env = "PARLOR_BENCH_SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// What all scenarios take.
    #[command(flatten)]
    pub common: Common,
}

/// Runs it.
pub(super) async fn run(target: &Target, options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("flood");
    report.figure("pairs", options.pairs);
    report.figure("sockets_of_the_flood", options.sockets);
    let kinds = match &options.kind[..] {
        [] => Kind::value_variants(),
        some => some,
    };
    let (mut rows, mut faults) = (Vec::new(), Faults::default());
    for kind in kinds {
        let limited = target.limited().await?;
        let mut seen = by_turns(target, options, *kind).await?;
        faults.add(seen.faults);
        if let Some(error) = seen.error.take() {
            report.fail(format!("{}: {error}", kind.name()));
        }
        rows.push(row(*kind, &seen));
        for (mood, latency) in [("calm", &seen.calm), ("flooded", &seen.flooded)] {
            report.line(format!("{}, {mood}", kind.name()), latency);
        }
        // Who is never over a limit does not flood.
        if let (Some(before), Some(after)) = (limited, target.limited().await?)
            && after <= before
        {
            report.fail(format!("{}: nothing was refused", kind.name()));
        }
    }
    report.table("floods", rows);
    report.faults(faults);
    Ok(report)
}

/// What others saw.
#[derive(Default)]
struct Seen {
    calm: Latency,
    flooded: Latency,
    /// What was written by the one who floods.
    bytes: u64,
    faults: Faults,
    error: Option<String>,
}

fn row(kind: Kind, seen: &Seen) -> Row {
    let ms = |latency: &Latency, quantile| json!(latency.quantile_ms(quantile));
    let times = |quantile| {
        let times = seen.flooded.quantile_ms(quantile) / seen.calm.quantile_ms(quantile);
        json!((times * 100.0).round() / 100.0)
    };
    vec![
        ("flood of", json!(kind.name())),
        ("messages", json!(seen.calm.count() + seen.flooded.count())),
        ("p50 calm, ms", ms(&seen.calm, 0.5)),
        ("flooded", ms(&seen.flooded, 0.5)),
        ("p50 times", times(0.5)),
        ("p99 calm, ms", ms(&seen.calm, 0.99)),
        ("flooded ", ms(&seen.flooded, 0.99)),
        ("p99 times", times(0.99)),
        ("MB taken", json!((seen.bytes as f64 / 1e4).round() / 1e2)),
    ]
}

async fn by_turns(target: &Target, options: &Options, kind: Kind) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    let mut calm = Calm::open(target, options.pairs, EVERY, None).await?;
    let turn = Duration::from_secs(options.seconds);
    // What is done for the first time takes longer.
    calm = calm.run(turn).await?.1;
    let flood = Flood::start(target, options.sockets, kind)?;
    let bar = progress(kind.name(), options.turns.into());
    for _ in 0..options.turns {
        for flooded in [false, true] {
            flood.valve.send_replace(flooded);
            tokio::time::sleep(REST).await;
            let (outcomes, again) = calm.run(turn).await?;
            calm = again;
            if flooded { &mut seen.flooded } else { &mut seen.calm }.add(&latency(&outcomes));
            for outcome in outcomes {
                seen.faults.add(outcome.faults);
                seen.error = seen.error.take().or(outcome.error);
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    calm.close().await;
    seen.bytes = flood.end().await?;
    Ok(seen)
}

/// One user's flood. Ends when this is dropped.
struct Flood {
    /// Whether it floods at the moment.
    valve: watch::Sender<bool>,
    thread: JoinHandle<anyhow::Result<u64>>,
}

impl Flood {
    fn start(target: &Target, sockets: usize, kind: Kind) -> anyhow::Result<Self> {
        let (valve, turned) = watch::channel(false);
        let eager = Eager::new(target, kind);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("flood".to_owned());
        let thread = thread.spawn(move || {
            // Of this thread alone: setpriority(2), "C library/kernel differences".
            rustix::process::setpriority_process(None, LOWEST).context("no lower priority")?;
            let each = (0..sockets).map(|number| eager.go_on(number, turned.clone()));
            let taken = runtime.block_on(try_join_all(each))?;
            Ok(taken.into_iter().sum())
        })?;
        Ok(Self { valve, thread })
    }

    /// How many bytes were taken from it.
    async fn end(self) -> anyhow::Result<u64> {
        let Self { valve, thread } = self;
        drop(valve);
        let ended = tokio::task::spawn_blocking(move || thread.join()).await?;
        ended.map_err(|_| anyhow::anyhow!("the flood has panicked"))?
    }
}

/// The one who floods.
struct Eager {
    name: String,
    door: Door,
    api: String,
    kind: Kind,
    /// What is written, again and again.
    bytes: Vec<u8>,
}

impl Eager {
    fn new(target: &Target, kind: Kind) -> Self {
        let [name, victim] = ["eager", "victim"].map(|what| format!("{}-0", fresh_prefix(what)));
        let api = target.api.authority().to_owned();
        let mut eager = Self { name, door: target.door.clone(), api, kind, bytes: Vec::new() };
        eager.bytes = match kind {
            Kind::Messages => {
                text(&json!({"type": "message", "to": victim, "message": "me again"}))
            }
            Kind::Signals => text(&json!({"type": "signal", "to": victim, "data": {"n": 1}})),
            Kind::Fragments => {
                let begun = frame(0x01, br#"{"type":"ping""#);
                let whole = [&begun[..], &frame(0x00, b"").repeat(500), &frame(0x80, b"}")];
                [&whole.concat().repeat(40)[..], &begun, &frame(0x00, b"").repeat(20_000)].concat()
            }
            Kind::Requests => eager.request().into_bytes(),
        };
        if kind != Kind::Fragments {
            eager.bytes = eager.bytes.repeat(AT_ONCE);
        }
        eager
    }

    fn request(&self) -> String {
        let Self { api, name, .. } = self;
        let token = self.door.token_of(name);
        let bearer = token.map(|token| format!("Authorization: Bearer {}\r\n", token.reveal()));
        let bearer = bearer.unwrap_or_default();
        let path = format!("/v1/users/{name}/conversations?limit=100");
        format!("GET {path} HTTP/1.1\r\nHost: {api}\r\n{bearer}\r\n")
    }

    async fn dial(&self, number: usize) -> anyhow::Result<TcpStream> {
        Ok(match self.kind {
            Kind::Requests => TcpStream::connect(&self.api).await?,
            _ => self
                .door
                .open(number, &self.name, None)
                .await?
                .into_client()
                .into_stream()
                .context("TLS")?,
        })
    }

    /// Writes as fast as it is read while the valve is open, and reads away what is answered; where
    /// it is shut out it comes again. Returns how many bytes were taken once the valve is gone.
    async fn go_on(&self, number: usize, mut turned: watch::Receiver<bool>) -> anyhow::Result<u64> {
        let mut taken = 0;
        // Closed while it was open, a valve would let it go on.
        while turned.wait_for(|open| *open).await.is_ok() && turned.has_changed().is_ok() {
            // What does not get in now may do so later: it is a flood.
            if let Ok(mut stream) = self.dial(number).await {
                // What was written and not yet read must not go on in a turn without the flood.
                stream.set_zero_linger()?;
                let (reader, writer) = stream.split();
                tokio::select! {
                    () = read_away(reader) => {}
                    () = write_all(writer, &self.bytes, &mut taken) => {}
                    _ = turned.wait_for(|open| !*open) => {}
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
        Ok(taken)
    }
}

async fn read_away(mut reader: ReadHalf<'_>) {
    let mut away = vec![0; 64 << 10];
    while reader.read(&mut away).await.is_ok_and(|count| count > 0) {}
}

async fn write_all(mut writer: WriteHalf<'_>, bytes: &[u8], taken: &mut u64) {
    let mut rest = bytes;
    while let Ok(count) = writer.write(rest).await {
        *taken += count as u64;
        rest = rest.get(count..).filter(|rest| !rest.is_empty()).unwrap_or(bytes);
    }
}

/// A masked frame whose mask changes nothing (RFC 6455, section 5.2). `first` is FIN and opcode.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).ok().filter(|length| *length < 126);
    debug_assert!(length.is_some(), "short payloads only");
    let mut frame = vec![first, 0x80 | length.unwrap_or_default(), 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

fn text(json: &Value) -> Vec<u8> {
    frame(0x81, json.to_string().as_bytes())
}
