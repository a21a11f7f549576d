//! `--handoff DIR`: a real balancer gives real servers of the same host its clients' sockets.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use parlor::client::Api;
use parlor::protocol::Token;
use serde_json::json;

use crate::admin;
use crate::auth::{FOREIGN, SECRET, now, signed, token};
use crate::harness::{Person, Redis, command, dynamodb, eventually};
use crate::proxies::Logged;
use crate::raw::{Raw, request, text, upgrade_head};

const ADMIN: [&str; 2] = ["--admin-listen", "127.0.0.1:0"];

/// Servers of one host, each of which listens in the same folder.
struct Host {
    redis: Redis,
    outer: tempfile::TempDir,
    table: String,
    servers: BTreeMap<String, Logged>,
}

impl Host {
    /// Without servers; `None` where real parts are left out.
    fn new() -> Option<Self> {
        let redis = Redis::start(dynamodb()?);
        let table = format!("parlor-it-{:016x}", rand::random::<u64>());
        let mut create = command();
        create.args(["table", "create", "--dynamodb", redis.dynamodb(), "--table", &table]);
        assert!(create.output().unwrap().status.success());
        let outer = tempfile::tempdir().unwrap();
        Some(Self { redis, outer, table, servers: BTreeMap::new() })
    }

    fn folder(&self) -> PathBuf {
        self.outer.path().join("handoff")
    }

    fn folder_option(&self) -> [String; 2] {
        ["--handoff".to_owned(), self.folder().to_str().unwrap().to_owned()]
    }

    fn parts(&self) -> Vec<String> {
        let [redis, dynamodb] = [self.redis.url(), self.redis.dynamodb().to_owned()];
        let named = ["--redis", &redis, "--dynamodb", &dynamodb, "--table", &self.table];
        named.map(str::to_owned).to_vec()
    }

    /// Starts a server that does not listen in the folder.
    async fn plain_server(&mut self, id: &str, more: &[&str]) {
        let parts = self.parts();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let own = ["server", "--listen", "127.0.0.1:0", "--id", id, ADMIN[0], ADMIN[1]];
        let server = Logged::start(&[&own[..], &parts, more].concat()).await;
        self.servers.insert(id.to_owned(), server);
    }

    async fn server(&mut self, id: &str, more: &[&str]) {
        let folder = self.folder_option();
        self.plain_server(id, &[&[folder[0].as_str(), &folder[1]], more].concat()).await;
    }

    /// Starts a balancer before all servers.
    async fn balancer(&self, more: &[&str]) -> Logged {
        let named = |(id, server): (&String, &Logged)| {
            format!("--server={id}={}", server.ready["servers"][id].as_str().unwrap())
        };
        let named: Vec<String> = self.servers.iter().map(named).collect();
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        let folder = self.folder_option();
        let folder = [folder[0].as_str(), &folder[1]];
        Logged::balancer(&[&named[..], &folder, &ADMIN, more].concat()).await
    }
}

fn admin_of(role: &Logged) -> &str {
    role.ready["admin"].as_str().unwrap()
}

/// How often a hand-over ended so, as this process has counted.
async fn handed(role: &Logged, outcome: &str) -> f64 {
    let samples = admin::metrics(admin_of(role)).await;
    let label = format!("outcome=\"{outcome}\"");
    admin::sum(&samples, "parlor_handoffs_total", &[&label])
}

async fn sockets(role: &Logged) -> f64 {
    admin::sum(&admin::metrics(admin_of(role)).await, "parlor_sockets", &[])
}

fn signal(role: &Logged, name: &str) {
    let kill = Command::new("kill").args([&format!("-{name}"), &role.pid().to_string()]).status();
    assert!(kill.unwrap().success());
}

fn url(front: &Logged) -> String {
    format!("ws://{}/ws", front.front())
}

