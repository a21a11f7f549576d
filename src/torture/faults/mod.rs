//! The faults: what each is called in the ledger, how often it is drawn, what it hits, and how it
//! is seen to bite.

mod clients;
mod parts;
mod servers;
mod store;

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::device::Ordered;
use super::fleet::{Fleet, SERVERS};
use super::http::{Mood, Weather};
use super::tcp::Rules;
use super::world::{Recovery, World};
use crate::bench::resp;

/// How long a recovery is waited for.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);
/// How long a fault that has not bitten goes on.
const BITE_LIMIT: Duration = Duration::from_secs(6);

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    ServerKilled,
    ServerStopped,
    ServerStoppedLong,
    ServerDrained,
    ServerDoorHeld,
    BalancerKilled,
    ApiKilled,
    RedisKilled,
    RedisFlushed,
    RedisHung,
    RedisReadonly,
    RedisFull,
    RedisWrongTypes,
    RedisPubsubKilled,
    RedisPubsubSilent,
    RedisCut,
    RedisOneWay,
    RedisSlow,
    Store(Mood),
    StoreAll(Mood),
    StoreStopped,
    ClientsReset,
    ClientsCutInFrame,
    ClientsHalfOpen,
    ClientsTrickled,
    ClientsDelayed,
    ClientsSliced,
    ClientsKilledAfterSend,
    ClientsForget,
    ClientsStopReading,
    UpKilled,
    UpStopped,
    UpDrained,
}

use Kind::*;

/// Kinds of a fleet's own, with the weight by which they are drawn.
const FLEET: &[(Kind, u32)] = &[
    (ServerKilled, 10),
    (ServerStopped, 8),
    (ServerStoppedLong, 1),
    (ServerDrained, 6),
    (ServerDoorHeld, 4),
    (BalancerKilled, 2),
    (ApiKilled, 3),
    (RedisKilled, 5),
    (RedisFlushed, 5),
    (RedisHung, 4),
    (RedisReadonly, 3),
    (RedisFull, 3),
    (RedisWrongTypes, 4),
    (RedisPubsubKilled, 4),
    (RedisPubsubSilent, 5),
    (RedisCut, 6),
    (RedisOneWay, 4),
    (RedisSlow, 4),
    (Store(Mood::Throttled), 4),
    (Store(Mood::Throttling), 3),
    (Store(Mood::Error500), 4),
    (Store(Mood::Error503), 3),
    (Store(Mood::Slow(800)), 4),
    (Store(Mood::Hung), 4),
    (Store(Mood::Refused), 4),
    (Store(Mood::AppliedThenDropped), 6),
    (Store(Mood::AppliedThenHung), 5),
    (Store(Mood::EarlyPages), 5),
    (StoreAll(Mood::Throttled), 2),
    (StoreAll(Mood::Error500), 2),
    (StoreAll(Mood::Hung), 1),
    (StoreAll(Mood::AppliedThenDropped), 3),
    (StoreStopped, 2),
];

/// Kinds of `parlor up`'s own.
const EMBEDDED: &[(Kind, u32)] = &[(UpKilled, 8), (UpStopped, 5), (UpDrained, 3)];

/// Kinds of clients and their connections, on both.
const CLIENTS: &[(Kind, u32)] = &[
    (ClientsReset, 4),
    (ClientsCutInFrame, 5),
    (ClientsHalfOpen, 4),
    (ClientsTrickled, 3),
    (ClientsDelayed, 3),
    (ClientsSliced, 2),
    (ClientsKilledAfterSend, 6),
    (ClientsForget, 4),
    (ClientsStopReading, 2),
];

