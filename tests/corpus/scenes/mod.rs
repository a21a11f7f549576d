//! Lines of the table that are more than one exchange. Each leaves things as it found them.

pub mod envelopes;
pub mod limits;
pub mod pages;
pub mod people;
pub mod slow;
pub mod sockets;
pub mod store;

use std::time::Duration;

use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::raw::Raw;

/// A socket that has caught up, of a user that nobody had before.
pub async fn new_user(fleet: &Fleet, name: &str) -> (Raw, String) {
    let user = format!("{name}-{}", fleet.next());
    let socket = Raw::ready(&fleet.balancer, &format!("userId={user}")).await;
    (socket, user)
}

/// Says it and gives the answer.
pub async fn ask(socket: &mut Raw, frame: &Value) -> Value {
    socket.text(&frame.to_string()).await;
    let is_answer = |said: &Value| said["type"] == "sent" || said["type"] == "error";
    socket.wait_for(|said| is_answer(said).then(|| said.clone())).await
}

/// A message to somebody; its seq.
pub async fn say(socket: &mut Raw, to: &str, message: &str) -> u64 {
    let answer = ask(socket, &json!({"type": "message", "to": to, "message": message})).await;
    answer["seq"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

/// The next message.
pub async fn hear(socket: &mut Raw) -> Value {
    socket.wait_for(|said| (said["type"] == "message").then(|| said.clone())).await
}

/// What is said until a ping that is sent a little later is answered.
pub async fn said_meanwhile(socket: &mut Raw, while_ms: u64) -> Vec<Value> {
    tokio::time::sleep(Duration::from_millis(while_ms)).await;
    socket.text(r#"{"type":"ping","ref":"meanwhile"}"#).await;
    let mut all = Vec::new();
    loop {
        let said = socket.json().await.expect("the socket stays open");
        if said["type"] == "pong" && said["ref"] == "meanwhile" {
            return all;
        }
        all.push(said);
    }
}
