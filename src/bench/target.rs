//! What is measured: servers that run already, or processes of the run's own.

use anyhow::Context;

use super::Common;
use super::door::{Door, http_of};
use super::own::Own;
use crate::client::Api;

const WRITE_UNITS: &str = "parlor_store_write_units_total";
const LIMITED: &str = "parlor_limited_total";

/// Where to connect, and which processes to watch.
pub(super) struct Target {
    /// How users get in.
    pub door: Door,
    /// The Message API.
    pub api: Api,
    /// The processes of the servers, by name.
    pub processes: Vec<(String, u32)>,
    /// What was asked for.
    pub common: Common,
    own: Option<Own>,
}

impl Target {
    /// Starts what is to be started: of `islands` so many server processes, which all users dial
    /// themselves.
    pub async fn new(common: &Common, islands: Option<usize>) -> anyhow::Result<Self> {
        let servers = islands.unwrap_or(common.servers.into());
        let own = match (&common.redis, &common.dynamodb) {
            _ if !common.start => None,
            (Some(redis), Some(dynamodb)) => {
                Some(Own::fleet(redis, dynamodb, servers, common.guard()).await?)
            }
            (None, _) if islands.is_some() => Some(Own::islands(servers, common.guard()).await?),
            (Some(_), _) if islands.is_some() => {
                anyhow::bail!("servers that share a Redis share a store too: add --dynamodb")
            }
            (redis, _) => {
                let own = Own::up(redis.as_ref(), common.memory, common.guard());
                Some(own.await?)
            }
        };
        let named = |pid: &u32| (pid.to_string(), *pid);
        let mut processes: Vec<_> = common.pids.iter().map(named).collect();
        processes.extend(own.iter().flat_map(Own::pids));
        if islands.is_some() {
            // Of what else is there no user is a part.
            processes.retain(|(name, _)| name.starts_with("ws") || name.starts_with("up"));
        }
        let (urls, api) = match &own {
            Some(own) if islands.is_some() => (own.urls.clone(), own.api.clone()),
            Some(own) => (vec![own.url.clone()], own.api.clone()),
            None => (common.urls.clone(), common.api.clone()),
        };
        let carried = match &own {
            Some(own) => own.token("bench", "service")?,
            None => common.carried.read()?,
        };
        let api = Api::new(api).token(carried.clone());
        let secret = own.as_ref().and_then(|own| own.secret.clone());
        // In a fleet a spliced socket would cost the balancer two files, and ten thousand of them
        // more than a process may have.
        let fleet = own.is_some() && common.dynamodb.is_some();
        let connect = islands.is_none() && (common.connect || fleet);
        let (dialect, concurrency) = (common.dialect, common.concurrency);
        let door = Door { urls, connect, secret, carried, dialect, concurrency, ..Door::default() };
        Ok(Self { door, api, processes, common: common.clone(), own })
    }

    /// Whether the servers are the run's own: fresh, and with nobody else on them.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// The write units used so far, where a fleet of the run's own keeps its store in DynamoDB.
    pub async fn write_units(&self) -> anyhow::Result<Option<f64>> {
        match &self.own {
            Some(own) if self.common.dynamodb.is_some() => own.counted(WRITE_UNITS).await.map(Some),
            _ => Ok(None),
        }
    }

    /// How often processes of the run's own have refused something that was too much.
    pub async fn limited(&self) -> anyhow::Result<Option<f64>> {
        match &self.own {
            Some(own) => own.counted(LIMITED).await.map(Some),
            None => Ok(None),
        }
    }

    /// Where the balancer answers HTTP.
    pub fn balancer_url(&self) -> String {
        http_of(self.door.urls.first().map_or("", String::as_str))
    }

    /// The processes of the run's own.
    pub fn own(&mut self) -> anyhow::Result<&mut Own> {
        self.own.as_mut().context("only processes of the run's own are hurt: add --start")
    }

    /// Stops what was started; its exit code must be 0.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        match self.own.take() {
            Some(own) => own.stop().await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
impl Target {
    /// A server of the tests, which has no Message API.
    pub fn of_test(url: String) -> Self {
        let common = Common { urls: vec![url.clone()], concurrency: 8, ..Common::default() };
        let processes = vec![("test".to_owned(), std::process::id())];
        let door = Door { urls: vec![url], concurrency: 8, ..Door::default() };
        Self { door, api: Api::new(""), processes, common, own: None }
    }
}
