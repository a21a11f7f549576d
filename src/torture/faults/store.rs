//! Faults of DynamoDB, for one process or for all.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::time::sleep;

use super::{Attack, Effect, RECOVERY_LIMIT, until_bitten};
use crate::torture::fleet::{Links, SERVERS};
use crate::torture::http::{Mood, Weather};
use crate::torture::world::Recovery;

/// Now and then it lasts so long that the board's rows grow old.
const LONG_ONE_IN: u32 = 8;

impl Attack {
    pub(super) async fn hurt_store(
        &self,
        mood: Mood,
        target: Option<&str>,
        random: &mut SmallRng,
    ) -> anyhow::Result<Effect> {
        let process = target.and_then(|target| target.split('>').next());
        let is_meant = |links: &&Links| process.is_none_or(|process| links.name == process);
        let links: Vec<&Links> = self.fleet.links.iter().filter(is_meant).collect();
        let count = || links.iter().map(|links| links.store.bites()).sum::<u64>();
        let before = count();
        let weather = Weather {
            mood,
            percent: [30, 60, 100][random.random_range(0..3)],
            // A balancer only reads.
            writes_only: process != Some("balancer") && random.random_bool(0.3),
        };
        // Refused or hung for all, nothing goes on at all: shorter.
        let millis = match (target, random.random_ratio(1, LONG_ONE_IN)) {
            (None, _) => random.random_range(500..3_000),
            (Some(_), false) => random.random_range(500..5_000),
            (Some(_), true) => random.random_range(9_000..16_000),
        };
        links.iter().for_each(|links| links.store.weather(weather));
        until_bitten(Duration::from_millis(millis), || count() - before).await;
        links.iter().for_each(|links| links.store.weather(Weather::default()));
        let bites = count() - before;
        let since = self.world.journal.now_ms();
        let recovery = match process {
            None => self.all_ack(since).await,
            Some(server) if SERVERS.contains(&server) => {
                self.world.acks_again(server, since, RECOVERY_LIMIT).await
            }
            Some(_) => Recovery::Unmeasured,
        };
        Ok(Effect { bites, recovery })
    }

    async fn all_ack(&self, since: u64) -> Recovery {
        let [a, b, c] = SERVERS.map(|s| self.world.acks_again(s, since, RECOVERY_LIMIT));
        let (a, b, c) = tokio::join!(a, b, c);
        Recovery::of_all([a, b, c])
    }

    /// DynamoDB itself stands still.
    pub(super) async fn pause_store(&self, random: &mut SmallRng) -> anyhow::Result<Effect> {
        let slot = self.fleet.slot("dynamodb")?;
        let process = slot.process.lock().await;
        let Some(running) = process.as_ref() else { return Ok(Effect::default()) };
        running.signal("STOP").await?;
        sleep(Duration::from_millis(random.random_range(500..4_000))).await;
        let bites = u64::from(running.is_stopped());
        running.signal("CONT").await?;
        let since = self.world.journal.now_ms();
        drop(process);
        Ok(Effect { bites, recovery: self.all_ack(since).await })
    }
}
