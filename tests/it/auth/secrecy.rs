//! Tokens and secrets stand in no log, metric or answer, whatever is asked.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use super::{FOREIGN, SECRET, now, signed, token};
use crate::harness::command;
use crate::raw::{Raw, request, text, upgrade_head};

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything is asked with every kind of token, and the answers are kept.
async fn ask_everything(ready: &Value, tokens: &[String]) -> String {
    let at = |name: &str| ready[name].as_str().unwrap().to_owned();
    let (api, front) = (at("api"), at("balancer"));
    let server = ready["servers"]["ws1"].as_str().unwrap();
    let mut answers = String::new();
    for token in tokens {
        for address in [&api, &front] {
            for target in ["/v1/users/userA/conversations", "/v1/connect", "/v1/nowhere"] {
                let head = format!(
                    "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                     Authorization: Bearer {token}\r\n\r\n"
                );
                answers += &format!("{:?}", request(address, head).await);
            }
        }
        for address in [server, front.as_str()] {
            let by_header = format!("Authorization: Bearer {token}\r\n");
            let by_pair = format!(
                "Origin: http://localhost\r\nSec-WebSocket-Protocol: parlor, bearer.{token}\r\n"
            );
            for carried in [by_header, by_pair] {
                let mut raw = Raw::dial(address).await;
                raw.write(upgrade_head("", &carried).as_bytes()).await;
                let head = raw.head().await.expect("an answer");
                answers += &format!("{head:?}");
                if head.status != 101 {
                    let whole = request(address, upgrade_head("", &carried)).await;
                    answers += &whole.expect("an answer").text();
                    continue;
                }
                raw.write(&text(&json!({"type": "auth", "token": token}).to_string())).await;
                raw.write(&text(&json!({"type": "auth", "token": [token]}).to_string())).await;
                raw.write(&text(&json!({"type": "ping"}).to_string())).await;
                while let Some(said) = raw.json().await {
                    answers += &said.to_string();
                    if said["type"] == "pong" {
                        break;
                    }
                }
            }
        }
    }
    let metrics = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    answers + &request(&at("admin"), metrics).await.unwrap().text()
}

#[tokio::test]
async fn no_token_and_no_secret_is_ever_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (log, secret) = (folder.path().join("log"), folder.path().join("secret"));
    std::fs::write(&secret, SECRET).unwrap();
    let mut command = command();
    command.args(["up", "--memory", "--balancer-port", "0", "--server-port", "0"]);
    command.args(["--api-port", "0", "--ready-json", "--admin-listen", "127.0.0.1:0"]);
    command.arg("--jwt-secret-file").arg(&secret).env("PARLOR_LOG", "trace");
    command.stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
    let mut child = Killed(command.spawn().unwrap());
    let stdout = child.0.stdout.take().unwrap();
    let (line, _stdout) = tokio::task::spawn_blocking(move || {
        let (mut stdout, mut line) = (BufReader::new(stdout), String::new());
        stdout.read_line(&mut line).unwrap();
        (line, stdout)
    })
    .await
    .unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    let tokens: Vec<String> = [
        token("userA", json!({})),
        token("userA", json!({"exp": now() - 600})),
        token("bad user\n", json!({})),
        token("userA", json!({"aud": "another"})),
        signed(FOREIGN, "userA", json!({})),
    ]
    .map(|token| token.reveal().to_owned())
    .into();
    let answers = ask_everything(&ready, &tokens).await;
    assert!(answers.contains("parlor_refused_total"), "the metrics were read");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.0.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "no core file keeps a secret: {core}");
    let pid = child.0.id().to_string();
    assert!(std::process::Command::new("kill").arg(pid).status().unwrap().success());
    let mut child = child;
    let status = tokio::task::spawn_blocking(move || child.0.wait().unwrap()).await.unwrap();
    assert!(status.success());
    let logged = std::fs::read_to_string(&log).unwrap();
    assert!(logged.contains("DEBUG a socket opens"), "it was logged at the finest: {logged}");
    for (place, shown) in [("log", logged), ("answers", answers)] {
        assert!(!shown.contains(SECRET), "the secret is in the {place}");
        for token in &tokens {
            let parts: Vec<&str> = token.split('.').collect();
            for part in [token.as_str(), parts[1], parts[2]] {
                assert!(!shown.contains(part), "a token is in the {place}");
            }
        }
    }
}