impl Kind {
    /// Those that there are, with their weights.
    fn all(embedded: bool) -> impl Iterator<Item = &'static (Self, u32)> {
        let own = if embedded { EMBEDDED } else { FLEET };
        own.iter().chain(CLIENTS)
    }

    /// Draws one.
    pub fn draw(random: &mut SmallRng, embedded: bool) -> Self {
        let sum = Self::all(embedded).map(|(_, weight)| weight).sum();
        let mut left = random.random_range(0..sum);
        for (kind, weight) in Self::all(embedded) {
            if left < *weight {
                return *kind;
            }
            left -= weight;
        }
        ClientsReset
    }

    /// The name in histories and in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            ServerKilled => "server-killed",
            ServerStopped => "server-stopped",
            ServerStoppedLong => "server-stopped-long",
            ServerDrained => "server-drained",
            ServerDoorHeld => "server-unreachable",
            BalancerKilled => "balancer-killed",
            ApiKilled => "api-killed",
            RedisKilled => "redis-killed",
            RedisFlushed => "redis-flushed",
            RedisHung => "redis-hung",
            RedisReadonly => "redis-readonly",
            RedisFull => "redis-full",
            RedisWrongTypes => "redis-wrong-types",
            RedisPubsubKilled => "redis-pubsub-killed",
            RedisPubsubSilent => "redis-pubsub-silent",
            RedisCut => "redis-partition",
            RedisOneWay => "redis-partition-one-way",
            RedisSlow => "redis-slow",
            Store(mood) => mood.name(),
            StoreAll(mood) => mood.name_for_all(),
            StoreStopped => "store-stopped",
            ClientsReset => "clients-reset",
            ClientsCutInFrame => "clients-cut-in-frame",
            ClientsHalfOpen => "clients-half-open",
            ClientsTrickled => "clients-slow-network",
            ClientsDelayed => "clients-delayed",
            ClientsSliced => "clients-sliced",
            ClientsKilledAfterSend => "clients-killed-after-send",
            ClientsForget => "clients-forget",
            ClientsStopReading => "clients-slow-readers",
            UpKilled => "up-killed",
            UpStopped => "up-stopped",
            UpDrained => "up-drained",
        }
    }

    /// What it hits, drawn where there are several.
    pub fn target(self, random: &mut SmallRng) -> String {
        let server = SERVERS[random.random_range(0..SERVERS.len())];
        match self {
            ServerKilled | ServerStopped | ServerStoppedLong | ServerDrained | ServerDoorHeld => {
                server.to_owned()
            }
            BalancerKilled => "balancer".to_owned(),
            ApiKilled => "api".to_owned(),
            RedisKilled | RedisFlushed | RedisHung | RedisReadonly | RedisFull
            | RedisWrongTypes | RedisPubsubKilled => "redis".to_owned(),
            RedisPubsubSilent | RedisCut | RedisOneWay | RedisSlow => format!("{server}>redis"),
            Store(_) => match random.random_range(0..10) {
                0 => "api>dynamodb".to_owned(),
                1 => "balancer>dynamodb".to_owned(),
                _ => format!("{server}>dynamodb"),
            },
            StoreAll(_) | StoreStopped => "dynamodb".to_owned(),
            UpKilled | UpStopped | UpDrained => "up".to_owned(),
            _ => self.name().to_owned(),
        }
    }

    /// Whether it may run while `other` does: not on the same thing, and never on the last server.
    pub fn goes_with(target: &str, others: &[String]) -> bool {
        let down = others.iter().filter(|other| SERVERS.contains(&other.as_str())).count();
        let last = SERVERS.contains(&target) && down >= SERVERS.len() - 1;
        // All links to the store together, or one.
        let overlaps = |other: &String| {
            other == target
                || target == "dynamodb" && other.ends_with(">dynamodb")
                || other == "dynamodb" && target.ends_with(">dynamodb")
        };
        !last && !others.iter().any(overlaps)
    }
}

/// Waits for as long as a fault is to last, and on until it has bitten: nothing may have passed.
async fn until_bitten(lasts: Duration, bites: impl Fn() -> u64) {
    sleep(lasts).await;
    let limit = Instant::now() + BITE_LIMIT;
    while bites() == 0 && Instant::now() < limit {
        sleep(Duration::from_millis(50)).await;
    }
}

/// What faults can reach.
pub(super) struct Attack {
    /// The processes and proxies.
    pub fleet: Fleet,
    /// The load.
    pub world: Arc<World>,
    /// The devices, by (user, device).
    pub orders: Vec<((usize, usize), mpsc::Sender<Ordered>)>,
}

