//! Picks the adapters: the only file that names concrete ones. URLs decide.

use std::path::Path;
use std::sync::Arc;

use crate::board::Board;
use crate::board::dynamodb::DynamoBoard;
use crate::board::embedded::EmbeddedBoard;
use crate::bus::Bus;
use crate::bus::embedded::EmbeddedBus;
use crate::bus::redis::RedisBus;
use crate::config::Parts;
use crate::directory::Directory;
use crate::directory::embedded::EmbeddedDirectory;
use crate::directory::redis::RedisDirectory;
use crate::store::Store;
use crate::store::dynamodb::DynamoStore;
use crate::store::embedded::{EmbeddedStore, FolderLock, OpenError};
use crate::telemetry::Metrics;

/// Where the embedded store keeps its data.
#[derive(Debug, Clone, Copy)]
pub enum Data<'a> {
    /// In this folder, durable.
    Folder(&'a Path),
    /// In memory, gone at exit.
    Memory,
    /// There is none: this role needs DynamoDB.
    None,
}

/// The parts of a process that its roles share.
pub struct Wired {
    /// The truth.
    pub store: Arc<dyn Store>,
    /// Who is alive.
    pub board: Arc<dyn Board>,
    /// Who is where.
    pub directory: Arc<dyn Directory>,
    /// Server to server.
    pub bus: Arc<dyn Bus>,
    /// Proves that no other process uses the data folder; held until exit.
    pub lock: Option<FolderLock>,
}

/// Why the parts can't be had.
#[derive(Debug, thiserror::Error)]
pub enum WiringError {
    /// Bad usage or configuration: exit 2.
    #[error("{0}")]
    Usage(String),
    /// A part does not answer or refuses: exit 1.
    #[error("{0}")]
    Part(String),
}

impl From<OpenError> for WiringError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::InUse { .. } => Self::Usage(error.to_string()),
            other => Self::Part(other.to_string()),
        }
    }
}

/// Connects to Redis and DynamoDB where URLs are given, and takes embedded parts otherwise.
pub async fn wire(
    parts: &Parts,
    data: Data<'_>,
    metrics: &Arc<Metrics>,
) -> Result<Wired, WiringError> {
    let lock = match data {
        Data::Folder(folder) => Some(FolderLock::take(folder)?),
        Data::Memory | Data::None => None,
    };
    let (store, board) = durable(parts, data, metrics).await?;
    let (directory, bus) = hints(parts, metrics).await?;
    Ok(Wired { store, board, directory, bus, lock })
}

async fn durable(
    parts: &Parts,
    data: Data<'_>,
    metrics: &Arc<Metrics>,
) -> Result<(Arc<dyn Store>, Arc<dyn Board>), WiringError> {
    if let Some(target) = &parts.dynamodb {
        let store = DynamoStore::connect(target, &parts.table, metrics.clone())
            .await
            .map_err(|error| WiringError::Part(error.to_string()))?;
        let board = DynamoBoard::new(&store);
        return Ok((store, Arc::new(board)));
    }
    let store: Arc<dyn Store> = match data {
        Data::Folder(folder) => EmbeddedStore::open(folder)?,
        Data::Memory => EmbeddedStore::in_memory()?,
        Data::None => {
            let text = "give --dynamodb URL or --dynamodb aws: this role shares its store";
            return Err(WiringError::Usage(text.to_owned()));
        }
    };
    Ok((store, Arc::new(EmbeddedBoard::default())))
}

async fn hints(
    parts: &Parts,
    metrics: &Arc<Metrics>,
) -> Result<(Arc<dyn Directory>, Arc<dyn Bus>), WiringError> {
    let Some(url) = &parts.redis else {
        return Ok((Arc::new(EmbeddedDirectory::default()), Arc::new(EmbeddedBus::default())));
    };
    let part = |error: String| WiringError::Part(error);
    let directory = RedisDirectory::connect(url, &parts.redis_prefix, metrics.clone())
        .await
        .map_err(|error| part(error.to_string()))?;
    let bus = RedisBus::connect(url, &parts.redis_prefix, metrics.clone())
        .await
        .map_err(|error| part(error.to_string()))?;
    Ok((Arc::new(directory), Arc::new(bus)))
}

/// The board alone, for a balancer.
pub async fn board(
    target: &str,
    table: &str,
    metrics: &Arc<Metrics>,
) -> Result<Arc<dyn Board>, WiringError> {
    let store = DynamoStore::connect(target, table, metrics.clone())
        .await
        .map_err(|error| WiringError::Part(error.to_string()))?;
    Ok(Arc::new(DynamoBoard::new(&store)))
}
