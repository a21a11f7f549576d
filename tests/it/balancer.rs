//! What a socket costs a balancer that it passes through.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Process, eventually};
use crate::raw::upgrade_head;

/// A server that opens every socket, and then says back what it hears.
async fn echoing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream));
        }
    });
    address
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(());
        }
    }
    if read.starts_with(b"GET /readyz") {
        return stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
    }
    drop(read);
    stream.write_all(b"HTTP/1.1 101 Open\r\n\r\n").await?;
    let mut heard = [0; 64];
    loop {
        match stream.read(&mut heard).await? {
            0 => return Ok(()),
            count => stream.write_all(&heard[..count]).await?,
        }
    }
}

/// A socket that is open, and over which something was said.
async fn open(front: &str, number: usize) -> TcpStream {
    let mut stream = TcpStream::connect(front).await.unwrap();
    let head = upgrade_head(&format!("userId=user-{number}"), "");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 21]).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    stream
}

async fn open_more(front: &str, open_now: &mut Vec<TcpStream>, all: usize) {
    while open_now.len() < all {
        let next = open_now.len()..all.min(open_now.len() + 32);
        open_now.extend(join_all(next.map(|number| open(front, number))).await);
    }
}

/// The bound is 2.5 KB in a release build; what is measured here is a debug build's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_socket_that_passes_through_holds_little() {
    const FIRST: usize = 1_000;
    const ALL: usize = 3_000;
    let server = format!("ws1={}", echoing().await);
    let arguments = ["balancer", "--listen", "127.0.0.1:0", "--server", &server];
    let balancer = Process::start("balancer", &arguments.map(str::to_owned));
    let ready = balancer.ready().await;
    let front = ready["balancer"].as_str().unwrap();
    let mut sockets = Vec::new();
    open_more(front, &mut sockets, FIRST).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = balancer.memory("RssAnon");
    open_more(front, &mut sockets, ALL).await;
    // What the openings have used is given back after a while.
    let bytes = || balancer.memory("RssAnon").saturating_sub(before) / (ALL - FIRST) as u64;
    println!("{} bytes a socket", bytes());
    eventually("at most 2,500 bytes a socket", async || (bytes() <= 2_500).then_some(())).await;
    drop(sockets);
}
