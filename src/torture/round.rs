//! A round: a fresh fleet, its load, its faults, and everything read when all is still.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::device::Device;
use super::faults::Attack;
use super::fleet::Fleet;
use super::journal::{Journal, locked};
use super::nemesis::{self, Deeds, Tally};
use super::plan::Plan;
use super::world::{Stage, World};
use super::{Options, members, reading, watch};
use crate::checker::history::{Phase, What};
use crate::client::Api;

/// The load without faults before them: a tenth of the faults' time, within these.
const QUIET_SECONDS: std::ops::RangeInclusive<u64> = 4..=15;
/// After them it is so much longer: the judge gives 30 s to recover, and compares then.
const HEALED_FACTOR: u32 = 3;
/// How long nothing may be sent before everybody has everything.
const DRAIN_LIMIT: Duration = Duration::from_secs(300);
/// A drain in which nothing changes for so long has come to its end: what is missing is lost.
const STUCK_LIMIT: Duration = Duration::from_secs(60);
/// How long reading all histories may take.
const READ_LIMIT: Duration = Duration::from_secs(300);
/// Cursors are stored as connections close: so long after the last one statuses are read.
const SETTLE: Duration = Duration::from_secs(3);
/// Idle connections to the store are closed by then; what a process still holds after it, it leaks.
const IDLE: Duration = Duration::from_secs(25);
/// How long a start of all may take before the round begins.
const SETUP_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Walks in the middle of the load come this often.
const WALK_PAUSE: Duration = Duration::from_millis(1_500);
const LOOK: Duration = Duration::from_millis(200);
const DEVICES_PER_USER: usize = 2;
/// Half seconds between two lines where the screen is no terminal.
const TICKS_PER_LINE: u64 = 20;

/// What a round leaves.
pub(super) struct Done {
    /// The history.
    pub history: PathBuf,
    /// Pairs of kinds of faults that ran at the same time.
    pub pairs: BTreeSet<(&'static str, &'static str)>,
    /// How long each recovery took, by kind.
    pub recovery_ms: BTreeMap<String, Vec<u64>>,
}

/// Runs a round in `folder`.
pub(super) async fn run(
    options: &Options,
    folder: &Path,
    seed: u64,
    commit: &str,
    bar: &ProgressBar,
) -> anyhow::Result<Done> {
    std::fs::create_dir_all(folder)?;
    bar.set_message("starting");
    let fleet = match options.embedded {
        true => Fleet::up(folder, seed).await?,
        false => Fleet::start(folder, options, seed).await?,
    };
    let history = folder.join("history.jsonl");
    let journal = Arc::new(Journal::create(&history)?);
    let plan = Plan::new(seed, usize::from(options.users));
    journal.note(What::Run { commit: commit.to_owned(), seed });
    let (api, url) = (fleet.api.clone(), fleet.url());
    begin_conversations(&plan, &journal, &api).await?;
    let through = Api::new(format!("http://{}", fleet.front.address));
    let world = World::new(plan, journal.clone(), url, through, options.messages_a_second());
    let mut tasks = JoinSet::new();
    let attack = Arc::new(Attack { orders: devices(&world, seed, &mut tasks), fleet, world });
    let world = attack.world.clone();
    // Whatever ends this round, these end with it.
    let mut beside = JoinSet::new();
    let watching = beside.spawn(watch::run(attack.clone()));
    beside.spawn(members::run(world.clone(), seed));
    beside.spawn(walks_in_passing(world.clone()));
    all_here(&world).await;
    let Deeds { pairs, recovery_ms } = load(options, &attack, seed, bar).await;
    drain(&world, bar).await;
    let last = async { while beside.len() > 1 && beside.join_next().await.is_some() {} };
    let _ = timeout(STOP_LIMIT, last).await;
    world.journal.note(What::Phase { phase: Phase::Read });
    bar.set_message("reading");
    reading::map(&world, &attack.fleet).await?;
    world.stage.send_replace(Stage::Over);
    let _ = timeout(STOP_LIMIT, async { while tasks.join_next().await.is_some() {} }).await;
    tasks.shutdown().await;
    sleep(SETTLE).await;
    let reading = timeout(READ_LIMIT, reading::histories(&world, &api)).await;
    reading.context("the histories could not be read in time")?;
    reading::store(&world, &attack.fleet).await.context("reading the store")?;
    sleep(IDLE).await;
    watching.abort();
    stop(&attack).await;
    let names: Vec<String> = attack.fleet.slots.iter().map(|slot| slot.name.clone()).collect();
    watch::logs(&world, folder, &names).await?;
    journal.finish().with_context(|| format!("writing {}", journal.path().display()))?;
    Ok(Done { history, pairs, recovery_ms })
}

/// Until every device has caught up for the first time.
async fn all_here(world: &World) {
    let limit = Instant::now() + SETUP_LIMIT;
    let is_here = || locked(&world.presence).values().all(|p| p.caught_up_ms > 0 || p.away);
    while !is_here() && Instant::now() < limit {
        sleep(LOOK).await;
    }
}

