//! The writer thread: group commit.
//!
//! Takes what has queued up (at most [`BATCH_MAX`] calls) into one transaction; answers after the
//! commit. **After a commit or a write failed in a way that leaves the disk's state in doubt the
//! store refuses all writes until the process is restarted**: a second fsync that succeeds says
//! nothing about the pages that the first one lost.

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use super::{log, mailbox, records};
use crate::protocol::{ConversationId, UserId};
use crate::store::{Raise, Record, StoreError};

/// The most calls in one transaction.
const BATCH_MAX: usize = 512;
/// The most calls that wait.
const QUEUE_MAX: usize = 4_096;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// Something for the writer's connection.
pub enum Job {
    /// See `Store::append`; the bodies with their seqs.
    Append { conversation: ConversationId, bodies: Vec<(u64, Vec<u8>)>, reply: Reply<usize> },
    /// See `Store::raise`.
    Raise { user: UserId, conversation: ConversationId, raise: Raise, reply: Reply<()> },
    /// See `Store::write`.
    Write { record: Record, reply: Reply<bool> },
    /// A read, for a store in memory.
    Read(Box<dyn FnOnce(&Connection) + Send>),
}

/// The way to the writer thread, which ends when this is dropped.
pub struct Writer {
    jobs: mpsc::Sender<Job>,
}

impl Writer {
    /// Starts the thread.
    pub fn start(connection: Connection) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        std::thread::spawn(move || Thread { connection, broken: None }.run(queue));
        Self { jobs }
    }

    /// Queues a job; waits for room. A caller that goes away meanwhile has queued nothing.
    pub async fn send(&self, job: Job) -> Result<(), StoreError> {
        let sent = self.jobs.send(job).await;
        sent.map_err(|_| StoreError::Unavailable("the writer ended".to_owned()))
    }
}

/// Answers that wait for the commit.
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

fn after_commit<T: Send + 'static>(reply: Reply<T>, value: T) -> Answer {
    Box::new(move |committed| {
        let _ = reply.send(committed.map(|()| value));
    })
}

struct Thread {
    connection: Connection,
    broken: Option<StoreError>,
}

impl Thread {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while let Some(first) = queue.blocking_recv() {
            batch.push(first);
            while batch.len() < BATCH_MAX
                && let Ok(job) = queue.try_recv()
            {
                batch.push(job);
            }
            self.commit(&mut batch);
        }
    }

    fn commit(&mut self, batch: &mut Vec<Job>) {
        let mut answers: Vec<Answer> = Vec::with_capacity(batch.len());
        let mut failed = self.broken.clone();
        if failed.is_none()
            && let Err(error) = self.connection.execute_batch("BEGIN IMMEDIATE")
        {
            failed = Some(self.judge(&error));
        }
        for job in batch.drain(..) {
            let done = match &failed {
                None => self.apply(job, &mut answers),
                Some(_) => {
                    refuse(job, &mut answers);
                    Ok(())
                }
            };
            match done {
                Ok(()) => {}
                Err(error) => match damaged(&error) {
                    // A job reads before it writes, so this one has written nothing: the others
                    // of the transaction go on.
                    Some(damaged) => {
                        if let Some(answer) = answers.pop() {
                            answer(Err(damaged));
                        }
                    }
                    None => failed = Some(self.judge(&error)),
                },
            }
        }
        if failed.is_none()
            && let Err(error) = self.connection.execute_batch("COMMIT")
        {
            failed = Some(self.judge(&error));
        }
        if failed.is_some() && !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        let result = failed.map_or(Ok(()), Err);
        answers.into_iter().for_each(|answer| answer(result.clone()));
    }

    fn apply(&self, job: Job, answers: &mut Vec<Answer>) -> rusqlite::Result<()> {
        let connection = &self.connection;
        match job {
            Job::Append { conversation, bodies, reply } => {
                let put = log::append(connection, &conversation, &bodies);
                answers.push(after_commit(reply, *put.as_ref().unwrap_or(&0)));
                put.map(|_| ())
            }
            Job::Raise { user, conversation, raise, reply } => {
                answers.push(after_commit(reply, ()));
                mailbox::raise(connection, &user, &conversation, &raise)
            }
            Job::Write { record, reply } => {
                let written = records::write(connection, &record);
                answers.push(after_commit(reply, *written.as_ref().unwrap_or(&false)));
                written.map(|_| ())
            }
            Job::Read(read) => {
                read(connection);
                Ok(())
            }
        }
    }

    /// What a failure means. A full disk is rolled back whole and may pass; after anything else
    /// that touches the disk nothing more is written.
    fn judge(&mut self, error: &rusqlite::Error) -> StoreError {
        if let Some(broken) = &self.broken {
            return broken.clone();
        }
        let failed = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => {
                return StoreError::Unavailable("the disk is full".to_owned());
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                return StoreError::Unavailable(format!("the database is locked: {error}"));
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                StoreError::Damaged(error.to_string())
            }
            _ => StoreError::Unknown(format!("a write failed, restart parlor: {error}")),
        };
        tracing::error!(%error, "the embedded store takes no more writes until a restart");
        let refusal = format!("writes have stopped after a failure, restart parlor: {error}");
        self.broken = Some(StoreError::Refused(refusal));
        failed
    }
}

/// What a write depends on can't be read back: a matter of that row, and not of the disk.
fn damaged(error: &rusqlite::Error) -> Option<StoreError> {
    use rusqlite::Error;
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

fn refuse(job: Job, answers: &mut Vec<Answer>) {
    match job {
        Job::Append { reply, .. } => answers.push(after_commit(reply, 0)),
        Job::Raise { reply, .. } => answers.push(after_commit(reply, ())),
        Job::Write { reply, .. } => answers.push(after_commit(reply, false)),
        // Dropping it tells its caller.
        Job::Read(_) => {}
    }
}
