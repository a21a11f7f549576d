//! Users that nothing happens to: what a fault elsewhere, or another's flood, costs them.

use std::time::Duration;

use anyhow::Context;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::crowd::{Crowd, close, fresh_names};
use super::dialect::{Dialect, Wire};
use super::pair::{self, Outcome, Pace, Plan};
use super::report::Latency;
use super::target::Target;
use crate::client::Client;

/// How long a message may take, or nothing is heard any more.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pairs do not all speak at the same moment, but in so many turns.
const TURNS: u32 = 10;

/// Pairs of users that nothing happens to, and how long their messages take.
pub(super) struct Calm {
    pairs: Vec<(Client, Client, String)>,
    /// How often each pair says something.
    every: Duration,
}

impl Calm {
    /// Opens them, none on the server that is hit; each will say something `every` so often.
    pub async fn open(
        target: &Target,
        pairs: usize,
        every: Duration,
        hit: Option<&str>,
    ) -> anyhow::Result<Self> {
        let mut calm = Self { pairs: Vec::new(), every };
        let mut waiting: Option<Client> = None;
        while calm.pairs.len() < pairs {
            let name = fresh_names("calm", 1);
            let client = Crowd::open(target, &name).await?.clients.pop().context("one client")?;
            if hit.is_some() && client.server() == hit {
                client.close(1000).await;
                continue;
            }
            match waiting.take() {
                Some(a) => calm.pairs.push((a, client, name[0].clone())),
                None => waiting = Some(client),
            }
        }
        Ok(calm)
    }

    /// As `run`, beside the caller; gives the sockets back.
    pub fn start(self, long: Duration) -> JoinHandle<anyhow::Result<(Vec<Outcome>, Vec<Client>)>> {
        tokio::spawn(async move {
            let (outcomes, calm) = self.run(long).await?;
            Ok((outcomes, calm.into_clients()))
        })
    }

    /// Each pair says something every so often, for so long.
    pub async fn run(self, long: Duration) -> anyhow::Result<(Vec<Outcome>, Self)> {
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for (number, (a, b, to)) in self.pairs.into_iter().enumerate() {
            let from = begin + self.every * (number as u32 % TURNS) / TURNS;
            let pace = Pace::Open(from, self.every);
            let until = begin + long;
            let plan = Plan { to: to.clone(), pace, from, until, patience: PATIENCE, bytes: 64 };
            tasks.spawn(async move {
                let [a, b] = [a, b].map(|client| Wire::new(client, Dialect::Parlor));
                let (outcome, a, b) = pair::drive(a, b, plan).await;
                (outcome, (a.into_client(), b.into_client(), to))
            });
        }
        let (mut outcomes, mut pairs) = (Vec::new(), Vec::new());
        while let Some(driven) = tasks.join_next().await {
            let (outcome, pair) = driven?;
            outcomes.push(outcome);
            pairs.push(pair);
        }
        Ok((outcomes, Self { pairs, every: self.every }))
    }

    /// Says goodbye for all.
    pub async fn close(self) {
        close(self.into_clients()).await;
    }

    fn into_clients(self) -> Vec<Client> {
        self.pairs.into_iter().flat_map(|(a, b, _)| [a, b]).collect()
    }
}

/// How long the messages of all of them took.
pub(super) fn latency(outcomes: &[Outcome]) -> Latency {
    let mut all = Latency::new();
    outcomes.iter().for_each(|outcome| all.add(&outcome.latency));
    all
}
