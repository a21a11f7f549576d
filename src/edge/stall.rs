//! A stream whose writes must get on: a client that asks for a page and never reads it, or reads it
//! in drips, gives its place back.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long writes may wait for a client, beyond [`BYTE_TAKES`] for each that it takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same while somebody else needs the place.
/// A socket says only once a third of its buffer is empty that its client takes anything.
const PATIENCE_SHORT: Duration = Duration::from_secs(15);
/// How long a byte may take while something waits for it: 16 KiB a second.
const BYTE_TAKES: Duration = Duration::from_nanos(1_000_000_000 / (16 * 1024));
/// How often it is asked, while a write waits, whether somebody else needs the place.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Fails a write for which, and for those before it, was waited too long. What a client takes pays
/// for what it let wait: so one that is never waited for may take as long as it likes.
pub struct StallGuard<S> {
    stream: S,
    is_short: Box<dyn Fn() -> bool + Send + Sync>,
    /// How long writes have waited, less what was paid for.
    waited: Duration,
    /// A write waits since then.
    since: Option<Instant>,
    /// Fires when that is to be looked at.
    look: Option<Pin<Box<Sleep>>>,
}

impl<S: std::fmt::Debug> std::fmt::Debug for StallGuard<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StallGuard").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl<S> StallGuard<S> {
    /// Around a stream; `is_short` says whether somebody else needs its place.
    pub fn new(stream: S, is_short: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        let is_short = Box::new(is_short);
        Self { stream, is_short, waited: Duration::ZERO, since: None, look: None }
    }

    /// What came of a call that has written so many bytes, if it is ready.
    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        wrote: Poll<io::Result<T>>,
        bytes: impl Fn(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(wrote) = wrote {
            if let Some(since) = self.since.take() {
                self.waited += since.elapsed();
                self.look = None;
            }
            let bytes = u32::try_from(wrote.as_ref().map_or(0, bytes)).unwrap_or(u32::MAX);
            self.waited = self.waited.saturating_sub(BYTE_TAKES * bytes);
            return Poll::Ready(wrote);
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        loop {
            let patience = if (self.is_short)() { PATIENCE_SHORT } else { PATIENCE };
            let left = patience.saturating_sub(self.waited + since.elapsed());
            if left.is_zero() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            let next = Instant::now() + left.min(LOOK_EVERY);
            let look = self.look.get_or_insert_with(|| Box::pin(sleep_until(next)));
            ready!(look.as_mut().poll(context));
            look.as_mut().reset(next);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, wrote, |bytes| *bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, wrote, |bytes| *bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, flushed, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judge(context, ended, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::sleep;

    use super::*;

    /// Reads so many bytes every second, until the other end is gone: how many it got.
    async fn drips(mut far: DuplexStream, bytes: usize) -> usize {
        let (mut all, mut buffer) = (0, vec![0; bytes]);
        loop {
            sleep(Duration::from_secs(1)).await;
            match far.read(&mut buffer).await {
                Ok(0) | Err(_) => return all,
                Ok(bytes) => all += bytes,
            }
        }
    }

    /// Writes a page of 4 MiB to such a reader: how it ended, and after how long.
    async fn page(bytes: usize, is_short: bool) -> (Option<io::ErrorKind>, u64) {
        let (near, far) = duplex(64 * 1024);
        let mut guarded = StallGuard::new(near, move || is_short);
        let (reads, begun) = (tokio::spawn(drips(far, bytes)), Instant::now());
        let wrote = guarded.write_all(&vec![1; 4 << 20]).await;
        let took = begun.elapsed().as_secs();
        drop(guarded);
        reads.await.unwrap();
        (wrote.err().map(|error| error.kind()), took)
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_in_drips_is_given_up_and_a_slow_one_is_not() {
        for bytes in [1, 1_024, 8 * 1_024] {
            let (error, took) = page(bytes, false).await;
            assert_eq!(error, Some(io::ErrorKind::TimedOut), "{bytes}");
            assert!((30..=70).contains(&took), "{bytes}: {took} s");
        }
        let (error, took) = page(18 * 1_024, false).await;
        assert!(error.is_none() && took > 200, "{error:?}, {took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn where_places_are_short_it_is_given_up_sooner() {
        let (error, took) = page(1_024, true).await;
        assert_eq!(error, Some(io::ErrorKind::TimedOut));
        assert!((15..=18).contains(&took), "{took} s");
    }

    /// It may become so while a write waits.
    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_makes_room_once_places_are_short() {
        let (near, _silent) = duplex(8);
        let (short, begun) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let is_short = short.clone();
        let mut guarded = StallGuard::new(near, move || is_short.load(Ordering::Relaxed));
        let become_short = async {
            sleep(Duration::from_secs(16)).await;
            short.store(true, Ordering::Relaxed);
        };
        let (wrote, ()) = tokio::join!(guarded.write_all(&[1; 32]), become_short);
        assert_eq!(wrote.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!((16..=21).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        // It stays so.
        assert!(guarded.write_all(&[1]).await.is_err());
    }
}