impl Attack {
    /// Takes away what a fault that failed half-way may have left.
    pub async fn heal_all(&self) {
        let fleet = &self.fleet;
        let links = fleet.links.iter().filter_map(|links| links.redis.as_ref());
        for proxy in links.chain(&fleet.doors).chain([&fleet.front]) {
            proxy.refuse(false);
            proxy.rule_all(Rules::default());
        }
        for links in &fleet.links {
            links.store.weather(Weather::default());
        }
        for slot in &fleet.slots {
            if let Some(process) = slot.process.lock().await.as_ref() {
                let _ = process.signal("CONT").await;
            }
        }
        if let Some(redis) = fleet.redis {
            let commands: [&[&str]; 2] =
                [&["REPLICAOF", "NO", "ONE"], &["CONFIG", "SET", "maxmemory", "0"]];
            for command in commands {
                let _ = resp::once(redis, command).await;
            }
        }
    }
}

/// How a fault went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// How often it was seen to bite.
    pub bites: u64,
    /// Whether its target did its work again.
    pub recovery: Recovery,
}

impl Attack {
    /// Runs a fault from its begin to its recovery.
    pub async fn inject(
        &self,
        kind: Kind,
        target: &str,
        random: &mut SmallRng,
    ) -> anyhow::Result<Effect> {
        match kind {
            ServerKilled | UpKilled | BalancerKilled | ApiKilled => {
                self.kill(kind, target, random).await
            }
            ServerStopped | UpStopped => {
                self.pause(target, random.random_range(1_000..6_000)).await
            }
            ServerStoppedLong => self.pause(target, random.random_range(14_000..30_000)).await,
            ServerDrained | UpDrained => self.drain(target, random).await,
            ServerDoorHeld => self.hold_door(target, random).await,
            RedisKilled | RedisFlushed | RedisHung | RedisReadonly | RedisFull
            | RedisWrongTypes | RedisPubsubKilled => self.hurt_redis(kind, random).await,
            RedisPubsubSilent | RedisCut | RedisOneWay | RedisSlow => {
                self.cut_redis(kind, target, random).await
            }
            Store(mood) => self.hurt_store(mood, Some(target), random).await,
            StoreAll(mood) => self.hurt_store(mood, None, random).await,
            StoreStopped => self.pause_store(random).await,
            ClientsReset | ClientsCutInFrame | ClientsHalfOpen | ClientsTrickled
            | ClientsDelayed | ClientsSliced => self.hurt_connections(kind, random).await,
            ClientsKilledAfterSend | ClientsForget | ClientsStopReading => {
                self.order_devices(kind, random).await
            }
        }
    }
}

impl Mood {
    fn name(self) -> &'static str {
        match self {
            Self::Well => "store-well",
            Self::Throttled => "store-throttled",
            Self::Throttling => "store-throttling",
            Self::Error500 => "store-500",
            Self::Error503 => "store-503",
            Self::Slow(_) => "store-slow",
            Self::Hung => "store-hung",
            Self::AppliedThenDropped => "store-applied-then-dropped",
            Self::AppliedThenHung => "store-applied-then-hung",
            Self::EarlyPages => "store-early-pages",
            Self::Refused => "store-refused",
        }
    }

    fn name_for_all(self) -> &'static str {
        match self {
            Self::Throttled => "store-throttled-for-all",
            Self::Error500 => "store-500-for-all",
            Self::Hung => "store-hung-for-all",
            Self::AppliedThenDropped => "store-applied-then-dropped-for-all",
            other => other.name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::collections::BTreeSet;

    #[test]
    fn every_kind_is_drawn_under_a_name_of_its_own() {
        let mut random = SmallRng::seed_from_u64(1);
        for embedded in [false, true] {
            let names: BTreeSet<_> = Kind::all(embedded).map(|(kind, _)| kind.name()).collect();
            assert_eq!(names.len(), Kind::all(embedded).count());
            let drawn: BTreeSet<_> =
                (0..5_000).map(|_| Kind::draw(&mut random, embedded).name()).collect();
            assert_eq!(drawn, names);
        }
    }

    #[test]
    fn faults_do_not_meet_on_one_thing_nor_take_the_last_server() {
        let goes = |target: &str, others: &[&str]| {
            let others: Vec<String> = others.iter().map(|other| (*other).to_owned()).collect();
            Kind::goes_with(target, &others)
        };
        assert!(goes("ws1", &["redis", "ws2", "ws1>redis"]));
        assert!(!goes("ws1", &["ws1"]) && !goes("ws3", &["ws1", "ws2"]));
        assert!(!goes("dynamodb", &["ws1>dynamodb"]) && !goes("ws1>dynamodb", &["dynamodb"]));
        assert!(goes("ws1>dynamodb", &["ws2>dynamodb"]));
    }
}