#[tokio::test]
async fn a_socket_that_was_handed_over_outlives_its_balancer() {
    let Some(mut host) = Host::new() else { return };
    // A file that nobody listens at, as a killed server leaves it.
    std::fs::create_dir(host.folder()).unwrap();
    std::fs::set_permissions(host.folder(), PermissionsExt::from_mode(0o700)).unwrap();
    let file = host.folder().join("ws1.sock");
    drop(std::os::unix::net::UnixListener::bind(&file).unwrap());
    host.server("ws1", &[]).await;
    let parts = host.parts();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let api = Logged::start(&[&["api", "--listen", "127.0.0.1:0"][..], &parts].concat()).await;
    let api_url = format!("http://{}", api.api());
    let balancer = host.balancer(&["--api", &api_url]).await;

    let mut ann = Person::connect(&url(&balancer), "ann").await;
    let mut bob = Person::connect(&url(&balancer), "bob").await;
    // What is said together with the request goes along.
    let mut early = Raw::dial(balancer.front()).await;
    let frame = text(r#"{"type":"message","to":"ann","message":"early","ref":"r1"}"#);
    early.write(&[upgrade_head("userId=eve", "").as_bytes(), &frame].concat()).await;
    assert_eq!(early.head().await.unwrap().status, 101);
    early.wait_for(|said| (said["type"] == "sent").then_some(())).await;
    assert_eq!(ann.hear().await.1, "early");
    all_went(&balancer, 3.0).await;
    assert_eq!(handed(&host.servers["ws1"], "taken").await, 3.0);

    let get = "GET /v1/users/ann/conversations?userId=ann HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answer = request(balancer.front(), get).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["conversations"][0]["with"], "eve");

    signal(&balancer, "KILL");
    drop(balancer);
    let seq = ann.say("bob", "are you still there?").await;
    assert_eq!(bob.hear().await, (seq, "are you still there?".to_owned()));
    early.text(r#"{"type":"message","to":"bob","message":"so am I","ref":"r2"}"#).await;
    assert_eq!(bob.hear().await.1, "so am I");
    assert_eq!(sockets(&host.servers["ws1"]).await, 3.0);

    drop((ann, bob, early));
    signal(&host.servers["ws1"], "TERM");
    eventually("its file goes with it", async || (!file.exists()).then_some(())).await;
}

#[tokio::test]
async fn the_server_sees_the_client_and_not_its_balancer() {
    let Some(mut host) = Host::new() else { return };
    host.server("ws1", &["--sockets-per-address", "2", "--insecure-dev"]).await;
    let balancer = host.balancer(&["--trusted-proxy", "127.0.0.1", "--insecure-dev"]).await;
    let from = |last: u8| format!("X-Forwarded-For: 203.0.113.{last}\r\n");
    let opens = async |user: &str, last: u8| {
        let mut raw = Raw::dial(balancer.front()).await;
        raw.write(upgrade_head(&format!("userId={user}"), &from(last)).as_bytes()).await;
        (raw.head().await.unwrap().status, raw)
    };
    let (status, _one) = opens("one", 7).await;
    assert_eq!(status, 101);
    host.servers["ws1"].says("client=203.0.113.7 user=one").await;
    let (status, _two) = opens("two", 7).await;
    assert_eq!(status, 101);
    assert_eq!(opens("three", 7).await.0, 429, "of an address, as the server counts");
    let (status, _four) = opens("four", 8).await;
    assert_eq!(status, 101);
}

#[tokio::test]
async fn a_full_server_sends_elsewhere_and_one_without_a_socket_is_proxied() {
    let Some(mut host) = Host::new() else { return };
    host.server("ws1", &["--max-sockets", "1"]).await;
    host.plain_server("ws2", &[]).await;
    let balancer = host.balancer(&[]).await;
    let mut people = Vec::new();
    for number in 0..4 {
        people.push(Person::connect(&url(&balancer), &format!("user-{number}")).await);
    }
    let on = |server: &str| people.iter().filter(|person| person.server == server).count();
    assert_eq!((on("ws1"), on("ws2")), (1, 3));
    all_went(&balancer, 1.0).await;
    assert_eq!(handed(&balancer, "absent").await, 3.0);
    let (last, rest) = people.split_last_mut().unwrap();
    let seq = last.say("user-0", "through and through").await;
    assert_eq!(rest[0].hear().await, (seq, "through and through".to_owned()));
}

#[tokio::test]
async fn a_server_that_does_not_answer_gets_no_socket_that_another_has() {
    let Some(mut host) = Host::new() else { return };
    host.server("ws1", &[]).await;
    host.server("ws2", &[]).await;
    let balancer = host.balancer(&[]).await;
    signal(&host.servers["ws1"], "STOP");
    let begun = Instant::now();
    let mut ends = Vec::new();
    for user in ["one", "two"] {
        let mut raw = Raw::dial(balancer.front()).await;
        raw.write(upgrade_head(&format!("userId={user}"), "").as_bytes()).await;
        ends.push(raw.head().await.map(|answer| answer.status));
    }
    let took = begun.elapsed();
    ends.sort_unstable();
    assert_eq!(ends, [None, Some(101)], "one is closed, and is dealt to nobody");
    assert!((900..3_000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(handed(&balancer, "unanswered").await, 1.0);
    assert_eq!(handed(&host.servers["ws2"], "taken").await, 1.0);
    signal(&host.servers["ws1"], "CONT");
    // It finds a socket that has ended, whatever it makes of it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    eventually("nobody there", async || (sockets(&host.servers["ws1"]).await == 0.0).then_some(()))
        .await;
    eventually("it is dealt to again", async || {
        let person = Person::connect(&url(&balancer), "three").await;
        (person.server == "ws1").then_some(())
    })
    .await;
}

/// The secret of both, and a folder for it.
fn keys(host: &Host) -> [String; 2] {
    let file = host.outer.path().join("secret");
    std::fs::write(&file, SECRET).unwrap();
    ["--jwt-secret-file".to_owned(), file.to_str().unwrap().to_owned()]
}

async fn opens(front: &str, query: &str, more: &str) -> (u16, Raw) {
    let mut raw = Raw::dial(front).await;
    raw.write(upgrade_head(query, more).as_bytes()).await;
    (raw.head().await.expect("an answer").status, raw)
}

/// All clients were handed over: they may hear of it before that is counted.
async fn all_went(balancer: &Logged, count: f64) {
    let taken = async || (handed(balancer, "taken").await == count).then_some(());
    eventually("all are handed over", taken).await;
}

fn bearer(token: &Token) -> String {
    format!("Authorization: Bearer {}\r\n", token.reveal())
}

/// Who is handed over is asked for a token as anybody else.
#[tokio::test]
async fn a_socket_that_is_handed_over_shows_its_token() {
    let Some(mut host) = Host::new() else { return };
    let keys = keys(&host);
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    host.server("ws1", &keys).await;
    let parts = host.parts();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let api = ["api", "--listen", "127.0.0.1:0"];
    let api = Logged::start(&[&api[..], &parts, &keys].concat()).await;
    let balancer = host.balancer(&keys).await;
    let front = balancer.front();
    let old = token("userA", json!({"iat": now() - 5}));
    let (status, mut socket) = opens(front, "", &bearer(&old)).await;
    assert_eq!(status, 101);
    for more in [
        String::new(),
        bearer(&signed(FOREIGN, "userA", json!({}))),
        bearer(&token("userA", json!({"exp": now() - 90}))),
    ] {
        assert_eq!(opens(front, "userId=userA", &more).await.0, 401, "{more}");
    }
    assert_eq!(opens(front, "userId=userB", &bearer(&old)).await.0, 403, "another user's");
    let admin = Api::new(format!("http://{}", api.api()));
    let admin = admin.token(Some(token("root", json!({"scope": "admin"}))));
    assert_eq!(admin.post("/v1/users/userA/revoke", &json!({})).await.unwrap().status, 200);
    assert_eq!(socket.closed().await.0, Some(4_401), "in another process than was asked");
    assert_eq!(opens(front, "", &bearer(&old)).await.0, 401, "it is known there by now");
    all_went(&balancer, 6.0).await;
}

/// A server whose unit file lacks the keys, behind a balancer that asks for tokens.
#[tokio::test]
async fn a_server_without_keys_takes_nobody_from_a_balancer_with_some() {
    let Some(mut host) = Host::new() else { return };
    host.server("ws1", &[]).await;
    let keys = keys(&host);
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let balancer = host.balancer(&keys).await;
    for more in ["", "X-Parlor-Tokens: off\r\n", &bearer(&token("victim", json!({})))] {
        let (status, _) = opens(balancer.front(), "userId=victim", more).await;
        assert_eq!(status, 503, "{more}");
    }
    all_went(&balancer, 3.0).await;
    host.servers["ws1"].says("has no keys to check them by").await;
    let own = host.servers["ws1"].ready["servers"]["ws1"].as_str().unwrap();
    assert_eq!(opens(own, "userId=me", "").await.0, 101, "on this machine it is as ever");
}

/// An older balancer says nothing of tokens, and who the client is all the same.
#[tokio::test]
async fn a_server_without_keys_takes_nobody_from_another_machine() {
    let Some(mut host) = Host::new() else { return };
    host.server("ws1", &[]).await;
    let balancer = host.balancer(&["--trusted-proxy", "127.0.0.1", "--insecure-dev"]).await;
    for (client, status) in [("203.0.113.7", 403), ("127.0.0.1", 101)] {
        let told = format!("X-Forwarded-For: {client}\r\n");
        assert_eq!(opens(balancer.front(), "userId=victim", &told).await.0, status, "{client}");
    }
    all_went(&balancer, 2.0).await;
}

/// What a role says that does not start for want of a good folder.
fn refused(role: &[&str], folder: &str) -> String {
    let mut command = command();
    let output = command.args(role).args(["--handoff", folder]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    said
}

#[test]
fn a_folder_that_others_can_enter_is_refused() {
    let outer = tempfile::tempdir().unwrap();
    let open = outer.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o755)).unwrap();
    let long = outer.path().join("x".repeat(90));
    let redis = ["--redis", "redis://127.0.0.1:1", "--dynamodb", "http://127.0.0.1:1"];
    let server = [&["server", "--listen", "127.0.0.1:0", "--id", "ws1"][..], &redis].concat();
    let balancer = ["balancer", "--listen", "127.0.0.1:0", "--server", "ws1=127.0.0.1:1"];
    for role in [&server[..], &balancer] {
        let said = refused(role, open.to_str().unwrap());
        assert!(said.contains("others can enter it (755): name a folder"), "{said}");
    }
    // It would have nothing to give away.
    let (files, unused) = (crate::tls::Files::new(), outer.path().join("unused"));
    let options = files.options();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let said = refused(&[&balancer[..], &options].concat(), unused.to_str().unwrap());
    assert!(said.contains("--handoff") && said.contains("with --tls-cert"), "{said}");
    let said = refused(&server, long.to_str().unwrap());
    assert!(said.contains("take a folder with a shorter one"), "{said}");
    // Before it takes the living one's name on the board, which would stop that one.
    let own = outer.path().join("own");
    std::fs::create_dir(&own).unwrap();
    std::fs::set_permissions(&own, PermissionsExt::from_mode(0o700)).unwrap();
    let _living = std::os::unix::net::UnixListener::bind(own.join("ws1.sock")).unwrap();
    let twice = refused(&server, own.to_str().unwrap());
    assert!(twice.contains("another process listens there as ws1: stop it"), "{twice}");
    let said = json!(said).to_string();
    assert_eq!(said.matches("\\n").count(), 1, "one line: {said}");
}
