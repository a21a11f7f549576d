//! The command line: what is refused at the start, and `parlor token`.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};

use parlor::client::ClientOptions;
use parlor::protocol::Token;
use serde_json::json;

use super::{Guarded, token};
use crate::harness::{Parts, Person, command};

async fn run(arguments: &[&str]) -> Output {
    let mut command = command();
    command.args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn refused(arguments: &[&str], words: &[&str]) {
    let output = run(arguments).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    assert_eq!(said.trim().lines().count(), 1, "one line: {said}");
    for word in words {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[tokio::test]
async fn without_a_key_no_role_listens_to_other_machines() {
    let ways = ["--jwt-secret-file", "--jwt-key-file", "--jwks-url", "--insecure-dev"];
    refused(&["up", "--host", "0.0.0.0", "--memory"], &ways).await;
    let (listen, redis, dynamodb) =
        ["--listen 192.0.2.1:0", "--redis redis://127.0.0.1:1", "--dynamodb http://127.0.0.1:1"]
            .map(|option| option.split_once(' ').unwrap())
            .into();
    let parts = [listen.0, listen.1, redis.0, redis.1, dynamodb.0, dynamodb.1];
    for role in ["server", "api"] {
        refused(&[&[role], &parts[..]].concat(), &ways).await;
    }
    refused(&["balancer", listen.0, listen.1, "--server", "ws1=h:1"], &ways).await;
    let up = ["up", "--memory", "--balancer-port", "0", "--server-port", "0", "--api-port", "0"];
    refused(&[&up[..], &["--dm", "existing"]].concat(), &["--jwt-secret-file"]).await;
    refused(&[&up[..], &["--admin-listen", "192.0.2.1:0"]].concat(), &ways).await;
}

#[tokio::test]
async fn a_token_is_made_for_trying_things() {
    let guarded = Guarded::start(Parts::Embedded, &[]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (secret, ours) = (path("new"), path("ours"));
    let made = run(&["token", "--new-secret", &secret]).await;
    assert!(made.status.success() && made.stdout.is_empty(), "{made:?}");
    let mode = std::fs::metadata(&secret).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let first = std::fs::read(&secret).unwrap();
    let said = String::from_utf8(made.stderr).unwrap();
    assert!(!said.contains(str::from_utf8(&first).unwrap().trim()), "{said}");
    let ways = [&secret, "--jwt-secret-file", "another file", "remove"];
    refused(&["token", "--new-secret", &secret], &ways).await;
    refused(&["token", "--new-secret", &path("no/such/folder")], &["no/such/folder"]).await;
    assert_eq!(std::fs::read(&secret).unwrap(), first, "an old secret is not overwritten");
    std::fs::write(path("short"), "password").unwrap();
    let (short, missing) = (path("short"), path("missing"));
    let make = format!("make one: parlor token --new-secret {missing}");
    refused(&["token", "--sub", "a", "--jwt-secret-file", &missing], &[&make]).await;
    refused(&["token", "--sub", "a", "--jwt-secret-file", &short], &["32 bytes"]).await;
    std::fs::write(&ours, super::SECRET).unwrap();
    let mint = async |more: &[&str]| {
        let output = run(&[&["token", "--jwt-secret-file", &ours], more].concat()).await;
        assert!(output.status.success(), "{output:?}");
        Token::new(String::from_utf8(output.stdout).unwrap().trim())
    };
    let url = guarded.stack.ws();
    let token = mint(&["--sub", "userA"]).await;
    Person::with(&ClientOptions::new(&url, "userA").token(Some(token))).await.catch_up().await;
    let service = mint(&["--sub", "shop", "--scope", "service,admin", "--ttl", "90s"]).await;
    let api = guarded.stack.http().token(Some(service));
    let opened = json!({"from": "userA", "to": "userB", "message": "from the shop"});
    assert_eq!(api.post("/v1/messages", &opened).await.unwrap().status, 201);
    assert_eq!(api.post("/v1/users/x/revoke", &json!({})).await.unwrap().status, 200);
    guarded.stack.stop().await;
}

#[tokio::test]
async fn the_terminal_chat_carries_a_token() {
    let guarded = Guarded::start(Parts::Embedded, &[]).await.unwrap();
    let url = guarded.stack.ws();
    let chat = async |user: &str, token: Option<Token>| {
        let mut command = command();
        command.args(["chat", "--to", "userB", "--url", &url]);
        if !user.is_empty() {
            command.args(["--as", user]);
        }
        if let Some(token) = token {
            command.env("PARLOR_TOKEN", token.reveal());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"by the terminal\n").unwrap();
        tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
    };
    let good = token("userA", json!({}));
    let output = chat("userA", Some(good.clone())).await;
    assert!(output.status.success(), "{output:?}");
    // Whom a token names is the server's to say.
    let output = chat("", Some(good.clone())).await;
    assert!(output.status.success(), "{output:?}");
    let bad = Token::new("a.b.c");
    for (user, token, code, words) in [
        ("userA", None, 1, "401: a token is required; give --token-file FILE or PARLOR_TOKEN"),
        ("userA", Some(bad.clone()), 1, "401: this is no token that is taken here"),
        ("", Some(bad), 1, "401: this is no token that is taken here"),
        ("userC", Some(good.clone()), 1, "403: --as is not the token's user, userA: leave it out"),
        ("", None, 2, "--as USER"),
    ] {
        let output = chat(user, token).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(words) && !said.contains(good.reveal()), "{said}");
        assert!(!said.contains('{'), "no JSON: {said}");
    }
    let history = guarded.stack.http().token(Some(token("userB", json!({}))));
    let page = history.history("userB", "dm:userA:userB", None, 50).await.unwrap();
    assert_eq!(page["messages"].as_array().unwrap().len(), 2);
    // Others on the machine see a command line: whoever puts a token there is told.
    let path = std::env::temp_dir().join(format!("parlor-token-{:x}", rand::random::<u64>()));
    std::fs::write(&path, good.reveal()).unwrap();
    let file = path.to_str().unwrap();
    for (option, value, warned) in [("--token", good.reveal(), true), ("--token-file", file, false)]
    {
        let mut command = command();
        command.args(["chat", "--as", "userA", "--to", "userB", "--url", &url, option, value]);
        command.env("PARLOR_LOG", "warn").stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !said.contains(good.reveal()), "{said}");
        assert_eq!(said.contains("--token holds a secret"), warned, "{said}");
    }
    std::fs::remove_file(&path).unwrap();
    guarded.stack.stop().await;
}
