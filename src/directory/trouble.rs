//! What an error of Redis means: a name for the metrics, what an operator should do, and whether
//! another connection may help.
//!
//! Every trouble is the same to the callers: the hint goes the slow way. So nothing here is tried
//! again; a claim that failed is repeated by its owner.

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
    /// A cluster answered, and this address was given as that of a single server.
    Moved,
    /// Anything else that it said.
    Refused,
}

impl Trouble {
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
    pub(crate) fn advice(self) -> Option<&'static str> {
        match self {
            Self::ReadOnly => Some("it takes no writes: is this address still the primary's?"),
            Self::Full => Some("its memory is full: give it more (maxmemory)"),
            Self::Denied => Some("it refuses these rights: check the password and the ACL"),
            Self::Busy => Some("a script keeps it busy: see SCRIPT KILL"),
            Self::Moved => Some("it is a cluster: give its address as redis+cluster://"),
            Self::Timeout | Self::Lost | Self::Loading | Self::Refused => None,
        }
    }

    /// Whether the same address may lead elsewhere by now.
    pub(crate) fn wants_another_connection(self) -> bool {
        self == Self::ReadOnly
    }
}
