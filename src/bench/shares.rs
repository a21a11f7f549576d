//! All shares of the load: users dealt over them, told the same things at once, heard as one.

use std::collections::BTreeMap;
use std::process::Stdio;

use anyhow::Context;
use futures_util::future::join_all;
use indicatif::ProgressBar;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use super::door::Door;
use super::driven::{Driven, Driving};
use super::report::progress;
use super::share::{self, Job, Opened, Order, Standing, Told, Writing, Wrote};

/// What a process has open beside its users' sockets.
const FILES_BESIDE: u64 = 100;

/// How many users one process of the load may have: each is a socket, and so a file.
pub(super) fn users_per_process() -> anyhow::Result<usize> {
    let files = rlimit::Resource::NOFILE.get_soft()?.saturating_sub(FILES_BESIDE);
    Ok(usize::try_from(files).unwrap_or(usize::MAX).max(2))
}

/// How many processes it takes for so many users.
pub(super) fn processes_for(users: usize, asked: Option<usize>) -> anyhow::Result<usize> {
    Ok(asked.unwrap_or(1).max(users.div_ceil(users_per_process()?)).max(1))
}

/// See the module.
pub(super) struct Shares {
    shares: Vec<Share>,
    open: usize,
}

struct Share {
    link: Link,
    /// The numbers of its users in the run.
    users: std::ops::Range<usize>,
    /// How many of them are in.
    open: usize,
}

/// How orders get to a share, and answers back.
enum Link {
    Here(mpsc::Sender<Order>, mpsc::Receiver<Told>),
    There(Box<Process>),
}

/// A process of the load.
struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Shares {
    /// So many users, an even number in each of so many shares, who get in by this door.
    pub async fn of(door: &Door, what: &str, users: usize, count: usize) -> anyhow::Result<Self> {
        let each = users.div_ceil(count.max(1));
        let each = each + each % 2;
        let cuts = (0..count).map(|n| (n * each).min(users)..((n + 1) * each).min(users));
        Self::start(what, cuts.map(|users| (door.clone(), users)).collect()).await
    }

    /// A share for each of these.
    pub async fn start(
        what: &str,
        cuts: Vec<(Door, std::ops::Range<usize>)>,
    ) -> anyhow::Result<Self> {
        let prefix = super::crowd::fresh_prefix(what);
        let alone = cuts.len() == 1;
        let mut shares = Vec::new();
        for (door, users) in cuts {
            let fits = users_per_process()?;
            anyhow::ensure!(
                users.len() <= fits,
                "{} users are more than one process may have open files for ({fits}): raise the \
                 limit (ulimit -n), or take fewer users",
                users.len()
            );
            let link = if alone { Link::here() } else { Link::there()? };
            let mut share = Share { link, users: users.clone(), open: 0 };
            let job = Job { door, prefix: prefix.clone(), first: users.start };
            share.link.tell(Order::Take(Box::new(job))).await?;
            shares.push(share);
        }
        Ok(Self { shares, open: 0 })
    }

    /// How many users all have when all are in.
    pub fn users(&self) -> usize {
        self.shares.iter().map(|share| share.users.len()).sum()
    }

    /// The processes of the load.
    pub fn pids(&self) -> Vec<u32> {
        let pid = |share: &Share| match &share.link {
            Link::Here(..) => None,
            Link::There(process) => process.child.id(),
        };
        let mut pids: Vec<_> = self.shares.iter().filter_map(pid).collect();
        pids.push(std::process::id());
        pids
    }

    /// Has so many in, the same part of each share; all sit, or all stand.
    pub async fn open(&mut self, users: usize, sit: bool) -> anyhow::Result<Opened> {
        let all = self.users().max(1);
        let bar = progress("connecting", users as u64);
        let before = self.open;
        bar.set_position(before as u64);
        let opening = self.shares.iter_mut().map(|share| {
            let part = (share.users.len() * users).div_ceil(all).min(share.users.len());
            share.open(part, sit, &bar)
        });
        let told = join_all(opening).await;
        bar.finish_and_clear();
        let mut opened = Opened { servers: BTreeMap::new(), ..Opened::default() };
        for told in told {
            let told = told?;
            opened.users += told.users;
            opened.failures += told.failures;
            opened.error = opened.error.or(told.error);
            for (server, users) in told.servers {
                *opened.servers.entry(server).or_default() += users;
            }
        }
        self.open = opened.users;
        Ok(opened)
    }

    /// How many are still there, and what came.
    pub async fn count(&mut self) -> anyhow::Result<Standing> {
        let counting = self.shares.iter_mut().map(|share| share.link.ask(Order::Count));
        let mut standing = Standing::default();
        for told in join_all(counting).await {
            let Told::Standing(told) = told? else { anyhow::bail!("not an answer to Count") };
            standing.gone += told.gone;
            standing.received += told.received;
            standing.repeats += told.repeats;
            standing.faults.add(told.faults);
            standing.latency.add(&told.latency);
            standing.error = standing.error.or(told.error);
        }
        Ok(standing)
    }

    /// A writer in each share writes to every `step`th user who is in, of the share that is
    /// `further` on in the ring of shares. Gives what became of it, and how many messages were to
    /// be stored: fewer were where it says an error.
    pub async fn write(&mut self, step: usize, further: usize) -> anyhow::Result<(Wrote, u64)> {
        let parts: Vec<_> = self.shares.iter().map(|s| (s.users.start, s.open)).collect();
        let writing = self.shares.iter_mut().enumerate().map(|(index, share)| {
            let (first, open) = parts[(index + further) % parts.len()];
            let count = open.div_ceil(step.max(1));
            share.link.ask(Order::Write(Writing { first, step: step.max(1), count }))
        });
        let (mut wrote, mut wanted) = (Wrote::default(), 0);
        for (told, (_, open)) in join_all(writing).await.into_iter().zip(&parts) {
            let Told::Wrote(told) = told? else { anyhow::bail!("not an answer to Write") };
            wrote.stored += told.stored;
            wrote.again += told.again;
            wanted += open.div_ceil(step.max(1)) as u64;
            wrote.error = wrote.error.or(told.error);
        }
        Ok((wrote, wanted))
    }

    /// All pairs talk.
    pub async fn drive(&mut self, driving: &Driving) -> anyhow::Result<Driven> {
        let order = || Order::Drive(driving.clone());
        let driving = self.shares.iter_mut().map(|share| share.link.ask(order()));
        let mut driven = Driven::default();
        for told in join_all(driving).await {
            let Told::Driven(told) = told? else { anyhow::bail!("not an answer to Drive") };
            driven.add(*told);
        }
        Ok(driven)
    }

    /// Goodbye for all, and the end of the processes.
    pub async fn close(mut self) -> anyhow::Result<()> {
        let closing = self.shares.iter_mut().map(|share| share.link.ask(Order::Close));
        let closed: Vec<_> = join_all(closing).await;
        for share in self.shares {
            if let Link::There(process) = share.link {
                let Process { mut child, stdin, .. } = *process;
                // It ends where its orders do.
                drop(stdin);
                child.wait().await?;
            }
        }
        closed.into_iter().try_for_each(|told| told.map(drop))
    }
}

