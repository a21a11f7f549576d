//! How much a client may do: what each limit allows, and who has had how much of it.
//!
//! Knows nothing of sockets or requests: `gateway`, `chat`, `api` and `balancer` ask here, and
//! refuse in their own words. One [`Limits`] is shared by all parts of a process, so that a user
//! has the same in all of them together. **Invariant:** what is counted here has a bound on its
//! memory that no client can move, and costs nothing while a client rests.

mod address;
mod limit;
mod lobby;
mod meter;
mod rate;
mod seats;
mod settings;

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use address::Address;
pub use limit::Limit;
pub use lobby::{Lobby, Stay};
pub use meter::{Key, Meter};
pub use rate::{BadBound, Bound, Rate, number};
pub use seats::Seats;
pub use settings::Settings;

use crate::chance::{Hashing, within};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const HOUR_MS: u64 = 3_600_000;
/// How many connections a handshake may take, and how many tokens are looked at for each that may
/// fail.
const KNOCKS: u32 = 4;
/// The most connections whose head is being read, and as many of plain HTTP.
const LOBBY_MAX: u32 = 4_096;
/// When to come back where nobody can tell when a place will be free.
const PLACE_WAIT: Duration = Duration::from_secs(5);

/// Over a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", .limit.detail(), .limit.advice())]
pub struct Over {
    /// Which.
    pub limit: Limit,
    /// When there will be room again.
    pub wait: Duration,
}

impl Over {
    /// For what has no clock: places that others must leave first.
    pub fn full(limit: Limit) -> Self {
        Self { limit, wait: PLACE_WAIT }
    }

    /// For what stays as it is: nothing is lost by asking rarely.
    pub fn for_long(limit: Limit) -> Self {
        Self { limit, wait: HOUR }
    }

    /// The same in milliseconds, for clients; enough, and never 0. Where others wait for the same
    /// each is told another time, up to twice as late, so that they do not all come at once.
    pub fn retry_after_ms(&self) -> u64 {
        let ms = self.wait.as_nanos().div_ceil(1_000_000).max(1);
        let ms = u64::try_from(ms).unwrap_or(u64::MAX);
        if self.limit.is_shared() { ms.saturating_add(within(0..ms.min(HOUR_MS))) } else { ms }
    }
}

/// The limits of a process, and what was had of them. See the module.
#[derive(Debug)]
pub struct Limits {
    settings: Settings,
    hashing: Hashing,
    /// Places for connections whose head has not come.
    pub half_open: Arc<Lobby>,
    /// Places for connections of plain HTTP.
    pub plain: Arc<Lobby>,
    crowd: Option<seats::Crowd>,
    handshakes: Option<Meter>,
    knocks: Option<Meter>,
    looks: Option<Meter>,
    tries: Option<Meter>,
    user_handshakes: Option<Meter>,
    frames: Option<Meter>,
    bytes: Option<Meter>,
    messages: Option<Meter>,
    signals: Option<Meter>,
    requests: Option<Meter>,
    new_conversations: Option<Meter>,
}

impl Limits {
    /// By these settings.
    pub fn new(settings: Settings) -> Arc<Self> {
        let by = |period| move |rate| Meter::new(rate, period);
        let lobby = |most: Option<u32>, limits| {
            Lobby::new(most.unwrap_or(LOBBY_MAX), settings.half_open_per_address, limits)
        };
        Arc::new(Self {
            settings,
            hashing: Hashing::default(),
            half_open: lobby(settings.half_open, [Limit::HalfOpen, Limit::HalfOpenPerAddress]),
            plain: lobby(settings.plain, [Limit::Plain, Limit::PlainPerAddress]),
            crowd: settings.sockets_per_address.map(seats::Crowd::new),
            handshakes: settings.handshakes.map(by(SECOND)),
            knocks: settings.handshakes.map(fourfold).map(by(SECOND)),
            looks: settings.handshakes.map(fourfold).map(by(SECOND)),
            tries: settings.handshakes.map(fourfold).map(by(SECOND)),
            user_handshakes: settings.user_handshakes.map(by(SECOND)),
            frames: settings.frames.map(by(SECOND)),
            bytes: settings.bytes.map(by(SECOND)),
            messages: settings.messages.map(by(SECOND)),
            signals: settings.signals.map(by(SECOND)),
            requests: settings.requests.map(by(SECOND)),
            new_conversations: settings.new_conversations.map(by(HOUR)),
        })
    }

    /// None at all.
    pub fn none() -> Arc<Self> {
        Self::new(Settings::default())
    }

    /// What is allowed.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether frames are looked at.
    pub fn measures_frames(&self) -> bool {
        self.frames.is_some() || self.bytes.is_some()
    }

