//! A device with an open connection: what it does. What it hears stands in `hearing`.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;
use rand::seq::IndexedRandom;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::device::{Device, Order, Ordered, obeyed};
use super::journal::locked;
use super::post;
use super::world::Stage;
use crate::checker::history::What;
use crate::client::{Client, ClientError, Heard, Welcome};

/// The most messages at once, and under way in one conversation.
const BURST_MAX: usize = 8;
/// The most without an answer; and what the protocol allows, to which some go.
const PENDING_MAX: usize = 24;
const PENDING_LIMIT: usize = 64;
/// A server that was silent for so long is asked for a sign of life.
const PING_AFTER: Duration = Duration::from_secs(1);
/// Longer than any answer takes: the connection is given up, and the sends leave on another.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
const WRITE_LIMIT: Duration = Duration::from_secs(4);
/// Whoever waits so long for an answer says nothing new, as most people would; some go on.
const STUCK_AFTER: Duration = Duration::from_secs(1);
/// The code of a connection that was not read for too long.
const TOO_SLOW: u16 = 4508;
/// One that reads again has read up once nothing comes for so long, or it gives up.
const READ_UP: Duration = Duration::from_secs(2);
const READ_UP_LIMIT: Duration = Duration::from_secs(5);
/// How often a device in the drain looks what is missing.
const LOOK: Duration = Duration::from_millis(200);
/// One in so many texts is told to be seen.
const SEEN_ONE_IN: u32 = 16;
/// One in so many sends to a room that one is not in is tried all the same.
const STRANGER_ONE_IN: u32 = 10;
/// In a thousand acts: going away, closing and coming back at once, being posted over HTTP.
const AWAY: u32 = 12;
const AGAIN: u32 = 12;
const POSTS: u32 = 40;

/// Why a connection is no more.
#[derive(Debug)]
pub(super) enum Why {
    /// It broke, or the server ended it with a code.
    Lost(Option<u16>),
    /// The person went away for a while.
    Away(Duration),
    /// The server told to come back after a while.
    Told(Duration),
    /// The device was killed.
    Killed,
    /// The application lost its state.
    Forgot,
    /// The round is over.
    Over,
}

pub(super) struct Talk<'a> {
    pub(super) device: &'a mut Device,
    pub(super) connection: String,
    pub(super) server: String,
    pub(super) caught_up: bool,
    /// What is to be acknowledged, by conversation.
    pub(super) acks: BTreeMap<String, u64>,
    /// What came since the last receipt: the next Pong proves it.
    pub(super) unproven: BTreeMap<String, u64>,
    pub(super) ack_at: Option<Instant>,
    /// The payload of the newest ping.
    pub(super) ping: Vec<u8>,
    pub(super) heard: Instant,
    pub(super) asked: bool,
    pub(super) act_at: Instant,
    pub(super) leave_at: Option<Instant>,
}

impl<'a> Talk<'a> {
    pub fn new(device: &'a mut Device, connection: String, welcome: &Welcome) -> Self {
        let now = Instant::now();
        device.sends.restart();
        Self {
            device,
            connection,
            server: welcome.server.clone(),
            caught_up: false,
            acks: BTreeMap::new(),
            unproven: BTreeMap::new(),
            ack_at: None,
            ping: Vec::new(),
            heard: now,
            asked: false,
            act_at: now,
            leave_at: None,
        }
    }

    pub(super) fn note(&self, what: What) {
        self.device.world.journal.note(what);
    }

    /// Until the connection ends, one way or another.
    pub async fn run(mut self, mut client: Client) -> Why {
        let mut stage = self.device.world.stage.subscribe();
        self.act_at = Instant::now() + self.pause();
        loop {
            let now = *stage.borrow_and_update();
            match now {
                Stage::Over => {
                    let _ = client.close(1000).await;
                    return Why::Over;
                }
                Stage::Drain if !self.device.fresh => {
                    // Everybody reads everything anew, from where the server thinks they are.
                    self.device.fresh = true;
                    let _ = client.close(1000).await;
                    return Why::Told(Duration::ZERO);
                }
                Stage::Still | Stage::Drain => {
                    self.act_at = self.act_at.min(Instant::now() + LOOK);
                }
                Stage::Load => {}
            }
            let due = self.due();
            let step = tokio::select! {
                heard = client.next_heard() => match heard {
                    Ok(Heard::Text(text)) => self.text(&text),
                    Ok(Heard::Ping(payload)) => {
                        self.ping(&payload);
                        Ok(())
                    }
                    Err(ClientError::Closed { code, .. }) => return Why::Lost(code),
                    Err(_) => return Why::Lost(None),
                },
                Some(order) = self.device.orders.recv()
                    => match self.obey(order, &mut client).await {
                    Obeyed::Goes(why) => {
                        client.reset();
                        return why;
                    }
                    Obeyed::Stays => Ok(()),
                },
                _ = stage.changed() => Ok(()),
                () = sleep_until(due) => {
                    match timeout(WRITE_LIMIT, self.work(&mut client, now)).await {
                        Ok(Ok(Some(why))) => {
                            // Some say goodbye, some just go.
                            if self.device.random.random_bool(0.5) {
                                let _ = client.close(1000).await;
                            }
                            return why;
                        }
                        Ok(worked) => worked.map(|_| ()),
                        Err(_) => return Why::Lost(None),
                    }
                }
            };
            if step.is_err() {
                return Why::Lost(None);
            }
        }
    }

