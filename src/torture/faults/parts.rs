//! Faults of Redis, and of the links to it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::time::sleep;

use super::{Attack, Effect, Kind, RECOVERY_LIMIT, until_bitten};
use crate::bench::resp::{self, Reply};
use crate::torture::fleet::SERVERS;
use crate::torture::tcp::{Rules, Way};

/// A key that no person has: by it a probe sees how Redis takes writes.
const PROBE: &str = "torture-probe";
/// Most of the keys that are overwritten.
const WRONG_KEYS_MAX: usize = 20;

impl Attack {
    async fn redis(&self, words: &[&str]) -> anyhow::Result<Reply> {
        let Some(address) = self.fleet.redis else { anyhow::bail!("there is no Redis") };
        resp::once(address, words).await
    }

    /// 1 if a write is refused with this word.
    async fn refuses(&self, word: &str) -> u64 {
        match self.redis(&["SET", PROBE, "1"]).await {
            Err(error) => u64::from(error.to_string().contains(word)),
            Ok(_) => 0,
        }
    }

    pub(super) async fn hurt_redis(
        &self,
        kind: Kind,
        random: &mut SmallRng,
    ) -> anyhow::Result<Effect> {
        let millis = Duration::from_millis(random.random_range(500..5_000));
        let bites = match kind {
            Kind::RedisKilled => self.kill_redis(millis / 2).await?,
            Kind::RedisHung => self.stop_redis(millis).await?,
            Kind::RedisFlushed => {
                let Reply::Number(keys) = self.redis(&["DBSIZE"]).await? else { return Ok(NONE) };
                self.redis(&["FLUSHALL"]).await?;
                u64::try_from(keys)?
            }
            Kind::RedisPubsubKilled => {
                match self.redis(&["CLIENT", "KILL", "TYPE", "pubsub"]).await? {
                    Reply::Number(killed) => u64::try_from(killed)?,
                    _ => 0,
                }
            }
            Kind::RedisReadonly => {
                self.redis(&["REPLICAOF", "127.0.0.1", "1"]).await?;
                let bites = self.refuses("READONLY").await;
                sleep(millis).await;
                self.redis(&["REPLICAOF", "NO", "ONE"]).await?;
                bites
            }
            Kind::RedisFull => {
                self.redis(&["CONFIG", "SET", "maxmemory", "1"]).await?;
                let bites = self.refuses("OOM").await;
                sleep(millis).await;
                self.redis(&["CONFIG", "SET", "maxmemory", "0"]).await?;
                bites
            }
            _ => self.wrong_types().await?,
        };
        let since = self.world.journal.now_ms();
        let [a, b, c] = SERVERS.map(|s| self.world.hears_again(s, since, RECOVERY_LIMIT));
        let (a, b, c) = tokio::join!(a, b, c);
        let recovered_ms = [a, b, c].into_iter().collect::<Option<Vec<u64>>>();
        Ok(Effect { bites, recovered_ms: recovered_ms.and_then(|all| all.into_iter().max()) })
    }

    async fn kill_redis(&self, away: Duration) -> anyhow::Result<u64> {
        let slot = self.fleet.slot("redis")?;
        let mut process = slot.process.lock().await;
        let Some(running) = process.as_mut() else { return Ok(0) };
        let bites = u64::from(!running.kill().await?.success());
        sleep(away).await;
        *process = Some(slot.start(false).await?);
        Ok(bites)
    }

    async fn stop_redis(&self, millis: Duration) -> anyhow::Result<u64> {
        let slot = self.fleet.slot("redis")?;
        let process = slot.process.lock().await;
        let Some(running) = process.as_ref() else { return Ok(0) };
        running.signal("STOP").await?;
        sleep(millis).await;
        let bites = u64::from(running.is_stopped());
        running.signal("CONT").await?;
        Ok(bites)
    }

    /// Puts lists where people stand.
    async fn wrong_types(&self) -> anyhow::Result<u64> {
        let Reply::Array(keys) = self.redis(&["KEYS", "user:*"]).await? else { return Ok(0) };
        let mut bites = 0;
        for key in keys.into_iter().take(WRONG_KEYS_MAX) {
            let Reply::Text(key) = key else { continue };
            self.redis(&["DEL", &key]).await?;
            // Claimed again just now: then it is not wrong, and does not count.
            bites += u64::from(self.redis(&["LPUSH", &key, "what", "is", "this"]).await.is_ok());
        }
        Ok(bites)
    }

    /// The link of one server: cut, one-way, slow, or its subscription alone silent.
    pub(super) async fn cut_redis(
        &self,
        kind: Kind,
        target: &str,
        random: &mut SmallRng,
    ) -> anyhow::Result<Effect> {
        let server = target.split('>').next().unwrap_or_default();
        let links = self.fleet.links.iter().find(|links| links.name == server);
        let Some(link) = links.and_then(|links| links.redis.as_ref()) else { return Ok(NONE) };
        let millis = Duration::from_millis(random.random_range(1_000..7_000));
        let bites = match kind {
            Kind::RedisCut => {
                link.refuse(true);
                let bites = link.rule_all(Rules::both(Way::Reset));
                sleep(millis).await;
                link.refuse(false);
                bites
            }
            Kind::RedisSlow => {
                let rules = Rules::both(Way::Delay(random.random_range(20..300), 100));
                let bites = link.rule_all(rules);
                until_bitten(millis, || bites.load(Ordering::Relaxed)).await;
                link.rule_all(Rules::default());
                bites
            }
            Kind::RedisOneWay => {
                let rules = match random.random_bool(0.5) {
                    true => Rules { up: Way::Drop, down: Way::Pass },
                    false => Rules { up: Way::Pass, down: Way::Drop },
                };
                let bites = link.rule_all(rules);
                until_bitten(millis, || bites.load(Ordering::Relaxed)).await;
                let lines = link.lines(None);
                link.rule_all(Rules::default());
                link.rule(&lines, Rules::both(Way::Reset));
                bites
            }
            // The subscription alone: nothing comes, and nothing says so.
            _ => {
                let lines = link.lines(Some(true));
                let bites = link.rule(&lines, Rules { up: Way::Pass, down: Way::Drop });
                until_bitten(millis * 2, || bites.load(Ordering::Relaxed)).await;
                link.rule(&lines, Rules::both(Way::Reset));
                bites
            }
        };
        let since = self.world.journal.now_ms();
        let recovered_ms = self.world.hears_again(server, since, RECOVERY_LIMIT).await;
        Ok(Effect { bites: bites.load(Ordering::Relaxed), recovered_ms })
    }
}

const NONE: Effect = Effect { bites: 0, recovered_ms: None };
