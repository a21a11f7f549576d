//! Picks the adapters: the only file that names concrete ones. URLs decide.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::board::Board;
use crate::board::dynamodb::DynamoBoard;
use crate::board::embedded::EmbeddedBoard;
use crate::bus::Bus;
use crate::bus::embedded::EmbeddedBus;
use crate::bus::redis::RedisBus;
use crate::bus::signing::Keys;
use crate::config::{Parts, Secret, tell_if_readable};
use crate::directory::Directory;
use crate::directory::embedded::EmbeddedDirectory;
use crate::directory::link::Target;
use crate::directory::redis::RedisDirectory;
use crate::store::dynamodb::table::{self, Made};
use crate::store::dynamodb::{DynamoStore, Link};
use crate::store::embedded::{self, EmbeddedStore, FolderLock, OpenError};
use crate::store::memory::MemoryStore;
use crate::store::{OwnDisk, Store, StoreError};
use crate::telemetry::Metrics;
use zeroize::Zeroizing;

pub use crate::store::embedded::Told;

/// Where a store of this process keeps its data.
#[derive(Debug, Clone, Copy)]
pub enum Data<'a> {
    /// In this folder, durable.
    Folder(&'a Path),
    /// In memory, all of it, gone at exit.
    Memory,
    /// There is none: this role needs DynamoDB.
    None,
}

/// The parts of a process that its roles share.
pub struct Wired {
    /// The truth.
    pub store: Arc<dyn Store>,
    /// The disk that the truth is on, where that is one of this machine.
    pub disk: Option<Arc<dyn OwnDisk>>,
    /// Who is alive.
    pub board: Arc<dyn Board>,
    /// Who is where.
    pub directory: Arc<dyn Directory>,
    /// Server to server.
    pub bus: Arc<dyn Bus>,
    /// Proves that no other process uses the data folder; held until exit.
    pub lock: Option<FolderLock>,
    /// The lock proves that rows on the board are of an earlier run: the folder is their truth.
    /// Where DynamoDB keeps them, rows may be of a living process with another folder.
    pub rows_are_past: bool,
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
            OpenError::InUse(_) | OpenError::Nothing(_) => Self::Usage(error.to_string()),
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
        Data::Folder(folder) if parts.dynamodb.is_none() => Some(FolderLock::take(folder)?),
        _ => None,
    };
    let Durable { store, disk, board } = durable(parts, data, metrics).await?;
    let (directory, bus) = hints(parts, metrics).await?;
    let rows_are_past = lock.is_some();
    Ok(Wired { store, disk, board, directory, bus, lock, rows_are_past })
}

struct Durable {
    store: Arc<dyn Store>,
    disk: Option<Arc<dyn OwnDisk>>,
    board: Arc<dyn Board>,
}

async fn durable(
    parts: &Parts,
    data: Data<'_>,
    metrics: &Arc<Metrics>,
) -> Result<Durable, WiringError> {
    if let Some(target) = &parts.dynamodb {
        let link = link(target, &parts.table, metrics).await?;
        let board = Arc::new(DynamoBoard::new(link.clone()));
        let store = Arc::new(DynamoStore::open(link).await.map_err(part)?);
        return Ok(Durable { store, disk: None, board });
    }
    let board = Arc::new(EmbeddedBoard::default());
    match data {
        Data::Folder(folder) => {
            let store = EmbeddedStore::open(folder)?;
            Ok(Durable { store: store.clone(), disk: Some(store), board })
        }
        Data::Memory => Ok(Durable { store: Arc::new(MemoryStore::default()), disk: None, board }),
        Data::None => {
            let text = "give --dynamodb URL or --dynamodb aws: this role shares its store";
            Err(WiringError::Usage(text.to_owned()))
        }
    }
}

async fn hints(
    parts: &Parts,
    metrics: &Arc<Metrics>,
) -> Result<(Arc<dyn Directory>, Arc<dyn Bus>), WiringError> {
    let keys = bus_keys(parts)?;
    let Some(url) = &parts.redis else {
        // Nobody else can publish in here: there is nothing to sign.
        return Ok((Arc::new(EmbeddedDirectory::default()), Arc::new(EmbeddedBus::default())));
    };
    let (target, prefix) = (redis(url, parts)?, &parts.redis_prefix);
    if keys.is_none() && !target.is_local() {
        tracing::warn!(
            "whoever can write to this Redis can show texts that were never sent: give --bus-key"
        );
    }
    if target.is_readable() {
        tracing::warn!(
            "texts, and the password of Redis, cross the network readable: use rediss:// (with \
             --redis-ca FILE for an authority of your own), or keep others out of that network"
        );
    }
    let directory = RedisDirectory::connect(target.clone(), prefix, metrics.clone()).await;
    let directory = directory.map_err(part)?;
    let bus = RedisBus::connect(target, prefix, metrics.clone()).await.map_err(part)?;
    Ok((Arc::new(directory), Arc::new(bus.signed(keys))))
}