    /// When there is something to do.
    fn due(&self) -> Instant {
        let sends = self.device.sends.next();
        let silence = self.heard + if self.asked { self.device.patience } else { PING_AFTER };
        let times = [Some(self.act_at), self.ack_at, sends, Some(silence), self.leave_at];
        times.into_iter().flatten().min().unwrap_or(self.act_at)
    }

    fn pause(&mut self) -> Duration {
        let devices = 2.0 * self.device.world.plan.users.len() as f64;
        let bursts = self.device.world.rate / ((1 + BURST_MAX) as f64 / 2.0);
        // Exponential: as if each act came by itself.
        let random: f64 = self.device.random.random_range(1e-6..1.0);
        Duration::from_secs_f64((-random.ln() * devices / bursts).min(20.0))
    }

    async fn work(
        &mut self,
        client: &mut Client,
        stage: Stage,
    ) -> Result<Option<Why>, ClientError> {
        let now = Instant::now();
        if self.leave_at.is_some_and(|at| at <= now) {
            return Ok(Some(Why::Told(Duration::ZERO)));
        }
        if now >= self.heard + self.device.patience
            || self.device.sends.oldest().is_some_and(|left| now >= left + ANSWER_LIMIT)
        {
            return Ok(Some(Why::Lost(None)));
        }
        if now >= self.heard + PING_AFTER && !self.asked {
            self.asked = true;
            client.feed_text(json!({"type": "ping", "ref": "p"}).to_string()).await?;
        }
        if self.ack_at.is_some_and(|at| at <= now) {
            self.ack(client).await?;
        }
        let mut gone = None;
        if self.act_at <= now {
            if stage == Stage::Load {
                self.act_at = now + self.pause();
                gone = self.act().await;
            } else {
                self.act_at = now + LOOK;
                self.look(stage);
            }
        }
        self.write(client, now).await?;
        client.flush().await?;
        Ok(gone)
    }

    /// Writes what is due of the sends.
    async fn write(&mut self, client: &mut Client, now: Instant) -> Result<(), ClientError> {
        for pending in self.device.sends.due(now) {
            self.note(What::Send {
                connection: self.connection.clone(),
                user: self.device.user.clone(),
                conversation: pending.conversation.clone(),
                reference: pending.reference.clone(),
                body: pending.body.clone(),
            });
            client.feed_text(pending.frame()).await?;
        }
        Ok(())
    }

    async fn ack(&mut self, client: &mut Client) -> Result<(), ClientError> {
        self.ack_at = None;
        for (conversation, seq) in std::mem::take(&mut self.acks) {
            let connection = self.connection.clone();
            self.note(What::Acked { connection, conversation: conversation.clone(), seq });
            let frame = json!({"type": "ack", "conversation": conversation, "seq": seq});
            client.feed_text(frame.to_string()).await?;
            if self.device.random.random_ratio(1, SEEN_ONE_IN) {
                let connection = self.connection.clone();
                self.note(What::Seen { connection, conversation: conversation.clone(), seq });
                let frame = json!({"type": "read", "conversation": conversation, "seq": seq});
                client.feed_text(frame.to_string()).await?;
            }
        }
        Ok(())
    }

    /// Something that a person does.
    async fn act(&mut self) -> Option<Why> {
        let dice = self.device.random.random_range(0..1_000);
        let stays = self.device.stays && self.device.world.settles();
        if dice < AWAY + AGAIN && stays {
            return None;
        }
        if dice < AWAY {
            let seconds = self.device.random.random_range(1.0..8.0);
            return Some(Why::Away(Duration::from_secs_f64(seconds)));
        }
        if dice < AWAY + AGAIN {
            return Some(Why::Told(Duration::ZERO));
        }
        self.say(dice < AWAY + AGAIN + POSTS).await;
        None
    }

