//! What is measured: servers that run already, or processes of the run's own.

use anyhow::Context;

use super::Common;
use super::own::Own;
use crate::client::Api;
use crate::protocol::Token;

/// Where to connect, and which processes to watch.
pub(super) struct Target {
    /// The WebSocket URL.
    pub url: String,
    /// The Message API.
    pub api: Api,
    /// The balancer's own HTTP.
    pub balancer: Api,
    /// What the load itself carries.
    carried: Option<Token>,
    /// The processes of the servers, by name.
    pub processes: Vec<(String, u32)>,
    /// What was asked for.
    pub common: Common,
    own: Option<Own>,
}

impl Target {
    /// Starts what is to be started.
    pub async fn new(common: &Common) -> anyhow::Result<Self> {
        let own = match (&common.redis, &common.dynamodb) {
            _ if !common.start => None,
            (Some(redis), Some(dynamodb)) => {
                Some(Own::fleet(redis, dynamodb, common.servers, common.tokens).await?)
            }
            (redis, _) => {
                let own = Own::up(redis.as_deref(), common.memory, common.tokens);
                Some(own.await?)
            }
        };
        let named = |pid: &u32| (pid.to_string(), *pid);
        let mut processes: Vec<_> = common.pids.iter().map(named).collect();
        processes.extend(own.iter().flat_map(Own::pids));
        let (url, api) = match &own {
            Some(own) => (own.url.clone(), own.api.clone()),
            None => (common.url.clone(), common.api.clone()),
        };
        let carried = match &own {
            Some(own) => own.token("bench", "service")?,
            None => common.carried.read()?,
        };
        let balancer = Api::new(http_of(&url)).token(carried.clone());
        let api = Api::new(api).token(carried.clone());
        Ok(Self { url, api, balancer, carried, processes, common: common.clone(), own })
    }

    /// What a user carries: a token of his own at processes of the run's own.
    pub fn token_of(&self, user: &str) -> Option<Token> {
        match &self.own {
            // Without one the servers refuse the user, and the run fails.
            Some(own) => own.token(user, "user").ok().flatten(),
            None => self.carried.clone(),
        }
    }

    /// Whether the servers are the run's own: fresh, and with nobody else on them.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Whether each user asks the balancer for a server and dials it. In a fleet a spliced socket
    /// would cost the balancer two files, and ten thousand of them more than a process may have.
    pub fn dials_servers(&self) -> bool {
        self.common.connect || (self.is_own() && self.common.dynamodb.is_some())
    }

    /// The write units used so far, where a fleet of the run's own keeps its store in DynamoDB.
    pub async fn write_units(&self) -> anyhow::Result<Option<f64>> {
        match &self.own {
            Some(own) if self.common.dynamodb.is_some() => own.write_units().await.map(Some),
            _ => Ok(None),
        }
    }

    /// Where the balancer answers HTTP.
    pub fn balancer_url(&self) -> String {
        http_of(&self.url)
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

/// `ws://HOST:PORT/ws` is `http://HOST:PORT`.
fn http_of(url: &str) -> String {
    let place = url.strip_prefix("ws://").unwrap_or(url);
    format!("http://{}", place.split('/').next().unwrap_or(place))
}

#[cfg(test)]
impl Target {
    /// A server of the tests, which has no Message API.
    pub fn of_test(url: String) -> Self {
        let common = Common {
            url: url.clone(),
            api: String::new(),
            start: false,
            redis: None,
            dynamodb: None,
            connect: false,
            memory: false,
            pids: Vec::new(),
            json: true,
            tokens: false,
            carried: Default::default(),
            servers: 3,
            concurrency: 8,
        };
        let processes = vec![("test".to_owned(), std::process::id())];
        let balancer = Api::new(http_of(&url));
        Self { url, api: Api::new(""), balancer, carried: None, processes, common, own: None }
    }
}
