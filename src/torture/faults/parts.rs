//! Faults of Redis, and of the links to it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::time::{Instant, sleep, timeout};

use super::{Attack, BITE_LIMIT, Effect, Kind, RECOVERY_LIMIT, until_bitten};
use crate::bench::resp::{self, Reply};
use crate::client::Api;
use crate::torture::fleet::SERVERS;
use crate::torture::tcp::{Rules, Way};
use crate::torture::world::Recovery;

/// How long a server may take to tell what it has counted.
const COUNTS_LIMIT: Duration = Duration::from_secs(1);
/// Most of the keys that are overwritten.
const WRONG_KEYS_MAX: usize = 20;

impl Attack {
    async fn redis(&self, words: &[&str]) -> anyhow::Result<Reply> {
        let Some(address) = self.fleet.redis else { anyhow::bail!("there is no Redis") };
        resp::once(address, words).await
    }

    /// Calls of each server that Redis refused in this way, as the server itself has counted.
    async fn refusals(&self, outcome: &str) -> Vec<u64> {
        let counts = self.fleet.admins.iter().map(async |admin| {
            let api = Api::new(format!("http://{admin}"));
            let answer = timeout(COUNTS_LIMIT, api.get("/metrics")).await.ok()?.ok()?;
            Some(counted(answer.body.as_str()?, outcome))
        });
        // Who does not answer has counted nothing that is known.
        join_all(counts).await.into_iter().map(Option::unwrap_or_default).collect()
    }

    /// So long a fault lasts by which Redis refuses calls, and on until a server has met it.
    async fn until_refused(&self, lasts: Duration, before: &[u64], outcome: &str) -> u64 {
        sleep(lasts).await;
        let limit = Instant::now() + BITE_LIMIT;
        loop {
            let now = self.refusals(outcome).await;
            // One that was started again has counted from 0.
            let bites = now.iter().zip(before).map(|(now, before)| now.saturating_sub(*before));
            let bites = bites.sum();
            if bites > 0 || Instant::now() > limit {
                return bites;
            }
            sleep(Duration::from_millis(200)).await;
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
                let before = self.refusals("readonly").await;
                self.redis(&["REPLICAOF", "127.0.0.1", "1"]).await?;
                let bites = self.until_refused(millis, &before, "readonly").await;
                self.redis(&["REPLICAOF", "NO", "ONE"]).await?;
                bites
            }
            Kind::RedisFull => {
                let before = self.refusals("full").await;
                self.redis(&["CONFIG", "SET", "maxmemory", "1"]).await?;
                let bites = self.until_refused(millis, &before, "full").await;
                self.redis(&["CONFIG", "SET", "maxmemory", "0"]).await?;
                bites
            }
            _ => self.wrong_types().await?,
        };
        let since = self.world.journal.now_ms();
        let [a, b, c] = SERVERS.map(|s| self.world.hears_again(s, since, RECOVERY_LIMIT));
        let (a, b, c) = tokio::join!(a, b, c);
        Ok(Effect { bites, recovery: Recovery::of_all([a, b, c]) })
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
        let recovery = self.world.hears_again(server, since, RECOVERY_LIMIT).await;
        Ok(Effect { bites: bites.load(Ordering::Relaxed), recovery })
    }
}

const NONE: Effect = Effect { bites: 0, recovery: Recovery::Unmeasured };

/// The calls of Redis that ended so, in what `/metrics` shows.
fn counted(metrics: &str, outcome: &str) -> u64 {
    let ended = format!("outcome=\"{outcome}\"");
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with("parlor_redis_calls_total{") && line.contains(&ended));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Call, Metrics};

    #[test]
    fn what_servers_have_counted_is_read_by_outcome() {
        let metrics = Metrics::new("ws1");
        for (operation, outcome, times) in
            [("claim", "readonly", 3), ("sweep", "readonly", 2), ("claim", "full", 1)]
        {
            metrics.redis_calls.get_or_create(&Call { operation, outcome }).inc_by(times);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, metrics.registry()).unwrap();
        let count = |outcome| counted(&text, outcome);
        assert_eq!((count("readonly"), count("full"), count("ok")), (5, 1, 0), "{text}");
    }
}
