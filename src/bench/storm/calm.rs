//! Users that nothing happens to: what a fault elsewhere costs them.

use std::time::Duration;

use anyhow::Context;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::super::crowd::{Crowd, fresh_names};
use super::super::dialect::{Dialect, Wire};
use super::super::pair::{self, Outcome, Pace, Plan};
use super::super::target::Target;
use super::PATIENCE;
use crate::client::Client;

/// How often each pair says something.
const EVERY: Duration = Duration::from_millis(250);

/// Pairs of users that nothing happens to, and how long their messages take.
pub(super) struct Calm {
    pairs: Vec<(Client, Client, String)>,
}

impl Calm {
    /// Opens them, none on the server that is hit.
    pub async fn open(target: &Target, pairs: usize, hit: Option<&str>) -> anyhow::Result<Self> {
        let mut calm = Self { pairs: Vec::new() };
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
            let both = |(a, b, _): (Client, Client, String)| [a, b];
            Ok((outcomes, calm.pairs.into_iter().flat_map(both).collect()))
        })
    }

    /// Each pair says something every so often, for so long.
    pub async fn run(self, long: Duration) -> anyhow::Result<(Vec<Outcome>, Self)> {
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for (number, (a, b, to)) in self.pairs.into_iter().enumerate() {
            let from = begin + EVERY * (number as u32 % 10) / 10;
            let pace = Pace::Open(from, EVERY);
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
        Ok((outcomes, Self { pairs }))
    }
}