    /// A burst into one conversation, over the socket or over HTTP.
    async fn say(&mut self, posts: bool) {
        let Some(number) = self.device.talks_in.choose(&mut self.device.random).copied() else {
            return;
        };
        let world = self.device.world.clone();
        let conversation = &world.plan.conversations[number];
        let id = conversation.id.as_str();
        let is_out = conversation.guest == Some(self.device.key.0)
            && locked(&world.guests).get(id) != Some(&true);
        let eager = self.device.eager;
        if world.is_silent(number)
            || !eager && self.device.sends.is_stuck(STUCK_AFTER)
            || is_out && !self.device.random.random_ratio(1, STRANGER_ONE_IN)
        {
            return;
        }
        let Some(after) = self.knows(id).await else { return };
        let (in_one, in_all) =
            if eager { (PENDING_LIMIT, PENDING_LIMIT) } else { (BURST_MAX, PENDING_MAX) };
        let room = in_one.saturating_sub(self.device.sends.len_in(id));
        let room = room.min(in_all.saturating_sub(self.device.sends.len()));
        let count = self.device.random.random_range(1..=conversation.heat.burst());
        for _ in 0..count.min(room) {
            self.device.said += 1;
            let body = format!(
                "{} {}/{} {} {} {}",
                conversation.canary,
                self.device.user,
                self.device.name,
                self.device.said,
                world.journal.now_ms(),
                self.server
            );
            let reference = format!("{:032x}", rand::random::<u128>());
            if posts {
                let user = self.device.user.clone();
                let post = post::Post { user, conversation: id.to_owned(), reference, body, after };
                world.posts.spawn(post.run(world.clone()));
                return;
            }
            self.device.sends.add(id, body, after, reference);
        }
    }

    /// The newest seq that the application knows of; one that knows nothing asks first.
    async fn knows(&mut self, conversation: &str) -> Option<u64> {
        if let Some(known) = self.device.known.get(conversation) {
            return Some(*known);
        }
        let asked = self.device.world.api.history(&self.device.user, conversation, None, 1);
        let page = timeout(Duration::from_secs(1), asked).await.ok()?.ok()?;
        let newest = page["messages"].as_array()?.last().and_then(|m| m["seq"].as_u64());
        let newest = newest.unwrap_or(0);
        self.device.known.insert(conversation.to_owned(), newest);
        Some(newest)
    }

    /// While all is still: says whether answers are missing; in the drain, what is.
    fn look(&self, stage: Stage) {
        if stage == Stage::Still {
            let idle = self.device.sends.len() == 0;
            self.device.present(|presence| presence.idle = idle);
            return;
        }
        let missing = match self.caught_up {
            true => self.device.missing(),
            false => Some("it has not caught up".to_owned()),
        };
        self.device.present(|presence| {
            presence.complete = missing.is_none();
            presence.missing = missing.unwrap_or_default();
        });
    }

    async fn obey(&mut self, (order, bites): Ordered, client: &mut Client) -> Obeyed {
        match order {
            Order::KilledAfterSend => {
                self.say(false).await;
                let written = self.write(client, Instant::now()).await;
                if written.is_ok() && client.flush().await.is_ok() && self.device.sends.len() > 0 {
                    obeyed(&bites);
                }
                Obeyed::Goes(Why::Killed)
            }
            Order::Forget => {
                obeyed(&bites);
                Obeyed::Goes(Why::Forgot)
            }
            Order::StopReading(millis) => {
                sleep(Duration::from_millis(millis)).await;
                match timeout(READ_UP_LIMIT, self.read_up(client)).await {
                    Ok(Some(code)) => {
                        // It has bitten only where the server gave the device up for it.
                        if code == Some(TOO_SLOW) {
                            obeyed(&bites);
                        }
                        Obeyed::Goes(Why::Lost(code))
                    }
                    _ => Obeyed::Stays,
                }
            }
        }
    }

    /// Reads what has come in the meantime; gives the code if the connection has ended.
    async fn read_up(&mut self, client: &mut Client) -> Option<Option<u16>> {
        loop {
            match timeout(READ_UP, client.next_heard()).await {
                Ok(Ok(Heard::Text(text))) => {
                    if self.text(&text).is_err() {
                        return Some(None);
                    }
                }
                Ok(Ok(Heard::Ping(payload))) => self.ping(&payload),
                Ok(Err(ClientError::Closed { code, .. })) => return Some(code),
                Ok(Err(_)) => return Some(None),
                Err(_) => return None,
            }
        }
    }
}

enum Obeyed {
    Stays,
    Goes(Why),
}
