//! Both ways of a connection that passes through: bytes, nothing looked at.
//!
//! **Invariant:** a connection on which nothing moves holds no buffer. What is read goes through
//! one buffer of the thread; only what the other side does not take at once is kept, at most a
//! buffer full, and nothing more is read that way until it has left.

use std::cell::RefCell;
use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::edge::Stream;

/// How long the other side may take to end after one has.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(10);
/// How long the server may take after the client's way to it has broken: what it says before it
/// closes is on its way when the client's next bytes are refused.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(1);
/// How long a client may take nothing of what its server has said. While something waits for it the
/// server is not read, so that nobody here would hear that the server has given the client up.
const DEAF_PATIENCE: Duration = Duration::from_secs(20);
/// The most that is read at once.
const BUFFER_BYTES: usize = 16 * 1024;
/// How often one way is read before the other one is.
const READS_A_TURN: usize = 16;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into());
}

/// Runs until both sides have ended, one broke, or one has ended and the other does not follow: a
/// client that stays after its server's close, or reads nothing before it, must not hold this
/// connection for ever.
pub struct Splice<H> {
    client: Stream,
    server: Stream,
    up: Way,
    down: Way,
    /// Runs once one way has ended, and while the client takes nothing. Boxed: few have it, and not
    /// for long.
    patience: Option<Pin<Box<Sleep>>>,
    _held: H,
}

impl<H> Splice<H> {
    /// Between a client and the server that takes its socket. What is held is dropped at the end.
    pub fn new(client: Stream, server: Stream, held: H) -> Self {
        // Frames are small, and must not wait for each other.
        let _ = client.set_nodelay();
        let (up, down) = Default::default();
        Self { client, server, up, down, patience: None, _held: held }
    }
}

impl<H: Unpin> Future for Splice<H> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Self { client, server, up, down, patience, .. } = self.get_mut();
        let wait = |limit| Some(Box::pin(sleep(limit)));
        down.moved = false;
        match up.go(context, client, server) {
            Some(Ok(())) => *patience = wait(FOLLOW_PATIENCE),
            Some(Err(_)) => *patience = wait(LAST_WORDS_PATIENCE),
            None => {}
        }
        match down.go(context, server, client) {
            Some(Ok(())) => *patience = wait(FOLLOW_PATIENCE),
            // All that the server said has left before this, and it hears nothing any more.
            Some(Err(_)) => return Poll::Ready(()),
            None => {}
        }
        match (up.over, down.over) {
            (true, true) => return Poll::Ready(()),
            (false, false) if !down.waits() => *patience = None,
            (false, false) if down.moved || patience.is_none() => *patience = wait(DEAF_PATIENCE),
            _ => {}
        }
        patience.as_mut().map_or(Poll::Pending, |patience| patience.as_mut().poll(context))
    }
}

/// One way, to its end, which is passed on too.
#[derive(Default)]
struct Way {
    /// What was read and not taken.
    left: Bytes,
    /// Something was taken since this was last set back.
    moved: bool,
    /// Something was taken that may wait in there to be sealed.
    unflushed: bool,
    /// Nothing more is to be read.
    ended: bool,
    /// Ended, and told so.
    over: bool,
}

impl Way {
    /// For the side that it leads to, so that nothing is read.
    fn waits(&self) -> bool {
        !self.left.is_empty() || self.ended
    }

    /// Goes on as far as it gets; gives its end, once.
    fn go(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
    ) -> Option<Result<()>> {
        if self.over {
            return None;
        }
        match self.pass(context, from, to) {
            Poll::Pending => None,
            Poll::Ready(ended) => {
                *self = Self { over: true, ..Self::default() };
                Some(ended)
            }
        }
    }

