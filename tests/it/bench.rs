//! `parlor bench` as a whole: several processes of the load, whose accounts are one, and the
//! picture of it.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::free_port;

/// How long a small run may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The report of a run on servers of its own.
async fn bench(arguments: &[&str]) -> Value {
    load(&[arguments, &["--start"]].concat()).await
}

async fn load(arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parlor"));
    command.arg("bench").args(arguments).arg("--json").kill_on_drop(true);
    let output = command.stdin(Stdio::null()).output();
    let output = timeout(PATIENCE, output).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    assert!(output.status.success() && report["good"] == true, "{report}\n{said}");
    report
}

#[tokio::test]
async fn users_are_dealt_over_processes_of_the_load() {
    let sitting =
        bench(&["idle", "--users", "41", "--processes", "3", "--hold", "1", "--settle", "0"]).await;
    assert_eq!((&sitting["users"], &sitting["load_processes"]), (&41.into(), &3.into()));
    let servers = sitting["servers"].as_array().unwrap();
    let users: u64 = servers.iter().filter_map(|server| server["users"].as_u64()).sum();
    assert_eq!((servers.len(), users), (3, 41));
    for name in ["user_space_bytes_per_user", "kernel_bytes_per_user", "held_seconds"] {
        assert!(sitting[name].is_number(), "{name}: {sitting}");
    }

    let talking = bench(&["pairs", "--pairs", "5", "--processes", "2", "--seconds", "1"]).await;
    assert_eq!((&talking["pairs"], &talking["missing"]), (&5.into(), &0.into()));
    let received = &talking["messages"];
    assert!(received.as_u64() > Some(0), "{talking}");
    assert_eq!(&talking["send_to_received"]["count"], received);
}

#[tokio::test]
async fn a_million_in_small_reaches_everybody() {
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("million.svg");
    let arguments = [
        ["--users", "60"],
        ["--users-per-server", "20"],
        ["--hold", "1"],
        ["--settle", "0"],
        ["--plot", plot.to_str().unwrap()],
    ];
    let report = bench(&[&["million"], arguments.as_flattened()].concat()).await;
    assert_eq!((&report["server_processes"], &report["reached"]), (&3.into(), &60.into()));
    assert_eq!(report["written_to"], "everybody");
    let drawn = std::fs::read_to_string(&plot).unwrap();
    assert!(drawn.contains("Memory by users") && drawn.contains("Latency by percentile"));
}

#[tokio::test]
async fn rooms_of_several_sizes_are_one_run() {
    let report = bench(&["fanout", "--members", "2,5", "--messages", "20"]).await;
    let rooms = report["rooms"].as_array().unwrap();
    let members: Vec<_> = rooms.iter().map(|room| room["members"].as_u64().unwrap()).collect();
    assert_eq!((members, &report["deliveries"]), (vec![2, 5], &(20 * (1 + 4)).into()));
}

/// What fan-out is compared with must do the same work.
#[tokio::test]
async fn the_bare_relay_reaches_a_whole_room() {
    let port = free_port().to_string();
    let mut relay = Command::new(env!("CARGO_BIN_EXE_parlor"));
    relay.args(["bench", "bare", &port]).stdout(Stdio::piped()).kill_on_drop(true);
    let mut relay = relay.spawn().unwrap();
    let mut said = BufReader::new(relay.stdout.take().unwrap()).lines();
    let ready = timeout(PATIENCE, said.next_line()).await.unwrap().unwrap();
    assert_eq!(ready.as_deref(), Some("ready"));
    let url = format!("ws://127.0.0.1:{port}/ws");
    let to_it = ["--dialect", "relay", "--url", &url];
    let room = [&["fanout", "--members", "5", "--messages", "20"], &to_it[..]].concat();
    assert_eq!(load(&room).await["deliveries"], 20 * 4);
    let report = load(&[&["pairs", "--pairs", "3", "--seconds", "1"], &to_it[..]].concat()).await;
    assert_eq!((&report["pairs"], &report["missing"]), (&3.into(), &0.into()));
}
