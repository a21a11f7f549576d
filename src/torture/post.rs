//! A message over HTTP, with the same care: one `Idempotency-Key`, until the answer is final.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::{sleep, timeout};

use super::world::World;
use crate::checker::history::{Outcome, What};

/// The connection of these sends in the history.
const API: &str = "api";
const CALL_LIMIT: Duration = Duration::from_secs(6);
const TRIES: u32 = 12;
const PAUSE: Duration = Duration::from_millis(300);

/// See the module.
pub(super) struct Post {
    pub user: String,
    pub conversation: String,
    pub reference: String,
    pub body: String,
    pub after: u64,
}

impl Post {
    /// Tries until the answer is final, or the tries are used up: then it stays open.
    pub async fn run(self, world: Arc<World>) {
        let path = format!("/v1/messages?userId={}", self.user);
        let body = json!({"conversation": self.conversation, "message": self.body,
                          "after": self.after});
        for tries in 1..=TRIES {
            world.journal.note(What::Send {
                connection: API.to_owned(),
                user: self.user.clone(),
                conversation: self.conversation.clone(),
                reference: self.reference.clone(),
                body: self.body.clone(),
            });
            let key = [("idempotency-key", self.reference.as_str())];
            let called =
                timeout(CALL_LIMIT, world.api.call("POST", &path, Some(&body), &key)).await;
            let (outcome, seq, code) = match called {
                Ok(Ok(answer)) => {
                    let code = answer.body["code"].as_str().map(str::to_owned);
                    match answer.status {
                        200 | 201 => (Outcome::Done, answer.body["seq"].as_u64(), code),
                        410 => (Outcome::Open, None, code),
                        400..=428 if tries == 1 => (Outcome::Refused, None, code),
                        _ => (Outcome::Open, None, code),
                    }
                }
                _ => (Outcome::Open, None, None),
            };
            let is_final = outcome != Outcome::Open
                || matches!(code.as_deref(), Some("ref_expired" | "not_found" | "forbidden"));
            world.journal.note(What::Sent {
                connection: API.to_owned(),
                user: self.user.clone(),
                conversation: self.conversation.clone(),
                reference: self.reference.clone(),
                outcome,
                seq,
                code,
            });
            if is_final {
                return;
            }
            sleep(PAUSE * tries.min(4)).await;
        }
    }
}
