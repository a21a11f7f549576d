//! What a message costs on its way, step by step: reading its frame, the limits, putting it into a
//! store, handing it on, writing it out.
//!
//! `cargo bench --bench hot` prints the times. They are of one machine; what holds elsewhere is how
//! they stand to each other, and whether a step keeps far from its bound: a check of a limit may
//! take 100 ns (`docs/adr/0005-rates-in-a-fixed-table.md`), and each frame passes two of them. An
//! append into SQLite is the disk's time above all: `TMPDIR` says which disk.

// A benchmark that can't begin has nothing to say.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use futures_util::FutureExt;
use parlor::auth::{Options, Verifier, mint};
use parlor::board::embedded::EmbeddedBoard;
use parlor::board::{BoardRow, Role};
use parlor::bus::embedded::EmbeddedBus;
use parlor::bus::signing::{Guard, Keys, Signer};
use parlor::bus::{Bus, Heard};
use parlor::chat::lane::{Handed, HandedOn, Lanes, Origin};
use parlor::chat::liveness::Liveness;
use parlor::chat::{Chat, Opening, Parts};
use parlor::directory::embedded::EmbeddedDirectory;
use parlor::directory::{Directory, SocketEntry};
use parlor::gateway::framing::{Decoder, Incoming, put_text};
use parlor::hub::{Outbox, Who};
use parlor::limits::{Limits, Rate, Settings};
use parlor::protocol::{
    ClientFrame, ConversationId, DeviceId, Entry, Envelope, Epoch, ProcessId, Receipt, Sizes,
    SocketId, UserId, answer,
};
use parlor::store::Store;
use parlor::store::embedded::{EmbeddedStore, FolderLock};
use parlor::store::memory::MemoryStore;
use parlor::telemetry::Metrics;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

fn main() {
    divan::main();
}

const FRAME: &str = concat!(
    r#"{"type":"message","to":"userB","message":"Is the bicycle still for sale?","#,
    r#""ref":"01J9Z3"}"#
);
const ENTRY: &str = concat!(
    r#"{"seq":41,"kind":"message","from":"userA","to":"userB","#,
    r#""message":"Is the bicycle still for sale?","ref":"01J9Z3","device":"phone","#,
    r#""timestamp":1780000000000,"n":40}"#
);

fn conversation() -> ConversationId {
    ConversationId::parse("dm:userA:userB").unwrap()
}

fn entry() -> Entry {
    serde_json::from_str(ENTRY).unwrap()
}

/// So many frames as a client sends them. A mask of zeros is taken off like any other, and leaves
/// the bytes as they were for the next time.
fn masked(count: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    put_text(&mut frame, FRAME.as_bytes());
    frame[1] |= 0x80;
    frame.splice(2..2, [0; 4]);
    frame.repeat(count)
}

/// What was read from a socket in one go.
#[divan::bench(args = [1, 64], sample_size = 1000)]
fn take_frames_apart(bencher: Bencher, count: usize) {
    let (mut decoder, mut bytes) = (Decoder::default(), masked(count));
    bencher.bench_local(|| {
        let (mut input, mut length) = (black_box(&mut bytes[..]), 0);
        while let Some(Incoming::Text { text, .. }) =
            decoder.next(&mut input, Sizes::MOST.frame).unwrap()
        {
            length += text.len();
        }
        assert_eq!(length, count * FRAME.len());
    });
}

/// The same frame in two reads.
#[divan::bench(sample_size = 1000)]
fn put_a_cut_frame_together(bencher: Bencher) {
    let (mut decoder, mut bytes) = (Decoder::default(), masked(1));
    bencher.bench_local(|| {
        let (mut begin, mut end) = black_box(&mut bytes[..]).split_at_mut(40);
        assert!(decoder.next(&mut begin, Sizes::MOST.frame).unwrap().is_none());
        assert!(decoder.next(&mut end, Sizes::MOST.frame).unwrap().is_some());
    });
}

#[divan::bench(sample_size = 1000)]
fn put_a_frame_around_a_text(bencher: Bencher) {
    let mut out = Vec::new();
    bencher.bench_local(|| {
        out.clear();
        put_text(&mut out, black_box(FRAME.as_bytes()));
    });
}

#[divan::bench(sample_size = 1000)]
fn read_a_message_frame(bencher: Bencher) {
    bencher.bench(|| ClientFrame::parse(black_box(FRAME), &Sizes::MOST).unwrap());
}

#[divan::bench(sample_size = 1000)]
fn write_a_message_out(bencher: Bencher) {
    let (conversation, entry) = (conversation(), entry());
    bencher.bench(|| answer::entry(black_box(&conversation), black_box(&entry), false));
}

