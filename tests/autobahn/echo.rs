//! Says back whatever it is told: what the Autobahn test suite wants of a server (see `run`).
//!
//! The frames are those of `gateway::framing`, and nothing else of Parlor is here, whose chat takes
//! no binary message and none of 16 MiB.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use parlor::gateway::framing::{Fault, Frames, Heard, Limits};
use parlor::gateway::framing::{put_binary, put_close, put_pong, put_text};
use parlor::protocol::CloseCode;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The longest messages of the suite, of both kinds.
const SUITE: Limits = Limits { message_bytes: 16 * 1_024 * 1_024, binary: true };

const HEAD_BYTES_MAX: usize = 16 * 1_024;
const PATIENCE: Duration = Duration::from_secs(5);

/// Listens on the port that is its argument, or any, and says on which.
fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(0);
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("{}", listener.local_addr()?.port());
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || {
            if let Err(error) = serve(stream) {
                eprintln!("echo: {error}");
            }
        });
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut read = open(&mut stream)?;
    let (mut frames, mut out) = (Frames::default(), Vec::new());
    let mut buffer = vec![0; 64 * 1_024];
    let mut goes_on = answer(&mut frames, &mut read, &mut out);
    while goes_on {
        stream.write_all(&out)?;
        out.clear();
        let count = stream.read(&mut buffer)?;
        goes_on = count > 0 && answer(&mut frames, &mut buffer[..count], &mut out);
    }
    stream.write_all(&out)?;
    stream.shutdown(Shutdown::Write)?;
    // What is still sent is read away: unread, it would turn the end into a reset.
    stream.set_read_timeout(Some(PATIENCE))?;
    while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
    Ok(())
}

/// Answers 101 to whatever has a key; what came behind the request.
fn open(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        let mut buffer = [0; 1_024];
        let count = stream.read(&mut buffer)?;
        if count == 0 || read.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        read.extend_from_slice(&buffer[..count]);
    };
    let behind = read.split_off(end);
    let head = String::from_utf8_lossy(&read);
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    let key = headers.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
    let (_, key) = key.ok_or(io::ErrorKind::InvalidData)?;
    let accept = derive_accept_key(key.trim().as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes())?;
    Ok(behind)
}

/// Whether the connection goes on.
fn answer(frames: &mut Frames, mut input: &mut [u8], out: &mut Vec<u8>) -> bool {
    loop {
        match frames.next(&mut input, SUITE) {
            Ok(None) => return true,
            Ok(Some(Heard::Text { text, .. })) => put_text(out, text.as_bytes()),
            Ok(Some(Heard::Binary(payload))) => put_binary(out, payload),
            Ok(Some(Heard::Ping(payload))) => put_pong(out, payload),
            Ok(Some(Heard::Pong(_))) => {}
            Ok(Some(Heard::Close(_))) => {
                put_close(out, CloseCode::Normal);
                return false;
            }
            Err(fault) => {
                put_close(out, Fault::code(fault));
                return false;
            }
        }
    }
}
