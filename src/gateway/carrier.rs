//! What carries a socket's bytes: TCP, or TLS on it, without waiting.
//!
//! With TLS the library's records are held here, apart: a plain socket pays one pointer for them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;

use mio::net::TcpStream;
use rustls::ServerConnection;
use tokio_rustls::TlsStream;

use crate::edge::Stream;

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

    /// Reads what is there; 0: the client has ended its side. The second value says that nothing
    /// more is there: a read of a stream that fills its buffer but in part has emptied it
    /// (epoll(7)), and whatever comes later is told anew.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
        let Some(tls) = &mut self.tls else {
            let count = retry(|| self.stream.read(buffer))?;
            return Ok((count, count < buffer.len()));
        };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // A client that hangs up without the alert has hung up all the same.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok((0, true)),
                other => return other.map(|count| (count, false)),
            }
            if retry(|| tls.read_tls(&mut self.stream))? == 0 {
                return Ok((0, true));
            }
            let processed = tls.process_new_packets();
            // An alert, a key update: what the library has to say by itself.
            let _ = flush(tls, &mut self.stream);
            processed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        }
    }

    /// Writes what the client takes now; returns how many of the bytes are no longer the caller's
    /// to keep. `WouldBlock`: none.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return retry(|| self.stream.write(bytes)) };
        flush(tls, &mut self.stream)?;
        let count = tls.writer().write(bytes)?;
        match flush(tls, &mut self.stream) {
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