impl Share {
    async fn open(&mut self, users: usize, sit: bool, bar: &ProgressBar) -> anyhow::Result<Opened> {
        self.link.tell(Order::Open { users, sit }).await?;
        let mut known = self.open;
        loop {
            match self.link.hear().await? {
                Told::Opening(users) => {
                    bar.inc(users.saturating_sub(known) as u64);
                    known = users;
                }
                Told::Open(opened) => {
                    bar.inc(opened.users.saturating_sub(known) as u64);
                    self.open = opened.users;
                    return Ok(opened);
                }
                other => anyhow::bail!("not an answer to Open: {other:?}"),
            }
        }
    }
}

impl Link {
    fn here() -> Self {
        let (orders, told) = share::start();
        Self::Here(orders, told)
    }

    fn there() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench", "share"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting a process of the load")?;
        let stdin = child.stdin.take().context("no stdin")?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        Ok(Self::There(Box::new(Process { child, stdin, lines })))
    }

    async fn tell(&mut self, order: Order) -> anyhow::Result<()> {
        match self {
            Self::Here(orders, _) => orders.send(order).await.context("the load ended")?,
            Self::There(process) => {
                let line = serde_json::to_string(&order)? + "\n";
                let told = process.stdin.write_all(line.as_bytes()).await;
                told.context("a process of the load ended")?;
            }
        }
        Ok(())
    }

    async fn hear(&mut self) -> anyhow::Result<Told> {
        match self {
            Self::Here(_, told) => told.recv().await.context("the load ended"),
            Self::There(process) => {
                let line =
                    process.lines.next_line().await?.context("a process of the load ended")?;
                serde_json::from_str(&line).context("not an answer of the load")
            }
        }
    }

    async fn ask(&mut self, order: Order) -> anyhow::Result<Told> {
        self.tell(order).await?;
        self.hear().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fake::Fake;

    #[tokio::test]
    async fn users_open_in_steps_sit_and_get_what_is_written() {
        let fake = Fake::start().await;
        let door = Door { urls: vec![fake.url()], concurrency: 4, ..Door::default() };
        let mut shares = Shares::of(&door, "sit", 9, 1).await.unwrap();
        assert_eq!(shares.open(3, true).await.unwrap().users, 3);
        assert_eq!(shares.open(9, true).await.unwrap().users, 9);
        // What is refused for now is sent again as the one it was, and may have been stored.
        fake.refuse_next(3);
        let (wrote, wanted) = shares.write(2, 0).await.unwrap();
        assert_eq!((wrote.stored, wrote.again, wanted), (5, 3, 5));
        while shares.count().await.unwrap().received < 5 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let standing = shares.count().await.unwrap();
        assert_eq!((standing.gone, standing.repeats, standing.faults), (0, 3, Default::default()));
        shares.close().await.unwrap();
    }

    #[tokio::test]
    async fn a_door_that_nobody_opens_is_given_up() {
        let door = Door {
            urls: vec!["ws://127.0.0.1:9/ws".to_owned()],
            concurrency: 4,
            ..Door::default()
        };
        let mut shares = Shares::of(&door, "sit", 1_000, 1).await.unwrap();
        let opened = shares.open(1_000, true).await.unwrap();
        assert_eq!((opened.users, opened.failures), (0, 20));
        assert!(opened.error.unwrap().contains("user number 0"));
    }

    #[test]
    fn every_process_has_files_enough() {
        let each = users_per_process().unwrap();
        assert_eq!(processes_for(each, None).unwrap(), 1);
        assert_eq!(processes_for(each + 1, None).unwrap(), 2);
        assert_eq!(processes_for(10, Some(3)).unwrap(), 3);
    }
}
