//! What `parlor up` says of itself to a person who has just started it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};

use parlor::client::Api;
use serde_json::{Value, json};

use super::{SECRET, token, with_token};
use crate::harness::{Person, command};

/// `parlor up` in memory on free ports, and what it has said. Killed when dropped.
struct Told {
    child: Child,
    banner: String,
    /// Kept open: whoever writes to a pipe without a reader fails.
    _stdout: BufReader<ChildStdout>,
}

impl Told {
    async fn by(more: &[&str]) -> Self {
        let mut command = command();
        command.args(["up", "--memory", "--balancer-port", "0", "--server-port", "0"]);
        command.args(["--api-port", "0"]).args(more).env("PARLOR_LOG", "warn");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let read = tokio::task::spawn_blocking(move || {
            let mut banner = String::new();
            while !banner.contains("ctrl-C") {
                assert!(stdout.read_line(&mut banner).unwrap() > 0, "it ended after {banner:?}");
            }
            (banner, stdout)
        });
        let (banner, stdout) = read.await.unwrap();
        Self { child, banner, _stdout: stdout }
    }

    /// Ends it, and gives its log.
    fn log(mut self) -> String {
        self.child.kill().unwrap();
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What stands between the two, where they stand there.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    Some(text.split_once(before)?.1.split_once(after)?.0)
}

/// Where services alone open conversations one of them comes first; then what is proposed works.
#[tokio::test]
async fn what_is_proposed_is_not_refused() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let own = ["--jwt-secret-file", secret.to_str().unwrap()];
    for more in [&[][..], &["--dm", "existing"]] {
        let told = Told::by(&[&own, more].concat()).await;
        let banner = &told.banner;
        let api = format!("http://{}", between(banner, "API        http://", "/").unwrap());
        let api = Api::new(api);
        let opening = between(banner, "-d '", "'");
        assert_eq!(opening.is_some(), !more.is_empty(), "{banner}");
        if let Some(opening) = opening {
            assert!(between(banner, "--dm existing", "Three things").is_some(), "{banner}");
            assert!(banner.contains("--scope service"), "{banner}");
            let service = token("shop", json!({"scope": "service"}));
            let opened = serde_json::from_str(opening).unwrap();
            let answer = api.clone().token(Some(service)).post("/v1/messages", &opened).await;
            assert_eq!(answer.unwrap().status, 201, "{opening}");
        }
        let ws = format!("ws{}", between(banner, "WebSocket  ws", "\n").unwrap());
        let options = with_token(&ws, "userA", token("userA", json!({})));
        let mut person = Person::with(&options).await;
        person.catch_up().await;
        let typed: Value =
            serde_json::from_str(between(banner, "then type  ", "\n").unwrap()).unwrap();
        let to = typed["to"].as_str().unwrap();
        person.say(to, typed["message"].as_str().unwrap()).await;
    }
}

/// Where keys of any kind are named `?userId=` is not believed, so nobody is told to try it.
#[tokio::test]
async fn with_others_keys_tokens_are_said_to_be_required() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.pem");
    let pair = rcgen::KeyPair::generate().unwrap();
    std::fs::write(&key, pair.public_key_pem()).unwrap();
    // Nobody answers there, and tokens are asked for all the same.
    let provider = "http://127.0.0.1:1/keys";
    for options in [["--jwt-key-file", key.to_str().unwrap()], ["--jwks-url", provider]] {
        let told = Told::by(&options).await;
        let banner = &told.banner;
        assert!(banner.contains("Tokens are required"), "{banner}");
        assert!(banner.contains("Authorization: Bearer $PARLOR_TOKEN"), "{banner}");
        assert!(!banner.contains("userId") && !banner.contains("--as"), "{banner}");
        let log = told.log();
        assert_eq!(log.contains("--jwks-users-only"), options[0] == "--jwks-url", "{log}");
    }
}

#[tokio::test]
async fn where_anybody_can_be_anybody_it_is_said_twice() {
    let warning = "can be anybody here";
    for (options, warned) in [
        (&["--insecure-dev", "--host", "0.0.0.0"][..], true),
        (&["--insecure-dev"], false),
        (&[], false),
    ] {
        let told = Told::by(options).await;
        let banner = &told.banner;
        assert_eq!(banner.contains("WARNING: anybody who can reach 0.0.0.0:"), warned, "{banner}");
        assert_eq!(banner.contains(warning), warned, "{banner}");
        let log = told.log();
        let lines = log.lines().filter(|line| line.contains(warning)).count();
        assert_eq!(lines, usize::from(warned), "{log}");
    }
}
