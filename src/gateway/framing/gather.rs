//! Frames put together from what has arrived, and messages from their frames.
//!
//! What has come of a frame lies in one buffer that grows with what really comes, never with what
//! a head promises, and at most doubles: a slow sender costs each byte one or two copies, and no
//! second look. Text is checked as it comes.

use std::ops::Range;

use simdutf8::{basic, compat};

use super::Fault;
use super::head::{HEAD_BYTES_MAX, Head, Kind, Limits, Opening, Sum, unmask};

/// A buffer begins with so much, or with what its frame needs.
const ROOM_BYTES_MIN: usize = 512;

/// What was heard of a client, who may say as much as its limits allow.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// A text.
    Text {
        /// The text.
        text: &'a str,
        /// The bytes that were read for it, the heads of all its frames included.
        cost: u32,
    },
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping.
    Ping(&'a [u8]),
    /// A pong.
    Pong(&'a [u8]),
    /// A close, with its code if it has one.
    Close(Option<u16>),
}

impl<'a> Heard<'a> {
    fn read(kind: Kind, payload: &'a [u8], cost: usize) -> Result<Self, Fault> {
        Ok(match kind {
            Kind::Text => Self::Text {
                text: basic::from_utf8(payload).map_err(|_| Fault::NotUtf8)?,
                cost: short(cost),
            },
            Kind::Binary | Kind::Continuation => Self::Binary(payload),
            Kind::Ping => Self::Ping(payload),
            Kind::Pong => Self::Pong(payload),
            Kind::Close => Self::Close(close_code(payload)?),
        })
    }
}

/// The code of a close frame, if it has one (RFC 6455 §5.5.1, §7.4).
fn close_code(payload: &[u8]) -> Result<Option<u16>, Fault> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(None) } else { Err(Fault::Protocol) };
    };
    let code = u16::from_be_bytes(*code);
    // Of the first thousand, those that were registered and may be sent.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Fault::Protocol);
    }
    basic::from_utf8(reason).map_err(|_| Fault::NotUtf8)?;
    Ok(Some(code))
}

fn short(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The frames of one connection; see [`super::Decoder`], which is this for texts alone.
#[derive(Debug, Default)]
pub struct Frames {
    begun: Option<Box<Begun>>,
    kept: Option<Box<Kept>>,
}

/// What has come and is not handed out, or was handed out last.
#[derive(Debug, Default)]
struct Begun {
    /// The beginning of a head.
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: usize,
    /// The frame whose payload is to come.
    part: Option<Part>,
    message: Message,
    /// The payload of a control frame, which may stand in the middle of a message.
    control: Vec<u8>,
}

/// Bytes that nobody has looked at.
#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    /// Where they begin; what lies before was handed out.
    from: usize,
}

/// A frame that is not whole.
#[derive(Debug)]
struct Part {
    head: Head,
    /// How much of its payload is to come.
    missing: usize,
}

impl Part {
    fn raw(&self) -> usize {
        self.head.bytes + self.head.length
    }

    /// Whether nothing follows it in its buffer.
    fn is_last(&self) -> bool {
        self.head.opening.last
    }
}

/// A message that is not whole, or was handed out.
#[derive(Debug, Default)]
struct Message {
    kind: Option<Kind>,
    bytes: Vec<u8>,
    /// So many of them are known to be good text.
    checked: usize,
    /// The bytes of its whole frames, with their heads.
    raw: usize,
    /// Its last frame is whole.
    ended: bool,
}

impl Message {
    /// Checks what has come since the last time, so that bad text is not waited for. A character
    /// may stand in two frames; that none is left open is seen when the text is read.
    fn check(&mut self) -> Result<(), Fault> {
        match compat::from_utf8(&self.bytes[self.checked..]) {
            Ok(text) => self.checked += text.len(),
            Err(error) if error.error_len().is_some() => return Err(Fault::NotUtf8),
            Err(error) => self.checked += error.valid_up_to(),
        }
        Ok(())
    }
}

/// What was found in bytes.
enum Found {
    /// All are used up, and it was not enough.
    Nothing,
    /// A whole payload, which lies there, of a frame of so many bytes.
    There(Kind, Range<usize>, usize),
    /// The end of one whose beginning had been kept.
    Gathered(Kind, usize),
}

