//! A conversation over many sockets: reconnects, sends again, drops repeats.
//!
//! Driven by [`Reconnecting::next`], which may be dropped at any point (in a `select!`) and called
//! again: sends are remembered in [`Outstanding`], the dial under way and the write queue here.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::outstanding::{Outstanding, Send, Taken, To};
use super::{Client, ClientError, ClientOptions, ServerFrame, Welcome};
use crate::protocol::FRAME_BYTES_MAX;

/// A server that has been silent for so many of its own ping intervals is gone.
const SILENT_INTERVALS: u32 = 3;

/// How to come back.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// The first wait is at most this; each further one at most twice the one before.
    pub first: Duration,
    /// No wait is longer.
    pub longest: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self { first: Duration::from_millis(250), longest: Duration::from_secs(10) }
    }
}

/// Exponential back-off with full jitter.
#[derive(Debug)]
pub struct Backoff {
    rules: Rules,
    attempt: u32,
}

impl Backoff {
    /// At the first attempt.
    pub fn new(rules: Rules) -> Self {
        Self { rules, attempt: 0 }
    }

    /// The next wait; `random` is in 0..1.
    pub fn next(&mut self, random: f64) -> Duration {
        let most = self.rules.first.saturating_mul(1 << self.attempt.min(16));
        self.attempt += 1;
        most.min(self.rules.longest).mul_f64(random.clamp(0.0, 1.0))
    }

    /// The connection holds: start over next time.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

/// Whether a client comes back by itself after this; the table is `docs/protocol.md`.
fn comes_back(error: &ClientError) -> bool {
    match error {
        // Said again, it would end the next socket as well.
        ClientError::Closed { code: Some(1002 | 1003 | 1007 | 1009), .. } => false,
        ClientError::Closed { code: Some(code), .. } => !(4000..4500).contains(code),
        ClientError::Refused { status, .. } => *status == 429 || *status >= 500,
        ClientError::BadUrl(_) => false,
        _ => true,
    }
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A socket is open; sends without an answer were sent again.
    Connected(Welcome),
    /// The socket is gone, or could not be opened.
    Disconnected {
        /// Why, in words for a person.
        why: String,
        /// When the next try begins.
        retry_in: Duration,
    },
    /// The store has this send.
    Sent {
        /// The send.
        send: Send,
        /// Its conversation.
        conversation: String,
        /// Its place there.
        seq: u64,
    },
    /// This send was refused for good.
    Failed {
        /// The send.
        send: Send,
        /// The error code.
        code: String,
        /// The sentence.
        detail: String,
    },
    /// Anything else, each entry once.
    Frame(ServerFrame),
    /// The server said "stop"; nothing comes after this.
    Stopped(ClientError),
}

type Opening =
    Pin<Box<dyn Future<Output = Result<(Client, Welcome), ClientError>> + std::marker::Send>>;

enum State {
    Waiting(Instant),
    Opening(Opening),
    Open(Box<Open>),
    Stopped,
}

struct Open {
    client: Client,
    write: VecDeque<String>,
    unflushed: bool,
    silence: Duration,
    leave_at: Option<Instant>,
}

impl Open {
    /// Writes all that waits; if dropped on the way, the rest still waits.
    async fn write(&mut self) -> Result<(), ClientError> {
        while let Some(text) = self.write.front() {
            self.client.feed_text(text.as_str()).await?;
            self.write.pop_front();
            self.unflushed = true;
        }
        if self.unflushed {
            self.client.flush().await?;
            self.unflushed = false;
        }
        Ok(())
    }
}

enum Happened {
    Frame(Result<ServerFrame, ClientError>),
    RetryDue,
    Leave,
    Nothing,
}

/// See the module.
pub struct Reconnecting {
    options: ClientOptions,
    outstanding: Outstanding,
    backoff: Backoff,
    state: State,
    events: VecDeque<Event>,
    /// How long a frame may be, as the last server said.
    frame_bytes: usize,
}

impl Reconnecting {
    /// Dials at the first call of [`Reconnecting::next`].
    pub fn new(options: ClientOptions, rules: Rules) -> Self {
        Self {
            outstanding: Outstanding::new(options.user.as_str()),
            options,
            backoff: Backoff::new(rules),
            state: State::Waiting(Instant::now()),
            events: VecDeque::new(),
            frame_bytes: FRAME_BYTES_MAX,
        }
    }

