//! A process of the simulation: a runtime of its own with a clock that only the simulation moves.
//!
//! To crash it is to drop the runtime, at whatever await its tasks stand; to pause it is not to
//! step it, and to let its clock jump afterwards.
#![cfg(test)]

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::link::Link;
use super::sea::Sea;
use super::wire::{Down, Up, Wire};
use crate::board::{BoardRow, Role};
use crate::bus::Bus;
use crate::chance;
use crate::chat::catchup::{self, Done};
use crate::chat::lane::{Bounds, Lanes};
use crate::chat::liveness::{Liveness, RowChange};
use crate::chat::session::{Here, Input, Outputs, Session, Wish};
use crate::chat::{Chat, Clock, Parts};
use crate::gateway::effects::hand_on;
use crate::hub::{Event, Outbox, Who};
use crate::limits::Limits;
use crate::protocol::{CloseCode, DeviceId, Epoch, PING_INTERVAL_MS, ProcessId, SocketId, UserId};
use crate::telemetry::{Metrics, Outcome};

/// Servers; the process behind them is the Message API.
pub const SERVERS: usize = 3;
/// The Message API's process.
pub const API: usize = SERVERS;

/// As in `gateway/engine/slot.rs`.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// As in `gateway/engine/slot.rs`.
const STOOD_STILL: Duration = Duration::from_secs(2);
/// As in `gateway/engine/slot.rs`.
const GOODBYE_MS_MAX: u64 = 1_000;
/// As in `node.rs`.
const ROW_IS_READ: Duration = Duration::from_secs(3);
/// The belt reads all mailboxes once an hour: no simulation comes to its last part.
const BELT_PARTS: u128 = 360;

/// What a client asks for in its URL.
pub struct Hello {
    pub user: UserId,
    pub device: DeviceId,
    pub wish: Wish,
}

/// What is seen of a running process from outside.
#[derive(Default)]
pub struct Running {
    pub chat: OnceLock<Arc<Chat>>,
    pub open: AtomicBool,
    pub ended: AtomicBool,
    /// It ended as it should: nobody was left, and all was written.
    drained: AtomicBool,
    stop: CancellationToken,
}

impl Running {
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) && !self.ended.load(Ordering::Relaxed)
    }
}

struct Life {
    runtime: Runtime,
    running: Arc<Running>,
    /// How far its clock is behind while it is paused.
    lag: u64,
    paused: bool,
}

/// A process, alive or not.
pub struct Server {
    pub process: usize,
    pub id: ProcessId,
    link: Arc<Link>,
    sea: Sea,
    /// What its wall clock is wrong by, in milliseconds.
    pub skew: Arc<AtomicI64>,
    life: Option<Life>,
}

impl Server {
    pub fn new(sea: &Sea, process: usize, traced: bool) -> Self {
        let name = if process == API { "api".to_owned() } else { format!("ws{}", process + 1) };
        Self {
            process,
            id: ProcessId::parse(&name).unwrap(),
            link: Arc::new(Link { sea: sea.clone(), process, traced, believed: Mutex::default() }),
            sea: sea.clone(),
            skew: Arc::default(),
            life: None,
        }
    }

    pub fn start(&mut self) {
        self.sea.lock().note(|| format!("p{} starts", self.process));
        let runtime =
            Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let running = Arc::new(Running::default());
        let role = if self.process == API { Role::Api } else { Role::Server };
        let epoch = Epoch(chance::bits() as u64);
        let hints = 1_790_000_000_000 + self.sea.lock().now;
        let row = BoardRow { hints, ..BoardRow::new(self.id.clone(), epoch, role, "") };
        let boot = boot(self.link.clone(), row, self.clock(), running.clone());
        runtime.spawn(boot);
        self.life = Some(Life { runtime, running, lag: 0, paused: false });
    }