    /// Whom something is counted for: a user, or an address.
    pub fn key(&self, who: &impl Hash) -> Key {
        Key(self.hashing.hash_one(who))
    }

    fn meter(&self, limit: Limit) -> Option<&Meter> {
        match limit {
            Limit::Handshakes => self.handshakes.as_ref(),
            Limit::HandshakesPerUser => self.user_handshakes.as_ref(),
            Limit::Frames => self.frames.as_ref(),
            Limit::Bytes => self.bytes.as_ref(),
            Limit::Messages => self.messages.as_ref(),
            Limit::Signals => self.signals.as_ref(),
            Limit::Requests => self.requests.as_ref(),
            Limit::NewConversations => self.new_conversations.as_ref(),
            Limit::Sockets
            | Limit::Files
            | Limit::SocketsPerAddress
            | Limit::SocketsPerUser
            | Limit::HalfOpen
            | Limit::HalfOpenPerAddress
            | Limit::Plain
            | Limit::PlainPerAddress
            | Limit::Conversations
            | Limit::HeadBytes
            | Limit::HeadTime
            | Limit::FrameBytes
            | Limit::MessageBytes
            | Limit::DataBytes
            | Limit::JsonDepth
            | Limit::Appends
            | Limit::SignalsUnderWay
            | Limit::Renewals => None,
        }
    }

    /// Takes `units` of what is limited by a rate.
    pub fn take(&self, limit: Limit, who: Key, units: u64, now: Instant) -> Result<(), Over> {
        asked(self.meter(limit), limit, |meter| meter.take(who, units, now))
    }

    /// The same for one of something now, if it is limited at all.
    pub fn take_one(&self, limit: Limit, who: &impl Hash) -> Result<(), Over> {
        asked(self.meter(limit), limit, |meter| meter.take(self.key(who), 1, Instant::now()))
    }

    /// Takes `units` that were had before they could be counted: see [`Meter::owe`].
    pub fn owe(&self, limit: Limit, who: Key, units: u64) {
        if let Some(meter) = self.meter(limit) {
            meter.owe(who, units, Instant::now());
        }
    }

    /// Whether `units` of what is limited by a rate could be taken, once others under way have
    /// taken `ahead`.
    pub fn is_left(&self, limit: Limit, who: Key, ahead: u64, units: u64) -> Result<(), Over> {
        let now = Instant::now();
        asked(self.meter(limit), limit, |meter| meter.is_left(who, ahead, units, now))
    }

    /// A handshake of this address; where there is none it is not counted.
    pub fn handshake(&self, address: Option<Address>) -> Result<(), Over> {
        self.of_address(&self.handshakes, Meter::take, address)
    }

    /// A connection of this address, before anything is done for it. There may be more of them than
    /// handshakes, so that who sends too many of those is still told.
    pub fn knock(&self, address: Option<Address>) -> Result<(), Over> {
        self.of_address(&self.knocks, Meter::take, address)
    }

    /// Whether a handshake of this address, which is over its rate, is worth a look at its token:
    /// so that whoever floods an address does not keep out all others behind it. Each is counted.
    pub fn look(&self, address: Option<Address>) -> Result<(), Over> {
        self.tries_left(address)?;
        self.of_address(&self.looks, Meter::take, address)
    }

    /// Whether a token that comes from this address is worth the work of looking at it: far beyond
    /// what may fail none is, a good one neither.
    pub fn tries_left(&self, address: Option<Address>) -> Result<(), Over> {
        let is_left = |meter: &Meter, who, units, now| meter.is_left(who, 0, units, now);
        self.of_address(&self.tries, is_left, address)
    }

    /// A token that came from this address did not hold: it counts as a handshake.
    pub fn failed(&self, address: Option<Address>) -> Result<(), Over> {
        // Whether it was one too many shows when the next one comes.
        let _ = self.of_address(&self.tries, Meter::take, address);
        self.handshake(address)
    }

    /// Asks such a meter for one of an address; where there is none of the two it is not counted.
    fn of_address(
        &self,
        meter: &Option<Meter>,
        ask: fn(&Meter, Key, u64, Instant) -> Result<(), Duration>,
        address: Option<Address>,
    ) -> Result<(), Over> {
        let Some(address) = address else { return Ok(()) };
        let ask = |meter: &Meter| ask(meter, self.key(&address), 1, Instant::now());
        asked(meter.as_ref(), Limit::Handshakes, ask)
    }

    /// How long a burst takes to come back; `None` where there is no such rate.
    pub fn refill(&self, limit: Limit) -> Option<Duration> {
        self.meter(limit).map(Meter::refill)
    }

