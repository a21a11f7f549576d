//! The options of what runs beside the service and ends: `table`, `store` and `chat`. The roles'
//! stand in `config.rs`; their doc comments are the help as well.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::protocol::{ConversationId, DeviceId, UserId};

/// `parlor table`
#[derive(Debug, Clone, Args)]
pub struct Table {
    /// What to do.
    #[command(subcommand)]
    pub command: TableCommand,
    /// DynamoDB: `aws`, or the URL of DynamoDB Local
    #[arg(
        long,
        value_name = "URL|aws",
        global = true,
        hide_env_values = true,
        env = "PARLOR_DYNAMODB"
    )]
    pub dynamodb: Option<String>,
    /// The table's name
    #[arg(
        long,
        value_name = "NAME",
        default_value = "parlor",
        global = true,
        env = "PARLOR_TABLE"
    )]
    pub table: String,
    /// The folder of `parlor up`, in place of DynamoDB
    #[arg(
        long,
        value_name = "DIR",
        global = true,
        conflicts_with = "dynamodb",
        env = "PARLOR_DATA"
    )]
    pub data: Option<PathBuf>,
}

/// What `parlor table` does.
#[derive(Debug, Clone, Subcommand)]
pub enum TableCommand {
    /// Make the table, on-demand billing, with TTL
    Create,
    /// Say whether the table is as Parlor needs it
    Check,
    /// Print a conversation's messages with their status
    Show {
        /// Which, like dm:userA:userB or room:general
        conversation: ConversationId,
    },
}

/// `parlor store`
#[derive(Debug, Clone, Args)]
pub struct Store {
    /// What to do.
    #[command(subcommand)]
    pub command: StoreCommand,
    /// The folder of `parlor up`
    #[arg(
        long,
        value_name = "DIR",
        default_value = "./parlor-data",
        global = true,
        env = "PARLOR_DATA"
    )]
    pub data: PathBuf,
}

/// What `parlor store` does.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum StoreCommand {
    /// Read everything and say what is damaged; beside a running parlor as well
    Check,
    /// Go on with what is left after something acknowledged was lost, keeping the damaged log
    AcceptLoss,
}

/// `parlor chat`
#[derive(Debug, Clone, Args)]
pub struct Chat {
    /// Who you are; beside a token it may be left out
    #[arg(long = "as", value_name = "USER", env = "PARLOR_AS")]
    pub user: Option<UserId>,
    /// Whom to write to; /to USER changes it
    #[arg(long, value_name = "USER", env = "PARLOR_TO")]
    pub to: Option<UserId>,
    /// The balancer, or a server: ws://HOST:PORT/ws, or wss:// for TLS
    #[arg(
        long,
        default_value = "ws://localhost:8080/ws",
        hide_env_values = true,
        env = "PARLOR_URL"
    )]
    pub url: String,
    /// Of wss:// trust the authorities in this PEM file, and no others
    #[arg(long, value_name = "FILE", env = "PARLOR_CA")]
    pub ca: Option<PathBuf>,
    /// Which of your devices this is
    #[arg(long, value_name = "DEVICE", default_value = "terminal", env = "PARLOR_DEVICE")]
    pub device: DeviceId,
    /// Your token
    #[command(flatten)]
    pub carried: crate::auth::Carried,
}
