//! What a disk may hold after a power cut: what was fsynced, and any part of the rest.

use std::collections::BTreeMap;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, RngExt};

use super::traced::Event;

/// A disk writes these whole or not at all.
const SECTOR: usize = 512;

/// What becomes of what was not fsynced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It is gone.
    All,
    /// It was written in order, up to somewhere in the middle of a write.
    Tail,
    /// Of the writes some were done, in any order.
    Writes,
    /// Of the sectors some were written, in any order.
    Sectors,
    /// The same, and where a file has grown over what was not written, old garbage stands.
    Garbage,
    /// Nothing: the system had written it all by itself.
    None,
}

impl Loss {
    pub const ALL: [Self; 6] =
        [Self::All, Self::Tail, Self::Writes, Self::Sectors, Self::Garbage, Self::None];
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Truncate(usize),
}

/// A file, under whatever name.
#[derive(Debug, Clone, Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Rename {
    Create(String, usize),
    Unlink(String),
}

/// A folder on a disk.
#[derive(Debug, Default)]
pub struct Disk {
    files: Vec<File>,
    /// As the process sees it.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<Rename>,
}

impl Disk {
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Create(name) => {
                self.files.push(File::default());
                let file = self.files.len() - 1;
                self.names.insert(name.clone(), file);
                self.pending_names.push(Rename::Create(name.clone(), file));
            }
            Event::Unlink(name) => {
                self.names.remove(name);
                self.pending_names.push(Rename::Unlink(name.clone()));
            }
            Event::Write { file, offset, data } => {
                let change = Change::Write { offset: *offset, data: data.clone() };
                self.file(file).pending.push(change);
            }
            Event::Truncate { file, len } => self.file(file).pending.push(Change::Truncate(*len)),
            Event::Sync(name) => {
                let file = self.file(name);
                for change in std::mem::take(&mut file.pending) {
                    change.on(&mut file.durable);
                }
            }
            // Not on the disk, and the system holds it for written.
            Event::SyncFailed(name) => self.file(name).pending.clear(),
            Event::SyncFolder => {
                for rename in std::mem::take(&mut self.pending_names) {
                    rename.on(&mut self.durable_names);
                }
            }
            Event::Said(_) => {}
        }
    }

    fn file(&mut self, name: &str) -> &mut File {
        &mut self.files[self.names[name]]
    }

    /// Writes what may be left into a folder; whether anything was taken away.
    pub fn cut(&self, loss: Loss, random: &mut StdRng, folder: &Path) -> bool {
        let mut names = self.durable_names.clone();
        let mut bit = false;
        // Names are kept in order by every file system that matters, but how far is open.
        let kept = match loss {
            Loss::All => 0,
            Loss::None => self.pending_names.len(),
            _ => random.random_range(0..=self.pending_names.len()),
        };
        bit |= kept < self.pending_names.len();
        self.pending_names[..kept].iter().for_each(|rename| rename.clone().on(&mut names));
        for (name, file) in names {
            let file = &self.files[file];
            let content = file.after(loss, random);
            if name.ends_with("-shm") {
                // Of use to living processes only: whatever stands in it must not matter.
                let mut garbage = vec![0; 32_768];
                random.fill_bytes(&mut garbage);
                std::fs::write(folder.join(name), garbage).unwrap();
                continue;
            }
            bit |= loss != Loss::None && content != file.after(Loss::None, random);
            std::fs::write(folder.join(name), content).unwrap();
        }
        bit
    }
}

impl Rename {
    fn on(self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create(name, file) => names.insert(name, file),
            Self::Unlink(name) => names.remove(&name),
        };
    }
}

impl Change {
    fn on(&self, content: &mut Vec<u8>) {
        match self {
            Self::Truncate(len) => content.resize(*len, 0),
            Self::Write { offset, data } => {
                let end = offset + data.len();
                content.resize(content.len().max(end), 0);
                content[*offset..end].copy_from_slice(data);
            }
        }
    }

    /// The parts of a write that lie in one sector each; a truncation is one.
    fn pieces(&self) -> Vec<Self> {
        let Self::Write { offset, data } = self else { return vec![self.clone()] };
        let (mut pieces, mut at) = (Vec::new(), *offset);
        let mut rest = &data[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(SECTOR - at % SECTOR));
            pieces.push(Self::Write { offset: at, data: piece.to_vec() });
            (at, rest) = (at + piece.len(), after);
        }
        pieces
    }
}

impl File {
    fn after(&self, loss: Loss, random: &mut StdRng) -> Vec<u8> {
        let mut content = self.durable.clone();
        let pieces = || self.pending.iter().flat_map(Change::pieces).collect::<Vec<_>>();
        let mut some = |changes: Vec<Change>| -> Vec<Change> {
            // From nearly nothing to nearly everything.
            let odds = random.random_range(0.0..1.0);
            changes.into_iter().filter(|_| random.random_bool(odds)).collect()
        };
        let kept = match loss {
            Loss::All => Vec::new(),
            Loss::None => self.pending.clone(),
            Loss::Writes => some(self.pending.clone()),
            Loss::Sectors => some(pieces()),
            Loss::Garbage => {
                let kept = some(pieces());
                let end = |change: &Change| match change {
                    Change::Write { offset, data } => offset + data.len(),
                    Change::Truncate(_) => 0,
                };
                let grown = kept.iter().map(end).max().unwrap_or(0).max(content.len());
                let before = content.len();
                content.resize(grown, 0);
                random.fill_bytes(&mut content[before..]);
                kept
            }
            Loss::Tail => {
                let all = pieces();
                let kept = random.random_range(0..=all.len());
                all.into_iter().take(kept).collect()
            }
        };
        kept.iter().for_each(|change| change.on(&mut content));
        content
    }
}
