//! `parlor table`: makes and checks the DynamoDB table, and shows a conversation to a person.
//!
//! Showing goes through the [`Store`] port, so that it works on the embedded store as well. Texts
//! are other people's: nothing that could steer the terminal is printed as it is.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::sync::Arc;

use crate::config::{Table, TableCommand};
use crate::protocol::{ConversationId, ConversationKind, Entry, Kind, Seq, Timestamp, UserId};
use crate::store::{LogRange, MailboxPart, PAGE_MAX, Record, RecordPart, Row, Store, StoreError};
use crate::wiring::{self, RealTable};

/// Why `parlor table` could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The options don't fit together; exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The store said no; exit code 1.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Stdout is closed or full; exit code 1.
    #[error("can't print: {0}")]
    Print(#[from] std::io::Error),
}

impl TableError {
    /// What the process ends with.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Usage(_)) { 2 } else { 1 }
    }
}

/// Runs `parlor table`. What was asked for goes to stdout; the exit code is 1 where `check` found
/// something wrong.
pub async fn run(options: &Table) -> Result<ExitCode, TableError> {
    match print(options, &mut std::io::stdout()).await {
        // Whoever reads has seen enough, as in `parlor table show … | head`.
        Err(TableError::Print(error)) if error.kind() == ErrorKind::BrokenPipe => {
            Ok(ExitCode::SUCCESS)
        }
        other => other,
    }
}

