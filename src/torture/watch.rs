//! Watches the processes: ends that nobody wanted, memory, open files, and what their logs say.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::{Instant, sleep};

use super::faults::Attack;
use super::process::log_file;
use super::world::World;
use crate::checker::history::What;

const LOOK: Duration = Duration::from_millis(300);
const MEASURE: Duration = Duration::from_secs(2);
/// The most lines of a kind that a log adds to the history.
const LINES_MAX: usize = 20;

/// Looks after the processes until it is aborted.
pub(super) async fn run(attack: Arc<Attack>) {
    let mut measured = Instant::now();
    loop {
        sleep(LOOK).await;
        let measures = measured.elapsed() >= MEASURE;
        if measures {
            measured = Instant::now();
        }
        for slot in &attack.fleet.slots {
            // Where a fault has it, its end is wanted.
            let Ok(mut process) = slot.process.try_lock() else { continue };
            let Some(running) = process.as_mut() else { continue };
            if let Some(status) = running.ended() {
                let detail = format!("it ended by itself: {status}");
                let broken = What::Broken { process: slot.name.clone(), detail };
                attack.world.journal.note(broken);
                *process = slot.start(true).await.ok();
                continue;
            }
            // DynamoDB Local keeps all of it in memory: only Parlor's own needs are judged.
            let ours = measures && !matches!(slot.name.as_str(), "redis" | "dynamodb");
            if let Some((resident, files)) = running.needs().filter(|_| ours) {
                let (process, pid) = (slot.name.clone(), running.pid());
                attack.world.journal.note(What::Resources { process, resident, files, pid });
            }
        }
    }
}

/// Reads the logs when all is over: panics, and bodies of messages.
pub(super) async fn logs(world: &World, folder: &Path, names: &[String]) -> anyhow::Result<()> {
    for name in names {
        let file = tokio::fs::File::open(log_file(folder, name)).await?;
        let mut lines = BufReader::new(file).lines();
        let (mut panics, mut leaks) = (0, 0);
        while let Some(line) = lines.next_line().await? {
            if line.contains("panicked at") && panics < LINES_MAX {
                panics += 1;
                world.journal.note(What::Broken { process: name.clone(), detail: line.clone() });
            }
            let has = |c: &super::plan::Conversation| line.contains(&c.canary);
            if leaks < LINES_MAX
                && line.contains("canary")
                && world.plan.conversations.iter().any(has)
            {
                leaks += 1;
                world.journal.note(What::Leaked { process: name.clone(), line });
            }
        }
    }
    Ok(())
}