async fn begin_conversations(plan: &Plan, journal: &Journal, api: &str) -> anyhow::Result<()> {
    let api = Api::new(api);
    for conversation in &plan.conversations {
        let name = |user: &usize| plan.users[*user].clone();
        journal.note(What::Conversation {
            conversation: conversation.id.clone(),
            members: conversation.members.iter().map(name).collect(),
            canary: conversation.canary.clone(),
        });
        let Some(room) = conversation.id.strip_prefix("room:") else { continue };
        let (creator, others) = (name(&conversation.members[0]), &conversation.members[1..]);
        let members: Vec<String> = others.iter().map(name).collect();
        let path = format!("/v1/rooms?userId={creator}");
        let body = json!({"room": room, "members": members});
        let limit = Instant::now() + SETUP_LIMIT;
        // May be repeated with its id.
        while let Err(error) = api.post(&path, &body).await.and_then(|answer| answer.good()) {
            anyhow::ensure!(Instant::now() < limit, "making {}: {error}", conversation.id);
            sleep(LOOK).await;
        }
    }
    Ok(())
}

type Orders = Vec<((usize, usize), mpsc::Sender<super::device::Ordered>)>;

fn devices(world: &Arc<World>, seed: u64, tasks: &mut JoinSet<()>) -> Orders {
    let mut orders = Vec::new();
    for user in 0..world.plan.users.len() {
        for number in 0..DEVICES_PER_USER {
            let (sender, receiver) = mpsc::channel(1);
            orders.push(((user, number), sender));
            tasks.spawn(Device::new(world.clone(), user, number, seed, receiver).run());
        }
    }
    orders
}

async fn walks_in_passing(world: Arc<World>) {
    let mut number = 0;
    while *world.stage.borrow() == Stage::Load {
        sleep(WALK_PAUSE).await;
        let conversations = &world.plan.conversations;
        // Long ones would be all that the store has to do.
        let (highest, chosen) = (world.journal.highest_acked(), number % conversations.len());
        let conversation = &conversations[chosen];
        if highest.get(&conversation.id).copied().unwrap_or(0) < 1_000 {
            reading::in_passing(&world, conversation, number).await;
        }
        number += 1;
    }
}

/// Quiet, faults, and quiet again, with load all the time.
async fn load(options: &Options, attack: &Arc<Attack>, seed: u64, bar: &ProgressBar) -> Deeds {
    let journal = &attack.world.journal;
    let (low, high) = (*QUIET_SECONDS.start(), *QUIET_SECONDS.end());
    let quiet = Duration::from_secs((options.seconds / 10).clamp(low, high));
    let tally = Arc::new(Tally::default());
    let show = tokio::spawn(show(attack.world.clone(), tally.clone(), bar.clone()));
    journal.note(What::Phase { phase: Phase::Quiet });
    sleep(quiet).await;
    journal.note(What::Phase { phase: Phase::Faults });
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let gap = Duration::from_millis(options.gap_ms);
    let deeds = nemesis::run(attack.clone(), tally, seed, gap, until).await;
    attack.heal_all().await;
    journal.note(What::Phase { phase: Phase::Healed });
    sleep(quiet * HEALED_FACTOR).await;
    show.abort();
    deeds
}

/// Says how it goes, twice a second.
async fn show(world: Arc<World>, tally: Arc<Tally>, bar: ProgressBar) {
    for tick in 1_u64.. {
        sleep(Duration::from_millis(500)).await;
        let counts = &world.journal.counts;
        let number = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        bar.set_position(world.journal.now_ms() / 1_000);
        let line = format!(
            "faults {}/{} acked {} of {} tries, received {}",
            number(&tally.effective),
            number(&tally.begun),
            number(&counts.acked),
            number(&counts.tries),
            number(&counts.received)
        );
        // Where nobody watches a bar move, a line now and then.
        if bar.is_hidden() && tick.is_multiple_of(TICKS_PER_LINE) {
            eprintln!("{} s: {line}", world.journal.now_ms() / 1_000);
        }
        bar.set_message(line);
    }
}

/// Until every device has everything that was acknowledged, or the time is up.
async fn drain(world: &Arc<World>, bar: &ProgressBar) {
    world.journal.note(What::Phase { phase: Phase::Drain });
    world.stage.send_replace(Stage::Drain);
    world.posts.close();
    let limit = Instant::now() + DRAIN_LIMIT;
    let _ = timeout(DRAIN_LIMIT, world.posts.wait()).await;
    let (mut last, mut changed) = (Vec::new(), Instant::now());
    loop {
        let missing: Vec<String> = locked(&world.presence)
            .iter()
            .filter(|(_, presence)| !presence.complete)
            .map(|((user, device), p)| format!("user{user:02}/d{device}: {}", p.missing))
            .collect();
        bar.set_message(format!("draining: {} devices miss something", missing.len()));
        if missing.is_empty() {
            return;
        }
        if missing != last {
            (last, changed) = (missing.clone(), Instant::now());
        }
        if Instant::now() > limit || changed.elapsed() > STUCK_LIMIT {
            for line in missing {
                tracing::warn!("after the drain {line}");
            }
            return;
        }
        sleep(LOOK).await;
    }
}

/// Stops everything; the roles must end cleanly by SIGTERM.
async fn stop(attack: &Attack) {
    // The balancer first: it waits for its connections, and there are none left.
    for slot in attack.fleet.slots.iter().rev() {
        let mut process = slot.process.lock().await;
        let Some(running) = process.as_mut() else { continue };
        if matches!(slot.name.as_str(), "redis" | "dynamodb") {
            let _ = running.kill().await;
            continue;
        }
        let ended = match running.signal("TERM").await {
            Ok(()) => running.wait(STOP_LIMIT).await,
            Err(error) => Err(error),
        };
        if !ended.as_ref().is_ok_and(std::process::ExitStatus::success) {
            let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            let detail = format!("the last SIGTERM: {how}");
            attack.world.journal.note(What::Broken { process: slot.name.clone(), detail });
            let _ = running.kill().await;
        }
    }
}
