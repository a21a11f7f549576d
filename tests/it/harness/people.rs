//! One person with one socket, and what a test expects to see on it.
//!
//! The socket is read by a task of its own, as a browser reads: so receipts are given whatever the
//! test is waiting for.

use std::time::Duration;

use parlor::client::{Client, ClientError, ClientOptions, EntryFrame, Send, ServerFrame, To};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::SOON;

/// How many texts wait for the test; past that the socket is not read.
const TEXTS_AHEAD: usize = 4_096;

/// A connected person.
pub struct Person {
    /// The server that holds the socket.
    pub server: String,
    /// The socket's id.
    pub socket: String,
    /// The person.
    pub user: String,
    orders: mpsc::Sender<Order>,
    texts: mpsc::Receiver<Result<String, ClientError>>,
    task: JoinHandle<()>,
}

enum Order {
    Write(Vec<String>),
    Close,
}

/// Reads, and writes what is asked for in one go each; a dropped person's socket just ends.
async fn attend(
    mut client: Client,
    mut orders: mpsc::Receiver<Order>,
    texts: mpsc::Sender<Result<String, ClientError>>,
) {
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Write(frames)) => {
                    // A socket that ended says so to whoever reads.
                    for frame in frames {
                        let _ = client.feed_text(frame).await;
                    }
                    let _ = client.flush().await;
                }
                Some(Order::Close) => {
                    client.close(1000).await;
                    return;
                }
                None => return,
            },
            text = client.next_text() => {
                let ended = text.is_err();
                let text = text.map(|text| text.as_str().to_owned());
                if texts.send(text).await.is_err() || ended {
                    return;
                }
            }
        }
    }
}

impl Person {
    /// Connects and reads `welcome`.
    pub async fn connect(url: &str, user: &str) -> Self {
        Self::with(&ClientOptions::new(url, user)).await
    }

    /// The same with further options.
    pub async fn with(options: &ClientOptions) -> Self {
        Self::try_with(options).await.unwrap()
    }

    /// The same where it may fail.
    pub async fn try_with(options: &ClientOptions) -> Result<Self, ClientError> {
        let opening = timeout(SOON, Client::open(options)).await;
        let (client, welcome) = opening.map_err(|_| ClientError::TimedOut(SOON))??;
        assert_eq!(client.server(), Some(welcome.server.as_str()), "X-Parlor-Server");
        assert_eq!(welcome.user, options.user);
        let (orders, taken) = mpsc::channel(16);
        let (heard, texts) = mpsc::channel(TEXTS_AHEAD);
        let task = tokio::spawn(attend(client, taken, heard));
        let (server, socket, user) = (welcome.server, welcome.socket, welcome.user);
        Ok(Self { server, socket, user, orders, texts, task })
    }

    /// Writes one text, good or bad.
    pub async fn write(&self, text: impl Into<String>) {
        self.write_all(vec![text.into()]).await;
    }

    /// Writes texts at once.
    pub async fn write_all(&self, texts: Vec<String>) {
        assert!(self.orders.send(Order::Write(texts)).await.is_ok(), "{}: it ended", self.user);
    }

    /// The next text or the end of the socket.
    pub async fn text_within(&mut self, limit: Duration) -> Result<String, ClientError> {
        let next = timeout(limit, self.texts.recv()).await;
        let next = next.map_err(|_| ClientError::TimedOut(limit))?;
        next.unwrap_or(Err(ClientError::Closed { code: None, reason: String::new() }))
    }

    /// The next text.
    pub async fn text(&mut self) -> String {
        let next = self.text_within(SOON).await;
        next.unwrap_or_else(|error| panic!("{} reads nothing: {error}", self.user))
    }

    /// The next frame.
    pub async fn next(&mut self) -> ServerFrame {
        ServerFrame::parse(&self.text().await).unwrap()
    }

