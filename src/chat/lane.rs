//! A lane per conversation and OS process: all appends of a conversation go through it.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{ChatError, Sent};
use crate::hub::Outbox;
use crate::protocol::{ConversationId, DeviceId, Entry, Kind, Ref, Seq, SocketId, UserId};
use crate::store::{Member, Store};

/// Where the answer to an append goes.
#[derive(Debug)]
pub enum Reply {
    /// To a socket: as `Event::Sent`, or `Event::Refused` with the encoded `error` frame.
    Socket(Arc<Outbox>),
    /// To a caller that waits.
    Call(oneshot::Sender<Result<Sent, ChatError>>),
}

/// The process part that an append came through: it hands the stored entry on.
pub trait Origin: Send + Sync + 'static {
    /// Whether the part's own board row was written in the last 10 s; if not, nothing is appended.
    fn may_append(&self) -> bool;
    /// Takes over a stored entry: locates, delivers, keeps the hint until it is confirmed. Called
    /// in the order of seq; must not block.
    fn hand_on(&self, handed: HandedOn);
}

/// A stored entry on its way to people.
#[derive(Debug, Clone)]
pub struct HandedOn {
    /// Its log.
    pub conversation: ConversationId,
    /// The entry.
    pub entry: Arc<Entry>,
    /// The socket that sent it and gets no copy.
    pub sender: Option<SocketId>,
    /// The room's roster as of this entry; `None` for a direct conversation.
    pub roster: Option<Arc<Vec<Member>>>,
}

/// Something to be appended.
pub struct Append {
    /// To which log.
    pub conversation: ConversationId,
    /// Who does it.
    pub from: UserId,
    /// From which device.
    pub device: DeviceId,
    /// What it does.
    pub kind: Kind,
    /// The recipient of a direct message, the member who joined or left.
    pub to: Option<UserId>,
    /// The text.
    pub message: Option<Arc<str>>,
    /// The sender's own JSON.
    pub data: Option<Arc<serde_json::value::RawValue>>,
    /// The client's name for the send.
    pub reference: Option<Ref>,
    /// The seq that the client knew at its first try.
    pub after: Option<Seq>,
    /// Where the answer goes.
    pub reply: Reply,
    /// Who hands it on.
    pub origin: Arc<dyn Origin>,
}

/// All lanes of this OS process.
pub struct Lanes {
    _store: Arc<dyn Store>,
}

impl Lanes {
    /// Lanes over a store.
    pub fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { _store: store })
    }

    /// Puts an append into its lane. Never blocks; the answer goes to `reply`, always.
    pub fn submit(self: &Arc<Self>, _append: Append) {
        unimplemented!()
    }

    /// A device has received up to `seq`: the cursor rides on the next raise of that row.
    pub fn note_received(
        &self,
        _conversation: &ConversationId,
        _user: &UserId,
        _device: &DeviceId,
        _seq: Seq,
    ) {
        unimplemented!()
    }

    /// Waits until no lane has work; at most as long as the caller waits.
    pub async fn finish(&self) {
        unimplemented!()
    }
}
