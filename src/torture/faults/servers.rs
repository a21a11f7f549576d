//! Faults of processes: killed, stopped, drained, not reached.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::time::{sleep, timeout};

use super::{Attack, Effect, Kind, RECOVERY_LIMIT, until_bitten};
use crate::torture::fleet::SERVERS;
use crate::torture::journal::locked;
use crate::torture::tcp::{Rules, Way};
use crate::torture::world::Recovery;

/// How long a drain may take, beyond what it was told.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

impl Attack {
    /// kill -9, then a start under the same name or another.
    pub(super) async fn kill(
        &self,
        kind: Kind,
        target: &str,
        random: &mut SmallRng,
    ) -> anyhow::Result<Effect> {
        let slot = self.fleet.slot(target)?;
        let mut process = slot.process.lock().await;
        let Some(running) = process.as_mut() else { return Ok(Effect::default()) };
        let devices = self.losing(target);
        let since = self.world.journal.now_ms();
        let status = running.kill().await?;
        let bites = u64::from(!status.success());
        sleep(Duration::from_millis(random.random_range(0..1_500))).await;
        let renamed = SERVERS.contains(&target) && random.random_bool(0.5);
        // People come back to the others while this one starts.
        let (started, recovery) = tokio::join!(slot.start(renamed), async {
            match kind {
                Kind::ApiKilled => self.api_answers(since).await,
                _ => self.world.back_again(&devices, since, RECOVERY_LIMIT).await,
            }
        });
        *process = Some(started?);
        Ok(Effect { bites, recovery })
    }

    /// The devices that lose their connection with this process.
    fn losing(&self, target: &str) -> Vec<(usize, usize)> {
        match target {
            "api" => Vec::new(),
            "balancer" | "up" => locked(&self.world.presence).keys().copied().collect(),
            server => self.world.devices_of(server),
        }
    }

    async fn api_answers(&self, since: u64) -> Recovery {
        let asking = async {
            loop {
                if self.world.api.get("/v1/servers").await.is_ok_and(|answer| answer.status == 200)
                {
                    return self.world.journal.now_ms().saturating_sub(since);
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        match timeout(RECOVERY_LIMIT, asking).await {
            Ok(took) => Recovery::After(took),
            Err(_) => Recovery::Never(self.world.journal.now_ms().saturating_sub(since)),
        }
    }

    /// SIGSTOP, and SIGCONT after so many milliseconds: a zombie that does not know.
    pub(super) async fn pause(&self, target: &str, millis: u64) -> anyhow::Result<Effect> {
        let slot = self.fleet.slot(target)?;
        let process = slot.process.lock().await;
        let Some(running) = process.as_ref() else { return Ok(Effect::default()) };
        running.signal("STOP").await?;
        sleep(Duration::from_millis(millis)).await;
        let bites = u64::from(running.is_stopped());
        running.signal("CONT").await?;
        let since = self.world.journal.now_ms();
        drop(process);
        let recovery = match target {
            "up" => self.any_acks(since).await,
            server => self.world.acks_again(server, since, RECOVERY_LIMIT).await,
        };
        Ok(Effect { bites, recovery })
    }

    pub(super) async fn any_acks(&self, since: u64) -> Recovery {
        let [a, b, c] = SERVERS.map(|s| self.world.acks_again(s, since, RECOVERY_LIMIT));
        let first = tokio::select! { ms = a => ms, ms = b => ms, ms = c => ms };
        first
    }

    /// SIGTERM; it must end cleanly.
    pub(super) async fn drain(
        &self,
        target: &str,
        random: &mut SmallRng,
    ) -> anyhow::Result<Effect> {
        let slot = self.fleet.slot(target)?;
        let mut process = slot.process.lock().await;
        let Some(running) = process.as_mut() else { return Ok(Effect::default()) };
        let devices = self.losing(target);
        let since = self.world.journal.now_ms();
        running.signal("TERM").await?;
        let ended = running.wait(DRAIN_LIMIT).await;
        let is_clean = ended.as_ref().is_ok_and(std::process::ExitStatus::success);
        if !is_clean {
            let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            self.broken(target, format!("SIGTERM: {how}"));
            let _ = running.kill().await;
        }
        let bites = self.moved(&devices, since);
        let renamed = SERVERS.contains(&target) && random.random_bool(0.5);
        let (started, recovery) = tokio::join!(
            slot.start(renamed),
            self.world.back_again(&devices, since, RECOVERY_LIMIT)
        );
        *process = Some(started?);
        Ok(Effect { bites, recovery })
    }

    /// How many of these have lost their connection since, or have another already.
    fn moved(&self, devices: &[(usize, usize)], since: u64) -> u64 {
        let presence = locked(&self.world.presence);
        let has_moved = |device: &&(usize, usize)| {
            let there = presence.get(device);
            there.is_some_and(|p| p.server.is_none() || p.caught_up_ms > since)
        };
        devices.iter().filter(has_moved).count() as u64
    }

    pub(super) fn broken(&self, process: &str, detail: String) {
        let process = process.to_owned();
        self.world.journal.note(crate::checker::history::What::Broken { process, detail });
    }

    /// Nothing passes between the balancer and a server, one way or both; then connections break.
    pub(super) async fn hold_door(
        &self,
        target: &str,
        random: &mut SmallRng,
    ) -> anyhow::Result<Effect> {
        let Some(number) = SERVERS.iter().position(|server| *server == target) else {
            return Ok(Effect::default());
        };
        let door = &self.fleet.doors[number];
        let rules = match random.random_range(0..3) {
            0 => Rules { up: Way::Drop, down: Way::Pass },
            1 => Rules { up: Way::Pass, down: Way::Drop },
            _ => Rules::both(Way::Hold),
        };
        let bites = door.rule_all(rules);
        let lasts = Duration::from_millis(random.random_range(500..5_000));
        until_bitten(lasts, || bites.load(Ordering::Relaxed)).await;
        // What was dropped is missing in the stream: it can't go on.
        let lost = rules != Rules::both(Way::Hold);
        let lines = door.lines(None);
        door.rule_all(Rules::default());
        if lost {
            door.rule(&lines, Rules::both(Way::Reset));
        }
        let since = self.world.journal.now_ms();
        let recovery = self.world.acks_again(target, since, RECOVERY_LIMIT).await;
        Ok(Effect { bites: bites.load(Ordering::Relaxed), recovery })
    }
}