impl Begun {
    fn sum(&self) -> Sum {
        let Message { kind, bytes, raw, .. } = &self.message;
        Sum { begun: kind.is_some(), bytes: bytes.len(), raw: *raw }
    }

    /// Frees what was handed out; whether nothing is left.
    fn is_done(&mut self) -> bool {
        if self.message.ended {
            self.message = Message::default();
        }
        if self.part.as_ref().is_none_or(|part| !part.head.opening.kind.is_control()) {
            self.control = Vec::new();
        }
        self.part.is_none() && self.message.kind.is_none() && self.head_bytes == 0
    }

    fn unpaid(&self) -> usize {
        let message = if self.message.ended { 0 } else { self.message.raw };
        let part = self.part.as_ref().map_or(0, |part| part.raw() - part.missing);
        message + part + self.head_bytes
    }

    fn keep_head(&mut self, bytes: &[u8]) {
        let from = self.head_bytes;
        self.head_bytes += bytes.len();
        self.head[from..self.head_bytes].copy_from_slice(bytes);
    }

    fn begin(&mut self, head: Head) {
        if !head.opening.kind.is_control() {
            self.message.kind.get_or_insert(head.opening.kind);
        }
        self.part = Some(Part { missing: head.length, head });
    }

    /// Takes what it can of a frame that was begun; how much that was, and what has ended with it.
    fn absorb(&mut self, mut part: Part, bytes: &[u8]) -> Result<(usize, Found), Fault> {
        let kind = part.head.opening.kind;
        let count = part.missing.min(bytes.len());
        let buffer = if kind.is_control() { &mut self.control } else { &mut self.message.bytes };
        if buffer.capacity() - buffer.len() < count {
            let most = if part.is_last() { part.missing } else { usize::MAX };
            buffer.reserve_exact(count.max(buffer.len()).max(ROOM_BYTES_MIN).min(most));
        }
        let from = buffer.len();
        buffer.extend_from_slice(&bytes[..count]);
        unmask(&mut buffer[from..], part.head.mask);
        part.head.mask.rotate_left(count % 4);
        part.missing -= count;
        let whole = part.missing == 0;
        let found = if kind.is_control() {
            if whole { Found::Gathered(kind, part.raw()) } else { Found::Nothing }
        } else {
            self.add(&part, whole)?
        };
        if !whole {
            self.part = Some(part);
        }
        Ok((count, found))
    }

    /// More of a message has come, and a frame of it may be whole.
    fn add(&mut self, part: &Part, whole: bool) -> Result<Found, Fault> {
        let ends = whole && part.is_last();
        let message = &mut self.message;
        let kind = message.kind.unwrap_or(part.head.opening.kind);
        if kind == Kind::Text {
            message.check()?;
        }
        if whole {
            message.raw += part.raw();
        }
        message.ended = ends;
        Ok(if ends { Found::Gathered(kind, message.raw) } else { Found::Nothing })
    }
}

impl Kept {
    fn add(&mut self, rest: &[u8]) {
        // Whoever rests after each message moves each byte once, and not once a message.
        if self.from > self.bytes.len() / 2 {
            self.bytes.drain(..self.from);
            self.from = 0;
        }
        self.bytes.extend_from_slice(rest);
    }

    fn rest(&self) -> usize {
        self.bytes.len() - self.from
    }
}