    fn clock(&self) -> Clock {
        let (sea, skew) = (self.sea.clone(), self.skew.clone());
        Arc::new(move || {
            let skewed = 1_790_000_000_000 + sea.lock().now as i64 + skew.load(Ordering::Relaxed);
            skewed.unsigned_abs()
        })
    }

    /// Lets it run for so long.
    pub fn step(&mut self, passed: u64) {
        let Some(life) = &mut self.life else { return };
        if life.paused {
            life.lag += passed;
            return;
        }
        let lag = std::mem::take(&mut life.lag);
        life.runtime.block_on(async {
            if lag > 0 {
                tokio::time::advance(Duration::from_millis(lag)).await;
            }
            sleep(Duration::from_millis(passed)).await;
        });
        if life.running.ended.load(Ordering::Relaxed) {
            let drained = life.running.drained.load(Ordering::Relaxed);
            self.tally();
            let mut core = self.sea.lock();
            core.note(|| format!("p{} has ended", self.process));
            if !drained {
                core.note_death(self.process);
            }
            drop(core);
            self.life = None;
        }
    }

    /// What it counted itself in this life.
    fn tally(&self) {
        let Some(chat) = self.chat() else { return };
        let mut core = self.sea.lock();
        for outcome in ["local", "bus", "again", "board", "offline"] {
            let count = chat.metrics.hints.get_or_create(&Outcome { outcome }).get();
            core.count_many(&format!("hint {outcome}"), count);
        }
        let repeated = Outcome { outcome: "repeated" };
        core.count_many("hit", chat.metrics.messages.get_or_create(&repeated).get());
    }

    /// Dies where it stands.
    pub fn crash(&mut self) {
        self.tally();
        if let Some(life) = self.life.take() {
            let mut core = self.sea.lock();
            core.note(|| format!("p{} crashes", self.process));
            core.forget_requests(self.process);
            core.note_death(self.process);
            drop(core);
            drop(life);
        }
    }

    pub fn pause(&mut self, paused: bool) {
        if let Some(life) = &mut self.life {
            self.sea.lock().note(|| format!("p{} paused: {paused}", self.process));
            life.paused = paused;
        }
    }

    pub fn is_paused(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.paused)
    }

    pub fn is_alive(&self) -> bool {
        self.life.is_some()
    }

    pub fn is_open(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.running.is_open())
    }

    /// Whether this life of it goes on.
    pub fn lives(&self, epoch: Epoch) -> bool {
        self.chat().is_some_and(|chat| chat.me.epoch == epoch)
    }

    pub fn chat(&self) -> Option<&Arc<Chat>> {
        self.life.as_ref()?.running.chat.get()
    }

    /// Runs something in this process.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(life) = &self.life {
            drop(life.runtime.spawn(task));
        }
    }

    /// SIGTERM: everybody is sent away, then it ends.
    pub fn drain(&self) {
        let Some(life) = self.life.as_ref().filter(|life| life.running.is_open()) else { return };
        self.sea.lock().note(|| format!("p{} drains", self.process));
        drop(life.runtime.spawn(drain(self.sea.clone(), life.running.clone())));
    }

    /// A connection is accepted.
    pub fn accept(&self, wire: Arc<Wire>, hello: Hello) {
        let Some(life) = self.life.as_ref() else { return };
        let Some(chat) = life.running.chat.get().cloned() else { return };
        let (sea, running) = (self.sea.clone(), life.running.clone());
        drop(life.runtime.spawn(serve(sea, running, chat, wire, hello)));
    }
}

