//! What carries a socket's bytes: TCP, or TLS on it, without waiting.
//!
//! With TLS the library's records are held here, apart: a plain socket pays one pointer for them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;

use mio::net::TcpStream;
use rustls::ServerConnection;
use tokio_rustls::TlsStream;

use crate::edge::Stream;

/// How often a connection is read in a turn: records may come without end that hold nothing.
const READS_A_TURN: usize = 4;

/// What a read has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// So many bytes, and there may be more.
    Some(usize),
    /// So many bytes, and there is nothing more now.
    All(usize),
    /// The client has ended its side.
    Ended,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Carrier {
    stream: TcpStream,
    tls: Option<Box<ServerConnection>>,
}

impl Carrier {
    /// Takes a connection out of tokio's hands.
    pub fn new(stream: Stream) -> io::Result<Self> {
        let (stream, tls) = match stream {
            Stream::Plain(stream) => (stream, None),
            Stream::Tls(stream) => match *stream {
                TlsStream::Server(stream) => {
                    let (stream, tls) = stream.into_inner();
                    (stream, Some(Box::new(tls)))
                }
                TlsStream::Client(_) => return Err(ErrorKind::Unsupported.into()),
            },
        };
        Ok(Self { stream: TcpStream::from_std(stream.into_std()?), tls })
    }

    /// For the epoll instance.
    pub fn source(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Whether bytes may be here that epoll knows nothing of.
    pub fn may_hold(&self) -> bool {
        self.tls.is_some()
    }

    /// Reads some of what is there.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Reading> {
        let stream = &mut self.stream;
        let read = match &mut self.tls {
            None => retry(|| stream.read(buffer)).map(|count| match count {
                0 => Reading::Ended,
                // Whatever comes later is told anew (epoll(7)).
                _ if count < buffer.len() => Reading::All(count),
                _ => Reading::Some(count),
            }),
            Some(tls) => read_tls(tls, stream, buffer),
        };
        match read {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Reading::All(0)),
            other => other,
        }
    }

    /// Writes what the client takes now; returns how many of the bytes are no longer the caller's
    /// to keep. Where that is not all of them, or not [`Self::is_clear`], epoll tells when to go
    /// on.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        loop {
            match self.write_some(&bytes[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(written),
                Err(error) => return Err(error),
            }
            if written == bytes.len() {
                return Ok(written);
            }
        }
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stream = &mut self.stream;
        let Some(tls) = &mut self.tls else { return retry(|| stream.write(bytes)) };
        flush(tls, stream)?;
        // The library takes 64 KiB at a time.
        let count = tls.writer().write(bytes)?;
        match flush(tls, stream) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    /// Whether all that was taken has left.
    pub fn is_clear(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| !tls.wants_write())
    }

    /// Says that nothing more comes.
    pub fn shutdown(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = flush(tls, &mut self.stream);
        }
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

fn read_tls(
    tls: &mut ServerConnection,
    stream: &mut TcpStream,
    buffer: &mut [u8],
) -> io::Result<Reading> {
    for _ in 0..READS_A_TURN {
        match tls.reader().read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // A client that hangs up without the alert has hung up all the same.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(Reading::Ended),
            Ok(0) => return Ok(Reading::Ended),
            other => return other.map(Reading::Some),
        }
        if retry(|| tls.read_tls(stream))? == 0 {
            return Ok(Reading::Ended);
        }
        let processed = tls.process_new_packets();
        // An alert, a key update: what the library has to say by itself. What does not leave now
        // leaves with the next write.
        let _ = flush(tls, stream);
        processed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    }
    Ok(Reading::Some(0))
}

fn flush(tls: &mut ServerConnection, stream: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        if retry(|| tls.write_tls(stream))? == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
