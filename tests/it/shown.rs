//! What stands on a command line or in a variable, and where others could read it: `--help`, `ps`,
//! `/proc`, core files.

use std::any::TypeId;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use clap::CommandFactory;
use parlor::config::Cli;

use crate::harness::{Redis, command, dynamodb, eventually};

/// What may be shown though it is a text: names, addresses and rates that no secret stands in.
const HARMLESS: [&str; 31] = [
    "PARLOR_ADVERTISE",
    "PARLOR_ALLOW_HOST",
    "PARLOR_ALLOW_ORIGIN",
    "PARLOR_API_REQUESTS",
    "PARLOR_AS",
    "PARLOR_BENCH_PREFIX",
    "PARLOR_CONVERSATIONS_PER_USER",
    "PARLOR_DEVICE",
    "PARLOR_HALF_OPEN_PER_ADDRESS",
    "PARLOR_HANDSHAKES_PER_ADDRESS",
    "PARLOR_HANDSHAKES_PER_USER",
    "PARLOR_ID",
    "PARLOR_JWT_AUDIENCE",
    "PARLOR_JWT_ISSUER",
    "PARLOR_MAX_SOCKETS",
    "PARLOR_NEW_CONVERSATIONS",
    "PARLOR_REDIS_PREFIX",
    "PARLOR_SERVER",
    "PARLOR_SOCKETS_PER_ADDRESS",
    "PARLOR_TABLE",
    "PARLOR_TO",
    "PARLOR_TOKEN_AUDIENCE",
    "PARLOR_TOKEN_ISSUER",
    "PARLOR_TOKEN_SUB",
    "PARLOR_TOKEN_TTL",
    "PARLOR_TRUSTED_PROXY",
    "PARLOR_USER_BYTES",
    "PARLOR_USER_CLAIM",
    "PARLOR_USER_FRAMES",
    "PARLOR_USER_MESSAGES",
    "PARLOR_USER_SIGNALS",
];

/// Numbers, places and switches hold no secret.
fn is_plain(option: &clap::Arg) -> bool {
    let plain = [
        TypeId::of::<bool>(),
        TypeId::of::<u8>(),
        TypeId::of::<u16>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<usize>(),
        TypeId::of::<f64>(),
        TypeId::of::<IpAddr>(),
        TypeId::of::<SocketAddr>(),
        TypeId::of::<PathBuf>(),
    ];
    let id = option.get_value_parser().type_id();
    plain.iter().any(|plain| id == *plain) || !option.get_possible_values().is_empty()
}

/// Every command with its ways, and every variable, of which those of texts count.
fn walk(
    command: &clap::Command,
    path: &[String],
    paths: &mut Vec<Vec<String>>,
    variables: &mut BTreeSet<(String, bool)>,
) {
    paths.push(path.to_vec());
    for option in command.get_arguments() {
        let name = option.get_env().map(|name| name.to_str().unwrap().to_owned());
        variables.extend(name.map(|name| (name, is_plain(option))));
    }
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        walk(inner, &[path, &[inner.get_name().to_owned()]].concat(), paths, variables);
    }
}

#[test]
fn help_shows_no_variable_that_may_hold_a_secret() {
    let (mut paths, mut variables) = (Vec::new(), BTreeSet::new());
    walk(&Cli::command(), &[], &mut paths, &mut variables);
    assert!(paths.len() > 20 && variables.len() > 60, "{paths:?} {variables:?}");
    let canary = |name: &str| format!("canary-of-{name}-");
    let mut shown = BTreeSet::new();
    for path in &paths {
        for help in ["--help", "-h"] {
            let mut command = command();
            command.args(path).arg(help);
            command.envs(variables.iter().map(|(name, _)| (name, canary(name))));
            let output = command.output().unwrap();
            assert!(output.status.success() && !output.stdout.is_empty(), "{path:?} {help}");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let seen = variables.iter().filter(|(name, _)| text.contains(&canary(name)));
            shown.extend(seen.cloned());
        }
    }
    assert!(
        shown.iter().any(|(_, plain)| *plain),
        "the canaries are looked for in the right place"
    );
    let texts = shown.iter().filter(|(_, plain)| !plain).map(|(name, _)| name.as_str());
    let texts: BTreeSet<_> = texts.collect();
    let harmful: Vec<_> = texts.difference(&BTreeSet::from(HARMLESS)).copied().collect();
    assert!(harmful.is_empty(), "--help shows what stands in {harmful:?}: hide_env_values = true");
}