/// As `node.rs` starts a part.
async fn boot(link: Arc<Link>, row: BoardRow, clock: Clock, running: Arc<Running>) {
    link.believed.lock().unwrap().clear();
    let id = row.id.clone();
    let started = Liveness::start(link.clone(), row, false, running.stop.clone()).await;
    let Ok((liveness, events)) = started else {
        return running.ended.store(true, Ordering::Relaxed);
    };
    let chat = Chat::new(Parts {
        store: link.clone(),
        directory: link.clone(),
        bus: link.clone(),
        reads: Arc::default(),
        lanes: Lanes::with(link.clone(), clock.clone(), Bounds::default()),
        liveness,
        limits: Limits::none(),
        metrics: Arc::new(Metrics::new(id.as_str())),
        clock,
        opening: Default::default(),
    });
    let Ok(bus) = link.subscribe(&id).await else {
        return running.ended.store(true, Ordering::Relaxed);
    };
    let (keeper, kept) = (chat.clone(), running.clone());
    tokio::spawn(async move {
        keeper.keep(events, bus, kept.stop.clone()).await;
        kept.ended.store(true, Ordering::Relaxed);
    });
    let view = chat.liveness.view_after(Instant::now(), ROW_IS_READ).await;
    if view.is_none_or(|view| view.alive.iter().any(|row| row.id != id)) {
        sleep(ROW_IS_READ).await;
    }
    chat.liveness.set(RowChange::Accepting(true), true);
    let _ = running.chat.set(chat.clone());
    running.open.store(true, Ordering::Relaxed);
    tick(&chat).await;
}

/// As `gateway/engine.rs` ticks.
async fn tick(chat: &Chat) {
    let rounds = u128::from(PING_INTERVAL_MS / 1_000);
    for round in (0..rounds).cycle() {
        sleep(Duration::from_secs(1)).await;
        for outbox in chat.hub.all() {
            if outbox.who.socket.0 % rounds == round {
                outbox.push(Event::Tick);
            }
        }
    }
}

/// As `node.rs` stops a part, in less time.
async fn drain(sea: Sea, running: Arc<Running>) {
    let Some(chat) = running.chat.get() else { return };
    running.open.store(false, Ordering::Relaxed);
    chat.liveness.set(RowChange::Accepting(false), true);
    for outbox in chat.hub.all() {
        outbox.push(Event::Reconnect(sea.any(0..500)));
        sleep(Duration::from_millis(sea.any(0..200))).await;
        outbox.push(Event::Close(CloseCode::Restart));
    }
    let left = async {
        while chat.metrics.sockets.get() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
        chat.lanes.close();
        chat.lanes.finish().await;
    };
    // A real one has more time; what is left here is lost as by a death.
    let drained = timeout(Duration::from_secs(5), left).await.is_ok();
    running.drained.store(drained, Ordering::Relaxed);
    let _ = timeout(Duration::from_secs(2), chat.hints_settled()).await;
    let _ = timeout(Duration::from_secs(2), chat.liveness.leave()).await;
    running.stop.cancel();
    sea.count("drained");
}

enum Turn {
    Events(std::collections::VecDeque<Event>),
    Up(Up),
    Done(Done),
}

