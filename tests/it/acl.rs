//! The rights in `deploy/` are enough, and none of them is one too many.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::harness::free_port;
use crate::harness::real::items;
use crate::harness::{Person, SOON, dynamodb, eventually};
use crate::proxies::Logged;
use crate::tls::Files;

const PASSWORD: &str = "a-password-that-no-log-may-hold";
const ADMIN: &str = "admin-of-this-test";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A Redis with the rights of `deploy/redis-acl.conf`, and an admin who looks on.
struct Guarded {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Guarded {
    fn start() -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let acl = fs::read_to_string(root().join("deploy/redis-acl.conf")).unwrap();
        let hash = Sha256::digest(PASSWORD).iter().map(|b| format!("{b:02x}")).collect::<String>();
        fs::write(folder.path().join("acl.conf"), acl.replace("PASSWORD-SHA256", &hash)).unwrap();
        fs::write(folder.path().join("password"), format!("{PASSWORD}\n")).unwrap();
        let own = format!(
            "port {port}\nbind 127.0.0.1\nsave \"\"\nappendonly no\ninclude {}\n\
             user admin on >{ADMIN} ~* &* +@all\n",
            folder.path().join("acl.conf").display()
        );
        let own_path = folder.path().join("redis.conf");
        fs::write(&own_path, own).unwrap();
        let mut server = Command::new("redis-server");
        let child = server.arg(&own_path).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let redis = Self { child: child.unwrap(), port, folder };
        let until = Instant::now() + Duration::from_secs(10);
        while redis.cli(&["PING"]) != "PONG" {
            assert!(Instant::now() < until, "redis-server does not start with this ACL");
            std::thread::sleep(Duration::from_millis(20));
        }
        redis
    }

