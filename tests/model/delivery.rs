//! From the sender's server to the recipient's device: claim, catch-up, publish, hint again, board.
//!
//! Server 0 is the sender's; the recipient connects to 1 or 2. What they do is that of
//! `chat/route.rs`, `pending.rs`, `again.rs`, `slow.rs`, `claim.rs`, `catchup.rs`, `keeper.rs` and
//! `liveness.rs`. Time is left out but for its bounds: see `docs/model.md`.

mod board;
mod hints;
mod sockets;

use stateright::{Model, Property};

use super::run::{Modelled, Windows};

const SENDER: usize = 0;
/// The recipient's servers.
const RECIPIENTS: [usize; 2] = [1, 2];
/// The servers to which something happens: the other one is where people go then.
const STRUCK: [usize; 2] = [0, 1];

/// A design that is known to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    CachedLocate,
    CatchUpBeforeClaim,
    ClaimNotRepeated,
    ReleaseOfAnothers,
    LivenessInRedis,
    ReReadOnlyOnce,
    NoPermit,
    HintForgotten,
    NoBoard,
    MarksIgnored,
    WokenAsIfNothing,
    DeafUnseen,
    NothingStartsOver,
    AnsweredWithoutBeat,
    LifeOfTheDeadIgnored,
    UnclaimedAloneWhileDeaf,
    RevivedWhileDeaf,
}

/// What a run explores.
#[derive(Debug)]
pub struct Delivery {
    pub bad: Option<Bad>,
    pub sends: u8,
    /// How many sockets the recipient opens, one after the other.
    pub sockets: usize,
    pub crashes: u8,
    pub pauses: u8,
    /// Servers that are cut off from Redis.
    pub cuts: u8,
    /// How often Redis loses all it has.
    pub empties: u8,
    /// Messages of the bus, receipts and claims that are lost for no reason.
    pub losses: u8,
    /// A put may come later than 20 s after its permit: a pause so long, in that very place.
    pub long_pause: bool,
    /// How often a hint is tried again.
    pub tries: u8,
    pub windows: Windows,
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            bad: None,
            sends: 1,
            sockets: 2,
            crashes: 0,
            pauses: 0,
            cuts: 0,
            empties: 0,
            losses: 0,
            long_pause: false,
            tries: 2,
            windows: Windows::default(),
        }
    }
}

type Seq = u8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Health {
    Up,
    Paused,
    Down,
}

/// What one server has read of another's row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Seen {
    row: u8,
    dead: bool,
    deaf: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Server {
    health: Health,
    /// Its row went unwritten for so long that it counts as dead: it is yet to notice.
    stale: bool,
    /// Moves when the row does again after it stood still; another life begins at the next ten.
    row: u8,
    cut: bool,
    /// Its row says that it can't hear the bus.
    deaf: bool,
    /// All is to be claimed again and read again.
    start_over: bool,
    /// Since it is deaf, all is yet to be read again.
    deaf_reread: bool,
    /// What it has read of the sender's row; of the sender's server: nothing.
    seen: Seen,
    /// The second re-read for a death is due.
    second: bool,
    /// Up to here it has read the hints on the board.
    hint: Seq,
}

