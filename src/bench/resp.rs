//! As much of Redis' protocol as it takes to count keys from outside, and to hurt it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const SCAN_COUNT: &str = "1000";

/// How long a single command may take.
const CALL_LIMIT: Duration = Duration::from_secs(2);

/// What Redis answers; an error is one of ours.
#[derive(Debug, PartialEq)]
pub(crate) enum Reply {
    /// A simple or a bulk string.
    Text(String),
    /// An integer.
    Number(i64),
    /// Nothing there.
    Nil,
    /// Several.
    Array(Vec<Reply>),
}

/// One command on a connection of its own.
pub(crate) async fn once(address: SocketAddr, words: &[&str]) -> anyhow::Result<Reply> {
    let calling = async {
        let mut stream = BufReader::new(TcpStream::connect(address).await?);
        call(&mut stream, words).await
    };
    tokio::time::timeout(CALL_LIMIT, calling).await.context("Redis does not answer")?
}

/// How many keys match, by SCAN; a key that moved meanwhile counts once.
pub(super) async fn count_keys(url: &str, pattern: &str) -> anyhow::Result<usize> {
    let (credentials, address) = parse_url(url)?;
    let stream = TcpStream::connect(&address).await;
    let mut stream = BufReader::new(stream.with_context(|| format!("no Redis at {address}"))?);
    if let Some(credentials) = credentials {
        let mut auth = vec!["AUTH"];
        auth.extend(credentials.split(':').filter(|part| !part.is_empty()));
        call(&mut stream, &auth).await?;
    }
    let mut keys = std::collections::HashSet::new();
    let mut cursor = String::from("0");
    loop {
        let scan = ["SCAN", &cursor, "MATCH", pattern, "COUNT", SCAN_COUNT];
        let Reply::Array(parts) = call(&mut stream, &scan).await? else {
            bail!("not a SCAN reply")
        };
        let [Reply::Text(next), Reply::Array(found)] = parts.as_slice() else {
            bail!("not a SCAN reply")
        };
        keys.extend(found.iter().map(|key| format!("{key:?}")));
        if next == "0" {
            return Ok(keys.len());
        }
        cursor = next.clone();
    }
}

/// `redis://[user:password@]HOST[:PORT][/…]` → the part before @, `HOST:PORT`.
fn parse_url(url: &str) -> anyhow::Result<(Option<String>, String)> {
    let rest = url.strip_prefix("redis://").context("only redis:// can be counted")?;
    let authority = rest.split('/').next().unwrap_or_default();
    let (credentials, host) = match authority.rsplit_once('@') {
        Some((credentials, host)) => (Some(credentials.to_owned()), host),
        None => (None, authority),
    };
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:6379") };
    Ok((credentials, address))
}

async fn call(stream: &mut BufReader<TcpStream>, words: &[&str]) -> anyhow::Result<Reply> {
    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(command.as_bytes()).await?;
    read(stream).await
}

async fn read<R: AsyncBufReadExt + Unpin + Send>(stream: &mut R) -> anyhow::Result<Reply> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1).context("Redis hung up")?;
    match kind {
        "+" => Ok(Reply::Text(rest.to_owned())),
        "-" => bail!("Redis says {rest}"),
        ":" => Ok(Reply::Number(rest.parse()?)),
        "$" if rest == "-1" => Ok(Reply::Nil),
        "$" => {
            let mut bytes = vec![0; rest.parse::<usize>()? + 2];
            stream.read_exact(&mut bytes).await?;
            bytes.truncate(bytes.len() - 2);
            Ok(Reply::Text(String::from_utf8_lossy(&bytes).into_owned()))
        }
        "*" => {
            let mut parts = Vec::new();
            for _ in 0..rest.parse::<usize>()? {
                parts.push(Box::pin(read(stream)).await?);
            }
            Ok(Reply::Array(parts))
        }
        other => bail!("Redis says something that begins with {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn reply(bytes: &str) -> anyhow::Result<Reply> {
        read(&mut BufReader::new(bytes.as_bytes())).await
    }

    #[tokio::test]
    async fn replies_are_read() {
        assert_eq!(reply("+OK\r\n").await.unwrap(), Reply::Text("OK".into()));
        assert_eq!(reply(":42\r\n").await.unwrap(), Reply::Number(42));
        assert_eq!(reply("$-1\r\n").await.unwrap(), Reply::Nil);
        let scan =
            reply("*2\r\n$1\r\n0\r\n*2\r\n$6\r\nuser:a\r\n$7\r\nuser:\r\n\r\n").await.unwrap();
        let keys = ["user:a", "user:\r\n"].map(|key| Reply::Text(key.into())).into();
        assert_eq!(scan, Reply::Array(vec![Reply::Text("0".into()), Reply::Array(keys)]));
        assert!(reply("-NOAUTH no\r\n").await.unwrap_err().to_string().contains("NOAUTH"));
        assert!(reply("").await.is_err());
        assert!(reply("$5\r\nab").await.is_err());
    }

    #[test]
    fn addresses_are_read() {
        let plain = |url| parse_url(url).unwrap();
        assert_eq!(plain("redis://h:1/0"), (None, "h:1".into()));
        assert_eq!(plain("redis://h"), (None, "h:6379".into()));
        assert_eq!(plain("redis://u:p@h:1"), (Some("u:p".into()), "h:1".into()));
        assert!(parse_url("rediss://h").is_err());
    }

    #[tokio::test]
    async fn keys_are_counted_over_several_pages() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let pages = [
                "*2\r\n$1\r\n7\r\n*2\r\n$6\r\nuser:a\r\n$6\r\nuser:b\r\n",
                "*2\r\n$1\r\n0\r\n*2\r\n$6\r\nuser:b\r\n$6\r\nuser:c\r\n",
            ];
            let mut asked = String::new();
            for page in pages {
                let mut bytes = [0; 256];
                let count = stream.read(&mut bytes).await.unwrap();
                asked.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
                stream.write_all(page.as_bytes()).await.unwrap();
            }
            asked
        });
        assert_eq!(count_keys(&format!("redis://{address}"), "user:*").await.unwrap(), 3);
        let asked = server.await.unwrap();
        assert!(asked.contains("\r\n$1\r\n0\r\n") && asked.contains("\r\n$1\r\n7\r\n"), "{asked}");
    }
}
