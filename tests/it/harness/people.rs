//! One person with one socket, and what a test expects to see on it.

use std::time::Duration;

use parlor::client::{Client, ClientError, ClientOptions, Send, ServerFrame, To};

use super::SOON;

/// A connected person.
pub struct Person {
    /// The socket.
    pub client: Client,
    /// The server that holds it.
    pub server: String,
    /// The person.
    pub user: String,
}

impl Person {
    /// Connects and reads `welcome`.
    pub async fn connect(url: &str, user: &str) -> Self {
        Self::with(&ClientOptions::new(url, user)).await
    }

    /// The same with further options.
    pub async fn with(options: &ClientOptions) -> Self {
        let (client, welcome) = Client::open(options).await.unwrap();
        assert_eq!(client.server(), Some(welcome.server.as_str()), "X-Parlor-Server");
        assert_eq!(welcome.user, options.user);
        Self { client, server: welcome.server, user: welcome.user }
    }

    /// The next frame.
    pub async fn next(&mut self) -> ServerFrame {
        self.client.next_frame_within(SOON).await.unwrap()
    }

    /// Nothing comes for a while.
    pub async fn hears_nothing(&mut self, while_ms: u64) {
        let next = self.client.next_frame_within(Duration::from_millis(while_ms)).await;
        assert!(matches!(next, Err(ClientError::TimedOut(_))), "{}: {next:?}", self.user);
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
        self.client.send_with(send).await.unwrap();
        let answer = self.client.wait_for(SOON, |frame| match frame {
            ServerFrame::Sent { seq, .. } => Some(Ok(seq)),
            error @ ServerFrame::Error { .. } => Some(Err(error)),
            _ => None,
        });
        answer.await.unwrap().unwrap()
    }

    /// The next entry, as (seq, text); other frames on the way are dropped.
    pub async fn hear(&mut self) -> (u64, String) {
        let next = self.client.wait_for(SOON, |frame| match frame {
            ServerFrame::Entry(entry) => Some((entry.seq, entry.message)),
            _ => None,
        });
        next.await.unwrap_or_else(|error| panic!("{} hears nothing: {error}", self.user))
    }

    /// Waits until `delivered` says at least this seq.
    pub async fn told_delivered(&mut self, up_to: u64) {
        let told = self.client.wait_for(SOON, |frame| match frame {
            ServerFrame::Delivered { seq, .. } => (seq >= up_to).then_some(()),
            _ => None,
        });
        told.await.unwrap_or_else(|error| panic!("{} is not told: {error}", self.user));
    }
}
