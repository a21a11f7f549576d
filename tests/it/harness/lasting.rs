//! A person whose client comes back by itself, and what it has seen so far.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use parlor::client::{
    ClientOptions, EntryFrame, Event, Reconnecting, Rules, Send, ServerFrame, To,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::eventually;

const RULES: Rules =
    Rules { first: Duration::from_millis(50), longest: Duration::from_millis(1_000) };

/// What a lasting client has seen.
#[derive(Default)]
pub struct Log {
    /// The server of each connection, in order.
    pub servers: Vec<String>,
    /// What the store has, as (send, seq), in the order of the answers.
    pub sent: Vec<(Send, u64)>,
    /// The entries, each once, in the order of arrival.
    pub heard: Vec<EntryFrame>,
    /// Refusals for good.
    pub failed: Vec<String>,
}

impl Log {
    /// The texts heard, as (seq, text).
    pub fn texts(&self) -> Vec<(u64, String)> {
        self.heard.iter().map(|entry| (entry.seq, entry.message.clone())).collect()
    }
}

/// See the module. Its task ends with it.
pub struct Lasting {
    says: mpsc::Sender<(String, String)>,
    log: Arc<Mutex<Log>>,
    task: JoinHandle<()>,
}

impl Lasting {
    /// Connects, and comes back whenever the socket is gone.
    pub async fn start(url: &str, user: &str) -> Self {
        let (says, said) = mpsc::channel(1_024);
        let log = Arc::new(Mutex::new(Log::default()));
        let client = Reconnecting::new(ClientOptions::new(url, user), RULES);
        let task = tokio::spawn(keep_going(client, said, log.clone()));
        let lasting = Self { says, log, task };
        lasting.until("connected", |log| !log.servers.is_empty()).await;
        lasting
    }

    /// Sends to a person, online or not.
    pub async fn say(&self, to: &str, text: &str) {
        self.says.send((to.to_owned(), text.to_owned())).await.unwrap();
    }

    /// What was seen so far.
    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }

    /// Waits until the log shows it.
    pub async fn until(&self, what: &str, mut check: impl FnMut(&Log) -> bool) {
        eventually(what, async || check(&self.log()).then_some(())).await;
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep_going(
    mut client: Reconnecting,
    mut said: mpsc::Receiver<(String, String)>,
    log: Arc<Mutex<Log>>,
) {
    loop {
        tokio::select! {
            Some((to, text)) = said.recv(), if !client.is_full() => {
                client.send(To::User(to), &text);
            }
            event = client.next() => {
                let mut log = log.lock().unwrap();
                match event {
                    Some(Event::Connected(welcome)) => log.servers.push(welcome.server),
                    Some(Event::Sent { send, seq, .. }) => log.sent.push((send, seq)),
                    Some(Event::Failed { code, detail, .. }) => {
                        log.failed.push(format!("{code}: {detail}"));
                    }
                    Some(Event::Frame(ServerFrame::Entry(entry))) => log.heard.push(entry),
                    Some(Event::Stopped(error)) => log.failed.push(error.to_string()),
                    Some(_) => {}
                    None => return,
                }
            }
        }
    }
}
