//! What a client's bytes come to, below the library: it reads fragment after fragment without a
//! word to us, so that what they cost is counted as it is read.
//!
//! **Invariant.** Every byte that was read is paid for by some message, or was of one that was
//! refused, or ends the socket. The library reads ahead by [`READ_BUFFER_BYTES`] at most, so a
//! message pays for no more than that of its successor's, which then pays so much less.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::edge::Stream;
use crate::protocol::{CloseCode, FRAME_BYTES_MAX};

/// The library zero-fills its read buffer before every read: small, it grows for long frames.
const READ_BUFFER_BYTES: usize = 1_024;
/// Frames gather up to here before they are written without waiting for the flush.
const WRITE_BUFFER_BYTES: usize = 16 * 1_024;
/// What a masked frame has around its payload, at least.
const HEAD_BYTES_MIN: u32 = 6;
/// The most bytes of a message whose end has not come, frame heads included.
const UNFINISHED_BYTES_MAX: u32 = FRAME_BYTES_MAX as u32 + 16 * 1_024;
/// After so many bytes of an unfinished message others have their turn: the library would read it
/// all in one go, and thousands of fragments are many.
const TURN_BYTES: u32 = 1_024;
/// Stands in [`Wire::unfinished`] while others are to have theirs.
const TURN_DUE: u32 = 1 << 31;
/// What fragments may add to a message beside its own bytes once more.
const CRUMBS_BYTES_MAX: u32 = 4 * 1_024;

/// What a client may make the library keep.
pub(crate) fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(4 * 1_024 * 1_024)
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX))
}

/// Whether the library gave up because of this bound.
pub(super) fn is_too_much(error: &io::Error) -> bool {
    error.kind() == ErrorKind::QuotaExceeded
}

/// A connection that counts what is read from it.
pub(super) struct Wire {
    stream: Stream,
    /// Read and not paid for; below 0, paid for and still to come.
    owed: i32,
    /// Read since the last message that was one. Far below its highest bit, which is a mark.
    unfinished: u32,
}

impl Wire {
    /// `behind` bytes have been read from it already.
    pub fn new(stream: Stream, behind: usize) -> Self {
        let mut wire = Self { stream, owed: 0, unfinished: 0 };
        wire.note(behind);
        wire
    }

    /// The connection, without counting.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    fn note(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.owed = self.owed.saturating_add_unsigned(bytes);
        let before = self.unfinished();
        let after = before.saturating_add(bytes).min(!TURN_DUE);
        let due = before / TURN_BYTES != after / TURN_BYTES;
        self.unfinished = after | if due { TURN_DUE } else { 0 };
    }

    fn unfinished(&self) -> u32 {
        self.unfinished & !TURN_DUE
    }

    /// A message of so many bytes has ended. `false`: it came in crumbs.
    pub fn ends(&mut self, bytes: usize) -> bool {
        let came = self.unfinished();
        self.unfinished = 0;
        came <= 2 * whole(bytes) + CRUMBS_BYTES_MAX
    }

    /// A ping or pong of so many bytes, which may come in the middle of a message and pays for
    /// itself alone.
    pub fn passes(&mut self, bytes: usize) {
        self.unfinished = self.unfinished().saturating_sub(whole(bytes));
        self.free(bytes);
    }

    /// What a message of so many bytes costs: what was read for it, and never less than itself, so
    /// that the wait that is told is enough for it.
    pub fn cost(&self, bytes: usize) -> usize {
        let owed = u32::try_from(self.owed).unwrap_or(0);
        owed.max(whole(bytes)) as usize
    }

    /// So much was paid; or refused, and then nobody pays for it.
    pub fn settle(&mut self, cost: usize, paid: bool) {
        self.owed = if paid { self.less(cost) } else { self.owed.min(0) };
    }

    /// A frame of so many bytes that nobody has to pay for as a message.
    pub fn free(&mut self, bytes: usize) {
        self.owed = self.less(whole(bytes) as usize);
    }

    fn less(&self, bytes: usize) -> i32 {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.owed.saturating_sub_unsigned(bytes).max(-(READ_BUFFER_BYTES as i32))
    }
}