/// Where Redis is, with what its files say.
fn redis(url: &Secret, parts: &Parts) -> Result<Target, WiringError> {
    let mut target = Target::parse(url.reveal()).map_err(WiringError::Usage)?;
    if target.has_password() && url.is_on_command_line() {
        tell_of_command_line("--redis", "PARLOR_REDIS or --redis-password-file");
    }
    if let Some(path) = &parts.redis_password_file {
        let password = secret_file("--redis-password-file", path)?;
        target = target.with_password(password.trim_end_matches(['\r', '\n']));
    }
    if let Some(path) = &parts.redis_ca {
        let bad =
            |error: String| WiringError::Usage(format!("--redis-ca {}: {error}", path.display()));
        let authorities = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
        target = target.trusting(authorities).map_err(bad)?;
    }
    Ok(target)
}

/// A file with a secret in it, wiped once it was read.
fn secret_file(option: &str, path: &Path) -> Result<Zeroizing<String>, WiringError> {
    let usage = |what: &str| WiringError::Usage(format!("{option} {}{what}", path.display()));
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = text.map_err(|error| usage(&format!(": {error}")))?;
    if text.trim().is_empty() {
        return Err(usage(" is empty"));
    }
    tell_if_readable(option, path);
    Ok(text)
}

fn tell_of_command_line(option: &str, better: &str) {
    tracing::warn!("{option} holds a secret that everybody on this machine can see: use {better}");
}

/// The keys of `--bus-key`, or of its file.
fn bus_keys(parts: &Parts) -> Result<Option<Keys>, WiringError> {
    if parts.bus_key.iter().any(Secret::is_on_command_line) {
        tell_of_command_line("--bus-key", "PARLOR_BUS_KEY or --bus-key-file");
    }
    let keys = match &parts.bus_key_file {
        None => Keys::new(parts.bus_key.iter().map(Secret::reveal)),
        Some(path) => {
            let text = secret_file("--bus-key-file", path)?;
            Keys::new(text.lines().filter(|line| !line.trim().is_empty()))
        }
    };
    keys.map_err(|bad| WiringError::Usage(bad.to_string()))
}

/// The board alone, for a balancer.
pub async fn board(
    target: &str,
    table: &str,
    metrics: &Arc<Metrics>,
) -> Result<Arc<dyn Board>, WiringError> {
    let link = link(target, table, metrics).await?;
    // Opening makes a missing table of DynamoDB Local, and fails early where there is none.
    let store = DynamoStore::open(link).await.map_err(part)?;
    Ok(Arc::new(DynamoBoard::new(store.link())))
}

async fn link(target: &str, table: &str, metrics: &Arc<Metrics>) -> Result<Arc<Link>, WiringError> {
    let link = Link::new(target, table, metrics.clone()).await;
    let link = link.map_err(|bad| WiringError::Usage(bad.to_string()))?;
    if link.is_readable() {
        tracing::warn!(
            "texts cross the network readable on their way to DynamoDB: use https:// in --dynamodb"
        );
    }
    Ok(link)
}

fn part(error: impl std::fmt::Display) -> WiringError {
    WiringError::Part(error.to_string())
}

/// The DynamoDB table by itself, for `parlor table`.
pub struct RealTable(Arc<Link>);

impl RealTable {
    /// Reaches for it; whether it is there shows later.
    pub async fn at(target: &str, table: &str) -> Result<Self, WiringError> {
        Ok(Self(link(target, table, &Arc::new(Metrics::new("table"))).await?))
    }

    /// Makes it; false where it was there already.
    pub async fn create(&self) -> Result<bool, StoreError> {
        Ok(table::create(&self.0).await? == Made::Created)
    }

    /// What is wrong with it, one sentence each.
    pub async fn check(&self) -> Result<Vec<String>, StoreError> {
        table::check(&self.0).await
    }

    /// The store on it.
    pub async fn store(self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(DynamoStore::open(self.0).await?))
    }
}

/// The store of a data folder, to read only; a running `parlor up` does not mind.
pub fn read_folder(folder: &Path) -> Result<Arc<dyn Store>, WiringError> {
    Ok(EmbeddedStore::read_only(folder)?)
}

/// Checks a data folder; what is found goes to `tell`, as it is found.
pub fn check_folder(folder: &Path, tell: &mut dyn FnMut(Told)) -> Result<(), WiringError> {
    Ok(embedded::check_folder(folder, tell)?)
}

/// Goes on with what is left in a folder; says where the damaged log is kept, if there was one.
pub fn accept_loss(folder: &Path) -> Result<Option<PathBuf>, WiringError> {
    // A folder that is not there must not be made by this.
    drop(EmbeddedStore::read_only(folder)?);
    let _lock = FolderLock::take(folder)?;
    Ok(embedded::accept_loss(folder)?)
}
