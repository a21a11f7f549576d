//! `parlor bench ten-thousand`, smaller: dealt evenly, all delivered, the history complete.

use serde_json::{Value, json};

use crate::harness::{Parts, Stack, on_both};

on_both!(all_send_and_receive);

async fn all_send_and_receive(mut stack: Stack) {
    let mut arguments = vec!["--pid".to_owned(), stack.process("up").pid().to_string()];
    if let Some(redis) = &stack.redis {
        arguments.extend(["--redis".to_owned(), redis.url()]);
    }
    run(stack, arguments, 1).await;
}

#[tokio::test]
async fn a_fleet() {
    let Some(mut stack) = Stack::start(Parts::Fleet).await else { return };
    let mut arguments = vec!["--redis".to_owned(), stack.redis.as_ref().unwrap().url()];
    for server in ["ws1", "ws2", "ws3"] {
        let pid = stack.process(server).pid().to_string();
        arguments.extend(["--pid".to_owned(), pid]);
    }
    run(stack, arguments, 3).await;
}

async fn run(stack: Stack, arguments: Vec<String>, processes: usize) {
    let (url, api) = (stack.ws(), format!("http://{}", stack.api));
    let mut command = crate::harness::command();
    command.args(["bench", "ten-thousand", "--users", "300", "--history", "all", "--json"]);
    command.args(["--url", &url, "--api", &api]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    assert_eq!(output.status.code(), Some(0), "{report:#}\n{stderr}");
    let server = |id: &str| json!({"server": id, "users": 100, "sent": 100, "received": 100});
    assert_eq!(report["servers"], json!([server("ws1"), server("ws2"), server("ws3")]));
    for (figure, count) in [("users", 300), ("messages", 300), ("histories_read", 300)] {
        assert_eq!(report[figure], count, "{figure}");
    }
    for fault in ["missing", "doubled", "refused"] {
        assert_eq!(report[fault], 0, "{fault} in {report:#}");
    }
    if stack.redis.is_some() {
        assert_eq!(report["redis_entries"], 300);
    }
    let rows = report["processes"].as_array().unwrap();
    assert_eq!(rows.len() % processes, 0, "memory and CPU of each process: {rows:?}");
    assert!(!rows.is_empty());
    // For people it is a table and a line for each phase.
    assert!(stderr.contains("messages: 300"), "{stderr}");
    stack.stop().await;
}