    /// A frame of so many bytes.
    pub fn frame(&self, who: Key, bytes: usize, now: Instant) -> Result<(), Over> {
        let taken = self.take(Limit::Frames, who, 1, now);
        let taken = taken.and_then(|()| self.take(Limit::Bytes, who, bytes as u64, now));
        taken.map_err(|over| self.again(over, who, bytes as u64, now))
    }

    /// What was refused comes again, and is then to meet none of the others either: it is told the
    /// longest wait of all that it may meet.
    pub fn again(&self, over: Over, who: Key, bytes: u64, now: Instant) -> Over {
        let [frames, messages, signals] = [Limit::Frames, Limit::Messages, Limit::Signals];
        let all = [(frames, 1), (Limit::Bytes, bytes), (messages, 1), (signals, 1)];
        let waits = all
            .into_iter()
            .filter_map(|(limit, units)| self.meter(limit)?.is_left(who, 0, units, now).err());
        Over { wait: waits.fold(over.wait, Duration::max), ..over }
    }

    /// A place on a server for a socket of this address; to be given back with
    /// [`Limits::leave`].
    pub fn enter(&self, seats: &Seats, address: Option<Address>) -> Result<(), Over> {
        if !seats.take() {
            return Err(Over::full(Limit::Sockets));
        }
        match (&self.crowd, address) {
            (Some(crowd), Some(address)) if !crowd.enter(address) => {
                seats.give_back();
                Err(Over::full(Limit::SocketsPerAddress))
            }
            _ => Ok(()),
        }
    }

    /// Gives a place back.
    pub fn leave(&self, seats: &Seats, address: Option<Address>) {
        seats.give_back();
        if let (Some(crowd), Some(address)) = (&self.crowd, address) {
            crowd.leave(address);
        }
    }
}

/// What a meter says, as of the limit that it measures; where there is no meter anything goes.
fn asked(
    meter: Option<&Meter>,
    limit: Limit,
    ask: impl FnOnce(&Meter) -> Result<(), Duration>,
) -> Result<(), Over> {
    meter.map_or(Ok(()), ask).map_err(|wait| Over { limit, wait })
}

fn fourfold(handshakes: Rate) -> Rate {
    let more = |number: u32| number.saturating_mul(KNOCKS);
    Rate::new(more(handshakes.rate), more(handshakes.burst))
}

/// How many sockets each of `shares` may hold in a process that may open so many files: some are
/// left for stores, requests, and those who are still at the door.
pub fn sockets_by_files(files: u64, shares: u32) -> u32 {
    let each = (files - reserve(files)) / u64::from(shares.max(1));
    u32::try_from(each).unwrap_or(u32::MAX)
}

fn reserve(files: u64) -> u64 {
    (files / 8).max(128.min(files / 2))
}

