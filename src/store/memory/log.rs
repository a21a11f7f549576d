//! The entries of one conversation, in blocks of equal spans of seqs: a log that grows is never
//! moved as a whole.

use crate::protocol::{Entry, Seq};
use crate::store::{LogPage, LogRange, Order, PAGE_MAX};

/// How many seqs a block spans.
const BLOCK: Seq = 64;
/// A page ends at 1 MB.
const PAGE_BYTES_MAX: usize = 1_000_000;

/// **Invariant.** Blocks rise by number, entries within one by seq, and no block is empty.
#[derive(Default)]
pub struct Log {
    blocks: Vec<Block>,
}

struct Block {
    /// Of its seqs, divided by [`BLOCK`].
    number: u64,
    entries: Vec<Entry>,
}

impl Log {
    /// Puts entries until one is occupied; how many were put.
    pub fn append(&mut self, entries: &[Entry]) -> usize {
        entries.iter().take_while(|entry| self.put(entry)).count()
    }

    /// Logs are dense, so it nearly always goes behind all others; but what a caller puts elsewhere
    /// must find its place too.
    fn put(&mut self, entry: &Entry) -> bool {
        let number = entry.seq / BLOCK;
        let at = match self.blocks.last() {
            Some(last) if last.number == number => self.blocks.len() - 1,
            _ => self.blocks.partition_point(|block| block.number < number),
        };
        if self.blocks.get(at).is_none_or(|block| block.number != number) {
            // A log that has filled a block is likely to fill the next one.
            let grown = if self.blocks.is_empty() { 0 } else { BLOCK as usize };
            self.blocks.insert(at, Block { number, entries: Vec::with_capacity(grown) });
        }
        let entries = &mut self.blocks[at].entries;
        if entries.last().is_none_or(|last| last.seq < entry.seq) {
            entries.push(entry.clone());
            return true;
        }
        match entries.binary_search_by_key(&entry.seq, |entry| entry.seq) {
            Ok(_) => false,
            Err(at) => {
                entries.insert(at, entry.clone());
                true
            }
        }
    }

    /// See `Store::log`.
    pub fn page(&self, range: LogRange) -> LogPage {
        let before = range.before.unwrap_or(Seq::MAX);
        let from = self.blocks.partition_point(|block| block.number < range.after / BLOCK);
        let until = self.blocks.partition_point(|block| block.number <= before / BLOCK);
        let blocks = self.blocks.get(from..until).unwrap_or_default();
        // Only the blocks at both ends hold entries outside.
        let inside = |entry: &&Entry| entry.seq > range.after && entry.seq < before;
        let within = blocks.iter().flat_map(|block| &block.entries).filter(inside);
        match range.order {
            Order::Ascending => page_of(within, range.limit),
            Order::Descending => page_of(within.rev(), range.limit),
        }
    }
}

fn page_of<'a>(entries: impl Iterator<Item = &'a Entry>, limit: usize) -> LogPage {
    let limit = limit.clamp(1, PAGE_MAX);
    let (mut page, mut bytes) = (LogPage::default(), 0);
    for entry in entries {
        if page.entries.len() == limit || bytes > PAGE_BYTES_MAX {
            page.more = true;
            break;
        }
        bytes += entry.message.as_ref().map_or(0, |message| message.len())
            + entry.data.as_ref().map_or(0, |data| data.get().len());
        page.entries.push(entry.clone());
    }
    page
}