/// What keeps a root of a container from looking everywhere: the rights of root.
fn as_anybody(program: &str, arguments: &[&str]) -> Command {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let mut anybody = Command::new(if is_root { "setpriv" } else { program });
    if is_root {
        anybody.args(["--bounding-set=-all", "--inh-caps=-all", program]);
    }
    anybody.args(arguments);
    anybody
}

/// Where a program takes core files the size of them is no limit, so that nothing of this process
/// may be dumped at all: which the system shows by keeping its variables from its own user too.
#[tokio::test]
async fn a_process_keeps_its_memory_and_variables_to_itself() {
    let ports = ["--balancer-port", "0", "--server-port", "0", "--api-port", "0"];
    let more = ["up", "--memory", "--ready-json"];
    for (inspectable, is_read) in [(None, false), (Some("1"), true), (Some("0"), false)] {
        let mut up = as_anybody(env!("CARGO_BIN_EXE_parlor"), &[&more[..], &ports].concat());
        for (name, value) in command().get_envs() {
            match value {
                Some(value) => up.env(name, value),
                None => up.env_remove(name),
            };
        }
        up.env("OF_THIS_TEST", "a-canary").envs(inspectable.map(|set| ("PARLOR_INSPECTABLE", set)));
        let mut up = Running(up.stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(up.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("\"ready\":true"), "{line}");
        let environ = format!("/proc/{}/environ", up.0.id());
        let read = as_anybody("cat", &[&environ]).output().unwrap();
        let read = String::from_utf8_lossy(&read.stdout).contains("a-canary");
        assert_eq!(read, is_read, "PARLOR_INSPECTABLE={inspectable:?}");
    }
}

#[test]
fn a_file_with_a_secret_that_everybody_can_read_is_warned_of() {
    let files = crate::tls::Files::new();
    let (password, key) = (files.at("password"), files.at("bus"));
    std::fs::write(&password, "of-redis").unwrap();
    std::fs::write(&key, "5f1e8c0b7a2d49e3a6b1c4d7e8f90123").unwrap();
    let tls_key = files.at("key.pem");
    let all =
        [("--redis-password-file", &password), ("--bus-key-file", &key), ("--tls-key", &tls_key)];
    for (mode, is_warned) in [(0o644, true), (0o600, false), (0o640, false)] {
        let mut up = command();
        up.args(["up", "--memory", "--balancer-port", "0", "--server-port", "0", "--api-port"]);
        up.args(["0", "--redis", "redis://127.0.0.1:1", "--tls-cert"]).arg(files.at("cert.pem"));
        for (option, path) in all {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
            up.arg(option).arg(path);
        }
        let output = up.env("PARLOR_LOG", "warn").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "nobody is at that port: {said}");
        for (option, path) in all {
            let warning = format!("{option} {} can be read by everybody", path.display());
            assert_eq!(said.contains(&warning), is_warned, "{mode:o}: {said}");
        }
    }
}

/// Told to stop when dropped: a bench ends what it started.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// The command lines of all processes that hold this text.
fn lines_with(text: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(text)).collect()
}

/// A bench starts processes of its own, and tells them where Redis is.
#[tokio::test]
async fn a_password_from_a_variable_comes_into_no_command_line() {
    const PASSWORD: &str = "hunter2-that-ps-may-not-show";
    let Some(dynamodb) = dynamodb() else { return };
    let redis = Redis::start(dynamodb);
    let rule = ["ACL", "SETUSER", "bench", "on", &format!(">{PASSWORD}"), "~*", "&*", "+@all"];
    assert_eq!(redis.cli(&rule), "OK");
    let url = format!("redis://bench:{PASSWORD}@{}", redis.address());
    let mut bench = command();
    bench.args(["bench", "idle", "--start", "--memory", "--users", "4", "--hold", "30"]);
    bench.env("PARLOR_BENCH_REDIS", &url).stdout(Stdio::null()).stderr(Stdio::null());
    let bench = Running(bench.spawn().unwrap());
    let uses_it = async || redis.cli(&["CLIENT", "LIST"]).contains("user=bench").then_some(());
    eventually("the bench's servers use the Redis with its password", uses_it).await;
    assert_eq!(lines_with(PASSWORD), Vec::<String>::new());
    drop(bench);
    // The look itself finds what there is to find.
    let _shows = Running(Command::new("sleep").arg0("ps-shows-this").arg("30").spawn().unwrap());
    let found = async || (lines_with("ps-shows-this") == ["ps-shows-this 30 "]).then_some(());
    eventually("a command line is found", found).await;
}
