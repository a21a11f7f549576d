//! How users get in: where they dial, from which address, with which token. A process of the load
//! is told this as JSON.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize, Serializer};

use super::dialect::{Dialect, Wire};
use crate::auth::mint;
use crate::client::{Api, Client, ClientError, ClientOptions};
use crate::protocol::Token;

/// One source address has some 28,000 ports towards one server, and those in TIME_WAIT count.
const USERS_PER_SOURCE: usize = 5_000;
/// Addresses 127.0.0.2 to 127.0.0.251, then 127.0.1.2 and so on.
const SOURCES_PER_NET: usize = 250;
/// How long one user's way to `caughtup` may take.
const CAUGHT_UP: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Door {
    /// User number `i` dials the `i`th of these, and so round and round.
    pub urls: Vec<String>,
    /// Each asks the balancer, at the first of them, for a server and dials that.
    pub connect: bool,
    /// What signs a token for each user.
    pub secret: Option<PathBuf>,
    /// What all carry where nothing signs. It goes to the load's processes by their stdin.
    #[serde(serialize_with = "revealed")]
    pub carried: Option<Token>,
    /// What is spoken there.
    pub dialect: Dialect,
    /// How many get in at a time.
    pub concurrency: usize,
    /// What connections to the balancer are shared by; made when the first user asks.
    #[serde(skip)]
    pub balancer: OnceLock<Api>,
}

fn revealed<S: Serializer>(token: &Option<Token>, serializer: S) -> Result<S::Ok, S::Error> {
    token.as_ref().map(Token::reveal).serialize(serializer)
}

impl Door {
    /// What a user carries: a token of his own where something signs.
    pub fn token_of(&self, user: &str) -> Option<Token> {
        match &self.secret {
            // Without one the servers refuse the user, and the run fails.
            Some(secret) => mint::for_an_hour(secret, user, "user").ok(),
            None => self.carried.clone(),
        }
    }

    /// The same door, but for one of its addresses alone.
    pub fn only(&self, index: usize) -> Self {
        let url = self.urls.get(index % self.urls.len().max(1)).cloned();
        Self { urls: url.into_iter().collect(), ..self.clone() }
    }

    fn url(&self, index: usize) -> &str {
        self.urls.get(index % self.urls.len().max(1)).map_or("", String::as_str)
    }

    /// How user number `index` connects.
    pub fn options(&self, index: usize, name: &str) -> ClientOptions {
        let url = self.url(index);
        let mut options = ClientOptions::new(url, name).token(self.token_of(name));
        let loopback = ["//127.0.0.1", "//localhost"].iter().any(|host| url.contains(host));
        if loopback {
            options.source = Some(source(index));
        }
        options
    }

    /// Dials for user number `index`, and is in and caught up when it returns.
    pub async fn open(
        &self,
        index: usize,
        name: &str,
        catchup: Option<u32>,
    ) -> anyhow::Result<Wire> {
        let mut options = self.options(index, name);
        options.catchup = catchup;
        if self.connect {
            options.url = self.server_of(name).await?;
        }
        let client = Client::connect(&options).await?;
        let entering = Wire::enter(client, self.dialect, name);
        let entered = tokio::time::timeout(CAUGHT_UP, entering).await;
        Ok(entered.map_err(|_| ClientError::TimedOut(CAUGHT_UP))??)
    }

    /// Where the balancer sends this user.
    async fn server_of(&self, user: &str) -> anyhow::Result<String> {
        let made = || Api::new(http_of(self.url(0))).token(self.carried.clone());
        let balancer = self.balancer.get_or_init(made);
        let answer = balancer.get(&format!("/v1/connect?userId={user}")).await?.good()?;
        Ok(answer["url"].as_str().context("no url in the answer of /v1/connect")?.to_owned())
    }
}

fn source(index: usize) -> IpAddr {
    let block = index / USERS_PER_SOURCE;
    let last = u8::try_from(block % SOURCES_PER_NET).unwrap_or(0) + 2;
    let net = u8::try_from(block / SOURCES_PER_NET % 256).unwrap_or(0);
    IpAddr::V4(Ipv4Addr::new(127, 0, net, last))
}

/// `ws://HOST:PORT/ws` is `http://HOST:PORT`.
pub(super) fn http_of(url: &str) -> String {
    let place = url.strip_prefix("ws://").unwrap_or(url);
    format!("http://{}", place.split('/').next().unwrap_or(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_spread_over_servers_and_source_addresses() {
        let urls = ["ws://127.0.0.1:1/ws", "ws://127.0.0.1:2/ws"].map(str::to_owned).to_vec();
        let door = Door { urls, ..Door::default() };
        assert_eq!(door.options(2, "u").url, "ws://127.0.0.1:1/ws");
        assert_eq!(door.options(3, "u").url, "ws://127.0.0.1:2/ws");
        assert_eq!(door.only(1).options(2, "u").url, "ws://127.0.0.1:2/ws");
        let at = |index| door.options(index, "u").source.unwrap().to_string();
        assert_eq!((at(0), at(4_999)), ("127.0.0.2".to_owned(), "127.0.0.2".to_owned()));
        assert_eq!((at(5_000), at(1_250_000)), ("127.0.0.3".to_owned(), "127.0.1.2".to_owned()));
        let far = Door { urls: vec!["ws://chat.example/ws".to_owned()], ..Door::default() };
        assert_eq!(far.options(0, "u").source, None);
    }

    #[test]
    fn a_process_of_the_load_gets_the_token_and_no_log_does() {
        let carried = Some(Token::new("a.b.c"));
        let door = Door { carried, ..Door::default() };
        assert!(!format!("{door:?}").contains("a.b.c"));
        let told: Door = serde_json::from_str(&serde_json::to_string(&door).unwrap()).unwrap();
        assert_eq!(told.token_of("u").unwrap().reveal(), "a.b.c");
    }
}