/// What a frame of so many bytes takes at least.
pub(super) fn whole(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(HEAD_BYTES_MIN)
}

/// A close frame (RFC 6455 §5.5.1), for when the library gave the connection up.
pub(super) fn close_frame(code: CloseCode) -> Vec<u8> {
    let reason = code.reason().as_bytes();
    let mut frame = vec![0x88, (reason.len() + 2) as u8];
    frame.extend_from_slice(&code.number().to_be_bytes());
    frame.extend_from_slice(reason);
    frame
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if wire.unfinished() > UNFINISHED_BYTES_MAX {
            return Poll::Ready(Err(ErrorKind::QuotaExceeded.into()));
        }
        if wire.unfinished & TURN_DUE != 0 {
            wire.unfinished = wire.unfinished();
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut wire.stream).poll_read(context, buffer))?;
        wire.note(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    async fn wire() -> (Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        (Wire::new(stream.into(), 0), client)
    }

    /// However it is cut into reads: all that was read is paid, and no byte twice for long.
    #[tokio::test]
    async fn everything_is_paid_once() {
        let (mut wire, _client) = wire().await;
        let (mut read, mut paid) = (0, 0);
        for _ in 0..100 {
            // Ten messages of 94 bytes and some of the next, as the library reads ahead.
            wire.note(READ_BUFFER_BYTES);
            read += READ_BUFFER_BYTES;
            for _ in 0..10 {
                let cost = wire.cost(94);
                wire.settle(cost, true);
                paid += cost;
                assert!(wire.ends(94));
            }
        }
        assert!((read..=read + READ_BUFFER_BYTES).contains(&paid), "{paid} of {read}");
        wire.note(700);
        wire.settle(0, false);
        assert_eq!(wire.cost(94), 100, "what was refused owes nothing");
    }

    #[tokio::test]
    async fn crumbs_are_too_much_and_a_few_fragments_are_not() {
        let (mut wire, _client) = wire().await;
        // A byte in each of 600 fragments, and one in each of 2,000.
        for (count, good) in [(600, true), (2_000, false)] {
            wire.note(count * 7);
            assert_eq!(wire.ends(count), good, "{count}");
        }
        // Half a message, and then only pongs to what the server asks: that may go on.
        wire.note(100);
        for _ in 0..100_000 {
            wire.note(14);
            wire.passes(8);
        }
        assert!(wire.unfinished() <= 100);
    }

    /// A long message is read in several turns.
    #[tokio::test]
    async fn others_have_their_turns_while_a_message_comes() {
        let (mut wire, mut client) = wire().await;
        client.write_all(&vec![0; 20_000]).await.unwrap();
        let (mut buffer, mut read, mut turns) = (vec![0; READ_BUFFER_BYTES], 0, 0);
        while read < 20_000 {
            match futures_util::FutureExt::now_or_never(wire.read(&mut buffer)) {
                Some(count) => read += count.unwrap(),
                None => turns += 1,
            }
        }
        assert!(turns >= 20_000 / TURN_BYTES, "{turns}");
        assert!(wire.ends(20_000));
    }

    #[tokio::test]
    async fn what_never_ends_is_an_error_and_the_rest_can_be_read_away() {
        let (mut wire, mut client) = wire().await;
        let writing = tokio::spawn(async move {
            let _ = client.write_all(&vec![0; 100_000]).await;
        });
        let (mut buffer, mut read) = (vec![0; READ_BUFFER_BYTES], 0);
        let error = loop {
            match wire.read(&mut buffer).await {
                Ok(count) => read += count,
                Err(error) => break error,
            }
        };
        assert!(is_too_much(&error));
        let most = UNFINISHED_BYTES_MAX as usize;
        assert!((most + 1..=most + READ_BUFFER_BYTES).contains(&read), "{read}");
        let mut rest = Vec::new();
        wire.stream().read_to_end(&mut rest).await.unwrap();
        assert_eq!(read + rest.len(), 100_000);
        writing.await.unwrap();
    }
}