impl Frames {
    /// See [`super::Decoder::next`].
    ///
    /// # Errors
    /// As there.
    pub fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i mut [u8],
        limits: Limits,
    ) -> Result<Option<Heard<'a>>, Fault> {
        self.let_go();
        if let Some(kept) = &mut self.kept {
            let from = kept.from;
            let (used, found) = step(&mut self.begun, &mut kept.bytes[from..], limits)?;
            kept.from += used;
            if !matches!(found, Found::Nothing) {
                let kept = self.kept.as_ref().map_or(&[][..], |kept| &kept.bytes[from..]);
                return show(found, kept, self.begun.as_deref());
            }
            self.kept = None;
        }
        let (used, found) = step(&mut self.begun, input, limits)?;
        let (bytes, rest) = std::mem::take(input).split_at_mut(used);
        *input = rest;
        show(found, bytes, self.begun.as_deref())
    }

    /// See [`super::Decoder::keep`].
    pub fn keep(&mut self, rest: &[u8]) {
        self.let_go();
        if !rest.is_empty() {
            self.kept.get_or_insert_default().add(rest);
        }
    }

    /// See [`super::Decoder::has_kept`].
    pub fn has_kept(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.rest() > 0)
    }

    /// See [`super::Decoder::unpaid`].
    pub fn unpaid(&self) -> u32 {
        let kept = self.kept.as_ref().map_or(0, |kept| kept.rest());
        short(kept + self.begun.as_ref().map_or(0, |begun| begun.unpaid()))
    }

    /// How much memory is set aside for what is to come.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.begun.as_ref().map_or(0, |begun| begun.message.bytes.capacity())
    }

    /// Lets go what was handed out by the last call.
    fn let_go(&mut self) {
        if self.begun.as_mut().is_some_and(|begun| begun.is_done()) {
            self.begun = None;
        }
        if !self.has_kept() {
            self.kept = None;
        }
    }
}

/// Looks at bytes until something is whole; how many were used for it.
fn step(
    begun: &mut Option<Box<Begun>>,
    bytes: &mut [u8],
    limits: Limits,
) -> Result<(usize, Found), Fault> {
    let mut used = 0;
    loop {
        if let Some(begun) = begun
            && let Some(part) = begun.part.take()
        {
            let (count, found) = begun.absorb(part, &bytes[used..])?;
            used += count;
            if !matches!(found, Found::Nothing) {
                return Ok((used, found));
            }
        }
        if used == bytes.len() {
            return Ok((used, Found::Nothing));
        }
        let (count, head) = read_head(begun, &bytes[used..], limits)?;
        used += count;
        let Some(head) = head else { return Ok((used, Found::Nothing)) };
        let Opening { kind, last } = head.opening;
        let alone = kind.is_control() || (last && kind != Kind::Continuation);
        if alone && bytes.len() - used >= head.length {
            let at = used..used + head.length;
            unmask(&mut bytes[at.clone()], head.mask);
            return Ok((at.end, Found::There(kind, at, head.bytes + head.length)));
        }
        begun.get_or_insert_default().begin(head);
    }
}

/// Reads a head, whose beginning may have come before; how many of these bytes were used.
fn read_head(
    begun: &mut Option<Box<Begun>>,
    bytes: &[u8],
    limits: Limits,
) -> Result<(usize, Option<Head>), Fault> {
    let after = begun.as_ref().map_or(Sum::default(), |begun| begun.sum());
    let Some(begun) = begun.as_mut().filter(|begun| begun.head_bytes > 0) else {
        let head = Head::read(bytes, after, limits)?;
        if head.is_none() {
            begun.get_or_insert_default().keep_head(bytes);
        }
        return Ok((head.map_or(bytes.len(), |head| head.bytes), head));
    };
    let before = begun.head_bytes;
    let count = bytes.len().min(HEAD_BYTES_MAX - before);
    begun.keep_head(&bytes[..count]);
    let head = Head::read(&begun.head[..begun.head_bytes], after, limits)?;
    let Some(head) = head else { return Ok((count, None)) };
    begun.head_bytes = 0;
    Ok((head.bytes - before, Some(head)))
}

/// What was found, out of the bytes where it was or the memory where it was gathered.
fn show<'a>(
    found: Found,
    bytes: &'a [u8],
    begun: Option<&'a Begun>,
) -> Result<Option<Heard<'a>>, Fault> {
    let (kind, payload, cost) = match (found, begun) {
        (Found::There(kind, at, cost), _) => (kind, &bytes[at], cost),
        (Found::Gathered(kind, cost), Some(begun)) if kind.is_control() => {
            (kind, &begun.control[..], cost)
        }
        (Found::Gathered(kind, cost), Some(begun)) => (kind, &begun.message.bytes[..], cost),
        _ => return Ok(None),
    };
    Heard::read(kind, payload, cost).map(Some)
}