    /// Reads on until a frame for which `wanted` gives something; the others are dropped.
    pub async fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(ServerFrame) -> Option<T>,
    ) -> T {
        let search = async {
            loop {
                let text = self.text_within(limit).await;
                let text = text.unwrap_or_else(|error| panic!("not {what}: {error}"));
                if let Some(found) = wanted(ServerFrame::parse(&text).unwrap()) {
                    return found;
                }
            }
        };
        let found = timeout(limit, search).await;
        found.unwrap_or_else(|_| panic!("not within {limit:?}: {what}"))
    }

    /// No frame comes for a while.
    pub async fn hears_nothing(&mut self, while_ms: u64) {
        let next = self.text_within(Duration::from_millis(while_ms)).await;
        assert!(matches!(next, Err(ClientError::TimedOut(_))), "{}: {next:?}", self.user);
    }

    /// No entry comes for a while; other frames may.
    pub async fn hears_no_entry(&mut self, while_ms: u64) {
        let until = tokio::time::Instant::now() + Duration::from_millis(while_ms);
        loop {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            match self.text_within(left).await.map(|text| ServerFrame::parse(&text).unwrap()) {
                Err(ClientError::TimedOut(_)) => return,
                Ok(frame) if !matches!(frame, ServerFrame::Entry(_)) => {}
                next => panic!("{}: {next:?}", self.user),
            }
        }
    }

    /// The frames up to `caughtup`, without it.
    pub async fn catch_up(&mut self) -> Vec<ServerFrame> {
        let mut frames = Vec::new();
        loop {
            match self.next().await {
                ServerFrame::CaughtUp => return frames,
                frame => frames.push(frame),
            }
        }
    }

    /// Sends to a person and gives the seq of `sent`; other frames on the way are dropped.
    pub async fn say(&mut self, to: &str, message: &str) -> u64 {
        self.send(&Send::new(To::User(to.to_owned()), message)).await
    }

    /// Sends and gives the seq of `sent`; other frames on the way are dropped.
    pub async fn send(&mut self, send: &Send) -> u64 {
        self.write(send.frame()).await;
        let answer = self.wait_for("sent", SOON, |frame| match frame {
            ServerFrame::Sent { seq, .. } => Some(Ok(seq)),
            error @ ServerFrame::Error { .. } => Some(Err(error)),
            _ => None,
        });
        answer.await.unwrap()
    }

    /// Sends and gives the code of the error; other frames on the way are dropped.
    pub async fn refused(&mut self, send: &Send) -> String {
        self.write(send.frame()).await;
        self.error().await
    }

    /// The code of the next error; other frames but `sent` on the way are dropped.
    pub async fn error(&mut self) -> String {
        let answer = self.wait_for("an error", SOON, |frame| match frame {
            ServerFrame::Error { code, .. } => Some(code),
            sent @ ServerFrame::Sent { .. } => panic!("{sent:?}"),
            _ => None,
        });
        answer.await
    }

    /// Says that the person has seen everything up to `seq`.
    pub async fn see(&self, conversation: &str, seq: u64) {
        self.position("read", conversation, seq).await;
    }

    /// Says that the application has received everything up to `seq`.
    pub async fn acknowledge(&self, conversation: &str, seq: u64) {
        self.position("ack", conversation, seq).await;
    }

    async fn position(&self, kind: &str, conversation: &str, seq: u64) {
        let frame = serde_json::json!({"type": kind, "conversation": conversation, "seq": seq});
        self.write(frame.to_string()).await;
    }

    /// The next entry; other frames on the way are dropped.
    pub async fn entry(&mut self) -> EntryFrame {
        self.entry_within(SOON).await
    }

    /// The same with a limit of its own.
    pub async fn entry_within(&mut self, limit: Duration) -> EntryFrame {
        let what = format!("{} hears something", self.user);
        let next = self.wait_for(&what, limit, |frame| match frame {
            ServerFrame::Entry(entry) => Some(entry),
            _ => None,
        });
        next.await
    }

    /// The next entry, as (seq, text); other frames on the way are dropped.
    pub async fn hear(&mut self) -> (u64, String) {
        let entry = self.entry().await;
        (entry.seq, entry.message)
    }

    /// So many entries, as (seq, text); other frames on the way are dropped.
    pub async fn hear_all(&mut self, count: usize) -> Vec<(u64, String)> {
        let mut heard = Vec::new();
        while heard.len() < count {
            heard.push(self.hear().await);
        }
        heard
    }

    /// Waits until `delivered` says at least this seq.
    pub async fn told_delivered(&mut self, up_to: u64) {
        let what = format!("{} is told of delivered {up_to}", self.user);
        let told = self.wait_for(&what, SOON, |frame| match frame {
            ServerFrame::Delivered { seq, .. } => (seq >= up_to).then_some(()),
            _ => None,
        });
        told.await;
    }

    /// Waits until `read` says at least this seq; other frames on the way are dropped.
    pub async fn told_read(&mut self, up_to: u64) {
        let what = format!("{} is told of read {up_to}", self.user);
        let told = self.wait_for(&what, SOON, |frame| match frame {
            ServerFrame::Read { seq, .. } => (seq >= up_to).then_some(()),
            _ => None,
        });
        told.await;
    }

    /// Gives the receipts that are due, and says goodbye.
    pub async fn leave(mut self) {
        self.write(r#"{"type":"ping","ref":"bye"}"#).await;
        let pong = |frame| matches!(frame, ServerFrame::Pong { .. }).then_some(());
        self.wait_for("pong", SOON, pong).await;
        let _ = self.orders.send(Order::Close).await;
        self.task.await.unwrap();
    }
}

/// The entries among the frames, as (seq, text).
pub fn texts(frames: &[ServerFrame]) -> Vec<(u64, String)> {
    let text = |frame: &ServerFrame| match frame {
        ServerFrame::Entry(entry) => Some((entry.seq, entry.message.clone())),
        _ => None,
    };
    frames.iter().filter_map(text).collect()
}
