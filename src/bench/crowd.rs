//! Many users at once: opened with bounded concurrency, from several addresses.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::task::JoinSet;

use super::report::progress;
use super::target::Target;
use crate::client::{Client, ClientOptions, ServerFrame};

/// One source address has some 28,000 ports towards one server, and those in TIME_WAIT count.
const USERS_PER_SOURCE: usize = 5_000;
/// What a process has open beside its users' sockets.
const FILES_BESIDE: u64 = 100;
/// How long one user's way to `caughtup` may take.
const CAUGHT_UP_SECONDS: u64 = 60;

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
        enough_files(names.len() as u64)?;
        let bar = progress("connecting", names.len() as u64);
        let begun = Instant::now();
        let opening = names.iter().enumerate().map(|(index, name)| {
            let mut options = options(target, index, name);
            options.catchup = catchup;
            open(target, options)
        });
        let mut opened = stream::iter(opening).buffered(target.common.concurrency.max(1));
        let mut clients = Vec::with_capacity(names.len());
        while let Some(client) = opened.next().await {
            let number = clients.len();
            clients.push(client.with_context(|| format!("user number {number}"))?);
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

/// How user number `index` connects.
pub(super) fn options(target: &Target, index: usize, name: &str) -> ClientOptions {
    let mut options = ClientOptions::new(target.url.as_str(), name).token(target.token_of(name));
    let loopback = ["//127.0.0.1", "//localhost"].iter().any(|host| target.url.contains(host));
    if loopback {
        let last = u8::try_from(index / USERS_PER_SOURCE % 250).unwrap_or(0) + 2;
        options.source = Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)));
    }
    options
}

async fn open(target: &Target, mut options: ClientOptions) -> anyhow::Result<Client> {
    if target.dials_servers() {
        options.url = server_of(target, &options.user).await?;
    }
    let (mut client, _) = Client::open(&options).await?;
    let limit = Duration::from_secs(CAUGHT_UP_SECONDS);
    client.wait_for(limit, |frame| (frame == ServerFrame::CaughtUp).then_some(())).await?;
    Ok(client)
}

/// Every socket is a file, here and in the servers.
fn enough_files(users: u64) -> anyhow::Result<()> {
    let (needed, allowed) = (users + FILES_BESIDE, rlimit::Resource::NOFILE.get_soft()?);
    anyhow::ensure!(
        needed <= allowed,
        "{users} users need {needed} open files in a process, and {allowed} are allowed: \
         raise the limit (ulimit -n {needed}), or take fewer users"
    );
    Ok(())
}

/// Where the balancer sends this user.
async fn server_of(target: &Target, user: &str) -> anyhow::Result<String> {
    let answer = target.balancer.get(&format!("/v1/connect?userId={user}")).await?.good()?;
    Ok(answer["url"].as_str().context("no url in the answer of /v1/connect")?.to_owned())
}

/// Names that no earlier run has used, so that every log begins at 1.
pub(super) fn fresh_names(what: &str, count: usize) -> Vec<String> {
    let run: u32 = rand::random();
    (0..count).map(|index| format!("{what}-{run:08x}-{index}")).collect()
}

/// Runs one task for each client and gives what they return, in their order.
pub(super) async fn each<T, F>(
    clients: Vec<Client>,
    task: impl Fn(usize, Client) -> F,
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