async fn print(options: &Table, out: &mut (dyn Write + Send)) -> Result<ExitCode, TableError> {
    match &options.command {
        TableCommand::Create => {
            let made = real_table(options).await?.create().await?;
            let what = if made { "is made" } else { "is there already" };
            writeln!(out, "the table {:?} {what}", options.table)?;
        }
        TableCommand::Check => {
            let faults = real_table(options).await?.check().await?;
            for fault in &faults {
                writeln!(out, "{fault}")?;
            }
            if !faults.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
            writeln!(out, "the table {:?} is as Parlor needs it", options.table)?;
        }
        TableCommand::Show { conversation } => {
            let store = store(options).await?;
            show(&*store, conversation, out).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn real_table(options: &Table) -> Result<RealTable, TableError> {
    let Some(target) = &options.dynamodb else {
        let text = "say which DynamoDB: --dynamodb aws, or --dynamodb http://127.0.0.1:8000";
        return Err(TableError::Usage(text.to_owned()));
    };
    let table = RealTable::at(target, &options.table).await;
    table.map_err(|error| TableError::Usage(error.to_string()))
}

async fn store(options: &Table) -> Result<Arc<dyn Store>, TableError> {
    if options.dynamodb.is_some() {
        return Ok(real_table(options).await?.store().await?);
    }
    match &options.data {
        Some(folder) => {
            wiring::read_folder(folder).map_err(|error| TableError::Usage(error.to_string()))
        }
        None => Err(TableError::Usage(
            "say where: --dynamodb aws, --dynamodb URL, or --data DIR (the folder of `parlor up`)"
                .to_owned(),
        )),
    }
}

/// Prints a conversation's entries from its floor on, with the status that each message has.
pub async fn show(
    store: &dyn Store,
    conversation: &ConversationId,
    out: &mut (dyn Write + Send),
) -> Result<(), TableError> {
    let (floor, rows) = (floor(store, conversation).await?, rows(store, conversation).await?);
    let (mut after, mut widths) = (floor.saturating_sub(1), [0; 3]);
    loop {
        let page = store.log(conversation, LogRange::following(after, PAGE_MAX)).await?;
        let lines: Vec<Line> =
            page.entries.iter().map(|entry| line(conversation, entry, &rows)).collect();
        for line in &lines {
            for (width, column) in widths.iter_mut().zip(&line.columns) {
                *width = (*width).max(column.chars().count());
            }
        }
        for Line { columns: [seq, who, status], when, text } in &lines {
            let [a, b, c] = widths;
            writeln!(out, "{seq:>a$}  {who:<b$}  {status:<c$}  {when}  {text}")?;
        }
        match page.entries.last() {
            Some(last) if page.more => after = last.seq,
            Some(_) => return Ok(()),
            None => {
                // Only a first page says that there is nothing at all.
                if widths == [0; 3] {
                    writeln!(out, "no messages in {conversation}")?;
                }
                return Ok(());
            }
        }
    }
}

async fn floor(store: &dyn Store, conversation: &ConversationId) -> Result<Seq, StoreError> {
    let head = store.records(RecordPart::Head(conversation.clone())).await?;
    Ok(head.into_iter().find_map(Record::into_head).map_or(0, |head| head.floor))
}

/// The rows that a direct conversation's statuses are derived from.
async fn rows(
    store: &dyn Store,
    conversation: &ConversationId,
) -> Result<Vec<(UserId, Row)>, StoreError> {
    let ConversationKind::Direct(a, b) = conversation.kind() else { return Ok(Vec::new()) };
    let mut rows = Vec::new();
    for user in [a, b] {
        let page = store.mailbox(&user, MailboxPart::Row(conversation.clone())).await?;
        rows.extend(page.rows.into_iter().map(|row| (user.clone(), row)));
    }
    Ok(rows)
}

/// An entry, ready to print.
struct Line {
    /// Seq, who to whom, status.
    columns: [String; 3],
    when: String,
    text: String,
}

fn line(conversation: &ConversationId, entry: &Entry, rows: &[(UserId, Row)]) -> Line {
    let to = entry.to.as_ref().filter(|_| !conversation.is_room());
    let to = to.map_or_else(|| conversation.to_string(), ToString::to_string);
    let data = entry.data.as_ref().map(|data| format!("data {}", data.get()));
    let said = entry.message.as_deref().map(str::to_owned);
    let done = (entry.kind != Kind::Message).then(|| {
        let whom = entry.to.as_ref().map_or(String::new(), |user| format!(" {user}"));
        format!("[{}{whom}]", entry.kind.as_str())
    });
    let text: Vec<String> = [done, said, data].into_iter().flatten().collect();
    Line {
        columns: [
            entry.seq.to_string(),
            format!("{} → {to}", entry.from),
            status(entry, rows).to_owned(),
        ],
        when: utc(entry.timestamp),
        text: escaped(&text.join("  ")),
    }
}

/// Derived, as everywhere: from the recipient's row, or `sent` where there is none.
fn status(entry: &Entry, rows: &[(UserId, Row)]) -> &'static str {
    let recipient = rows.iter().find(|(user, _)| entry.to.as_ref() == Some(user));
    match recipient {
        Some((_, row)) if row.read >= entry.seq => "read",
        Some((_, row)) if row.delivered >= entry.seq => "delivered",
        _ => "sent",
    }
}

/// Control characters, and those that turn the direction of what follows, as escapes.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let steers = c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2066}'..='\u{2069}' | '\u{feff}');
        if steers { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// `2026-11-24 13:00:00Z`, by the proleptic Gregorian calendar.
fn utc(timestamp: Timestamp) -> String {
    let seconds = timestamp / 1_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March here, so that the leap day is the last one; eras have 400 years.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::DeviceId;
    use crate::store::Raise;
    use crate::store::dynamodb::tests::{endpoint, fresh};

    #[test]
    fn timestamps_are_read_by_people() {
        // By `date -u -d @…`.
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_399, "2000-02-28 23:59:59Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (951_868_800, "2000-03-01 00:00:00Z"),
            (1_795_525_200, "2026-11-24 13:00:00Z"),
            (4_107_542_399, "2100-02-28 23:59:59Z"),
            (4_107_542_400, "2100-03-01 00:00:00Z"),
            (4_133_980_799, "2100-12-31 23:59:59Z"),
        ] {
            assert_eq!(utc(seconds * 1_000 + 999), text);
        }
        // A damaged timestamp prints something, and does not panic.
        assert!(utc(u64::MAX).ends_with('Z'));
    }

    fn entry(seq: Seq, from: &str, to: Option<&str>, message: Option<&str>) -> Entry {
        Entry {
            seq,
            kind: if message.is_some() { Kind::Message } else { Kind::Joined },
            from: UserId::parse(from).unwrap(),
            to: to.map(|to| UserId::parse(to).unwrap()),
            message: message.map(Into::into),
            data: None,
            reference: None,
            device: DeviceId::plain(),
            timestamp: 1_795_525_200_000,
            n: seq,
        }
    }

    /// What `show` prints of these entries, on the real table.
    async fn shown(name: &str, entries: &[Entry], raises: &[(&str, Raise)]) -> Option<String> {
        let url = endpoint()?;
        let (store, _) = fresh(&url).await;
        let conversation = ConversationId::parse(name).unwrap();
        for entry in entries {
            store.append(&conversation, std::slice::from_ref(entry)).await.unwrap();
        }
        for (user, raise) in raises {
            store.raise(&UserId::parse(user).unwrap(), &conversation, raise).await.unwrap();
        }
        let mut out = Vec::new();
        show(&store, &conversation, &mut out).await.unwrap();
        Some(String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn a_conversation_is_shown_with_the_status_of_each_message() {
        let entries: Vec<Entry> = (1..=9)
            .map(|seq| entry(seq, "userA", Some("userB"), Some("Hi")))
            .chain([entry(10, "userB", Some("userA"), Some("a\nb"))])
            .collect();
        let raise =
            Raise { last: Some(9), delivered: Some(8), read: Some((7, 7)), ..Raise::default() };
        let raises = [("userB", raise)];
        let Some(text) = shown("dm:userA:userB", &entries, &raises).await else { return };
        let lines: Vec<_> = text.lines().skip(6).collect();
        assert_eq!(
            lines,
            [
                " 7  userA → userB  read       2026-11-24 13:00:00Z  Hi",
                " 8  userA → userB  delivered  2026-11-24 13:00:00Z  Hi",
                " 9  userA → userB  sent       2026-11-24 13:00:00Z  Hi",
                "10  userB → userA  sent       2026-11-24 13:00:00Z  a\\nb",
            ]
        );
    }

    #[tokio::test]
    async fn a_room_and_an_empty_conversation_are_shown() {
        let entries =
            [entry(1, "userA", Some("userA"), None), entry(2, "userA", None, Some("welcome"))];
        let Some(text) = shown("room:general", &entries, &[]).await else { return };
        assert_eq!(
            text,
            "1  userA → room:general  sent  2026-11-24 13:00:00Z  [joined userA]\n\
             2  userA → room:general  sent  2026-11-24 13:00:00Z  welcome\n"
        );
        let text = shown("dm:userA:userC", &[], &[]).await;
        assert_eq!(text.as_deref(), Some("no messages in dm:userA:userC\n"));
    }

    #[test]
    fn texts_can_not_steer_the_terminal() {
        assert_eq!(escaped("Hi \u{1f600} é"), "Hi \u{1f600} é");
        assert_eq!(escaped("a\u{1b}[2Jb\r\nc\t"), "a\\u{1b}[2Jb\\r\\nc\\t");
        assert_eq!(escaped("\u{202e}olleh\u{9b}"), "\\u{202e}olleh\\u{9b}");
    }
}