/// Where the sender's server is with a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Idle,
    Raised,
    Permitted,
    Stored,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Record {
    last: Seq,
    /// What each located server has confirmed.
    servers: [Option<Seq>; 3],
    gone: [bool; 3],
    tries: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reading {
    /// The mailbox is yet to be read.
    New,
    Under {
        snapshot: Seq,
        again: bool,
    },
    Live,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Socket {
    server: usize,
    open: bool,
    /// The client is away, and the server does not know yet.
    half_open: bool,
    claim_tried: bool,
    holds: bool,
    reading: Reading,
    /// The sender's server waits for a receipt.
    via: bool,
    /// The release is under way.
    releasing: bool,
    /// Redis lost the entry of a claim that holds.
    lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Message {
    to: usize,
    seq: Seq,
    /// Without the text: one that is sent again.
    hint: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    log: Seq,
    /// What the recipient's row says.
    last: Seq,
    acked: Seq,
    /// Up to here the board holds hints of the sender's server.
    hints: Seq,
    servers: [Server; 3],
    /// What the sender's server has read of the others' rows.
    view: [Seen; 3],
    /// It is so old that it can't say that nobody is deaf.
    view_is_old: bool,
    stage: Stage,
    /// Where it is to be put: the tail that the lane knows + 1.
    target: Seq,
    sends: u8,
    /// The seq of a put of a server that crashed, which has not come to the store yet.
    late_put: Seq,
    /// Where the recipient was before the put: only a bad design wants to know.
    cached: Option<[bool; 3]>,
    record: Option<Record>,
    /// Waits to be written to the board.
    slow: Seq,
    bus: Vec<Message>,
    /// Which sockets' entries stand in the map.
    map: [bool; 2],
    sockets: Vec<Socket>,
    /// The device has received everything up to here.
    got: Seq,
    /// A server was sent a hint up to here, and has not answered.
    owed: [Seq; 3],
    /// A put was made after a server had read twice for a death, and was done with it.
    void_put: bool,
    crashes: u8,
    pauses: u8,
    cuts: u8,
    empties: u8,
    losses: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Send,
    /// The sender's server goes on with a send.
    Step,
    /// `unavailable`, though it stands: the server is not sure that it counts as alive.
    Refuse,
    Overdue,
    WriteBoard,
    LatePut,
    LatePutVanishes,
    Deliver {
        at: usize,
        receipt_lost: bool,
    },
    Lose(usize),
    Connect(usize),
    Close(usize),
    Release(usize),
    Claim(usize),
    ClaimFails(usize),
    ClaimAgain(usize),
    ReadMailbox(usize),
    ReadDone(usize),
    ReadBoard(usize),
    SecondReRead(usize),
    StartOver(usize),
    ReReadDeaf(usize),
    NoticeCut(usize),
    NoticeBack(usize),
    Revive(usize),
    Crash(usize),
    CrashPutUnderWay,
    CrashBeforeHandOn,
    Restart(usize),
    Pause(usize),
    Wake(usize),
    Cut(usize),
    Heal(usize),
    Empty,
}

const WINDOWS: [&str; 23] = [
    "a crash between raise and put",
    "a crash between put and answer",
    "a crash between answer and hand-over",
    "a put of a crashed server came later",
    "a put was made with a permit from before a pause",
    "the second re-read found something",
    "the first re-read found something",
    "another life was noticed",
    "a message came during a read, and another read followed",
    "gone, and located anew",
    "gone, and nobody there",
    "have came before the receipt",
    "a hint was tried again",
    "a hint went to the board after its tries",
    "a hint went to the board since Redis did not answer",
    "a hint went to the board since somebody is deaf",
    "a hint on the board was needed",
    "a deaf server read again, and something was there",
    "a claim was repeated, and the read again found something",
    "all was claimed again, and the read again found something",
    "the entry of a dead server was passed over",
    "a release came after a newer claim",
    "offline: nobody was located",
];

impl State {
    fn new(model: &Delivery, connected: bool) -> Self {
        let server = Server {
            health: Health::Up,
            stale: false,
            row: 0,
            cut: false,
            deaf: false,
            start_over: false,
            deaf_reread: false,
            seen: Seen::default(),
            second: false,
            hint: 0,
        };
        let live =
            Socket { holds: true, claim_tried: true, reading: Reading::Live, ..Socket::new(1) };
        Self {
            log: 0,
            last: 0,
            acked: 0,
            hints: 0,
            servers: [server; 3],
            view: [Seen::default(); 3],
            view_is_old: false,
            stage: Stage::Idle,
            target: 0,
            sends: model.sends,
            late_put: 0,
            cached: None,
            record: None,
            slow: 0,
            bus: Vec::new(),
            map: [connected, false],
            sockets: if connected { vec![live] } else { Vec::new() },
            got: 0,
            owed: [0; 3],
            void_put: false,
            crashes: model.crashes,
            pauses: model.pauses,
            cuts: model.cuts,
            empties: model.empties,
            losses: model.losses,
        }
    }

    fn is_up(&self, server: usize) -> bool {
        self.servers[server].health == Health::Up
    }

    fn open_at(&self, server: usize) -> Vec<usize> {
        let at = |i: &usize| self.sockets[*i].open && self.sockets[*i].server == server;
        (0..self.sockets.len()).filter(at).collect()
    }

    /// The recipient's client has a connection to a server that works.
    fn is_connected(&self) -> bool {
        self.sockets.iter().any(|s| s.open && !s.half_open && self.is_up(s.server))
    }

    /// A put was permitted, and is not made yet; a pause or a crash came between.
    fn put_is_late(&self) -> bool {
        let sender = self.servers[SENDER];
        let waits = sender.health == Health::Paused || sender.stale;
        self.late_put > 0 || self.stage == Stage::Permitted && waits
    }
}

impl Delivery {
    fn is(&self, bad: Bad) -> bool {
        self.bad == Some(bad)
    }

    /// What happens by itself sooner or later.
    fn progress(&self, s: &State, actions: &mut Vec<Action>) {
        self.sending(s, actions);
        self.listening(s, actions);
        self.connecting(s, actions);
        for at in 0..3 {
            self.keeping(s, at, actions);
        }
    }

    /// Nothing more happens by itself.
    fn quiet(&self, s: &State) -> bool {
        let mut actions = Vec::new();
        self.progress(s, &mut actions);
        actions.is_empty()
    }

    /// What people do, and what goes wrong.
    fn faults(&self, s: &State, actions: &mut Vec<Action>) {
        if s.sends > 0 && s.stage == Stage::Idle && s.is_up(SENDER) {
            actions.push(Action::Send);
        }
        if s.sockets.len() < self.sockets {
            let servers = RECIPIENTS.into_iter().filter(|at| s.is_up(*at));
            actions.extend(servers.map(Action::Connect));
        }
        let open = (0..s.sockets.len()).filter(|i| s.sockets[*i].open);
        actions.extend(open.filter(|i| s.is_up(s.sockets[*i].server)).map(Action::Close));
        if s.losses > 0 {
            self.losses(s, actions);
        }
        for at in STRUCK {
            let server = s.servers[at];
            match server.health {
                Health::Up => {
                    if s.crashes > 0 {
                        actions.push(Action::Crash(at));
                    }
                    if s.pauses > 0 {
                        actions.push(Action::Pause(at));
                    }
                }
                Health::Down if server.row < 10 => actions.push(Action::Restart(at)),
                _ => {}
            }
            if server.cut {
                actions.push(Action::Heal(at));
            } else if s.cuts > 0 {
                actions.push(Action::Cut(at));
            }
        }
        if s.crashes > 0 && s.is_up(SENDER) {
            match s.stage {
                Stage::Permitted => actions.push(Action::CrashPutUnderWay),
                Stage::Stored if self.may_answer(s) => actions.push(Action::CrashBeforeHandOn),
                _ => {}
            }
        }
        if s.empties > 0 {
            actions.push(Action::Empty);
        }
    }

    fn fault(&self, s: &mut State, action: Action) {
        match action {
            Action::Connect(at) => {
                s.sockets.iter_mut().for_each(|socket| socket.half_open = socket.open);
                s.sockets.push(Socket::new(at));
            }
            Action::Close(i) => s.sockets[i].close(),
            Action::Crash(at) => self.crash(s, at),
            Action::CrashPutUnderWay => {
                s.late_put = s.target;
                self.crash(s, SENDER);
            }
            Action::CrashBeforeHandOn => {
                self.windows.hit(2);
                s.acked = s.log;
                s.stage = Stage::Idle;
                self.crash(s, SENDER);
            }
            Action::Restart(at) => self.restart(s, at),
            Action::Pause(at) => {
                s.pauses -= 1;
                s.servers[at].health = Health::Paused;
            }
            Action::Cut(at) => {
                s.cuts -= 1;
                s.servers[at].cut = true;
            }
            Action::Heal(at) => {
                let server = &mut s.servers[at];
                server.cut = false;
                // The connection was lost for a moment: the bus tells of a gap.
                server.start_over |= !server.deaf && !self.is(Bad::NothingStartsOver);
            }
            Action::Empty => {
                s.empties -= 1;
                for (i, socket) in s.sockets.iter_mut().enumerate() {
                    socket.lost |= std::mem::take(&mut s.map[i]) && socket.open;
                }
                s.bus.clear();
                for server in s.servers.iter_mut().filter(|server| !server.cut) {
                    server.start_over |=
                        server.health != Health::Down && !self.is(Bad::NothingStartsOver);
                }
            }
            _ => {}
        }
    }

    fn crash(&self, s: &mut State, at: usize) {
        s.crashes -= 1;
        if at == SENDER {
            match s.stage {
                Stage::Raised | Stage::Permitted => self.windows.hit(0),
                Stage::Stored => self.windows.hit(1),
                Stage::Idle => {}
            }
            (s.stage, s.target) = (Stage::Idle, 0);
            (s.record, s.slow, s.cached) = (None, 0, None);
            (s.owed, s.view_is_old) = ([0; 3], false);
        } else {
            s.bus.retain(|message| message.to != at);
        }
        for socket in s.sockets.iter_mut().filter(|socket| socket.server == at) {
            // Its entry stays behind.
            (socket.open, socket.releasing) = (false, false);
            (socket.half_open, socket.via) = (false, false);
        }
        let Server { row, cut, .. } = s.servers[at];
        let seen = Seen::default();
        s.servers[at] = Server { health: Health::Down, row, cut, seen, ..s.servers[2].blank() };
    }
}

impl Server {
    fn blank(self) -> Self {
        Self {
            stale: false,
            deaf: false,
            start_over: false,
            deaf_reread: false,
            second: false,
            hint: 0,
            ..self
        }
    }
}

impl Model for Delivery {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self, false), State::new(self, true)]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        self.progress(s, actions);
        self.faults(s, actions);
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut s = before.clone();
        match action {
            Action::Send
            | Action::Step
            | Action::Refuse
            | Action::Overdue
            | Action::WriteBoard
            | Action::LatePut
            | Action::LatePutVanishes => self.send(&mut s, action),
            Action::Deliver { at, receipt_lost } => self.deliver(&mut s, at, receipt_lost),
            Action::Lose(at) => {
                s.losses -= 1;
                s.bus.remove(at);
            }
            Action::Release(i)
            | Action::Claim(i)
            | Action::ClaimFails(i)
            | Action::ClaimAgain(i)
            | Action::ReadMailbox(i)
            | Action::ReadDone(i) => self.connect(&mut s, i, action),
            Action::ReadBoard(at)
            | Action::SecondReRead(at)
            | Action::StartOver(at)
            | Action::ReReadDeaf(at)
            | Action::NoticeCut(at)
            | Action::NoticeBack(at)
            | Action::Wake(at)
            | Action::Revive(at) => self.keep(&mut s, at, action),
            _ => self.fault(&mut s, action),
        }
        self.rest(&mut s);
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("I1 acked means durable", |_, s: &State| s.acked <= s.log),
            Property::always("I2 raise, then put", |_, s: &State| s.last >= s.log),
            Property::always("I4 persist before locate", |_, s: &State| s.cached.is_none()),
            Property::always("I5 claim before catch-up", |_, s: &State| {
                s.sockets.iter().all(|s| s.claim_tried || s.reading == Reading::New)
            }),
            Property::always("I6 only its owner removes a map entry", |_, s: &State| {
                let stands = |(socket, stands): (&Socket, bool)| {
                    stands || !socket.open || !socket.holds || socket.lost
                };
                s.sockets.iter().zip(s.map).all(stands)
            }),
            Property::always("I9 a hint is kept until confirmed", |_, s: &State| {
                let last = s.record.map_or(0, |record| record.last);
                let kept = |owed: &Seq| (*owed).max(1) <= last.max(s.slow).max(s.hints);
                !s.is_up(SENDER) || s.owed.iter().all(|owed| *owed == 0 || kept(owed))
            }),
            Property::always("P3 nothing lost", |model: &Delivery, s: &State| {
                s.got >= s.acked || !s.is_connected() || !model.quiet(s)
            }),
            Property::sometimes("all is received and quiet", |model: &Delivery, s: &State| {
                s.sends == 0 && s.acked == model.sends && s.got == s.log && model.quiet(s)
            }),
        ];
        if !self.long_pause {
            properties.push(Property::always(
                "I10 liveness stands where the messages stand",
                |_, s: &State| !s.void_put,
            ));
            // Without an answer nothing is promised, but what stands is offered to everybody.
            properties.push(Property::always(
                "P3 what is stored is offered",
                |model: &Delivery, s: &State| {
                    s.got >= s.log || !s.is_connected() || !model.quiet(s)
                },
            ));
        }
        properties
    }
}

impl Modelled for Delivery {
    const WINDOWS: &'static [&'static str] = &WINDOWS;

    fn windows(&self) -> &Windows {
        &self.windows
    }
}
