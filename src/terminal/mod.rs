//! `parlor chat`: a chat in the terminal, or plain lines where it is not one.
//!
//! Both sit on [`Reconnecting`], so a restart of the server costs a line on the screen and no
//! message. What others wrote is never printed raw: control characters could rewrite the screen.

mod interactive;
mod marks;
mod pipe;

use std::io::IsTerminal;
use std::process::ExitCode;

use crate::client::{Client, ClientError, ClientOptions, EntryFrame, is_readable};
use crate::config;
use crate::edge::Upstream;

/// Runs until the input ends.
pub async fn run(options: config::Chat) -> anyhow::Result<ExitCode> {
    let user = options.user.as_ref().map_or("", |user| user.as_str());
    let mut client = ClientOptions::new(options.url.as_str(), user)
        .device(options.device.as_str())
        .token(options.carried.read()?);
    match options.ca.as_deref().map(Upstream::trusting).transpose() {
        Ok(trusted) => client.trusted = trusted,
        Err(error) => {
            eprintln!("parlor chat: --ca: {error}");
            return Ok(ExitCode::from(2));
        }
    }
    if client.token.is_some() && is_readable(&options.url) {
        eprintln!(
            "parlor chat: everybody on the way to this server can read your token: use wss://"
        );
    }
    if user.is_empty() {
        if client.token.is_none() {
            eprintln!(
                "parlor chat: who are you? Say --as USER, or give a token: --token-file FILE"
            );
            return Ok(ExitCode::from(2));
        }
        match named(&client).await {
            Ok(user) => client.user = user,
            Err(error) => {
                eprintln!("parlor chat: {}", words(&error));
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        return interactive::run(options, client).await;
    }
    let to = options.to.map(|user| user.as_str().to_owned());
    let lines = pipe::stdin_lines();
    pipe::run(client, to, lines, &mut std::io::stdout(), pipe::PATIENCE).await
}

/// Whom the token names, as a server says.
async fn named(client: &ClientOptions) -> Result<String, ClientError> {
    // What it offers is not received by this socket, which ends at once.
    let (socket, welcome) = Client::open(&client.clone().acks_app()).await?;
    socket.close(1000).await;
    Ok(welcome.user)
}

/// An error for whoever wrote the command line.
fn words(error: &ClientError) -> String {
    // What a URL calls so, this command line calls otherwise. An id may hold the word, and no
    // space.
    printable(&error.to_string().replace(": userId is ", ": --as is "))
}

/// The text without anything that a terminal would obey: control characters are escaped, and so
/// are the marks that turn the direction of writing.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c as u32, 0x200e..=0x200f | 0x2028..=0x202e | 0x2066..=0x2069);
        if c.is_control() || turns {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// `userB: Hi`, with the room before it where it is one.
fn line(entry: &EntryFrame) -> String {
    let text = printable(&entry.message);
    let from = printable(&entry.from);
    match entry.conversation.strip_prefix("room:") {
        Some(room) => format!("[{}] {from}: {text}", printable(room)),
        None => format!("{from}: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        assert_eq!(printable("Grüße 👋\tyou"), "Grüße 👋\\tyou");
        assert_eq!(printable("\u{1b}[2Jgone\r\n\u{7}"), "\\u{1b}[2Jgone\\r\\n\\u{7}");
        assert_eq!(printable("a\u{202e}b\u{9b}c\u{7f}"), "a\\u{202e}b\\u{9b}c\\u{7f}");
    }
}