    /// Takes a message, online or not; `None` if too many wait for their answer. Returns its ref.
    /// One that is too long for a frame has failed.
    pub fn send(&mut self, to: To, message: &str) -> Option<String> {
        if self.is_full() {
            return None;
        }
        let send = Send::new(to, message);
        let too_long = send.bytes_most() > self.frame_bytes;
        let frame = self.outstanding.begin(send);
        let reference = self.outstanding.newest_ref().map(str::to_owned);
        if too_long {
            self.refuse_too_long(false);
        } else if let State::Open(open) = &mut self.state {
            self.outstanding.newest_is_tried();
            open.write.extend(frame);
        }
        reference
    }

    /// Says that everything up to `seq` was seen; forgotten if there is no socket.
    pub fn read(&mut self, conversation: &str, seq: u64) {
        if let State::Open(open) = &mut self.state {
            open.write.push_back(super::position("read", conversation, seq));
        }
    }

    /// Whether no further send is taken for now.
    pub fn is_full(&self) -> bool {
        self.outstanding.is_full()
    }

    /// How many sends wait for their answer.
    pub fn waiting(&self) -> usize {
        self.outstanding.waiting()
    }

    /// What happens next; `None` once stopped.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            match &mut self.state {
                State::Stopped => return None,
                State::Waiting(until) => {
                    sleep_until(*until).await;
                    let options = self.options.clone();
                    let opening = async move { Client::open(&options).await };
                    self.state = State::Opening(Box::pin(opening));
                }
                State::Opening(opening) => match opening.as_mut().await {
                    Ok((client, welcome)) => self.opened(client, welcome),
                    Err(error) => self.lost(error, None),
                },
                State::Open(open) => {
                    let due = self.outstanding.due();
                    match happens(open, due).await {
                        Happened::Frame(Ok(frame)) => self.took(frame),
                        Happened::Frame(Err(error)) => {
                            let leave_at = open.leave_at;
                            self.lost(error, leave_at);
                        }
                        Happened::RetryDue => {
                            open.write.extend(self.outstanding.retry(Instant::now()));
                        }
                        Happened::Leave => self.leave().await,
                        Happened::Nothing => {}
                    }
                }
            }
        }
    }

    /// A server would close the socket for each of these, and nothing behind it would ever leave.
    /// What was `tried` elsewhere may be stored.
    fn refuse_too_long(&mut self, tried: bool) {
        let most = self.frame_bytes;
        let but = if tried { ", and may be stored" } else { "" };
        for send in self.outstanding.longer_than(most, tried) {
            let detail = format!("it is too long for a frame of {most} bytes{but}");
            self.events.push_back(Event::Failed { send, code: "too_large".to_owned(), detail });
        }
    }

    fn opened(&mut self, client: Client, welcome: Welcome) {
        self.frame_bytes = welcome.frame_bytes;
        self.refuse_too_long(false);
        // They are among the following.
        self.outstanding.released();
        let interval = Duration::from_millis(welcome.ping_ms.max(1_000));
        self.state = State::Open(Box::new(Open {
            client,
            write: self.outstanding.again(self.frame_bytes).into(),
            unflushed: false,
            silence: interval * SILENT_INTERVALS,
            leave_at: None,
        }));
        self.events.push_back(Event::Connected(welcome));
    }

    fn took(&mut self, frame: ServerFrame) {
        match &frame {
            ServerFrame::CaughtUp => {
                self.backoff.reset();
                // Whatever was stored was heard of by now.
                self.refuse_too_long(true);
            }
            ServerFrame::Reconnect { after_ms } => {
                if let State::Open(open) = &mut self.state {
                    open.leave_at = Some(Instant::now() + Duration::from_millis(*after_ms));
                }
                return;
            }
            _ => {}
        }
        let taken = self.outstanding.take(frame, Instant::now());
        if let State::Open(open) = &mut self.state {
            open.write.extend(self.outstanding.released());
        }
        match taken {
            Taken::Pass(frame) => self.events.push_back(Event::Frame(frame)),
            Taken::Nothing | Taken::Later => {}
            Taken::Acked { send, conversation, seq } => {
                self.events.push_back(Event::Sent { send, conversation, seq });
            }
            Taken::Failed { send, code, detail } => {
                self.events.push_back(Event::Failed { send, code, detail });
            }
        }
    }

    fn lost(&mut self, error: ClientError, leave_at: Option<Instant>) {
        if !comes_back(&error) {
            self.state = State::Stopped;
            self.events.push_back(Event::Stopped(error));
            return;
        }
        // A server that said when to come back has spread its clients already.
        let now = Instant::now();
        let retry_in = match leave_at {
            Some(at) => at.saturating_duration_since(now),
            None => self.backoff.next(rand::random()),
        };
        self.state = State::Waiting(now + retry_in);
        self.events.push_back(Event::Disconnected { why: error.to_string(), retry_in });
    }

    async fn leave(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Waiting(Instant::now()));
        let why = "the server is restarting".to_owned();
        self.events.push_back(Event::Disconnected { why, retry_in: Duration::ZERO });
        if let State::Open(open) = state {
            open.client.close(1000).await;
        }
    }

    /// Says goodbye.
    pub async fn close(mut self) {
        if let State::Open(mut open) = std::mem::replace(&mut self.state, State::Stopped) {
            let _ = open.write().await;
            open.client.close(1000).await;
        }
    }
}

