//! `idle`: what a user costs that only stays connected.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::Instant;

use super::Common;
use super::crowd::{Crowd, close, each, fresh_names};
use super::process::Watch;
use super::report::{Report, progress};
use super::target::Target;
use crate::client::ClientError;

/// `parlor bench idle`
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How many users
    #[arg(long, default_value_t = 10_000, env = "PARLOR_BENCH_USERS")]
    pub users: usize,
    /// How long they stay
    #[arg(long, default_value_t = 30, env = "PARLOR_BENCH_SECONDS")]
    pub seconds: u64,
    /// What all scenarios take.
    #[command(flatten)]
    pub common: Common,
}

/// Runs it.
pub(super) async fn run(target: &Target, options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("idle");
    let mut watch = Watch::new(&target.processes);
    let names = fresh_names("idle", options.users);
    let crowd = Crowd::open(target, &names).await?;
    let users = crowd.clients.len().max(1) as f64;
    report.decimal("open_seconds", crowd.took.as_secs_f64());
    report.decimal("users_per_second", users / crowd.took.as_secs_f64());
    let servers = crowd.by_server();
    watch.mark("open");
    let bar = progress("seconds", options.seconds);
    let ticking = tokio::spawn({
        let (bar, seconds) = (bar.clone(), options.seconds);
        async move {
            for _ in 0..seconds {
                tokio::time::sleep(Duration::from_secs(1)).await;
                bar.inc(1);
            }
        }
    });
    let until = Instant::now() + Duration::from_secs(options.seconds);
    // Pings must be answered, so somebody has to listen.
    let stayed = each(crowd.clients, move |_, mut client| async move {
        let listening = async { while client.next_text().await.is_ok() {} };
        let gone = tokio::time::timeout_at(until, listening).await.is_ok();
        if gone {
            Err(ClientError::Closed { code: None, reason: String::new() })
        } else {
            Ok(client)
        }
    })
    .await?;
    ticking.await?;
    bar.finish_and_clear();
    watch.mark("after");
    let clients: Vec<_> = stayed.into_iter().flatten().collect();
    let lost = options.users - clients.len();
    let row = |(server, users)| vec![("server", json!(server)), ("users", json!(users))];
    let rows = servers.iter().map(row);
    report.table("servers", rows.collect());
    report.table("processes", watch.rows());
    report.figure("users", clients.len());
    if !watch.is_empty() {
        let opening = watch.cpu_seconds("before", "open") * 1e6;
        report.decimal("cpu_us_per_connect", opening / users);
        report.decimal("bytes_per_user_when_open", watch.grown_bytes("before", "open") / users);
        report.decimal("bytes_per_user", watch.grown_bytes("before", "after") / users);
        let micros = watch.cpu_seconds("open", "after") * 1e6;
        let seconds = options.seconds.max(1) as f64;
        report.decimal("cpu_us_per_user_and_second", micros / users / seconds);
    }
    if lost > 0 {
        report.fail(format!("{lost} users lost their connection"));
    }
    close(clients).await;
    Ok(report)
}