    fn pass(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
    ) -> Poll<Result<()>> {
        for _ in 0..READS_A_TURN {
            while !self.left.is_empty() {
                match ready!(Pin::new(&mut *to).poll_write(context, &self.left))? {
                    0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                    count => self.left.advance(count),
                }
                self.moved = true;
            }
            self.left = Bytes::new();
            if self.ended {
                return Pin::new(to).poll_shutdown(context);
            }
            let mut moving = |buffer: &mut Box<[u8]>| self.move_some(context, from, to, buffer);
            if BUFFER.with_borrow_mut(&mut moving)?.is_pending() {
                return Poll::Pending;
            }
        }
        // The other way has its turn.
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once, and writes what the other side takes of it.
    fn move_some(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        buffer: &mut [u8],
    ) -> Poll<Result<()>> {
        let mut read = ReadBuf::new(buffer);
        if Pin::new(from).poll_read(context, &mut read)?.is_pending() {
            if self.unflushed && Pin::new(to).poll_flush(context)?.is_ready() {
                self.unflushed = false;
            }
            return Poll::Pending;
        }
        let read = read.filled();
        if read.is_empty() {
            self.ended = true;
            return Poll::Ready(Ok(()));
        }
        self.unflushed = true;
        let taken = match Pin::new(to).poll_write(context, read)? {
            Poll::Ready(0) => return Poll::Ready(Err(Error::from(ErrorKind::WriteZero))),
            Poll::Ready(count) => count,
            Poll::Pending => 0,
        };
        self.left = Bytes::copy_from_slice(&read[taken..]);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::proxy::{ask, give};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpSocket, TcpStream};
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, timeout};

    /// Both ends of a connection, where the system keeps little of what is not read.
    async fn pair() -> (TcpStream, TcpStream) {
        let socket = || {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(32 << 10).unwrap();
            socket.set_send_buffer_size(32 << 10).unwrap();
            socket
        };
        let bound = socket();
        bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = bound.listen(1).unwrap();
        let dialled = socket().connect(listener.local_addr().unwrap()).await.unwrap();
        (dialled, listener.accept().await.unwrap().0)
    }

    /// A client, its server, and what runs between them.
    async fn spliced() -> (TcpStream, TcpStream, JoinHandle<()>) {
        let ((client, outer), (inner, server)) = (pair().await, pair().await);
        (client, server, tokio::spawn(Splice::new(outer.into(), inner.into(), ())))
    }

