//! What a process did to the files of a folder, in order: recorded by `strace`.
//!
//! The process is this test's binary again, running one of its tests as a child: the real store on
//! a real disk. What it prints is in the record too, so that an acknowledgement has its place among
//! writes and fsyncs.

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// One thing that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A file came to be.
    Create(String),
    Write {
        file: String,
        offset: usize,
        data: Vec<u8>,
    },
    Truncate {
        file: String,
        len: usize,
    },
    Sync(String),
    /// An fsync that failed: what it was for is on the disk or not, and no later one says.
    SyncFailed(String),
    /// An fsync of the folder: names are durable.
    SyncFolder,
    Unlink(String),
    /// A line on stdout.
    Said(String),
}

/// Everything that changes a file, or makes a change durable.
const CALLS: &str = "openat,open,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,\
                     fallocate,rename,renameat,renameat2,link,unlink,unlinkat,fsync,fdatasync,\
                     sync_file_range,msync";

/// The calls that make durable.
pub const FSYNCS: &str = "fsync,fdatasync";

/// Whether processes can be recorded here: quick runs leave it out, all others on Linux need
/// `strace`.
pub fn available() -> bool {
    if std::env::var_os("PARLOR_TEST_QUICK").is_some() || !cfg!(target_os = "linux") {
        return false;
    }
    let version = Command::new("strace").arg("-V").stdout(Stdio::null()).status();
    assert!(version.is_ok_and(|status| status.success()), "install strace: ./test does");
    true
}

/// A child that runs one test of this binary under `strace`, with options of its own.
pub fn under_strace(test: &str, options: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "signal=none"]).args(options);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", "--test-threads=1", test]);
    command
}

/// Runs a test of this binary until it ends, or kills itself, and gives what it did in `folder`.
///
/// The fsync of this number is made to fail, where one is given.
pub fn record(
    test: &str,
    folder: &Path,
    settings: &[(&str, &str)],
    failing_fsync: Option<u32>,
) -> Vec<Event> {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let path = trace.path().to_str().unwrap();
    let calls = format!("trace={CALLS}");
    let mut options = vec!["-y", "-xx", "-s", "1000000", "-o", path, "-e", &calls];
    let inject = failing_fsync.map(|number| format!("inject={FSYNCS}:error=EIO:when={number}"));
    options.extend(inject.iter().flat_map(|inject| ["-e", inject]));
    let mut command = under_strace(test, &options);
    command.envs(settings.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // What stands already is not made anew by being opened.
    let names = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name());
    let known = names.map(|name| name.into_string().unwrap()).collect();
    let output = command.output().unwrap();
    let ended = output.status.success() || output.status.signal() == Some(9);
    assert!(ended, "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(trace.path()).unwrap();
    let folder = folder.to_str().unwrap().to_owned();
    let mut reader = Reader { folder, known, ..Reader::default() };
    text.lines().for_each(|line| reader.line(line));
    reader.events
}

#[derive(Default)]
struct Reader {
    folder: String,
    events: Vec<Event>,
    /// Beginnings of calls that another thread interrupted, by thread.
    begun: HashMap<String, String>,
    known: Vec<String>,
    said: String,
}

impl Reader {
    fn line(&mut self, line: &str) {
        let (thread, rest) = line.trim_start().split_once(' ').unwrap();
        let rest = rest.trim_start();
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            self.begun.insert(thread.to_owned(), begun.to_owned());
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let begun = self.begun.remove(thread).unwrap();
            let (_, end) = resumed.split_once(" resumed>").unwrap();
            self.call(&format!("{begun}{end}"));
        } else {
            self.call(rest);
        }
    }

    /// `pwrite64(5<path>, "data", 4096, 32) = 4096`
    fn call(&mut self, call: &str) {
        let Some((name, rest)) = call.split_once('(') else { return };
        let Some((arguments, result)) = rest.rsplit_once(" = ") else { return };
        let arguments = arguments.trim_end().strip_suffix(')').unwrap();
        let arguments: Vec<&str> = arguments.split(", ").collect();
        let failed = result.starts_with('-');
        let file = arguments.first().and_then(|argument| path(argument));
        let ours = |path: &str| path.strip_prefix(&format!("{}/", self.folder)).map(str::to_owned);
        let name_of = file.as_deref().and_then(ours);
        match (name, name_of) {
            ("fsync" | "fdatasync", Some(file)) if failed => {
                self.events.push(Event::SyncFailed(file));
            }
            _ if failed => {}
            ("openat", _) => {
                let made = arguments[2].contains("O_CREAT");
                if let Some(name) = ours(&text(arguments[1])).filter(|_| made)
                    && !self.known.contains(&name)
                {
                    self.known.push(name.clone());
                    self.events.push(Event::Create(name));
                }
            }
            ("pwrite64", Some(file)) => {
                let (data, offset) = (bytes(arguments[1]), arguments[3].parse().unwrap());
                assert_eq!(result.trim(), data.len().to_string(), "it was written whole: {call}");
                self.events.push(Event::Write { file, offset, data });
            }
            ("ftruncate", Some(file)) => {
                self.events.push(Event::Truncate { file, len: arguments[1].parse().unwrap() });
            }
            ("fsync" | "fdatasync", Some(file)) => self.events.push(Event::Sync(file)),
            ("fsync" | "fdatasync", None) if file.as_deref() == Some(&self.folder) => {
                self.events.push(Event::SyncFolder);
            }
            ("unlink", _) => {
                if let Some(name) = ours(&text(arguments[0])) {
                    self.known.retain(|known| *known != name);
                    self.events.push(Event::Unlink(name));
                }
            }
            ("write", None) if arguments[0].starts_with("1<") => {
                self.said.push_str(&text(arguments[1]));
                while let Some((line, rest)) = self.said.split_once('\n') {
                    self.events.push(Event::Said(line.to_owned()));
                    self.said = rest.to_owned();
                }
            }
            // Were there others, the record would not be the whole.
            (_, Some(file)) => panic!("a call that is not understood, on {file}: {call}"),
            _ => {}
        }
    }
}

/// The path in `5<\x2f\x74…>`.
fn path(argument: &str) -> Option<String> {
    let (_, path) = argument.split_once('<')?;
    Some(text(path.strip_suffix('>')?))
}

fn text(escaped: &str) -> String {
    String::from_utf8_lossy(&bytes(escaped)).into_owned()
}

/// What stands as `"\x41\x42"`.
fn bytes(escaped: &str) -> Vec<u8> {
    let digits = escaped.trim_matches('"').as_bytes();
    assert_eq!(digits.len() % 4, 0, "{escaped}");
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap() as u8;
    digits.chunks_exact(4).map(|byte| digit(byte[2]) << 4 | digit(byte[3])).collect()
}
