//! `--bus-key`: a fleet that signs what it says over Redis, and a stranger who can write there.

use crate::admin::{metrics, sum};
use crate::harness::{Parts, Stack, command, eventually};

const KEY: &str = "5f1e8c0b7a2d49e3a6b1c4d7e8f90123";

fn heard(outcome: &str) -> [String; 2] {
    ["operation=\"hear\"".to_owned(), format!("outcome=\"{outcome}\"")]
}

#[tokio::test]
async fn a_stranger_on_redis_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, format!("{KEY}\n{}\n", KEY.replace('5', "6"))).unwrap();
    let file = file.to_str().unwrap();
    let options = ["--bus-key-file", file, "--admin-listen", "127.0.0.1:0"];
    let Some(stack) = Stack::start_with(Parts::Real, &options).await else { return };
    let mut a = stack.at("ws1", "userA").await;
    let mut b = stack.at("ws3", "userB").await;
    b.catch_up().await;
    let redis = stack.redis.as_ref().unwrap();
    let listening = redis.listen(&["SUBSCRIBE", "messages:ws3", "done"]);
    assert_eq!(a.say("userB", "genuine").await, 1);
    assert_eq!(b.hear().await, (1, "genuine".to_owned()));
    // Who sends puts a hint there when it can't tell the other server.
    assert_eq!(stack.items("B#ws1").await.unwrap(), [], "live, not the slow way");
    redis.settle(&listening);

    // It reads on, and says what it likes.
    let genuine = listening.with(&["genuine"]).remove(0);
    assert!(genuine.starts_with("{\"mac\":\""), "{genuine}");
    let batch = genuine.split_once("\"batch\":").unwrap().1.strip_suffix('}').unwrap();
    let forged = batch.replace("genuine", "forged").replace("\"seq\":1", "\"seq\":2");
    for said in [&forged, &genuine, &genuine.replace("genuine", "altered")] {
        assert_eq!(redis.cli(&["PUBLISH", "messages:ws3", said]), "2", "ws3 and this listener");
    }
    let counted = async || {
        let now = metrics(&stack.admin).await;
        let of = |outcome| {
            let labels = heard(outcome);
            sum(&now, "parlor_redis_calls_total", &[&labels[0], &labels[1]])
        };
        (["unsigned", "replayed", "altered"].map(of) == [1.0; 3]).then_some(())
    };
    eventually("each is counted by its reason", counted).await;
    b.hears_no_entry(300).await;
    assert_eq!(a.say("userB", "on we go").await, 2);
    assert_eq!(b.hear().await, (2, "on we go".to_owned()));
    stack.stop().await;
}

#[tokio::test]
async fn a_bad_key_is_said_and_not_shown() {
    let run = async |options: &[&str]| {
        let mut command = command();
        command.args(["up", "--memory"]).args(options);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{options:?}: {stderr}");
        stderr
    };
    let ports = ["--balancer-port", "0", "--server-port", "0", "--api-port", "0"];
    let said = run(&[&ports[..], &["--bus-key", "hunter2"]].concat()).await;
    assert!(said.contains("openssl rand -hex 32") && !said.contains("hunter2"), "{said}");
    let said = run(&[&ports[..], &["--bus-key-file", "/nowhere/at/all"]].concat()).await;
    assert!(said.contains("/nowhere/at/all"), "{said}");
    let both = ["--bus-key", KEY, "--bus-key-file", "x"];
    let said = run(&[&ports[..], &both].concat()).await;
    assert!(said.contains("cannot be used with") && !said.contains(KEY), "{said}");
}
