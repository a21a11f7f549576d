//! Commands of the same moment leave in one pipeline: lookups of the map, publishes of the bus.
//!
//! The first one leaves at once. What comes while its pipeline is under way leaves together in the
//! next one, as soon as the first is answered, or after [`PATIENCE`] where that takes long. This is
//! for one server: of a cluster each command may go to another node, and none is to wait for a node
//! that does not answer.
//!
//! **Invariant:** a call ends within the port's deadline, counted from when it was made: a pipeline
//! has the deadline of its oldest call. Each call hears what Redis said to its own commands.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{Cmd, RedisError, Value};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::link::{Connection, Link};
use super::trouble::Trouble;

/// How long at most a pipeline under way holds up the next one. An answer takes a tenth of it;
/// where Redis hangs, calls must wait for it beside each other and not one after the other.
const PATIENCE: Duration = Duration::from_millis(5);
/// A pipeline that has so many commands takes no further call.
const PIPELINE_MAX: usize = 512;
/// A call of more commands, as of a signal to a room of hundreds, has a pipeline of its own: the
/// others do not wait behind it.
const SHARED_MAX: usize = 64;
/// The most calls that wait for the next pipeline.
const WAITING_MAX: usize = 16_384;

/// One call's commands.
struct Passenger {
    commands: Vec<Cmd>,
    deadline: Instant,
    answer: oneshot::Sender<Result<Vec<Value>, String>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Passenger>,
    /// A task sends what waits.
    driven: bool,
}

/// The calls of one operation that share pipelines.
pub(crate) struct Convoy {
    link: Arc<Link>,
    operation: &'static str,
    queue: Mutex<Queue>,
}

impl Convoy {
    /// On a link to one server; `None` where it leads to a cluster.
    pub(crate) fn on(link: &Arc<Link>, operation: &'static str) -> Option<Arc<Self>> {
        let convoy = || Self { link: link.clone(), operation, queue: Mutex::default() };
        (!link.target().is_cluster()).then(|| Arc::new(convoy()))
    }

    /// What Redis answers to each of these commands; the first error among them is that of the
    /// call.
    pub(crate) async fn call(self: &Arc<Self>, commands: Vec<Cmd>) -> Result<Vec<Value>, String> {
        let ((answer, answered), deadline) = (oneshot::channel(), Link::deadline());
        let (alone, passenger) =
            (commands.len() > SHARED_MAX, Passenger { commands, deadline, answer });
        match alone {
            true => self.clone().send(vec![passenger]).await,
            false => self.join(passenger)?,
        }
        match timeout_at(deadline, answered).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err("the call was given up".to_owned())),
            Err(_) => Err("its pipeline did not leave in time".to_owned()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(self: &Arc<Self>, passenger: Passenger) -> Result<(), String> {
        let mut queue = self.lock();
        if queue.waiting.len() >= WAITING_MAX {
            drop(queue);
            self.link.count(self.operation, "overflow");
            return Err(format!("more than {WAITING_MAX} calls wait for Redis"));
        }
        queue.waiting.push_back(passenger);
        let driven = std::mem::replace(&mut queue.driven, true);
        drop(queue);
        if !driven {
            // A task, since whoever called may be dropped, and the others wait for what is behind.
            tokio::spawn(Driver { convoy: self.clone(), ended: false }.run());
        }
        Ok(())
    }

    /// What goes next; nothing is driven any more when nothing waits.
    fn next(&self) -> Vec<Passenger> {
        let mut queue = self.lock();
        let (mut some, mut count, now) = (Vec::new(), 0, Instant::now());
        while count < PIPELINE_MAX
            && let Some(passenger) = queue.waiting.pop_front()
        {
            if passenger.deadline <= now {
                // Nobody waits for it any more, and the pipeline would be judged by its time.
                continue;
            }
            count += passenger.commands.len();
            some.push(passenger);
        }
        queue.driven = !some.is_empty();
        some
    }

    /// One pipeline.
    async fn send(self: Arc<Self>, passengers: Vec<Passenger>) {
        let mut deadline = Link::deadline();
        let (mut pipe, mut callers) = (redis::pipe(), Vec::with_capacity(passengers.len()));
        for Passenger { commands, deadline: own, answer } in passengers {
            deadline = deadline.min(own);
            callers.push((commands.len(), answer));
            for command in commands {
                pipe.add_command(command);
            }
        }
        let count = callers.iter().map(|(count, _)| count).sum();
        let call = |mut connection: Connection| async move {
            connection.req_packed_commands(&pipe, 0, count).await
        };
        let trouble =
            |values: &Vec<Value>| values.iter().find_map(error_of).map(|e| Trouble::of(&e));
        let answer = self.link.run_judged(self.operation, deadline, call, trouble).await;
        let mut values = answer.map(Vec::into_iter);
        for (count, answer) in callers {
            let own = match &mut values {
                Ok(values) => own_values(values, count),
                Err(error) => Err(error.clone()),
            };
            // Who has left needs no answer.
            let _ = answer.send(own);
        }
    }
}

/// What one call hears of a pipeline's answers, of which it has the next few.
fn own_values(
    values: &mut impl Iterator<Item = Value>,
    count: usize,
) -> Result<Vec<Value>, String> {
    let own: Vec<Value> = values.take(count).collect();
    match own.iter().find_map(error_of) {
        Some(error) => Err(error.to_string()),
        None if own.len() < count => Err("Redis has answered too little".to_owned()),
        None => Ok(own),
    }
}

fn error_of(value: &Value) -> Option<RedisError> {
    match value {
        Value::ServerError(error) => Some(error.clone().into()),
        _ => None,
    }
}

/// Sends what waits until nothing does.
struct Driver {
    convoy: Arc<Convoy>,
    ended: bool,
}

impl Driver {
    async fn run(mut self) {
        loop {
            let some = self.convoy.next();
            if some.is_empty() {
                self.ended = true;
                return;
            }
            let mut sending = Box::pin(self.convoy.clone().send(some));
            if timeout(PATIENCE, &mut sending).await.is_err() {
                tokio::spawn(sending);
            }
        }
    }
}

impl Drop for Driver {
    /// Where its runtime ends under it, nobody may wait for what it does not send any more.
    fn drop(&mut self) {
        if !self.ended {
            *self.convoy.lock() = Queue::default();
        }
    }
}

#[cfg(test)]
mod tests;