/// How many connections such a process has at the door, and how many of plain HTTP: three quarters
/// of what sockets leave, so that stores and Redis have files whoever dials.
pub fn others_by_files(files: u64) -> [u32; 2] {
    let some = |files| u32::try_from(files).unwrap_or(u32::MAX).clamp(1, LOBBY_MAX);
    [some(reserve(files) / 2), some(reserve(files) / 4)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_told_in_whole_milliseconds_that_are_enough() {
        let over = |wait| Over { limit: Limit::Frames, wait }.retry_after_ms();
        for (wait, ms) in [(0, 1), (1, 1), (999_999, 1), (1_000_000, 1), (1_000_001, 2)] {
            assert_eq!(over(Duration::from_nanos(wait)), ms);
        }
        assert_eq!(Over::for_long(Limit::Conversations).retry_after_ms(), 3_600_000);
        let told: Vec<_> = (0..99).map(|_| Over::full(Limit::Plain).retry_after_ms()).collect();
        assert!(told.iter().all(|ms| (5_000..10_000).contains(ms)), "{told:?}");
        assert!(told.iter().any(|ms| *ms != told[0]), "not all at once");
        let said = Over::full(Limit::Sockets).to_string();
        assert_eq!(said, "this server has all the sockets that it takes: wait and try again");
        let said = Over::for_long(Limit::Conversations).to_string();
        assert!(!said.contains("try again"), "{said}");
    }

    #[test]
    fn without_settings_nothing_is_refused() {
        let limits = Limits::none();
        let address = Address::of([203, 0, 113, 7].into());
        let seats = Seats::new(None);
        for _ in 0..10_000 {
            assert_eq!(limits.handshake(address), Ok(()));
            assert_eq!(limits.enter(&seats, address), Ok(()));
            assert_eq!(limits.frame(limits.key(&"a"), 1 << 20, Instant::now()), Ok(()));
        }
    }

    #[test]
    fn an_address_that_has_enough_gives_the_servers_place_back() {
        let settings = Settings { sockets_per_address: Some(1), ..Settings::default() };
        let (limits, seats) = (Limits::new(settings), Seats::new(Some(2)));
        let [one, two] = [7, 8].map(|last| Address::of([203, 0, 113, last].into()));
        assert_eq!(limits.enter(&seats, one), Ok(()));
        assert_eq!(limits.enter(&seats, one), Err(Over::full(Limit::SocketsPerAddress)));
        assert_eq!(limits.enter(&seats, two), Ok(()));
        assert_eq!(limits.enter(&seats, None), Err(Over::full(Limit::Sockets)));
        limits.leave(&seats, one);
        assert_eq!(limits.enter(&seats, one), Ok(()));
    }

    #[test]
    fn users_and_addresses_are_counted_by_themselves() {
        let rate = Some(Rate::new(1, 1));
        let limits = Limits::new(Settings { handshakes: rate, frames: rate, ..Settings::USUAL });
        let [one, two] = [7, 8].map(|last| Address::of([203, 0, 113, last].into()));
        assert_eq!(limits.handshake(one), Ok(()));
        let over = limits.handshake(one).unwrap_err();
        assert!(over.limit == Limit::Handshakes && over.wait <= SECOND);
        assert_eq!(limits.handshake(two), Ok(()));
        assert_eq!([limits.handshake(None), limits.handshake(None)], [Ok(()); 2]);
        let now = Instant::now();
        let frame = |user: &str| limits.frame(limits.key(&user), 100, now).map_err(|o| o.limit);
        assert_eq!([frame("a"), frame("a"), frame("b")], [Ok(()), Err(Limit::Frames), Ok(())]);
    }

    /// Whichever limit refuses it: the same frame, sent again then, is taken.
    #[tokio::test(start_paused = true)]
    async fn the_wait_is_that_of_all_limits_together() {
        let settings = Settings {
            frames: Some(Rate::new(1, 3)),
            bytes: Some(Rate::new(10, 100)),
            messages: Some(Rate::new(1, 5)),
            ..Settings::default()
        };
        let limits = Limits::new(settings);
        let who = limits.key(&"a");
        let send = || {
            let now = Instant::now();
            limits.frame(who, 60, now)?;
            let one = limits.take(Limit::Messages, who, 1, now);
            one.map_err(|over| limits.again(over, who, 60, now))
        };
        for _ in 0..5 {
            let _ = limits.take(Limit::Messages, who, 1, Instant::now());
        }
        for met in [Limit::Messages, Limit::Bytes, Limit::Bytes] {
            let over = send().unwrap_err();
            assert_eq!(over.limit, met);
        }
        let over = send().unwrap_err();
        assert_eq!((over.limit, over.wait), (Limit::Frames, 2 * SECOND));
        tokio::time::advance(over.wait).await;
        assert_eq!(send(), Ok(()));
    }

    #[test]
    fn connections_have_a_rate_beyond_that_of_handshakes() {
        let rate = Some(Rate::new(1, 5));
        let limits = Limits::new(Settings { handshakes: rate, ..Settings::default() });
        let address = Address::of([203, 0, 113, 7].into());
        let taken = (0..100).filter(|_| limits.knock(address).is_ok()).count();
        assert!((20..=24).contains(&taken), "{taken}");
        assert_eq!([limits.handshake(address), limits.knock(None)], [Ok(()); 2]);
    }

    /// Far beyond what may fail nothing is looked at any more.
    #[test]
    fn tokens_that_fail_have_a_rate_and_those_that_hold_go_on_for_longer() {
        let rate = Some(Rate::new(1, 5));
        let limits = Limits::new(Settings { handshakes: rate, ..Settings::default() });
        let address = Address::of([203, 0, 113, 7].into());
        let (mut looked_at, mut told) = (0, 0);
        while limits.tries_left(address).is_ok() {
            looked_at += 1;
            told += usize::from(limits.failed(address).is_ok());
        }
        assert!((20..=24).contains(&looked_at) && (5..=6).contains(&told), "{looked_at}, {told}");
        assert_eq!([limits.tries_left(None), limits.failed(None)], [Ok(()); 2]);
    }

    #[test]
    fn a_process_keeps_files_for_other_things_than_sockets() {
        for (files, shares, each) in [(1_024, 1, 896), (20_000, 3, 5_833), (100, 3, 16), (0, 1, 0)]
        {
            assert_eq!(sockets_by_files(files, shares), each, "{files}");
        }
        for (files, each) in
            [(0, [1, 1]), (128, [32, 16]), (1_024, [64, 32]), (1 << 20, [4_096, 4_096])]
        {
            assert_eq!(others_by_files(files), each, "{files}");
        }
    }
}
