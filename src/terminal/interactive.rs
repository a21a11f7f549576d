//! Chat on a terminal: a prompt that names the peer, and lines that appear above it.
//!
//! Two threads beside the task: one reads lines (it owns the peer, so that the prompt is never
//! behind a `/to`), one prints, since both calls of the line editor block.

use std::process::ExitCode;
use std::sync::mpsc as blocking;
use std::time::Duration;

use rustyline::error::ReadlineError;
use rustyline::{DefaultEditor, ExternalPrinter};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::marks::Marks;
use super::{line, printable, words};
use crate::client::{ClientOptions, EntryFrame, Event, Reconnecting, Rules, ServerFrame, To};
use crate::config;
use crate::protocol::{RoomId, UserId};

/// The newest messages of each conversation that are shown after an absence.
const CATCHUP: u32 = 200;
/// How long answers are waited for after /quit.
const PATIENCE: Duration = Duration::from_secs(5);
const QUEUE: usize = 256;
const HELP: &str = "\
/to USER    write to this person\n\
/room ID    write to this room\n\
/quit       leave (or Ctrl-D)\n\
Anything else is a message. ✓ stored, ✓✓ delivered.";

/// What a line at the prompt asks for.
#[derive(Debug, PartialEq)]
enum Input {
    Nothing,
    Peer(To),
    Quit,
    Help,
    Say(String),
    Wrong(String),
}

fn parse(text: &str) -> Input {
    let text = text.trim();
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    match word {
        "" => Input::Nothing,
        "/quit" | "/q" => Input::Quit,
        "/help" | "/?" => Input::Help,
        "/to" => match UserId::parse(rest) {
            Ok(user) => Input::Peer(To::User(user.as_str().to_owned())),
            Err(error) => Input::Wrong(error.to_string()),
        },
        "/room" => match RoomId::parse(rest.strip_prefix("room:").unwrap_or(rest)) {
            Ok(room) => Input::Peer(To::Conversation(format!("room:{room}"))),
            Err(error) => Input::Wrong(error.to_string()),
        },
        // A path or a double slash is something to say.
        word if word.starts_with('/') && !word[1..].contains('/') => {
            Input::Wrong(format!("there is no {word}; /help lists what there is"))
        }
        _ => Input::Say(text.to_owned()),
    }
}

fn name(to: &To) -> &str {
    match to {
        To::User(user) => user,
        To::Conversation(id) => id,
    }
}

type Said = (To, String);

/// Reads lines until /quit or the end of input.
fn read_lines(
    mut editor: DefaultEditor,
    mut peer: Option<To>,
    said: mpsc::Sender<Said>,
    screen: blocking::SyncSender<String>,
) {
    loop {
        let prompt = format!("{}> ", peer.as_ref().map_or("(/to USER)", name));
        let text = match editor.readline(&prompt) {
            Ok(text) => text,
            Err(ReadlineError::Interrupted | ReadlineError::Eof) => return,
            Err(error) => {
                let _ = screen.send(format!("the terminal can't be read: {error}"));
                return;
            }
        };
        if !text.trim().is_empty() {
            let _ = editor.add_history_entry(text.as_str());
        }
        let answer = match (parse(&text), &peer) {
            (Input::Nothing, _) => continue,
            (Input::Quit, _) => return,
            (Input::Help, _) => HELP.to_owned(),
            (Input::Wrong(why), _) => why,
            (Input::Peer(to), _) => {
                peer = Some(to);
                continue;
            }
            (Input::Say(_), None) => "whom to write to? Say /to USER or /room ID".to_owned(),
            (Input::Say(text), Some(to)) => {
                if said.blocking_send((to.clone(), text)).is_err() {
                    return;
                }
                continue;
            }
        };
        let _ = screen.send(answer);
    }
}

/// A thread that prints above the prompt until its sender is gone.
fn printer(mut out: impl ExternalPrinter + Send + 'static) -> blocking::SyncSender<String> {
    let (sender, lines) = blocking::sync_channel::<String>(QUEUE);
    std::thread::spawn(move || {
        while let Ok(line) = lines.recv() {
            if out.print(format!("{line}\n")).is_err() {
                return;
            }
        }
    });
    sender
}

struct Screen {
    lines: blocking::SyncSender<String>,
    me: String,
    marks: Marks,
    online: Option<bool>,
    failed: bool,
}

impl Screen {
    fn print(&self, line: String) {
        // A screen that is gone shows nothing; the input thread ends the chat.
        let _ = self.lines.send(line);
    }

    fn faint(&self, line: &str) {
        self.print(format!("\x1b[2m{line}\x1b[0m"));
    }

