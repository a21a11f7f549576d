//! Many users at once: opened with bounded concurrency, from several addresses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::task::JoinSet;

use super::report::progress;
use super::shares::users_per_process;
use super::target::Target;
use crate::client::Client;

/// Users that are connected and caught up, in the order of their names.
pub(super) struct Crowd {
    /// Their sockets.
    pub clients: Vec<Client>,
    /// How long it took until the last was caught up.
    pub took: Duration,
}

impl Crowd {
    /// Opens a socket for each name.
    pub async fn open(target: &Target, names: &[String]) -> anyhow::Result<Self> {
        Self::open_with(target, names, None).await
    }

    /// The same with `catchup=N`.
    pub async fn open_with(
        target: &Target,
        names: &[String],
        catchup: Option<u32>,
    ) -> anyhow::Result<Self> {
        enough_files(names.len())?;
        let bar = progress("connecting", names.len() as u64);
        let begun = Instant::now();
        let opening = names.iter().enumerate();
        let opening = opening.map(|(index, name)| target.door.open(index, name, catchup));
        let mut opened = stream::iter(opening).buffered(target.common.concurrency.max(1));
        let mut clients = Vec::with_capacity(names.len());
        while let Some(client) = opened.next().await {
            let number = clients.len();
            clients.push(client.with_context(|| format!("user number {number}"))?.into_client());
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Self { clients, took: begun.elapsed() })
    }

    /// How many are on which server, by the header of the 101.
    pub fn by_server(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for client in &self.clients {
            *counts.entry(client.server().unwrap_or("?").to_owned()).or_default() += 1;
        }
        counts
    }

    /// Says goodbye for all.
    pub async fn close(self) {
        close(self.clients).await;
    }
}

/// Says goodbye for these, many at a time.
pub(super) async fn close(clients: Vec<Client>) {
    let closing = stream::iter(clients).map(|client| client.close(1000));
    closing.buffer_unordered(256).for_each(|_| std::future::ready(())).await;
}

/// Every socket is a file, here and in the servers.
fn enough_files(users: usize) -> anyhow::Result<()> {
    let allowed = users_per_process()?;
    anyhow::ensure!(
        users <= allowed,
        "{users} users are more than one process may have open files for ({allowed}): raise the \
         limit (ulimit -n), or take fewer users"
    );
    Ok(())
}

/// Names that no earlier run has used, so that every log begins at 1.
pub(super) fn fresh_names(what: &str, count: usize) -> Vec<String> {
    let prefix = fresh_prefix(what);
    (0..count).map(|index| format!("{prefix}-{index}")).collect()
}

/// What their names begin with.
pub(super) fn fresh_prefix(what: &str) -> String {
    format!("{what}-{:08x}", rand::random::<u32>())
}

/// Runs one task for each client and gives what they return, in their order.
pub(super) async fn each<C, T, F>(
    clients: Vec<C>,
    task: impl Fn(usize, C) -> F,
) -> anyhow::Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for (index, client) in clients.into_iter().enumerate() {
        let task = task(index, client);
        tasks.spawn(async move { (index, task.await) });
    }
    let mut done = Vec::with_capacity(tasks.len());
    while let Some(joined) = tasks.join_next().await {
        done.push(joined?);
    }
    done.sort_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, value)| value).collect())
}

/// Names that many tasks share.
pub(super) type Names = Arc<[String]>;