async fn happens(open: &mut Open, due: Option<Instant>) -> Happened {
    if let Err(error) = open.write().await {
        return Happened::Frame(Err(error));
    }
    let heard = open.client.heard();
    let leave_at = open.leave_at;
    tokio::select! {
        frame = open.client.next_frame() => return Happened::Frame(frame),
        () = at(due) => return Happened::RetryDue,
        () = at(leave_at) => return Happened::Leave,
        () = sleep_until(heard + open.silence) => {}
    }
    // Pings are heard without a frame.
    match open.client.heard() == heard {
        true => Happened::Frame(Err(ClientError::TimedOut(open.silence))),
        false => Happened::Nothing,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    const QUICK: Rules =
        Rules { first: Duration::from_millis(20), longest: Duration::from_millis(100) };

    async fn client(fake: &Fake, user: &str) -> Reconnecting {
        let mut client = Reconnecting::new(ClientOptions::new(fake.url(), user), QUICK);
        wait(&mut client, |event| matches!(event, Event::Connected(_))).await;
        client
    }

    async fn wait(client: &mut Reconnecting, wanted: impl Fn(&Event) -> bool) -> Event {
        let search = async {
            loop {
                let event = client.next().await.expect("it has stopped");
                if wanted(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), search).await.expect("nothing came")
    }

    fn text(event: &Event) -> Option<&str> {
        match event {
            Event::Frame(ServerFrame::Entry(entry)) => Some(&entry.message),
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_send_whose_answer_was_lost_is_stored_once() {
        let fake = Fake::start().await;
        let mut a = client(&fake, "userA").await;
        fake.lose_next_sent();
        a.send(To::User("userB".into()), "one").unwrap();
        a.send(To::User("userB".into()), "two").unwrap();
        wait(&mut a, |event| matches!(event, Event::Disconnected { .. })).await;
        wait(&mut a, |event| matches!(event, Event::Sent { seq: 1, .. })).await;
        wait(&mut a, |event| matches!(event, Event::Sent { seq: 2, .. })).await;
        assert_eq!(fake.log("dm:userA:userB"), ["one", "two"]);
        assert_eq!(a.waiting(), 0);
    }

    #[tokio::test]
    async fn what_is_offered_again_is_passed_on_once() {
        let fake = Fake::start().await;
        let mut b = client(&fake, "userB").await;
        let mut a = client(&fake, "userA").await;
        fake.forget_receipts();
        a.send(To::User("userB".into()), "one").unwrap();
        wait(&mut a, |event| matches!(event, Event::Sent { .. })).await;
        wait(&mut b, |event| text(event) == Some("one")).await;
        fake.close_all(1012);
        a.send(To::User("userB".into()), "two").unwrap();
        wait(&mut a, |event| matches!(event, Event::Sent { .. })).await;
        let next = wait(&mut b, |event| text(event).is_some()).await;
        assert_eq!(text(&next), Some("two"));
    }

    #[tokio::test]
    async fn stop_codes_stop_and_others_come_back() {
        let fake = Fake::start().await;
        for code in [1001, 1011, 1012, 4508, 4509] {
            let mut a = client(&fake, "userA").await;
            fake.close_all(code);
            wait(&mut a, |event| matches!(event, Event::Connected(_))).await;
            a.close().await;
        }
        for stop in [1002, 1003, 1007, 1009, 4001, 4401, 4499] {
            let mut a = client(&fake, "userA").await;
            fake.close_all(stop);
            let event = wait(&mut a, |event| matches!(event, Event::Stopped(_))).await;
            let Event::Stopped(ClientError::Closed { code, .. }) = event else {
                panic!("{event:?}")
            };
            assert_eq!(code, Some(stop));
            assert!(a.next().await.is_none());
        }
    }

    /// Said to a server that takes no such frame it would end one socket after the other.
    #[tokio::test]
    async fn what_is_too_long_for_a_server_fails_and_holds_nobody_up() {
        let fake = Fake::start().await;
        fake.limit_frames(1_000);
        let mut a = Reconnecting::new(ClientOptions::new(fake.url(), "userA"), QUICK);
        let (long, to) = ("\n".repeat(500), || To::User("userB".into()));
        a.send(to(), &long).unwrap();
        a.send(to(), "one").unwrap();
        for _ in 0..2 {
            let failed = wait(&mut a, |event| matches!(event, Event::Failed { .. })).await;
            let Event::Failed { send, code, detail } = failed else { panic!("{failed:?}") };
            assert_eq!((send.message, code.as_str()), (long.clone(), "too_large"));
            assert!(detail.contains("1000 bytes"), "{detail}");
            wait(&mut a, |event| matches!(event, Event::Sent { .. })).await;
            // And now at once.
            a.send(to(), &long).unwrap();
            a.send(to(), "two").unwrap();
        }
        assert_eq!(fake.log("dm:userA:userB"), ["one", "two"]);
    }

    /// What fits is never too long, whatever it was given; what was said to a server that took more
    /// waits until it is known whether that has it.
    #[tokio::test]
    async fn what_was_tried_is_judged_by_what_it_is_and_not_too_early() {
        let fake = Fake::start().await;
        fake.limit_frames(1_000);
        let mut a = client(&fake, "userA").await;
        let to = || To::User("userB".into());
        let longest = (0..1_000).rev().map(|bytes| "x".repeat(bytes));
        let longest =
            longest.into_iter().find(|m| Send::new(to(), m.as_str()).bytes_most() <= 1_000);
        let longest = longest.unwrap();
        fake.lose_next_sent();
        a.send(to(), &longest).unwrap();
        wait(&mut a, |event| matches!(event, Event::Sent { seq: 1, .. })).await;

        fake.lose_next_sent();
        a.send(to(), &longest).unwrap();
        fake.limit_frames(900);
        wait(&mut a, |event| matches!(event, Event::Connected(_))).await;
        let failed = wait(&mut a, |event| matches!(event, Event::Failed { .. })).await;
        let Event::Failed { detail, .. } = failed else { panic!("{failed:?}") };
        assert!(detail.contains("900 bytes, and may be stored"), "{detail}");
        assert_eq!(a.waiting(), 0);
    }

    #[tokio::test]
    async fn it_comes_back_when_the_server_says() {
        let fake = Fake::start().await;
        let mut a = client(&fake, "userA").await;
        let before = Instant::now();
        fake.say_all(r#"{"type":"reconnect","afterMs":300}"#);
        wait(&mut a, |event| matches!(event, Event::Connected(_))).await;
        let took = before.elapsed();
        assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(5), "{took:?}");
    }

    #[test]
    fn waits_double_up_to_the_longest_and_have_full_jitter() {
        let mut backoff = Backoff::new(Rules::default());
        let most: Vec<u128> = (0..8).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(most, [250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
        assert_eq!(backoff.next(0.0), Duration::ZERO);
        backoff.reset();
        assert_eq!(backoff.next(0.5), Duration::from_millis(125));
    }
}