fn envelope() -> Envelope {
    Envelope::Entry {
        conversation: conversation(),
        entry: entry().into(),
        users: vec![UserId::parse("userB").unwrap()],
        roster: None,
        via: ProcessId::parse("ws1").unwrap(),
        again: false,
    }
}

#[divan::bench(sample_size = 1000)]
fn write_an_envelope(bencher: Bencher) {
    let (envelope, mut out) = (envelope(), Vec::new());
    bencher.bench_local(|| {
        out.clear();
        black_box(&envelope).write(&mut out);
    });
}

#[divan::bench(sample_size = 1000)]
fn read_an_envelope(bencher: Bencher) {
    let mut out = Vec::new();
    envelope().write(&mut out);
    let text = String::from_utf8(out).unwrap();
    bencher.bench(|| serde_json::from_str::<Envelope>(black_box(&text)).unwrap());
}

fn keys() -> Keys {
    Keys::new(["a key for times, of 32 characters"]).unwrap().unwrap()
}

/// A publish of so many envelopes, signed.
fn publish(signer: &Signer, batch: &[u8]) -> Vec<u8> {
    let mut payload = signer.begin();
    payload.extend_from_slice(batch);
    signer.finish(&mut payload, "messages:ws1");
    payload
}

fn batch(count: usize) -> Vec<u8> {
    let mut one = Vec::new();
    envelope().write(&mut one);
    [b"[", vec![one; count].join(&b","[..]).as_slice(), b"]"].concat()
}

#[divan::bench(args = [1, 16], sample_size = 100)]
fn sign_a_publish(bencher: Bencher, count: usize) {
    let (signer, batch) = (Signer::new(keys()), batch(count));
    bencher
        .counter(ItemsCount::new(count))
        .bench_local(|| publish(black_box(&signer), black_box(&batch)));
}

/// Each is opened once: the guard refuses what it has seen.
#[divan::bench(args = [1, 16], sample_size = 100)]
fn open_a_signed_publish(bencher: Bencher, count: usize) {
    let (signer, batch) = (Signer::new(keys()), batch(count));
    let guard = Guard::new(Some(keys()), "messages:ws1".to_owned());
    bencher
        .counter(ItemsCount::new(count))
        .with_inputs(|| publish(&signer, &batch))
        .bench_local_values(|payload| guard.open(black_box(&payload)).unwrap().len());
}

/// What a handshake, and each request, is asked for where the secret is shared: HS256.
#[divan::bench(sample_size = 100)]
fn verify_a_token(bencher: Bencher) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    mint::new_secret(&file).unwrap();
    let token = mint::for_an_hour(&file, "user-123456", "user").unwrap();
    let user_claim = "sub".to_owned();
    let options = Options { jwt_secret_file: vec![file], user_claim, ..Options::default() };
    let verifier = Verifier::start(&options).now_or_never().unwrap().unwrap().unwrap();
    bencher.bench_local(|| verifier.verify(black_box(&token)).now_or_never().unwrap().unwrap());
}

/// Both checks of a frame, by count and by bytes, of so many users in turn: their slots are in the
/// cache or not.
#[divan::bench(args = [1, 1_000, 100_000], sample_size = 1000)]
fn check_the_limits_of_a_frame(bencher: Bencher, users: usize) {
    // So high that each check passes: it is then that it writes.
    let much = Some(Rate::new(u32::MAX, u32::MAX));
    let limits = Limits::new(Settings { frames: much, bytes: much, ..Settings::default() });
    let names = (0..users).map(|user| UserId::parse(&format!("user{user}")).unwrap());
    let keys: Vec<_> = names.map(|name| limits.key(&name)).collect();
    let mut turn = keys.iter().cycle();
    let now = Instant::now();
    bencher.bench_local(|| {
        let key = *turn.next().unwrap();
        limits.frame(black_box(key), FRAME.len(), now).unwrap();
    });
}

/// The clock is read once for all that arrived together.
#[divan::bench(sample_size = 1000)]
fn read_the_clock() -> Instant {
    Instant::now()
}

/// A server ws1 on embedded parts, whose clock stands at the moment when [`ENTRY`] was stored: what
/// is handed on is new.
struct Server {
    /// Keeps the view of the board young while something is measured: an old one sends hints the
    /// slow way as well.
    runtime: Runtime,
    chat: Arc<Chat>,
    bus: Arc<EmbeddedBus>,
    stop: CancellationToken,
}

