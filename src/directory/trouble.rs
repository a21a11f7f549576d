//! What an error of Redis means: a name for the metrics, what an operator should do, and whether
//! another connection may help.
//!
//! Every trouble is the same to the callers: the hint goes the slow way. So nothing here is tried
//! again; a claim that failed is repeated by its owner.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// What an error of Redis means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No answer in time.
    Timeout,
    /// The connection broke, or none can be made.
    Lost,
    /// It takes no writes: after a failover this connection leads to what was the primary.
    ReadOnly,
    /// It has just started and loads its data.
    Loading,
    /// Its memory is full.
    Full,
    /// The password or the rights do not do.
    Denied,
    /// A script of somebody's keeps it busy.
    Busy,
    /// A cluster answered where a single server was expected, or a cluster of which a part is away.
    Moved,
    /// Anything else that it said.
    Refused,
}

impl Trouble {
    /// By what an error says: by its first word where the server said it.
    pub(crate) fn of(error: &RedisError) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        if error.kind() == ErrorKind::AuthenticationFailed {
            return Self::Denied;
        }
        if error.is_io_error() {
            return Self::Lost;
        }
        let said = error.clone().into_server_errors();
        let first = said.as_ref().and_then(|errors| errors.first());
        first.map_or(Self::Refused, |(_, error)| Self::of_code(error.code()))
    }

    /// By the word that an error of the server begins with.
    pub(crate) fn of_code(code: &str) -> Self {
        match code {
            "READONLY" | "MASTERDOWN" | "NOREPLICAS" => Self::ReadOnly,
            "LOADING" => Self::Loading,
            "OOM" => Self::Full,
            "NOAUTH" | "WRONGPASS" | "NOPERM" => Self::Denied,
            "BUSY" => Self::Busy,
            "MOVED" | "ASK" | "CLUSTERDOWN" | "CROSSSLOT" | "TRYAGAIN" => Self::Moved,
            _ => Self::Refused,
        }
    }

    /// The outcome's name in the metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Lost => "lost",
            Self::ReadOnly => "readonly",
            Self::Loading => "loading",
            Self::Full => "full",
            Self::Denied => "denied",
            Self::Busy => "busy",
            Self::Moved => "moved",
            Self::Refused => "error",
        }
    }

    /// What an operator should know, where waiting is not enough.
    pub(crate) fn advice(self, of_a_cluster: bool) -> Option<&'static str> {
        match self {
            Self::ReadOnly => Some("it takes no writes: is this address still the primary's?"),
            Self::Full => Some("its memory is full: give it more (maxmemory)"),
            Self::Denied => {
                Some("it refuses these rights: check the password and deploy/redis-acl.conf")
            }
            Self::Busy => Some("a script keeps it busy: see SCRIPT KILL"),
            Self::Moved if of_a_cluster => {
                Some("a part of it moves or has no master: see redis-cli --cluster check")
            }
            Self::Moved => Some("it is a cluster: give its address as redis+cluster://"),
            Self::Timeout | Self::Lost | Self::Loading | Self::Refused => None,
        }
    }

    /// Whether the same address may lead elsewhere by now.
    pub(crate) fn wants_another_connection(self) -> bool {
        self == Self::ReadOnly
    }
}

/// What an error at the start says to whoever has just written the command line.
pub(crate) fn said(error: &RedisError) -> String {
    match Trouble::of(error) {
        Trouble::Timeout | Trouble::Lost => format!("does not answer: {error}"),
        Trouble::Denied if is_forbidden(error) => format!(
            "refuses (NOPERM): its user lacks a right of those in deploy/redis-acl.conf: {error}"
        ),
        Trouble::Denied => format!(
            "refuses ({}): check the user in --redis and --redis-password-file",
            error.code().unwrap_or("the password")
        ),
        _ => format!("refuses: {error}"),
    }
}

/// Whether the user may not do that, or not there.
pub(crate) fn is_forbidden(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}
