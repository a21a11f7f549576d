//! A line between a balancer and a server: whole packets, one of which may carry a socket.
//!
//! `SOCK_SEQPACKET`, so that a packet is there altogether with what it carries, or not at all.
//! Tokio has no type for that: its own for streams does, which only waits and accepts here.

use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::cmsg_space;
use rustix::net::sockopt::{socket_domain, socket_peercred, socket_type};
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

/// How many that have dialled wait to be accepted; whoever finds no place there proxies.
const BACKLOG: i32 = 512;
const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// The user that this process acts as.
pub fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A packet that has come.
#[derive(Debug)]
pub struct Received {
    /// Its length; 0: the other side has ended.
    pub bytes: usize,
    /// What it carried.
    pub carried: Option<OwnedFd>,
    /// Nothing of it was cut off: room for bytes, or files for what it carried.
    pub whole: bool,
}

impl Received {
    /// The socket that came with it, if it is a client's.
    pub fn stream(self) -> Option<std::net::TcpStream> {
        let carried = self.carried?;
        let stream = socket_type(&carried).ok()? == SocketType::STREAM;
        let domain = socket_domain(&carried).ok()?;
        let internet = [AddressFamily::INET, AddressFamily::INET6].contains(&domain);
        (stream && internet).then(|| carried.into())
    }
}

fn socket() -> Result<OwnedFd> {
    Ok(net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?)
}

/// Where others can dial.
#[derive(Debug)]
pub struct Listening(UnixListener);

impl Listening {
    /// At this path, where nothing is yet.
    pub fn at(path: &Path) -> Result<Self> {
        let bound = socket()?;
        net::bind(&bound, &SocketAddrUnix::new(path)?)?;
        net::listen(&bound, BACKLOG)?;
        UnixListener::from_std(bound.into()).map(Self)
    }

    /// The next one that has dialled.
    pub async fn accept(&self) -> Result<Line> {
        self.0.accept().await.map(|(line, _)| Line(line))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Line(UnixStream);

impl Line {
    /// To whoever listens there.
    pub fn dial(path: &Path) -> Result<Self> {
        let line = socket()?;
        net::connect(&line, &SocketAddrUnix::new(path)?)?;
        UnixStream::from_std(line.into()).map(Self)
    }

    /// The user at the other end.
    pub fn user(&self) -> Result<u32> {
        Ok(socket_peercred(&self.0)?.uid.as_raw())
    }

    /// Sends a packet with what it carries: all of it, or on an error nothing.
    pub async fn send(&self, bytes: &[u8], carried: Option<BorrowedFd<'_>>) -> Result<()> {
        let send = || {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let carried = carried.as_slice();
            if !carried.is_empty() && !control.push(SendAncillaryMessage::ScmRights(carried)) {
                return Err(Error::from(ErrorKind::OutOfMemory));
            }
            net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
            Ok(())
        };
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// The next packet.
    pub async fn receive(&self, buffer: &mut [u8]) -> Result<Received> {
        let receive = || {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(buffer)];
            let got = net::recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let mut carried = None;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(mut rights) = message {
                    carried = rights.next();
                }
            }
            let whole = !got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
            Ok(Received { bytes: got.bytes, carried, whole })
        };
        self.0.async_io(Interest::READABLE, receive).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (tempfile::TempDir, Line, Line) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ws1.sock");
        let listener = Listening::at(&path).unwrap();
        let (dialled, accepted) = (Line::dial(&path).unwrap(), listener.accept().await.unwrap());
        (folder, dialled, accepted)
    }

    #[tokio::test]
    async fn a_socket_goes_over_and_stays_open() {
        let (_folder, near, far) = pair().await;
        assert_eq!((near.user().unwrap(), far.user().unwrap()), (own_user(), own_user()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let held = listener.accept().await.unwrap().0.into_std().unwrap();
        near.send(b"with it", Some(held.as_fd())).await.unwrap();
        drop((held, near));
        let mut buffer = [0; 64];
        let received = far.receive(&mut buffer).await.unwrap();
        assert!(received.whole);
        assert_eq!(&buffer[..received.bytes], b"with it");
        let mut taken = TcpStream::from_std(received.stream().unwrap()).unwrap();
        taken.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        let end = far.receive(&mut buffer).await.unwrap();
        assert_eq!((end.bytes, end.carried.is_none()), (0, true));
    }

    #[tokio::test]
    async fn what_is_no_clients_socket_is_told() {
        let (_folder, near, far) = pair().await;
        let mut buffer = [0; 4];
        near.send(b"none", None).await.unwrap();
        assert!(far.receive(&mut buffer).await.unwrap().stream().is_none());
        near.send(b"file", Some(tempfile::tempfile().unwrap().as_fd())).await.unwrap();
        assert!(far.receive(&mut buffer).await.unwrap().stream().is_none());
        near.send(b"line", Some(near.0.as_fd())).await.unwrap();
        assert!(far.receive(&mut buffer).await.unwrap().stream().is_none());
        near.send(b"too long", None).await.unwrap();
        assert!(!far.receive(&mut buffer).await.unwrap().whole);
    }
}
