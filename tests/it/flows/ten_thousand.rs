//! `parlor bench ten-thousand`, smaller: dealt evenly, all delivered, the history complete.

use serde_json::{Value, json};

use crate::harness::{Parts, Stack};

#[tokio::test]
async fn embedded() {
    all_send_and_receive(Stack::start(Parts::Embedded).await.unwrap()).await;
}

/// An unoptimised build and DynamoDB Local need two idle cores for this.
#[tokio::test]
#[ignore = "long: ./test full"]
async fn real() {
    let Some(stack) = Stack::start(Parts::Real).await else { return };
    all_send_and_receive(stack).await;
}

#[tokio::test]
#[ignore = "long: ./test full"]
async fn a_fleet() {
    let Some(mut stack) = Stack::start(Parts::Fleet).await else { return };
    let mut arguments = vec!["--redis".to_owned(), stack.redis.as_ref().unwrap().url()];
    for server in ["ws1", "ws2", "ws3"] {
        let pid = stack.process(server).pid().to_string();
        arguments.extend(["--pid".to_owned(), pid]);
    }
    run(stack, arguments, 3).await;
}

async fn all_send_and_receive(mut stack: Stack) {
    let mut arguments = vec!["--pid".to_owned(), stack.process("up").pid().to_string()];
    if let Some(redis) = &stack.redis {
        arguments.extend(["--redis".to_owned(), redis.url()]);
    }
    run(stack, arguments, 1).await;
}

async fn run(stack: Stack, arguments: Vec<String>, processes: usize) {
    let users = 300_u64;
    let (url, api) = (stack.ws(), format!("http://{}", stack.api));
    let mut command = crate::harness::command();
    command.args(["bench", "ten-thousand", "--history", "all", "--json"]);
    command.args(["--users", &users.to_string()]);
    command.args(["--url", &url, "--api", &api]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    assert_eq!(output.status.code(), Some(0), "{report:#}\n{stderr}");
    let third = users / 3;
    let server = |id: &str| json!({"server": id, "users": third, "sent": third, "received": third});
    assert_eq!(report["servers"], json!([server("ws1"), server("ws2"), server("ws3")]));
    for figure in ["users", "messages", "histories_read"] {
        assert_eq!(report[figure], users, "{figure}");
    }
    for fault in ["missing", "doubled", "refused"] {
        assert_eq!(report[fault], 0, "{fault} in {report:#}");
    }
    if stack.redis.is_some() {
        assert_eq!(report["redis_entries"], users);
    }
    let rows = report["processes"].as_array().unwrap();
    assert_eq!(rows.len() % processes, 0, "memory and CPU of each process: {rows:?}");
    assert!(!rows.is_empty());
    // For people it is a table and a line for each phase.
    assert!(stderr.contains(&format!("messages: {users}")), "{stderr}");
    stack.stop().await;
}
