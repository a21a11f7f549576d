//! The writer thread: group commit.
//!
//! Takes what has queued up (at most [`BATCH_MAX`] calls) into one transaction; answers after the
//! commit. `trouble` says what a failure means, and what has to happen before the next write.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::opening::{self, Opened};
use super::trouble::{Trouble, damaged};
use super::{commits, log, mailbox, records};
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
    /// What a test does with the connection.
    #[cfg(test)]
    Try(Box<dyn FnOnce(&Connection) + Send>),
    /// A commit that changes nothing: whether there is room again.
    Probe,
    /// The last one: empties the log into the database.
    Close(oneshot::Sender<()>),
}

/// The way to the writer thread, which ends when this is dropped.
pub struct Writer {
    jobs: mpsc::Sender<Job>,
    trouble: Arc<Trouble>,
}

impl Writer {
    /// Starts the thread on files.
    pub fn start(mut opened: Opened, log_pages_max: u32) -> rusqlite::Result<Self> {
        let log_pages = Arc::new(AtomicU32::new(0));
        let counted = log_pages.clone();
        opened.connection.wal_hook(Some(move |_: &mut _, pages: i32| {
            counted.store(pages.unsigned_abs(), Relaxed);
            Ok(())
        }))?;
        let log = Log { note: opened.note, pages: log_pages, pages_max: log_pages_max, tried: 0 };
        let connection = opened.connection;
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let trouble = Arc::new(Trouble::default());
        let told = trouble.clone();
        std::thread::spawn(move || Thread { connection, log, trouble: told }.run(queue));
        Ok(Self { jobs, trouble })
    }

    /// Queues a job; waits for room. A caller that goes away meanwhile has queued nothing.
    pub async fn send(&self, job: Job) -> Result<(), StoreError> {
        let sent = self.jobs.send(job).await;
        sent.map_err(|_| StoreError::Unavailable("the writer ended".to_owned()))
    }

    /// What is wrong with the disk, as far as the last write has shown. Asking while the disk is
    /// full makes the writer try again, so that the answer changes where nobody writes.
    pub fn trouble(&self) -> Option<String> {
        if self.trouble.may_pass() {
            let _ = self.jobs.try_send(Job::Probe);
        }
        self.trouble.told()
    }
}

/// Answers that wait for the commit.
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

fn after_commit<T: Send + 'static>(reply: Reply<T>, value: T) -> Answer {
    Box::new(move |committed| {
        let _ = reply.send(committed.map(|()| value));
    })
}

/// What a writer on files keeps of its log.
struct Log {
    note: commits::Note,
    /// Pages in the log as of the last commit.
    pages: Arc<AtomicU32>,
    /// From so many on the log is copied into the database.
    pages_max: u32,
    /// At how many that was last tried.
    tried: u32,
}

struct Thread {
    connection: Connection,
    log: Log,
    trouble: Arc<Trouble>,
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
            let closing = batch.iter().position(|job| matches!(job, Job::Close(_)));
            let closing = closing.map(|at| batch.split_off(at).swap_remove(0));
            if !batch.is_empty() {
                self.commit(&mut batch);
            }
            if let Some(Job::Close(reply)) = closing {
                // Whoever comes now is told that nothing was done.
                queue.close();
                self.close();
                let _ = reply.send(());
                return;
            }
            self.keep_log_short();
        }
    }

    fn commit(&self, batch: &mut Vec<Job>) {
        let mut answers: Vec<Answer> = Vec::with_capacity(batch.len());
        let mut failed = self.before().err();
        let changes = self.connection.total_changes();
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
                    None => failed = Some(self.trouble.judge(&error)),
                },
            }
        }
        if failed.is_none() {
            failed = self.end(changes).err();
        }
        if failed.is_some() && !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        let result = failed.map_or(Ok(()), Err);
        answers.into_iter().for_each(|answer| answer(result.clone()));
    }

    /// Begins a transaction, if anything may be written at all.
    fn before(&self) -> Result<(), StoreError> {
        if let Some(refusal) = self.trouble.refusal() {
            return Err(refusal);
        }
        let begun =
            self.log_sound().and_then(|()| self.connection.execute_batch("BEGIN IMMEDIATE"));
        begun.map_err(|error| match self.trouble.judge(&error) {
            // Of this transaction nothing was tried yet.
            StoreError::Unknown(text) => StoreError::Unavailable(text),
            other => other,
        })
    }

    /// Pieces of a commit that failed may lie in the log: nothing is written behind or over them.
    /// Where a reader is in the way, that is for the next time.
    fn log_sound(&self) -> rusqlite::Result<()> {
        if self.trouble.log_in_doubt() && opening::emptied(&self.connection, Duration::ZERO)? {
            self.trouble.log_is_sound();
        }
        Ok(())
    }

    /// Commits, and notes it before anybody is answered.
    fn end(&self, changes_before: u64) -> Result<(), StoreError> {
        let judge = |error| self.trouble.judge(&error);
        let mut number = None;
        if self.connection.total_changes() > changes_before {
            number = Some(commits::count(&self.connection).map_err(judge)?);
        }
        self.connection.execute_batch("COMMIT").map_err(judge)?;
        if let Some(number) = number {
            if let Err(error) = self.log.note.write(number) {
                tracing::warn!(%error, "a commit is not noted: its loss would not be noticed");
            }
            self.trouble.passed();
        }
        Ok(())
    }

    /// Copies the log into the database when it has grown long. A failure loses nothing, since the
    /// log stands; but where the disk fails, that shows here first.
    fn keep_log_short(&mut self) {
        let log = &mut self.log;
        let pages = log.pages.load(Relaxed);
        if pages < log.tried {
            log.tried = 0;
        }
        // Readers may have been in the way: not again at every commit.
        let due = if log.tried == 0 { log.pages_max } else { log.tried + log.pages_max / 8 + 1 };
        if pages < due || self.trouble.refusal().is_some() {
            return;
        }
        log.tried = pages;
        let begun = Instant::now();
        if let Err(error) = opening::copied(&self.connection) {
            self.trouble.judge_copy(&error);
        }
        tracing::debug!(pages, took = ?begun.elapsed(), "copied the log");
    }

    fn close(&self) {
        if self.trouble.refusal().is_some() {
            return;
        }
        match opening::emptied(&self.connection, Duration::ZERO) {
            Ok(true) => {}
            Ok(false) => tracing::info!("somebody reads: the log is emptied at the next start"),
            Err(error) => tracing::warn!(%error, "the log is emptied at the next start"),
        }
        if let Err(error) = self.log.note.sync() {
            tracing::warn!(%error, "the number of commits may be lost");
        }
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
            #[cfg(test)]
            Job::Try(what) => {
                what(connection);
                Ok(())
            }
            Job::Probe => commits::touch(connection),
            Job::Close(_) => Ok(()),
        }
    }
}

fn refuse(job: Job, answers: &mut Vec<Answer>) {
    match job {
        Job::Append { reply, .. } => answers.push(after_commit(reply, 0)),
        Job::Raise { reply, .. } => answers.push(after_commit(reply, ())),
        Job::Write { reply, .. } => answers.push(after_commit(reply, false)),
        // Dropping it tells its caller.
        #[cfg(test)]
        Job::Try(_) => {}
        Job::Probe | Job::Close(_) => {}
    }
}
