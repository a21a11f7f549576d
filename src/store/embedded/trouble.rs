//! What a failed write means, and what it takes before the next one.
//!
//! | what failed | the call | from then on |
//! |---|---|---|
//! | no room (SQLite says "full") | not done | writes are tried again, after the log was emptied |
//! | a write into the log, or room for its index | unknown | the same |
//! | an fsync, or anything else that touches the disk | unknown | no writes until a restart |
//!
//! After a failed fsync the kernel may hold pages for clean that are not on the disk, and a second
//! fsync that succeeds says nothing of them. A restart copies all that is left of the log into the
//! database anew (`opening`); this process only reads on.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Error, ErrorCode, ffi};

use crate::store::StoreError;

#[derive(Debug, Default)]
struct State {
    /// Told by `/readyz`.
    told: Option<String>,
    /// What every further write gets; never taken back.
    refusal: Option<StoreError>,
    /// Pieces of a failed commit may lie in the log.
    log_in_doubt: bool,
}

/// How it stands with the disk; the writer writes it, anybody may read it.
#[derive(Debug, Default)]
pub struct Trouble(Mutex<State>);

impl Trouble {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In words, where something is wrong.
    pub fn told(&self) -> Option<String> {
        self.lock().told.clone()
    }

    /// Something is wrong that may pass by itself.
    pub fn may_pass(&self) -> bool {
        let state = self.lock();
        state.told.is_some() && state.refusal.is_none()
    }

    /// What a write gets without being tried.
    pub fn refusal(&self) -> Option<StoreError> {
        self.lock().refusal.clone()
    }

    /// Whether the log has to be emptied before the next write.
    pub fn log_in_doubt(&self) -> bool {
        self.lock().log_in_doubt
    }

    /// It was emptied.
    pub fn log_is_sound(&self) {
        self.lock().log_in_doubt = false;
    }

    /// A commit has returned.
    pub fn passed(&self) {
        let mut state = self.lock();
        if state.refusal.is_none() && state.told.take().is_some() {
            tracing::info!("the embedded store writes again");
        }
    }

    /// What a write that failed has come to.
    pub fn judge(&self, error: &Error) -> StoreError {
        let mut state = self.lock();
        if let Some(refusal) = &state.refusal {
            return refusal.clone();
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                return StoreError::Unavailable(format!("the database is locked: {error}"));
            }
            Some(ErrorCode::DiskFull) => {
                let text = "the disk is full".to_owned();
                passing(&mut state, text.clone());
                return StoreError::Unavailable(text);
            }
            _ if of_the_log(error) => {
                let text = format!("the disk takes no more: {error}");
                passing(&mut state, text.clone());
                return StoreError::Unknown(text);
            }
            _ => {}
        }
        let failed = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                StoreError::Damaged(error.to_string())
            }
            _ => StoreError::Unknown(format!("a write failed, restart parlor: {error}")),
        };
        tracing::error!(%error, "the embedded store takes no more writes until a restart");
        let refusal = format!("writes have stopped after a failure, restart parlor: {error}");
        state.told = Some(refusal.clone());
        state.refusal = Some(StoreError::Refused(refusal));
        failed
    }

    /// What it means that the log could not be copied into the database. Nothing is lost by it, and
    /// what was copied is copied again: only a disk that fails to fsync is trusted no more.
    pub fn judge_copy(&self, error: &Error) {
        let busy = matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
        );
        if busy {
            return;
        }
        let _ = self.judge(error);
    }
}

fn passing(state: &mut State, text: String) {
    if state.told.is_none() {
        tracing::error!("no writes: {text}");
    }
    state.told = Some(text);
    state.log_in_doubt = true;
}

/// A write that the system refused (a quota, a limit on the file's size) and that was not fsynced,
/// or no room for the index of the log.
fn of_the_log(error: &Error) -> bool {
    let refused = [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_SHMSIZE, ffi::SQLITE_IOERR_SHMMAP];
    error.sqlite_extended_error_code().is_some_and(|code| refused.contains(&code))
}

/// What a write depends on can't be read back: a matter of that row, and not of the disk.
pub fn damaged(error: &Error) -> Option<StoreError> {
    match error {
        Error::FromSqlConversionFailure(_, _, source) => {
            let known = source.downcast_ref::<StoreError>().cloned();
            Some(known.unwrap_or_else(|| StoreError::Damaged(error.to_string())))
        }
        Error::InvalidColumnType(..) | Error::IntegralValueOutOfRange(..) => {
            Some(StoreError::Damaged(error.to_string()))
        }
        _ => None,
    }
}
