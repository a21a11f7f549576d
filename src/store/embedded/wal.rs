//! Looks at a write-ahead log before SQLite does: has it lost what was committed?
//!
//! SQLite reads frames as far as their check sums hold and takes the rest for the torn end of a
//! commit that never returned. A flipped bit in the middle looks the same to it, and everything
//! behind is gone without a word. But each commit is fsynced before the next one writes, so that a
//! power cut leaves pieces of **one** commit at the end and no more: where the end of a commit and
//! a frame that was written upon it stand behind the first bad frame, that frame was durable once.
//! (A frame's check sum goes on from the one before it, which tells what was written upon what.)

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// With the lowest bit set, check sums are over big-endian words.
const MAGIC: u32 = 0x377f_0682;
const PAGE_MAX: usize = 65_536;
const READ_BYTES: usize = 1 << 20;

/// Says what is lost in the log at this path; `None` where nothing is, or there is no log.
pub fn lost(path: &Path) -> std::io::Result<Option<String>> {
    match File::open(path) {
        Ok(file) => lost_in(&mut BufReader::with_capacity(READ_BYTES, file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a log's first 32 bytes say.
struct Header {
    big_endian: bool,
    page: usize,
    salts: [u8; 8],
    sums: [u32; 2],
    /// Its own check sum holds.
    whole: bool,
}

impl Header {
    fn read(bytes: &[u8; HEADER]) -> Self {
        let big_endian = word(bytes, 0) & 1 == 1;
        let sums = add(big_endian, [0, 0], &bytes[..24]);
        let page = word(bytes, 8) as usize;
        let known = word(bytes, 0) & !1 == MAGIC;
        let sound = page.is_power_of_two() && (512..=PAGE_MAX).contains(&page);
        let whole = known && sound && sums == [word(bytes, 24), word(bytes, 28)];
        let mut salts = [0; 8];
        salts.copy_from_slice(&bytes[16..24]);
        Self { big_endian, page, salts, sums, whole }
    }
}

fn lost_in(log: &mut impl Read) -> std::io::Result<Option<String>> {
    let mut bytes = [0; HEADER];
    if !filled(log, &mut bytes)? {
        return Ok(None);
    }
    let header = Header::read(&bytes);
    if !header.whole {
        // The header is written and fsynced by itself, before any frame that belongs to it.
        let frames = filled(log, &mut [0; FRAME_HEADER])?;
        return Ok(frames.then(|| "its first 32 bytes, without which it is void".to_owned()));
    }
    let mut frame = vec![0; FRAME_HEADER + header.page];
    let (mut number, mut before, mut broken) = (0_u64, header.sums, None);
    let mut ends_commit = false;
    while filled(log, &mut frame)? {
        number += 1;
        let sums = add(header.big_endian, before, &frame[..8]);
        let sums = add(header.big_endian, sums, &frame[FRAME_HEADER..]);
        let stored = [word(&frame, 16), word(&frame, 20)];
        // What an earlier round of the same file has left behind has other salts.
        let follows = frame[8..16] == header.salts && sums == stored;
        match broken {
            None if follows => {}
            None => broken = Some(number),
            Some(first) if follows && ends_commit => {
                return Ok(Some(format!("frame {first} and all behind it")));
            }
            Some(_) => ends_commit = follows && word(&frame, 4) != 0,
        }
        before = stored;
    }
    Ok(None)
}

/// Writes a log again as it stands and fsyncs it; nothing where there is none.
///
/// After an fsync that failed the system may hold pages for written that are not on the disk. Were
/// they copied into the database from its memory, and the power cut half-way, the log that should
/// make good for that would lack them.
pub fn make_durable(path: &Path) -> std::io::Result<()> {
    let file = match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let (mut piece, mut at) = (vec![0; READ_BYTES], 0);
    loop {
        let count = file.read_at(&mut piece, at)?;
        if count == 0 {
            return file.sync_all();
        }
        file.write_all_at(&piece[..count], at)?;
        at += count as u64;
    }
}

/// Reads the whole buffer; `false` at the end of the file.
fn filled(log: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<bool> {
    match log.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

/// SQLite's check sum goes on from one piece to the next, two words at a time.
fn add(big_endian: bool, [mut a, mut b]: [u32; 2], bytes: &[u8]) -> [u32; 2] {
    for pair in bytes.chunks_exact(8) {
        let [x, y] = [word(pair, 0), word(pair, 4)];
        let [x, y] = if big_endian { [x, y] } else { [x.swap_bytes(), y.swap_bytes()] };
        a = a.wrapping_add(x).wrapping_add(b);
        b = b.wrapping_add(y).wrapping_add(a);
    }
    [a, b]
}
