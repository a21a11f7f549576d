//! Chat without a terminal: each line in is a message, each message a line out.

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{line, printable, words};
use crate::client::{ClientOptions, Event, Reconnecting, Rules, ServerFrame, To};

/// How long answers are waited for once the input has ended.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long the last receipt may take to leave before the goodbye.
const LINGER: Duration = Duration::from_millis(100);
/// How many lines are read ahead.
const LINES_AHEAD: usize = 64;

/// Lines of standard input. The thread is not joined: a read of a terminal or pipe can't be
/// cancelled, and it ends with the process.
pub(super) fn stdin_lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

struct Pipe<'a> {
    client: Reconnecting,
    me: String,
    out: &'a mut (dyn Write + Send),
    caught_up: bool,
    failed: bool,
}

impl Pipe<'_> {
    /// `false` ends it.
    fn happened(&mut self, event: Event) -> std::io::Result<bool> {
        match event {
            Event::Frame(ServerFrame::Entry(entry)) => {
                if entry.kind == "message" && entry.from != self.me {
                    writeln!(self.out, "{}", line(&entry))?;
                    self.out.flush()?;
                }
            }
            Event::Frame(ServerFrame::CaughtUp) => self.caught_up = true,
            Event::Failed { send, code, detail } => {
                eprintln!("parlor chat: not sent: {:?}: {code}: {detail}", send.message);
                self.failed = true;
            }
            Event::Frame(ServerFrame::Error { code, detail, .. }) => {
                eprintln!("parlor chat: {code}: {}", printable(&detail));
            }
            Event::Disconnected { why, retry_in } => {
                eprintln!("parlor chat: {} (again in {retry_in:.1?})", printable(&why));
            }
            Event::Stopped(error) => {
                eprintln!("parlor chat: {}", words(&error));
                self.failed = true;
                return Ok(false);
            }
            Event::Frame(_) | Event::Connected(_) | Event::Sent { .. } => {}
        }
        Ok(true)
    }
}

/// Sends lines until they end, prints what comes, waits for the answers.
pub(super) async fn run(
    options: ClientOptions,
    to: Option<String>,
    mut lines: mpsc::Receiver<String>,
    out: &mut (dyn Write + Send),
    patience: Duration,
) -> anyhow::Result<ExitCode> {
    let me = options.user.clone();
    let client = Reconnecting::new(options, Rules::default());
    let mut pipe = Pipe { client, me, out, caught_up: false, failed: false };
    let mut ends_at: Option<Instant> = None;
    loop {
        let done = ends_at.is_some() && pipe.caught_up && pipe.client.waiting() == 0;
        if done {
            break;
        }
        let deadline = ends_at.unwrap_or_else(|| Instant::now() + patience);
        tokio::select! {
            event = pipe.client.next() => match event {
                Some(event) => {
                    if !pipe.happened(event)? {
                        break;
                    }
                }
                None => break,
            },
            line = lines.recv(), if ends_at.is_none() && !pipe.client.is_full() => match line {
                Some(line) if line.trim().is_empty() => {}
                Some(line) => {
                    let Some(to) = &to else {
                        eprintln!("parlor chat: whom to write to? Say --to USER");
                        return Ok(ExitCode::from(2));
                    };
                    pipe.client.send(To::User(to.clone()), &line);
                }
                None => ends_at = Some(Instant::now() + patience),
            },
            () = tokio::time::sleep_until(deadline), if ends_at.is_some() => break,
        }
    }
    finish(pipe).await
}

async fn finish(mut pipe: Pipe<'_>) -> anyhow::Result<ExitCode> {
    let linger = Instant::now() + LINGER;
    while let Ok(Some(event)) = tokio::time::timeout_at(linger, pipe.client.next()).await {
        pipe.happened(event)?;
    }
    let waiting = pipe.client.waiting();
    if waiting > 0 {
        eprintln!("parlor chat: {waiting} messages got no answer; they may or may not be stored");
    }
    let good = waiting == 0 && !pipe.failed;
    pipe.client.close().await;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fake::Fake;

    async fn chat(fake: &Fake, user: &str, to: Option<&str>, input: &[&str]) -> (ExitCode, String) {
        let (sender, lines) = mpsc::channel(64);
        for line in input {
            sender.send((*line).to_owned()).await.unwrap();
        }
        drop(sender);
        let mut out = Vec::new();
        let options = ClientOptions::new(fake.url(), user);
        let to = to.map(str::to_owned);
        let code = run(options, to, lines, &mut out, Duration::from_secs(10)).await.unwrap();
        (code, String::from_utf8(out).unwrap())
    }

    /// `ExitCode` can't be compared.
    fn is(code: ExitCode, expected: u8) -> bool {
        format!("{code:?}") == format!("{:?}", ExitCode::from(expected))
    }

    #[tokio::test]
    async fn lines_in_are_messages_and_messages_are_lines_out() {
        let fake = Fake::start().await;
        let (code, out) = chat(&fake, "userB", Some("userA"), &["Hi", "", "/to you"]).await;
        assert!(is(code, 0));
        assert_eq!(out, "");
        assert_eq!(fake.log("dm:userA:userB"), ["Hi", "/to you"]);
        let (code, out) = chat(&fake, "userA", None, &[]).await;
        assert!(is(code, 0));
        assert_eq!(out, "userB: Hi\nuserB: /to you\n");
        let (_, again) = chat(&fake, "userA", None, &[]).await;
        assert_eq!(again, "");
    }

    #[tokio::test]
    async fn every_line_is_sent_once_though_the_server_goes_away() {
        let fake = Fake::start().await;
        fake.lose_next_sent();
        let lines: Vec<String> = (0..50).map(|n| format!("line {n}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let (code, _) = chat(&fake, "userB", Some("userA"), &lines).await;
        assert!(is(code, 0));
        assert_eq!(fake.log("dm:userA:userB"), lines);
    }

    #[tokio::test]
    async fn what_could_not_be_sent_is_a_failure() {
        let fake = Fake::start().await;
        assert!(is(chat(&fake, "userB", None, &["Hi"]).await.0, 2));
        let nobody = ClientOptions::new("ws://127.0.0.1:1/ws", "userB");
        let (sender, lines) = mpsc::channel(1);
        sender.send("Hi".to_owned()).await.unwrap();
        drop(sender);
        let mut out = Vec::new();
        let patience = Duration::from_millis(200);
        let code = run(nobody, Some("userA".into()), lines, &mut out, patience).await.unwrap();
        assert!(is(code, 1));
    }
}