    fn cli(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string(), "--user", "admin", "--pass", ADMIN]);
        let output = command.arg("--no-auth-warning").args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// What anybody but the admin has asked for since the numbers were set to zero.
    fn commands(&self) -> BTreeSet<String> {
        let admins = ["acl", "auth", "config"];
        let stats = self.cli(&["INFO", "commandstats"]);
        let names = stats.lines().filter_map(|line| {
            Some(line.trim().strip_prefix("cmdstat_")?.split(':').next()?.to_owned())
        });
        names.filter(|name| !admins.contains(&name.split('|').next().unwrap())).collect()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A rule of `deploy/redis-acl.conf`, with this password: that for one server, or for a cluster.
pub fn rule(begin: &str, password: &str) -> String {
    let acl = fs::read_to_string(root().join("deploy/redis-acl.conf")).unwrap();
    let rule = acl.lines().find_map(|line| line.strip_prefix(begin)).unwrap();
    let hash = Sha256::digest(password).iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert!(rule.contains("#PASSWORD-SHA256"), "{rule}");
    rule.replace("PASSWORD-SHA256", &hash)
}

/// The commands that a rule allows.
pub fn allowed(begin: &str) -> BTreeSet<String> {
    let rule = rule(begin, PASSWORD);
    assert!(rule.contains(" -@all ") && !rule.contains("+@"), "commands by name: {rule}");
    assert!(rule.contains(" ~user:* ") && rule.contains(" &messages:* "), "{rule}");
    rule.split(' ').filter_map(|word| word.strip_prefix('+')).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_rights_on_redis_are_enough_and_no_more() {
    let Some(dynamodb) = dynamodb() else { return };
    let redis = Guarded::start();
    assert_eq!(redis.cli(&["CONFIG", "RESETSTAT"]), "OK");
    let url = format!("redis://parlor@127.0.0.1:{}", redis.port);
    let file = redis.folder.path().join("password");
    let table = format!("parlor-it-{:016x}", rand::random::<u64>());
    let up = Logged::start(&[
        "up",
        "--balancer-port",
        "0",
        "--server-port",
        "0",
        "--api-port",
        "0",
        "--redis",
        &url,
        "--redis-password-file",
        file.to_str().unwrap(),
        "--dynamodb",
        &dynamodb,
        "--table",
        &table,
    ])
    .await;
    // Before this test asks for it itself.
    assert!(redis.cli(&["INFO", "commandstats"]).contains("cmdstat_info:"));
    let at = |server: &str| format!("ws://{}/ws", up.ready["servers"][server].as_str().unwrap());
    let mut a = Person::connect(&at("ws1"), "userA").await;
    let mut b = Person::connect(&at("ws3"), "userB").await;
    b.catch_up().await;
    // A first script is sent, and one more socket stands beside it.
    let other = Person::connect(&at("ws2"), "userB").await;
    assert_eq!(a.say("userB", "live").await, 1);
    assert_eq!(b.hear().await, (1, "live".to_owned()));
    // Who sends puts a hint there when it can't tell the other server.
    let hints = items(&dynamodb, &table, "B#ws1").await;
    assert_eq!(hints, [], "over Redis, not the slow way");
    drop((other, b));
    let gone = async || redis.cli(&["EXISTS", "user:userB"]).eq("0").then_some(());
    eventually("its owners removed the entry", gone).await;
    // Entries are extended, and the channel probed, every few seconds.
    let wanted = allowed("user parlor ");
    let elsewhere = ["expire", "info"];
    let needed = wanted.iter().filter(|name| !elsewhere.contains(&name.as_str())).cloned();
    let needed: BTreeSet<_> = needed.collect();
    let until = Instant::now() + SOON;
    while !redis.commands().is_superset(&needed) && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let unused: Vec<_> = needed.difference(&redis.commands()).cloned().collect();
    assert!(unused.is_empty(), "rights that nobody needs: {unused:?}");
    assert_eq!(redis.cli(&["ACL", "LOG"]), "", "nothing was refused");
    let others: Vec<_> = redis.commands().difference(&wanted).cloned().collect();
    assert_eq!(others, ["exists"], "beside the test's own");
    let extends = include_str!("../../src/directory/extend.lua");
    assert!(extends.contains("redis.call('EXPIRE'"), "once in 20 minutes");
    // The password stands in no place where others can read it.
    let (line, log) = (format!("/proc/{}/cmdline", up.pid()), up.log());
    for text in [fs::read_to_string(line).unwrap(), log] {
        assert!(!text.contains(PASSWORD) && !text.contains(ADMIN));
    }
}

/// Whoever has mistyped something learns what, and not that nobody is there.
#[tokio::test]
async fn a_redis_that_refuses_says_what_to_look_at() {
    if dynamodb().is_none() {
        return;
    }
    let redis = Guarded::start();
    let (good, wrong) = (redis.folder.path().join("password"), redis.folder.path().join("wrong"));
    fs::write(&wrong, "another password").unwrap();
    let (good, wrong) = (good.to_str().unwrap(), wrong.to_str().unwrap());
    let [ours, nobody, plain] =
        ["parlor@", "nobody@", ""].map(|user| format!("redis://{user}127.0.0.1:{}", redis.port));
    let refused = |url: &str, more: &[&str], words: &[&str]| {
        let mut up = crate::harness::command();
        up.args(["up", "--memory", "--balancer-port", "0", "--server-port", "0"]);
        let output = up.args(["--api-port", "0", "--redis", url]).args(more).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        for word in words {
            assert!(said.contains(word), "{word}: {said}");
        }
    };
    let check = "check the user in --redis and --redis-password-file";
    let file = "--redis-password-file";
    refused(&ours, &[file, wrong], &["refuses (WRONGPASS)", check]);
    refused(&nobody, &[file, good], &["refuses (WRONGPASS)", check]);
    refused(&plain, &[], &["refuses (NOAUTH)", check]);
    let rights = ["deploy/redis-acl.conf", "both patterns need the prefix"];
    let prefixed = [file, good, "--redis-prefix", "chat:"];
    refused(&ours, &prefixed, &[&["\"chat:user:\""], &rights[..]].concat());
    assert_eq!(redis.cli(&["ACL", "SETUSER", "parlor", "~chat:user:*"]), "OK");
    refused(&ours, &prefixed, &[&["\"chat:messages:"], &rights[..]].concat());
    assert_eq!(redis.cli(&["ACL", "SETUSER", "parlor", "-ping"]), "OK");
    refused(&ours, &[file, good], &["refuses (NOPERM)", "deploy/redis-acl.conf"]);
    let closed = format!("redis://127.0.0.1:{}", free_port());
    refused(&closed, &[], &["does not answer", "Connection refused"]);
}

/// `rediss://` with an authority of one's own, and with another one.
#[tokio::test]
async fn redis_is_reached_by_tls_where_it_shows_whom_we_trust() {
    if dynamodb().is_none() {
        return;
    }
    let (files, other) = (Files::new(), Files::new());
    let (port, path) = (free_port(), |name| files.at(name).to_str().unwrap().to_owned());
    let mut server = Command::new("redis-server");
    server.args(["--port", "0", "--tls-port", &port.to_string(), "--bind", "127.0.0.1"]);
    server.args(["--tls-cert-file", &path("cert.pem"), "--tls-key-file", &path("key.pem")]);
    server.args(["--tls-ca-cert-file", &path("cert.pem"), "--tls-auth-clients", "no"]);
    let mut server = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let url = format!("rediss://127.0.0.1:{port}");
    let until = Instant::now() + SOON;
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let up = Logged::up(&["--redis", &url, "--redis-ca", &path("cert.pem")]).await;
    let at = |server: &str| format!("ws://{}/ws", up.ready["servers"][server].as_str().unwrap());
    let mut a = Person::connect(&at("ws1"), "userA").await;
    let mut b = Person::connect(&at("ws3"), "userB").await;
    b.catch_up().await;
    assert_eq!(a.say("userB", "sealed").await, 1);
    assert_eq!(b.hear().await, (1, "sealed".to_owned()));
    for trusted in [&["--redis-ca", other.at("cert.pem").to_str().unwrap()][..], &[]] {
        let mut up = crate::harness::command();
        up.args(["up", "--memory", "--balancer-port", "0", "--server-port", "0"]);
        let output = up.args(["--api-port", "0", "--redis", &url]).args(trusted).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{trusted:?}: {said}");
    }
    let _ = server.kill();
    let _ = server.wait();
}

#[tokio::test]
async fn no_error_shows_a_password() {
    let url = format!("redis://parlor:{PASSWORD}@127.0.0.1:1");
    for url in [url.as_str(), &format!("redis://:{PASSWORD}@"), &format!("http://:{PASSWORD}@a")] {
        let mut up = crate::harness::command();
        up.args([
            "up",
            "--memory",
            "--balancer-port",
            "0",
            "--server-port",
            "0",
            "--api-port",
            "0",
        ]);
        let output = up.args(["--redis", url]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && !said.contains(PASSWORD), "{said}");
    }
}

// ------------------------------------------------------------------------------------- DynamoDB

/// Operations of DynamoDB as its client names them.
const OPERATIONS: [&str; 24] = [
    "batch_execute_statement",
    "batch_get_item",
    "batch_write_item",
    "create_table",
    "delete_item",
    "delete_table",
    "describe_endpoints",
    "describe_limits",
    "describe_table",
    "describe_time_to_live",
    "execute_statement",
    "execute_transaction",
    "get_item",
    "list_tables",
    "list_tags_of_resource",
    "put_item",
    "query",
    "scan",
    "tag_resource",
    "transact_get_items",
    "transact_write_items",
    "update_item",
    "update_table",
    "update_time_to_live",
];

/// `put_item` is `dynamodb:PutItem`.
fn action(operation: &str) -> String {
    let words = operation.split('_').map(|word| word[..1].to_uppercase() + &word[1..]);
    format!("dynamodb:{}", words.collect::<String>())
}

/// The actions that the production code of these files calls.
fn called(files: &[&str]) -> BTreeSet<String> {
    let texts = files.iter().map(|file| fs::read_to_string(root().join(file)).unwrap());
    let text = texts.map(|text| text.split("#[cfg(test)]").next().unwrap().to_owned());
    let text = text.collect::<String>();
    let calls = OPERATIONS.iter().filter(|name| text.contains(&format!(".{name}()")));
    calls.map(|name| action(name)).collect()
}

fn statement(sid: &str) -> serde_json::Value {
    let text = fs::read_to_string(root().join("deploy/dynamodb-policy.json")).unwrap();
    let policy: serde_json::Value = serde_json::from_str(&text).unwrap();
    let statements = policy["Statement"].as_array().unwrap();
    for statement in statements {
        assert_eq!(statement["Effect"], "Allow");
        assert!(statement["Resource"].as_str().unwrap().ends_with(":table/parlor"), "{statement}");
    }
    statements.iter().find(|statement| statement["Sid"] == sid).unwrap().clone()
}

fn policy(sid: &str) -> BTreeSet<String> {
    let statement = statement(sid);
    let actions = statement["Action"].as_array().unwrap().iter();
    actions.map(|action| action.as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_policy_for_dynamodb_is_what_the_code_calls() {
    let folder = root().join("src/store/dynamodb");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.is_file() && !path.ends_with("table.rs"));
    let files: Vec<_> = files.map(|path| path.to_str().unwrap().to_owned()).collect();
    let mut running: Vec<&str> = files.iter().map(String::as_str).collect();
    running.push("src/board/dynamodb.rs");
    let mut running = called(&running);
    assert!(running.len() >= 5, "{running:?}");
    // Every role looks whether its table is there.
    running.insert(action("describe_table"));
    assert_eq!(policy("ParlorServersAndApi"), running);
    let table = called(&["src/store/dynamodb/table.rs"]);
    assert_eq!(policy("ParlorTableForWhoeverMakesIt"), table);
}

/// Whoever gets into the process that faces the internet reads who is alive, and no message.
#[test]
fn a_balancer_may_read_the_board_and_nothing_else() {
    assert_eq!(policy("ParlorBalancerBoard"), [action("query")].into());
    assert_eq!(policy("ParlorBalancerTable"), [action("describe_table")].into());
    let keys = &statement("ParlorBalancerBoard")["Condition"]["ForAllValues:StringEquals"];
    assert_eq!(keys["dynamodb:LeadingKeys"], serde_json::json!(["BOARD"]));
    let board = fs::read_to_string(root().join("src/board/dynamodb.rs")).unwrap();
    assert!(board.contains("const BOARD_PK: &str = \"BOARD\";"));
    let reads = board.split("async fn read(").nth(1).unwrap().split("async fn").next().unwrap();
    assert!(
        reads.contains("query(BOARD_PK") && reads.matches("self.link.").count() == 2,
        "{reads}"
    );
    let folder = fs::read_dir(root().join("src/balancer")).unwrap();
    for file in folder.map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(&file).unwrap();
        for method in ["beat", "remove", "put_hints", "hints"] {
            assert!(!text.contains(&format!("board.{method}(")), "{file:?} calls {method}");
        }
    }
}
