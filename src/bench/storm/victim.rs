//! One user whose server dies, drains, or loses Redis: what it hears, and when it is back.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::super::flow::{self, Flow};
use super::super::target::Target;
use crate::client::{Backoff, Client, ClientError, ClientOptions, Fields, Rules};

/// How a user comes back: at once, then with growing pauses.
const RULES: Rules = Rules { first: Duration::from_millis(250), longest: Duration::from_secs(2) };

/// A user and its socket.
pub(super) struct Victim {
    pub name: String,
    pub options: ClientOptions,
    pub client: Option<Client>,
    pub flow: Flow,
    /// How often it was told to reconnect, and when first.
    pub told: Vec<Instant>,
    /// When the socket ended.
    pub lost: Option<Instant>,
    /// When it was caught up again.
    pub back: Option<Instant>,
    pub tries: u64,
    pub error: Option<String>,
}

impl Victim {
    /// User number `index`, connected and caught up.
    pub fn new(target: &Target, index: usize, name: &str, client: Client) -> Self {
        let options = target.door.options(index, name);
        Self {
            name: name.to_owned(),
            options,
            client: Some(client),
            flow: Flow::default(),
            told: Vec::new(),
            lost: None,
            back: None,
            tries: 0,
            error: None,
        }
    }

    /// Reads until the socket ends.
    pub async fn lost(mut self, patience: Duration) -> Self {
        let Some(mut client) = self.client.take() else { return self };
        let reading = async {
            while let Ok(text) = client.next_text().await {
                self.hear(&text);
            }
        };
        if timeout(patience, reading).await.is_err() {
            self.error = Some("its socket did not end".to_owned());
        }
        self.lost = Some(Instant::now());
        self
    }

    /// Reads for so long; the socket must stay.
    pub async fn stayed(mut self, long: Duration) -> Self {
        let Some(mut client) = self.client.take() else { return self };
        let reading = async {
            loop {
                match client.next_text().await {
                    Ok(text) => drop(self.hear(&text)),
                    Err(error) => return error,
                }
            }
        };
        match timeout(long, reading).await {
            Ok(error) => self.error = Some(format!("its socket ended: {error}")),
            Err(_) => self.client = Some(client),
        }
        self
    }

    /// Comes back through the balancer until it is caught up, some time within `spread`.
    pub async fn returned(
        mut self,
        patience: Duration,
        connect: Option<String>,
        spread: Duration,
    ) -> Self {
        tokio::time::sleep(spread.mul_f64(rand::random())).await;
        let mut backoff = Backoff::new(RULES);
        let mut last = None;
        let trying = async {
            loop {
                self.tries += 1;
                match self.catch_up(connect.as_deref()).await {
                    Ok(()) => return,
                    Err(error) => last = Some(error.to_string()),
                }
                tokio::time::sleep(backoff.next(rand::random())).await;
            }
        };
        match timeout(patience, trying).await {
            Ok(()) => self.back = Some(Instant::now()),
            Err(_) => self.error = last.or(Some("it is not caught up in time".to_owned())),
        }
        self
    }

    async fn catch_up(&mut self, connect: Option<&str>) -> Result<(), ClientError> {
        if let Some(balancer) = connect {
            let token = self.options.token.clone();
            let api = crate::client::Api::new(balancer).token(token);
            let path = format!("/v1/connect?userId={}", self.name);
            let answer = api.get(&path).await?.good()?;
            self.options.url = answer["url"].as_str().unwrap_or_default().to_owned();
        }
        let mut client = Client::connect(&self.options).await?;
        loop {
            let text = client.next_text().await?;
            if self.hear(&text) == "caughtup" {
                self.client = Some(client);
                return Ok(());
            }
        }
    }

    /// Reads until so many messages have come.
    pub async fn received(mut self, messages: u64, patience: Duration) -> Self {
        let Some(mut client) = self.client.take() else { return self };
        let reading = async {
            while self.flow.count() < messages {
                match client.next_text().await {
                    Ok(text) => drop(self.hear(&text)),
                    Err(error) => return Err(error.to_string()),
                }
            }
            Ok(())
        };
        match timeout(patience, reading).await {
            Ok(Ok(())) => self.client = Some(client),
            Ok(Err(error)) => self.error = Some(format!("its socket ended: {error}")),
            Err(_) => self.error = Some("messages did not come".to_owned()),
        }
        self
    }

    /// Takes a frame, and gives its type.
    fn hear(&mut self, text: &str) -> String {
        let Ok(frame) = Fields::parse(text) else { return String::new() };
        match (frame.kind.as_ref(), flow::number_for(&frame.message, &self.name)) {
            ("message", Some(number)) => drop(self.flow.received(frame.seq, number)),
            ("message", None) => self.flow.faults.foreign += 1,
            ("reconnect", _) => self.told.push(Instant::now()),
            _ => {}
        }
        frame.kind.to_string()
    }
}
