//! A fleet under attack, and who lives there: two who talk, and a friend who must not hear what was
//! refused.

use std::sync::Arc;
use std::time::Duration;

use parlor::client::ClientError;
use tokio::task::JoinHandle;

use crate::bystanders::Bystanders;
use crate::fleet::Fleet;
use crate::harness::Person;

pub struct Ground {
    pub fleet: Arc<Fleet>,
    pub pair: Bystanders,
    friend: JoinHandle<()>,
}

impl Ground {
    pub async fn new(fleet: Fleet) -> Self {
        let mut friend = Person::with(&fleet.comes("ws3", "friend")).await;
        let pair = Bystanders::start(&fleet);
        let friend = tokio::spawn(async move { listen(&mut friend).await });
        Self { fleet: Arc::new(fleet), pair, friend }
    }

    /// What those who live there have to complain of at the end.
    pub async fn end(self) -> (Arc<Fleet>, Option<String>) {
        let Self { fleet, pair, friend } = self;
        pair.end(&fleet).await;
        // Who listens to the end does not return.
        let early = friend.is_finished();
        friend.abort();
        let fault = match friend.await {
            Err(heard) if heard.is_panic() => heard.into_panic().downcast_ref::<String>().cloned(),
            _ => None,
        };
        (fleet, early.then(|| format!("the friend: {}", fault.unwrap_or_default())))
    }
}

/// Nothing of what was refused arrives anywhere: refused texts say BAD. Who is cut off would not
/// hear it, so that is no better.
async fn listen(friend: &mut Person) {
    loop {
        match friend.text_within(Duration::from_secs(600)).await {
            Ok(text) => assert!(!text.contains("BAD"), "heard what was refused: {text}"),
            Err(ClientError::TimedOut(_)) => {}
            Err(error) => panic!("was cut off: {error}"),
        }
    }
}