impl Server {
    /// One where the map says that userB has a socket on this server.
    fn with_user_b_on(server: &str) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let (bus, stop) = (Arc::new(EmbeddedBus::default()), CancellationToken::new());
        let chat = runtime.block_on(chat(server, bus.clone(), stop.clone()));
        Self { runtime, chat, bus, stop }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn chat(server: &str, bus: Arc<EmbeddedBus>, stop: CancellationToken) -> Arc<Chat> {
    let ws1 = ProcessId::parse("ws1").unwrap();
    let row = BoardRow::new(ws1, Epoch(7), Role::Server, "127.0.0.1:3001");
    let row = BoardRow { beat: 1, accepting: true, ..row };
    let board = Arc::new(EmbeddedBoard::default());
    let (liveness, _) = Liveness::start(board, row, true, stop).await.unwrap();
    let directory = Arc::new(EmbeddedDirectory::default());
    let socket = SocketEntry {
        socket_id: who().socket,
        server: ProcessId::parse(server).unwrap(),
        epoch: Epoch(7),
        device: who().device,
        claim: 1,
    };
    directory.claim(&who().user, &socket, &[]).await.unwrap();
    let store = Arc::new(MemoryStore::default());
    let stored = entry().timestamp;
    Chat::new(Parts {
        store: store.clone(),
        directory,
        bus,
        lanes: Lanes::new(store),
        reads: Arc::default(),
        liveness,
        limits: Limits::none(),
        metrics: Arc::new(Metrics::new("ws1")),
        clock: Arc::new(move || stored),
        opening: Opening::default(),
    })
}

/// userB's socket.
fn who() -> Who {
    let user = UserId::parse("userB").unwrap();
    Who { user, device: DeviceId::plain(), socket: SocketId(1) }
}

/// [`ENTRY`] as its lane gives it away.
fn handed_on(entry: &Arc<Entry>) -> HandedOn {
    let entries = vec![Handed { entry: entry.clone(), sender: None, repeated: false }];
    HandedOn { conversation: conversation(), entries, roster: None }
}

/// A stored entry into the outbox of its recipient on this server; his receipt ends the hint, so
/// each begins anew.
#[divan::bench(sample_size = 1000)]
fn route_to_a_socket_here(bencher: Bencher) {
    let (server, entry, who) = (Server::with_user_b_on("ws1"), Arc::new(entry()), who());
    let _runtime = server.runtime.enter();
    let outbox = Arc::new(Outbox::new(who.clone()));
    server.chat.hub.enter(outbox.clone());
    let (conversation, me) = (conversation(), &server.chat.me.id);
    bencher.bench_local(|| {
        server.chat.hand_on(black_box(handed_on(&entry)));
        assert_eq!(outbox.take_now().len(), 1);
        server.chat.received(&who, &conversation, entry.seq, Some(me), Receipt::Delivered);
    });
    assert!(server.chat.hints_settled().now_or_never().is_some(), "hints are left");
}

/// The same to the bus, for the server that holds his socket. Nobody answers, so but for the first
/// one the hint stands already, as in a busy conversation.
#[divan::bench(sample_size = 1000)]
fn route_to_another_server(bencher: Bencher) {
    let (server, entry) = (Server::with_user_b_on("ws2"), Arc::new(entry()));
    let _runtime = server.runtime.enter();
    let there = ProcessId::parse("ws2").unwrap();
    let mut there = server.runtime.block_on(server.bus.subscribe(&there)).unwrap();
    bencher.bench_local(|| {
        server.chat.hand_on(black_box(handed_on(&entry)));
        let Ok(Heard::Batch(batch)) = there.try_recv() else { panic!("nothing left for ws2") };
        assert_eq!(batch.len(), 1);
    });
}

/// So many entries; the first that are put begin behind them.
fn entries(count: usize) -> Vec<Entry> {
    (1..=count as u64).map(|seq| Entry { seq, ..entry() }).collect()
}

/// Moves them behind those that were put before.
fn renumber(entries: &mut [Entry]) -> &[Entry] {
    let count = entries.len() as u64;
    entries.iter_mut().for_each(|entry| entry.seq += count);
    entries
}

/// What a lane has gathered meanwhile goes with one append: into maps.
#[divan::bench(args = [1, 32], sample_size = 100)]
fn append_in_memory(bencher: Bencher, count: usize) {
    let (store, log, mut entries) = (MemoryStore::default(), conversation(), entries(count));
    bencher.counter(ItemsCount::new(count)).bench_local(|| {
        let put = store.append(&log, black_box(renumber(&mut entries))).now_or_never();
        assert_eq!(put, Some(Ok(count)));
    });
}

/// And into SQLite, durably: one commit each.
#[divan::bench(args = [1, 32], sample_size = 1)]
fn append_on_a_disk(bencher: Bencher, count: usize) {
    let folder = tempfile::tempdir().unwrap();
    let _lock = FolderLock::take(folder.path()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (store, log) = (EmbeddedStore::open(folder.path()).unwrap(), conversation());
    let mut entries = entries(count);
    bencher.counter(ItemsCount::new(count)).bench_local(|| {
        let put = runtime.block_on(store.append(&log, black_box(renumber(&mut entries))));
        assert_eq!(put, Ok(count));
    });
}
