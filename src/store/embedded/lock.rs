//! One process per data folder.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::OpenError;

/// Held until dropped; the kernel lets go of it when the process dies, however it dies.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Locks a folder, making it where it is missing.
    pub fn take(folder: &Path) -> Result<Self, OpenError> {
        let name = || folder.display().to_string();
        let io = |error: std::io::Error| OpenError::Io(name(), error.to_string());
        let missing: Vec<_> = folder.ancestors().take_while(|path| !path.exists()).collect();
        // What people write is for the owner's eyes alone.
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
        // A folder outlives a power cut once its name is durable in the folder above.
        for made in missing.iter().filter(|path| !path.as_os_str().is_empty()) {
            let above = made.parent().filter(|above| !above.as_os_str().is_empty());
            let above = above.unwrap_or(Path::new("."));
            File::open(above).and_then(|above| above.sync_all()).map_err(io)?;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join("lock"))
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse(name())),
            Err(TryLockError::Error(error)) => Err(io(error)),
        }
    }
}