    fn entry(&self, entry: &EntryFrame) {
        let who = printable(entry.to.as_deref().unwrap_or(&entry.conversation));
        match entry.kind.as_str() {
            "message" if entry.from == self.me => {
                self.faint(&format!("you to {who}: {}", printable(&entry.message)));
            }
            "message" => self.print(line(entry)),
            "joined" | "left" => {
                let room = printable(&entry.conversation);
                self.faint(&format!("{who} {} {room}", entry.kind));
            }
            _ => {}
        }
    }

    fn frame(&mut self, frame: &ServerFrame) {
        match frame {
            ServerFrame::Entry(entry) => self.entry(entry),
            ServerFrame::Delivered { conversation, seq, user } if *user != self.me => {
                for line in self.marks.delivered(conversation, *seq) {
                    self.faint(&line);
                }
            }
            ServerFrame::Missed { conversation, from, to } => {
                let count = to.saturating_sub(*from) + 1;
                self.faint(&format!("{count} older in {conversation} are in the history"));
            }
            ServerFrame::Error { code, detail, .. } => {
                self.print(format!("! {code}: {}", printable(detail)));
            }
            _ => {}
        }
    }

    fn happened(&mut self, event: &Event) {
        match event {
            Event::Frame(frame) => self.frame(frame),
            Event::Connected(welcome) => {
                let again = if self.online.is_some() { "connected again" } else { "connected" };
                self.faint(&format!("{again}, on {}", printable(&welcome.server)));
                self.online = Some(true);
            }
            // One line a loss, not one a try.
            Event::Disconnected { why, .. } => {
                if self.online != Some(false) {
                    self.faint(&format!("disconnected: {}; trying again", printable(why)));
                }
                self.online = Some(false);
            }
            Event::Sent { send, conversation, seq } => {
                self.marks.sent(conversation, *seq, &printable(&send.message), Instant::now());
            }
            Event::Failed { send, code, detail } => {
                self.failed = true;
                let (text, detail) = (printable(&send.message), printable(detail));
                self.print(format!("! not sent: {text} ({code}: {detail})"));
            }
            Event::Stopped(error) => {
                self.failed = true;
                self.print(format!("! stopped: {}; press Enter", words(error)));
            }
        }
    }
}

/// Chats until /quit.
pub(super) async fn run(options: config::Chat, client: ClientOptions) -> anyhow::Result<ExitCode> {
    let mut editor = DefaultEditor::new()?;
    let lines = printer(editor.create_external_printer()?);
    let (said, mut saying) = mpsc::channel(QUEUE);
    let peer = options.to.map(|user| To::User(user.as_str().to_owned()));
    let screen = lines.clone();
    std::thread::spawn(move || read_lines(editor, peer, said, screen));
    let me = client.user.clone();
    let mut screen = Screen { lines, me, marks: Marks::default(), online: None, failed: false };
    let mut client = Reconnecting::new(client.catchup(CATCHUP), Rules::default());
    let mut ends_at: Option<Instant> = None;
    while ends_at.is_none() || client.waiting() > 0 {
        let mark_due = screen.marks.due();
        tokio::select! {
            event = client.next() => match event {
                Some(event) => {
                    screen.happened(&event);
                    if let Event::Frame(ServerFrame::Entry(entry)) = &event {
                        client.read(&entry.conversation, entry.seq);
                    }
                }
                // The line editor holds the terminal until its line ends.
                None => {
                    saying.recv().await;
                    break;
                }
            },
            input = saying.recv(), if ends_at.is_none() && !client.is_full() => match input {
                Some((to, text)) => {
                    client.send(to, &text);
                }
                None => ends_at = Some(Instant::now() + PATIENCE),
            },
            () = until(mark_due) => {
                for line in screen.marks.take_due(Instant::now()) {
                    screen.faint(&line);
                }
            }
            () = until(ends_at) => break,
        }
    }
    let good = client.waiting() == 0 && !screen.failed;
    client.close().await;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_messages_are_told_apart() {
        assert_eq!(parse("  "), Input::Nothing);
        assert_eq!(parse("/to userB "), Input::Peer(To::User("userB".into())));
        assert_eq!(parse("/room general"), Input::Peer(To::Conversation("room:general".into())));
        assert_eq!(parse("/room room:x"), Input::Peer(To::Conversation("room:x".into())));
        assert_eq!(parse("/quit"), Input::Quit);
        assert_eq!(parse("/help"), Input::Help);
        assert_eq!(parse("Hi there"), Input::Say("Hi there".into()));
        assert_eq!(parse("/usr/bin is full"), Input::Say("/usr/bin is full".into()));
        assert!(matches!(parse("/to"), Input::Wrong(_)));
        assert!(matches!(parse("/to a b"), Input::Wrong(_)));
        assert!(matches!(parse("/dance"), Input::Wrong(_)));
    }
}
