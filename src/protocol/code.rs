//! Every error code and close code that Parlor says, each with its rule for clients.
//!
//! The one table for people is `docs/protocol.md`; a test holds the two together. Codes 4000–4499
//! mean "stop", codes 4500–4999 "back off with full jitter and reconnect"; below 4000 they are
//! those of RFC 6455 §7.4.1.

/// Why a command or request was refused. The same names stand in `error` frames and in HTTP
/// problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The input is not what the protocol allows; the detail says what is.
    BadRequest,
    /// A message, its data, a frame or a body is over its limit.
    TooLarge,
    /// Unknown, or nothing that the caller has part in: the two are not told apart (P9).
    NotFound,
    /// The caller may see it, and may not do this with it.
    Forbidden,
    /// No identity, or one that does not hold.
    Unauthorized,
    /// The same `ref` was used with another body (P2).
    RefConflict,
    /// The first try with this `ref` may lie more than 1,000 entries back (P2).
    RefExpired,
    /// Over a bound; wait `retryAfterMs` and send again.
    RateLimited,
    /// The store or this server can't take it now; nothing was promised; send again with the same
    /// `ref`.
    Unavailable,
}

impl ErrorCode {
    /// All codes, in the order of the table.
    pub const ALL: [ErrorCode; 9] = [
        Self::BadRequest,
        Self::TooLarge,
        Self::NotFound,
        Self::Forbidden,
        Self::Unauthorized,
        Self::RefConflict,
        Self::RefExpired,
        Self::RateLimited,
        Self::Unavailable,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::TooLarge => "too_large",
            Self::NotFound => "not_found",
            Self::Forbidden => "forbidden",
            Self::Unauthorized => "unauthorized",
            Self::RefConflict => "ref_conflict",
            Self::RefExpired => "ref_expired",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
        }
    }

    /// Whether the same send may succeed later, unchanged.
    pub fn retryable(self) -> bool {
        matches!(self, Self::RateLimited | Self::Unavailable)
    }

    /// The HTTP status of the same refusal.
    pub fn http_status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::RefConflict => 409,
            Self::RefExpired => 410,
            Self::TooLarge => 413,
            Self::RateLimited => 429,
            Self::Unavailable => 503,
        }
    }

    /// The title of an HTTP problem, the same wherever it is answered: of the code, or the
    /// `reason` of the status where that is another than the code's.
    pub fn title(self, status: u16, reason: &str) -> &str {
        if status != self.http_status() {
            return reason;
        }
        match self {
            Self::BadRequest => "The request is not what is taken here",
            Self::TooLarge => "Something is over its limit",
            Self::NotFound => "Nothing there that you have part in",
            Self::Forbidden => "Not allowed",
            Self::Unauthorized => "Who are you",
            Self::RefConflict => "The same Idempotency-Key came with another body",
            Self::RefExpired => "The Idempotency-Key is too old",
            Self::RateLimited => "Too fast",
            Self::Unavailable => "Not available now",
        }
    }
}

/// Why the server closed a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// The answer to the client's own close.
    Normal,
    /// The frame breaks RFC 6455.
    Protocol,
    /// A binary frame: Parlor speaks text.
    Unsupported,
    /// Text that is not UTF-8.
    NotUtf8,
    /// A frame or message that is too long (`frameBytes` of `welcome`), or comes in crumbs.
    TooBig,
    /// A fault of the server's own.
    Internal,
    /// The server is restarting or draining: reconnect, somewhere else.
    Restart,
    /// A person has one socket too many, and this one is the oldest.
    TooManySockets,
    /// No identity, or one that ended.
    Unauthorized,
    /// The client did not take what it was sent; nothing is lost, it catches up when it returns.
    Slow,
    /// No answer to pings.
    Silent,
}

impl CloseCode {
    /// All codes, in the order of the table.
    pub const ALL: [CloseCode; 11] = [
        Self::Normal,
        Self::Protocol,
        Self::Unsupported,
        Self::NotUtf8,
        Self::TooBig,
        Self::Internal,
        Self::Restart,
        Self::TooManySockets,
        Self::Unauthorized,
        Self::Slow,
        Self::Silent,
    ];

    /// The number in the close frame.
    pub fn number(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::Protocol => 1002,
            Self::Unsupported => 1003,
            Self::NotUtf8 => 1007,
            Self::TooBig => 1009,
            Self::Internal => 1011,
            Self::Restart => 1012,
            Self::TooManySockets => 4001,
            Self::Unauthorized => 4401,
            Self::Slow => 4508,
            Self::Silent => 4509,
        }
    }

    /// The reason in the close frame: a short sentence for whoever debugs a client.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Normal => "bye",
            Self::Protocol => "protocol error",
            Self::Unsupported => "text frames only",
            Self::NotUtf8 => "text must be UTF-8",
            Self::TooBig => "longer than frameBytes in welcome, or in crumbs",
            Self::Internal => "internal error, reconnect",
            Self::Restart => "server restarting, reconnect",
            Self::TooManySockets => "too many sockets, a newer one took the place",
            Self::Unauthorized => "not authorized",
            Self::Slow => "too slow, reconnect and catch up",
            Self::Silent => "no answer to pings, reconnect",
        }
    }

    /// Whether a client should come back by itself, after a back-off with full jitter.
    pub fn reconnect(self) -> bool {
        matches!(self, Self::Internal | Self::Restart | Self::Slow | Self::Silent)
    }
}
