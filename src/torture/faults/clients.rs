//! Faults of clients and of the networks before them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep};

use super::{Attack, Effect, Kind, RECOVERY_LIMIT, until_bitten};
use crate::torture::device::{Order, Ordered};
use crate::torture::tcp::{Rules, Way};
use crate::torture::world::Recovery;

/// Longer than a server waits for a receipt (30 s): whoever does not read for so long is given up.
const SLOW_MS: std::ops::Range<u64> = 33_000..40_000;
/// How long a fault waits for connections that it could hurt.
const LINES_LIMIT: Duration = Duration::from_secs(15);
/// How often it looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Attack {
    /// Some of the connections before the balancer.
    pub(super) async fn hurt_connections(
        &self,
        kind: Kind,
        random: &mut SmallRng,
    ) -> anyhow::Result<Effect> {
        let front = &self.fleet.front;
        let open = self.open_lines().await;
        let count = random.random_range(5..=20);
        let lines: Vec<u64> = open.sample(random, count).copied().collect();
        let millis = random.random_range(500..5_000);
        let (rules, breaks) = match kind {
            Kind::ClientsReset => (Rules::both(Way::Reset), false),
            Kind::ClientsCutInFrame => {
                let cut = |random: &mut SmallRng| Way::Cut(random.random_range(1..60));
                let (up, down) = (cut(random), cut(random));
                match random.random_range(0..3) {
                    0 => (Rules { up, down: Way::Pass }, false),
                    1 => (Rules { up: Way::Pass, down }, false),
                    _ => (Rules { up, down }, false),
                }
            }
            Kind::ClientsHalfOpen => match random.random_range(0..3) {
                0 => (Rules { up: Way::Drop, down: Way::Pass }, true),
                1 => (Rules { up: Way::Pass, down: Way::Drop }, true),
                _ => (Rules::both(Way::Drop), true),
            },
            Kind::ClientsTrickled => {
                (Rules { up: Way::Pass, down: Way::Trickle(random.random_range(8..200)) }, false)
            }
            Kind::ClientsDelayed => {
                (Rules::both(Way::Delay(random.random_range(50..400), 200)), false)
            }
            _ => (Rules::both(Way::Slice), false),
        };
        let bites = front.rule(&lines, rules);
        until_bitten(Duration::from_millis(millis), || bites.load(Ordering::Relaxed)).await;
        front.rule(&lines, if breaks { Rules::both(Way::Reset) } else { Rules::default() });
        Ok(Effect { bites: bites.load(Ordering::Relaxed), recovery: Recovery::Unmeasured })
    }

    /// The connections before the balancer. While nobody is connected, since a `parlor up` is down,
    /// there is nothing to hurt: the fault waits for somebody.
    async fn open_lines(&self) -> Vec<u64> {
        let limit = Instant::now() + LINES_LIMIT;
        loop {
            let open = self.fleet.front.lines(None);
            if !open.is_empty() || Instant::now() >= limit {
                return open;
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Some of the devices.
    pub(super) async fn order_devices(
        &self,
        kind: Kind,
        random: &mut SmallRng,
    ) -> anyhow::Result<Effect> {
        let (order, wait) = match kind {
            Kind::ClientsKilledAfterSend => (Order::KilledAfterSend, Duration::ZERO),
            Kind::ClientsForget => (Order::Forget, Duration::ZERO),
            _ => {
                let millis = random.random_range(SLOW_MS);
                (Order::StopReading(millis), Duration::from_millis(millis))
            }
        };
        let count = random.random_range(2..=10);
        let chosen: Vec<_> = self.orders.sample(random, count).collect();
        let bites = Arc::new(AtomicU64::new(0));
        let since = self.world.journal.now_ms();
        // One that has an order already gets no other.
        let takes = |device: &Sender<Ordered>| device.try_send((order.clone(), bites.clone()));
        let ordered = chosen.iter().filter(|(_, device)| takes(device).is_ok());
        let devices: Vec<_> = ordered.map(|(key, _)| *key).collect();
        // One that is just connecting carries it out a little later.
        until_bitten(wait, || bites.load(Ordering::Relaxed)).await;
        let recovery = match kind {
            Kind::ClientsStopReading => Recovery::Unmeasured,
            _ => self.world.back_again(&devices, since, RECOVERY_LIMIT).await,
        };
        Ok(Effect { bites: bites.load(Ordering::Relaxed), recovery })
    }
}