    /// The same where the server is to be asked first.
    async fn asked() -> (TcpStream, TcpStream, JoinHandle<()>) {
        let ((client, outer), (inner, server)) = (pair().await, pair().await);
        let splicing = tokio::spawn(async move {
            let (mut inner, mut outer) = (Stream::from(inner), Stream::from(outer));
            let answer = ask(&mut inner, b"early").await.unwrap();
            give(&mut outer, &answer).await.unwrap();
            Splice::new(outer, inner, ()).await;
        });
        (client, server, splicing)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stays_after_the_servers_close_is_let_go() {
        let (mut client, mut server, splicing) = asked().await;
        let mut read = [0; 5];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"early");
        server.write_all(b"bye").await.unwrap();
        drop(server);
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"bye", "what was said before the close arrives, and then the close");
        let begun = Instant::now();
        timeout(FOLLOW_PATIENCE * 3, splicing).await.unwrap().unwrap();
        assert!(begun.elapsed() <= FOLLOW_PATIENCE + Duration::from_secs(1));
        drop(client);
    }

    /// A server that refuses what comes has said why; its reset must not overtake that.
    #[tokio::test]
    async fn the_last_words_of_a_server_that_resets_arrive() {
        for _ in 0..20 {
            let (mut client, mut server, splicing) = asked().await;
            server.write_all(b"HTTP/1.1 101 answer").await.unwrap();
            client.read_exact(&mut [0; 19]).await.unwrap();
            // Unread bytes make the close a reset.
            let (mut from_client, mut to_server) = client.split();
            let writing = async { while to_server.write_all(&[b'['; 4096]).await.is_ok() {} };
            let refusing = async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                server.write_all(b"too large").await.unwrap();
                drop(server);
            };
            let mut heard = Vec::new();
            let reading = async {
                let _ = from_client.read_to_end(&mut heard).await;
            };
            tokio::join!(writing, refusing, reading);
            assert_eq!(heard, b"too large");
            splicing.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_gets_a_second_after_a_reset_and_its_own_ends_all() {
        let (client, mut server, splicing) = spliced().await;
        server.write_all(b"unread").await.unwrap();
        client.peek(&mut [0]).await.unwrap();
        let begun = Instant::now();
        drop(client);
        splicing.await.unwrap();
        assert!(begun.elapsed() <= LAST_WORDS_PATIENCE + Duration::from_millis(100));

        let (mut client, server, splicing) = spliced().await;
        client.write_all(b"unread").await.unwrap();
        server.peek(&mut [0]).await.unwrap();
        let begun = Instant::now();
        drop(server);
        splicing.await.unwrap();
        assert!(begun.elapsed() < Duration::from_millis(100), "an idle client hears it at once");
        assert!(client.read(&mut [0]).await.is_ok_and(|count| count == 0));
    }

    /// What it does not read keeps its server's end from being seen.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_let_go_and_a_slow_one_is_not() {
        let (client, mut server, splicing) = spliced().await;
        let second = Duration::from_secs(1);
        let heard = async || {
            // The system takes its time, whatever the clock of this test says.
            std::thread::sleep(Duration::from_millis(20));
            client.readable().await.unwrap();
            client.try_read(&mut vec![0; 256 << 10]).unwrap()
        };
        let mut fill = async || timeout(second, server.write_all(&[b'x'; 8 << 20])).await.is_err();
        for _ in 0..4 {
            assert!(fill().await, "the client takes all");
            tokio::time::sleep(DEAF_PATIENCE - second * 3).await;
            assert!(heard().await > 0);
            assert!(!splicing.is_finished(), "it does read");
        }
        assert!(fill().await);
        drop(server);
        let begun = Instant::now();
        timeout(DEAF_PATIENCE * 3, splicing).await.expect("held for ever").unwrap();
        assert!(begun.elapsed() <= DEAF_PATIENCE + second);
        drop(client);
    }

    #[tokio::test]
    async fn one_side_may_end_before_the_other() {
        let (mut client, mut server, splicing) = spliced().await;
        client.write_all(b"the end").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"the end");
        server.write_all(b"an answer").await.unwrap();
        drop(server);
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"an answer");
        timeout(Duration::from_secs(5), splicing).await.unwrap().unwrap();
    }

    /// Whoever takes nothing stops the other side, and loses nothing of what it said.
    #[tokio::test]
    async fn what_is_not_taken_waits_where_it_was_said() {
        const ALL: usize = 4 << 20;
        let (client, server, splicing) = spliced().await;
        let sent = |seed: usize| {
            let byte = move |at: usize| (at.wrapping_mul(seed) >> 7) as u8;
            (0..ALL).map(byte).collect::<Vec<u8>>()
        };
        let talk = |stream: TcpStream, says: Vec<u8>, hears: Vec<u8>| async move {
            let (mut from, mut to) = stream.into_split();
            let saying = tokio::spawn(async move {
                to.write_all(&says).await.unwrap();
                to.shutdown().await.unwrap();
                to
            });
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(!saying.is_finished(), "a buffer without a bound took all of it");
            let mut heard = Vec::new();
            from.read_to_end(&mut heard).await.unwrap();
            assert!(heard == hears, "{} of {ALL} bytes, or others", heard.len());
            drop(saying.await.unwrap());
        };
        let (up, down) = (sent(3), sent(5));
        tokio::join!(talk(client, up.clone(), down.clone()), talk(server, down, up));
        timeout(Duration::from_secs(5), splicing).await.unwrap().unwrap();
    }

    #[test]
    fn an_idle_splice_is_small() {
        let bytes = size_of::<Splice<()>>();
        assert!(bytes <= 176, "{bytes}");
    }
}
