//! The least that fan-out can cost: a relay that encodes a message once and gives it to the system
//! once for each recipient, by a plain `send`. What Parlor costs is told beside it
//! (`bench/peers/compare.mjs`); it stores nothing, checks nobody, and knows no other server.
//!
//! It speaks as much of the protocol as `bench/peers/ws/relay.mjs` does.

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use clap::Args;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

/// `parlor bench bare`
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The port on 127.0.0.1
    pub port: u16,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Said {
    Join {
        room: String,
    },
    Message {
        to: Option<String>,
        conversation: Option<String>,
        message: String,
        #[serde(rename = "ref")]
        reference: String,
    },
}

type Sockets = Arc<Vec<Arc<TcpStream>>>;

/// Who is where: users by their names, rooms by `room:` and theirs.
#[derive(Default)]
struct Places {
    places: HashMap<String, Sockets>,
    seq: u64,
}

type Shared = Arc<Mutex<Places>>;

/// Runs until it is killed.
pub(super) async fn run(options: &Options) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
    println!("ready");
    let shared = Shared::default();
    loop {
        let (stream, _) = listener.accept().await?;
        let serving = serve(stream, shared.clone());
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                eprintln!("a socket has ended: {error:#}");
            }
        });
    }
}

async fn serve(stream: tokio::net::TcpStream, shared: Shared) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    let socket = Arc::new(stream.try_clone()?);
    let mut user = String::new();
    #[expect(clippy::result_large_err, reason = "the library's")]
    let look = |request: &Request, response: Response| {
        let query = request.uri().query().unwrap_or_default();
        let named = query.split('&').find_map(|pair| pair.strip_prefix("userId="));
        user = named.unwrap_or_default().to_owned();
        Ok(response)
    };
    let mut frames = accept_hdr_async(tokio::net::TcpStream::from_std(stream)?, look).await?;
    lock(&shared).join(&user, &socket);
    while let Some(frame) = frames.next().await {
        let frame = frame?;
        if frame.is_text() {
            hear(&user, &socket, serde_json::from_str(frame.to_text()?)?, &shared)?;
        }
    }
    Ok(())
}

fn hear(user: &str, own: &Arc<TcpStream>, said: Said, shared: &Shared) -> anyhow::Result<()> {
    let (to, message, reference) = match said {
        Said::Join { room } => {
            lock(shared).join(&format!("room:{room}"), own);
            return send(own, &encode(r#"{"type":"joined"}"#.to_owned())?);
        }
        Said::Message { to, conversation, message, reference } => {
            (to.or(conversation).context("to nobody")?, message, reference)
        }
    };
    let (others, seq) = {
        let mut places = lock(shared);
        places.seq += 1;
        (places.places.get(&to).cloned().unwrap_or_default(), places.seq)
    };
    let told = json!({"type": "message", "seq": seq, "from": user, "message": message});
    let frame = encode(told.to_string())?;
    for other in others.iter().filter(|other| !Arc::ptr_eq(other, own)) {
        send(other, &frame)?;
    }
    let sent = json!({"type": "sent", "seq": seq, "ref": reference});
    send(own, &encode(sent.to_string())?)
}

fn encode(text: String) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Frame::message(text, OpCode::Data(Data::Text), true).format(&mut bytes)?;
    Ok(bytes)
}

fn send(socket: &TcpStream, frame: &[u8]) -> anyhow::Result<()> {
    let mut socket = socket;
    let written = socket.write(frame)?;
    anyhow::ensure!(written == frame.len(), "the load is too slow for a relay without a queue");
    Ok(())
}

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, Places> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    fn join(&mut self, place: &str, socket: &Arc<TcpStream>) {
        let sockets = self.places.entry(place.to_owned()).or_default();
        Arc::make_mut(sockets).push(socket.clone());
    }
}