/// One socket, as a loop of `gateway/engine.rs` drives it.
async fn serve(sea: Sea, running: Arc<Running>, chat: Arc<Chat>, wire: Arc<Wire>, hello: Hello) {
    let SocketId(socket) = chat.hub.next_socket((chat.clock)());
    let socket = SocketId(socket - socket % BELT_PARTS + BELT_PARTS - 1);
    let who = Who { user: hello.user, device: hello.device, socket };
    let outbox = Arc::new(Outbox::new(who));
    if let Some(oldest) = chat.hub.enter(outbox.clone()) {
        oldest.push(Event::Close(CloseCode::TooManySockets));
    }
    if !running.is_open() {
        outbox.push(Event::Close(CloseCode::Restart));
    }
    chat.metrics.sockets.inc();
    let mut session = Session::new(hello.wish);
    let mut out = Outputs::default();
    let mut work: Option<BoxFuture<'static, Done>> = None;
    let here = || {
        let (server, clock, now) = (&chat.me.id, (chat.clock)(), Instant::now());
        let sockets_per_user = chat.hub.sockets_per_user();
        let sizes = chat.limits.settings().sizes;
        Here { who: &outbox.who, server, sockets_per_user, sizes, clock, now }
    };
    session.start(&here(), &mut out);
    while give_out(&sea, &chat, &outbox, &wire, &mut out, &mut work).await {
        let turn = turn(&sea, &outbox, &wire, !session.paused(), &mut work).await;
        let here = here();
        match turn {
            Turn::Events(events) => {
                for event in events {
                    session.step(Input::Event(event), &here, &mut out);
                }
            }
            Turn::Done(done) => {
                work = None;
                session.step(Input::Done(done), &here, &mut out);
            }
            Turn::Up(Up::End) => break,
            Turn::Up(first) => {
                let mut next = Some(first);
                let mut end = false;
                while let Some(up) = next {
                    match &up {
                        Up::Frame(text) => session.step(Input::Frame(text), &here, &mut out),
                        Up::Pong(payload) => session.step(Input::Pong(payload), &here, &mut out),
                        Up::End => end = true,
                    }
                    next = if end || session.paused() { None } else { wire.try_read() };
                }
                if end {
                    give_out(&sea, &chat, &outbox, &wire, &mut out, &mut work).await;
                    break;
                }
            }
        }
    }
    // The close handshake: what comes meanwhile stays in the outbox.
    sleep(Duration::from_millis(sea.any(0..GOODBYE_MS_MAX))).await;
    wire.end(&sea);
    let unstored = session.finish(&outbox.who);
    chat.end(outbox, unstored).await;
}

/// What happens next; where several things could, chance decides.
async fn turn(
    sea: &Sea,
    outbox: &Outbox,
    wire: &Wire,
    reading: bool,
    work: &mut Option<BoxFuture<'static, Done>>,
) -> Turn {
    let working = work.is_some();
    let done = async {
        match work {
            Some(work) => work.await,
            None => std::future::pending().await,
        }
    };
    if sea.chance(0.5) {
        tokio::select! {
            biased;
            events = outbox.take() => Turn::Events(events),
            done = done, if working => Turn::Done(done),
            up = wire.read(), if reading => Turn::Up(up),
        }
    } else {
        tokio::select! {
            biased;
            up = wire.read(), if reading => Turn::Up(up),
            done = done, if working => Turn::Done(done),
            events = outbox.take() => Turn::Events(events),
        }
    }
}

/// Writes within the patience that a server has; a timer that comes late tells of a process that
/// stood still.
async fn write(sea: &Sea, wire: &Wire, down: Down) -> bool {
    let mut writing = pin!(wire.write(sea, down));
    loop {
        let begun = Instant::now();
        if timeout(WRITE_PATIENCE, &mut writing).await.is_ok() {
            return true;
        }
        if begun.elapsed() < WRITE_PATIENCE + STOOD_STILL {
            return false;
        }
    }
}

/// `false` once the socket is to end.
async fn give_out(
    sea: &Sea,
    chat: &Arc<Chat>,
    outbox: &Arc<Outbox>,
    wire: &Wire,
    out: &mut Outputs,
    work: &mut Option<BoxFuture<'static, Done>>,
) -> bool {
    for effect in std::mem::take(&mut out.effects) {
        hand_on(chat, outbox, None, effect);
    }
    if let Some(next) = out.work.take() {
        let (chat, outbox) = (chat.clone(), outbox.clone());
        *work = Some(async move { catchup::perform(&chat, &outbox, next).await }.boxed());
    }
    let frames = std::mem::take(&mut out.frames).into_iter().map(Down::Frame);
    let ping = out.ping.take().map(Down::Ping);
    for down in frames.chain(ping) {
        if !write(sea, wire, down).await {
            sea.count("write stalled");
            let _ = timeout(Duration::ZERO, wire.write(sea, Down::Close(Some(4508)))).await;
            return false;
        }
    }
    match out.close.take() {
        Some(code) => {
            sea.count(&format!("closed {}", code.number()));
            wire.write(sea, Down::Close(Some(code.number()))).await;
            false
        }
        None => true,
    }
}
