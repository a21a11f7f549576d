//! What is limited, by the names that metrics and refusals have for it.

/// What is limited. The names are those of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Sockets of a server.
    Sockets,
    /// Open files of the process.
    Files,
    /// Sockets of an address.
    SocketsPerAddress,
    /// Sockets of a user.
    SocketsPerUser,
    /// Connections whose head has not come.
    HalfOpen,
    /// Such connections of an address.
    HalfOpenPerAddress,
    /// Connections of plain HTTP.
    Plain,
    /// Such connections of an address.
    PlainPerAddress,
    /// Handshakes, and tokens that do not hold in requests and on open sockets, of an address.
    Handshakes,
    /// Sockets that a user opens.
    HandshakesPerUser,
    /// Frames of a user.
    Frames,
    /// Bytes of a user's frames and requests.
    Bytes,
    /// Messages of a user.
    Messages,
    /// Signals of a user.
    Signals,
    /// Conversations that a user opens.
    NewConversations,
    /// Conversations that a user has.
    Conversations,
    /// Requests of a user.
    Requests,
    /// A request head that is too long.
    HeadBytes,
    /// A request head that did not come in time.
    HeadTime,
    /// A frame, or a message in many, that is too long.
    FrameBytes,
    /// A message that is too long.
    MessageBytes,
    /// `data` that is too long.
    DataBytes,
    /// `data` that is nested too deep.
    JsonDepth,
    /// What waits for one conversation, and conversations that are being written to.
    Appends,
    /// Signals under way on a server.
    SignalsUnderWay,
    /// Tokens that are being renewed.
    Renewals,
}

impl Limit {
    /// All of them: each stands in the table of `docs/protocol.md`.
    pub const ALL: [Limit; 26] = [
        Self::Sockets,
        Self::Files,
        Self::SocketsPerAddress,
        Self::SocketsPerUser,
        Self::HalfOpen,
        Self::HalfOpenPerAddress,
        Self::Plain,
        Self::PlainPerAddress,
        Self::Handshakes,
        Self::HandshakesPerUser,
        Self::Frames,
        Self::Bytes,
        Self::Messages,
        Self::Signals,
        Self::NewConversations,
        Self::Conversations,
        Self::Requests,
        Self::HeadBytes,
        Self::HeadTime,
        Self::FrameBytes,
        Self::MessageBytes,
        Self::DataBytes,
        Self::JsonDepth,
        Self::Appends,
        Self::SignalsUnderWay,
        Self::Renewals,
    ];

    /// Its name in `parlor_limited_total`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sockets => "sockets",
            Self::Files => "files",
            Self::SocketsPerAddress => "sockets_per_address",
            Self::SocketsPerUser => "sockets_per_user",
            Self::HalfOpen => "half_open",
            Self::HalfOpenPerAddress => "half_open_per_address",
            Self::Plain => "plain",
            Self::PlainPerAddress => "plain_per_address",
            Self::Handshakes => "handshakes",
            Self::HandshakesPerUser => "handshakes_per_user",
            Self::Frames => "frames",
            Self::Bytes => "bytes",
            Self::Messages => "messages",
            Self::Signals => "signals",
            Self::NewConversations => "new_conversations",
            Self::Conversations => "conversations",
            Self::Requests => "requests",
            Self::HeadBytes => "head_bytes",
            Self::HeadTime => "head_time",
            Self::FrameBytes => "frame_bytes",
            Self::MessageBytes => "message_bytes",
            Self::DataBytes => "data_bytes",
            Self::JsonDepth => "json_depth",
            Self::Appends => "appends",
            Self::SignalsUnderWay => "signals_under_way",
            Self::Renewals => "renewals",
        }
    }

    /// Whether an address has met it, not a user or a process.
    pub fn is_of_an_address(self) -> bool {
        matches!(
            self,
            Self::SocketsPerAddress
                | Self::HalfOpenPerAddress
                | Self::PlainPerAddress
                | Self::Handshakes
        )
    }

    /// Whether many wait for the same: behind one address, or for one process.
    pub(super) fn is_shared(self) -> bool {
        let of_a_process = matches!(self, Self::Sockets | Self::HalfOpen | Self::Plain);
        of_a_process || self.is_of_an_address()
    }

    pub(super) fn detail(self) -> &'static str {
        match self {
            Self::Sockets | Self::Files => "this server has all the sockets that it takes",
            Self::SocketsPerAddress => "your address has all the sockets that it may have here",
            Self::SocketsPerUser => "you have all the sockets that one may have",
            Self::HalfOpen | Self::Plain => "this process has all the connections that it takes",
            Self::HalfOpenPerAddress | Self::PlainPerAddress => {
                "your address has all the connections that it may have here"
            }
            Self::Handshakes => "too many connections from your address",
            Self::HandshakesPerUser => "you have opened too many sockets of late",
            Self::Frames => "too many frames",
            Self::Bytes => "too many bytes",
            Self::Messages => "too many messages",
            Self::Signals => "too many signals",
            Self::NewConversations => "too many new conversations",
            Self::Conversations => "one of you has all the conversations that one may have",
            Self::Requests => "too many requests",
            Self::HeadBytes => "the request head is too long",
            Self::HeadTime => "the request head took too long",
            Self::FrameBytes => "the frame is too long",
            Self::MessageBytes => "the message is too long",
            Self::DataBytes => "the data is too long",
            Self::JsonDepth => "the data is nested too deep",
            Self::Appends => "this conversation is too busy",
            Self::SignalsUnderWay => "too many signals are under way",
            Self::Renewals => "too many tokens are being renewed",
        }
    }

    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::Conversations => "write where there is one, waiting alone does not help",
            _ => "wait and try again",
        }
    }
}
