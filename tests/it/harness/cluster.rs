//! A Redis cluster of a stack's own: three masters, each with a replica.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Redis, free_port};

/// How many masters share the slots.
pub const MASTERS: usize = 3;
/// A master that is silent for so long is replaced by its replica.
const NODE_TIMEOUT_MS: &str = "2000";
/// How long forming, moving slots and electing may take; generous, since machines are busy.
const CLUSTER_SOON: Duration = Duration::from_secs(60);

/// The nodes, masters and replicas, killed when dropped.
pub struct Cluster {
    nodes: Vec<Redis>,
    /// `USER:PASSWORD@` of the URL.
    rights: String,
    _folders: Vec<tempfile::TempDir>,
}

impl Cluster {
    /// Starts one on free ports, and waits until every node knows it.
    pub fn start(dynamodb: &str) -> Self {
        let folders: Vec<_> = (0..2 * MASTERS).map(|_| tempfile::tempdir().unwrap()).collect();
        let node = |folder: &tempfile::TempDir| {
            let folder = folder.path().to_str().unwrap();
            let arguments = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"];
            let timeout = ["--cluster-node-timeout", NODE_TIMEOUT_MS, "--dir", folder];
            let arguments = arguments.iter().chain(&timeout).map(|a| (*a).to_owned()).collect();
            Redis::start_at(free_port(), arguments, dynamodb.to_owned())
        };
        let nodes = folders.iter().map(node).collect();
        let cluster = Self { nodes, rights: String::new(), _folders: folders };
        let addresses: Vec<String> = cluster.nodes.iter().map(Redis::address).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let create = [&["create"], &addresses[..], &["--cluster-replicas", "1"]].concat();
        manage(&create);
        let knows_all = |node: &Redis| {
            let info = node.cli(&["CLUSTER", "INFO"]);
            let replicates = node.cli(&["INFO", "replication"]);
            info.contains("cluster_state:ok") && !replicates.contains("master_link_status:down")
        };
        until("the cluster forms", || cluster.nodes.iter().all(knows_all).then_some(()));
        cluster
    }

    /// `redis+cluster://…`
    pub fn url(&self) -> String {
        let addresses: Vec<_> = self.nodes.iter().map(Redis::address).collect();
        format!("redis+cluster://{}{}", self.rights, addresses.join(","))
    }

    /// Whoever comes by its URL from now on has these rights alone, and nothing is counted yet.
    pub fn restrict(&mut self, user: &str, password: &str, rule: &str) {
        let rule: Vec<&str> = rule.split(' ').collect();
        for node in &self.nodes {
            assert_eq!(node.cli(&[&["ACL", "SETUSER", user], &rule[..]].concat()), "OK");
            assert_eq!(node.cli(&["CONFIG", "RESETSTAT"]), "OK");
        }
        self.rights = format!("{user}:{password}@");
    }

    /// The commands that any node was asked for, a test's own among them.
    pub fn commands(&self) -> BTreeSet<String> {
        let stats = self.nodes.iter().map(|node| node.cli(&["INFO", "commandstats"]));
        let stats = stats.collect::<Vec<_>>().join("\n");
        let name =
            |line: &str| Some(line.trim().strip_prefix("cmdstat_")?.split(':').next()?.into());
        stats.lines().filter_map(name).collect()
    }

    /// What any node has refused for want of a right.
    pub fn refused(&self) -> BTreeSet<String> {
        let mut refused = BTreeSet::new();
        for log in self.nodes.iter().map(|node| node.cli(&["ACL", "LOG"])) {
            let lines: Vec<&str> = log.lines().collect();
            let objects = lines.windows(2).filter(|pair| pair[0].trim() == "object");
            refused.extend(objects.map(|pair| pair[1].trim().to_owned()));
        }
        refused
    }

    /// Brings a key to another master while its slot stays, so that whoever asks is sent after it.
    /// Gives what ends that.
    pub fn half_moved(&self, key: &str) -> impl FnOnce() {
        let (slot, from) = (self.slot(key).to_string(), self.owner(key));
        let masters = self.masters();
        let (to, to_id, _) = masters.iter().find(|(address, ..)| *address != from).unwrap().clone();
        let (_, from_id, _) = masters.iter().find(|(address, ..)| *address == from).unwrap();
        let node = |address: &str| self.nodes.iter().find(|node| node.address() == address);
        let (source, target) = (node(&from).unwrap(), node(&to).unwrap());
        let set = move |node: &Redis, how: &[&str]| {
            let said = node.cli(&[&["CLUSTER", "SETSLOT", &slot], how].concat());
            assert_eq!(said, "OK", "SETSLOT {slot} {how:?}");
        };
        set(target, &["IMPORTING", from_id]);
        set(source, &["MIGRATING", &to_id]);
        let (host, port) = to.rsplit_once(':').unwrap();
        assert_eq!(source.cli(&["MIGRATE", host, port, key, "0", "5000"]), "OK");
        move || {
            set(target, &["NODE", &to_id]);
            set(source, &["NODE", &to_id]);
        }
    }

    /// One of the nodes.
    pub fn any(&self) -> &Redis {
        &self.nodes[0]
    }

    /// What a node that lives says, the first one.
    fn ask(&self, arguments: &[&str]) -> String {
        let answers = self.nodes.iter().map(|node| node.cli(arguments));
        answers.into_iter().find(|answer| !answer.is_empty()).unwrap_or_default()
    }

    /// The slot of a key or channel, as Redis counts it.
    pub fn slot(&self, name: &str) -> u16 {
        self.ask(&["CLUSTER", "KEYSLOT", name]).parse().unwrap()
    }

    /// `HOST:PORT` of the master that owns this key or channel.
    pub fn owner(&self, name: &str) -> String {
        let slot = self.slot(name);
        self.try_owner(slot).unwrap_or_else(|| panic!("slot {slot} has no owner"))
    }

    fn node_of(&self, name: &str) -> &Redis {
        let owner = self.owner(name);
        self.nodes.iter().find(|node| node.address() == owner).unwrap()
    }

    /// The same for a slot; `None` while none is known.
    fn try_owner(&self, slot: u16) -> Option<String> {
        self.masters().into_iter().find_map(|(address, _, slots)| {
            let held = |range: &String| match range.split_once('-') {
                Some((first, last)) => {
                    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
                    (first..=last).contains(&slot).then_some(())
                }
                None => (range.parse() == Ok(slot)).then_some(()),
            };
            slots.iter().find_map(held).map(|()| address)
        })
    }

    /// Address, id and slots of each master that is not known to have failed.
    fn masters(&self) -> Vec<(String, String, Vec<String>)> {
        let nodes = self.ask(&["CLUSTER", "NODES"]);
        let master = |line: &str| {
            let fields: Vec<&str> = line.split(' ').collect();
            let (id, address, flags) = (fields[0], fields[1], fields[2]);
            let is = flags.contains("master") && !flags.contains("fail");
            let address = address.split('@').next().unwrap().to_owned();
            let slots = fields[8..].iter().filter(|slots| !slots.starts_with('['));
            is.then(|| (address, id.to_owned(), slots.map(|s| (*s).to_owned()).collect()))
        };
        nodes.lines().filter_map(master).collect()
    }

    /// The masters that hold at least one of these keys, each asked itself.
    pub fn holders(&self, keys: &[String]) -> BTreeSet<String> {
        let holds = |node: &&Redis| keys.iter().any(|key| node.cli(&["EXISTS", key]) == "1");
        let masters: Vec<_> = self.masters().into_iter().map(|(address, ..)| address).collect();
        let nodes = self.nodes.iter().filter(|node| masters.contains(&node.address()));
        nodes.filter(holds).map(Redis::address).collect()
    }

    /// The text of a key, wherever it is.
    pub fn get(&self, key: &str) -> String {
        self.node_of(key).cli(&["GET", key])
    }

    /// How many listen to this channel at the master that owns it.
    pub fn listeners(&self, channel: &str) -> u32 {
        let answer = self.node_of(channel).cli(&["PUBSUB", "SHARDNUMSUB", channel]);
        answer.lines().last().unwrap().parse().unwrap()
    }

    /// Starts moving all slots of a master to another, with their keys, as an operator who takes a
    /// node out does. Ends by itself; [`Moving::ended`] waits for it.
    pub fn empty(&self, from: &str, to: &str) -> Moving {
        let masters = self.masters();
        let of = |address: &str| masters.iter().find(|(a, ..)| a == address).unwrap();
        let count = |range: &String| match range.split_once('-') {
            Some((first, last)) => 1 + last.parse::<u32>().unwrap() - first.parse::<u32>().unwrap(),
            None => 1,
        };
        let slots: u32 = of(from).2.iter().map(count).sum();
        let mut command = Command::new("redis-cli");
        command.args(["--cluster", "reshard", from, "--cluster-from", &of(from).1]);
        command.args(["--cluster-to", &of(to).1, "--cluster-slots", &slots.to_string()]);
        command.args(["--cluster-yes"]).stdout(Stdio::null());
        Moving(command.spawn().expect("redis-cli is not installed: run ./test, which installs it"))
    }

    /// `kill -9` of the master that owns this key or channel. Gives its address.
    pub fn kill_owner(&mut self, name: &str) -> String {
        let owner = self.owner(name);
        let node = self.nodes.iter_mut().find(|node| node.address() == owner).unwrap();
        node.kill();
        owner
    }

    /// Waits until another than `old` owns this key or channel, and the cluster stands.
    pub fn owned_anew(&self, name: &str, old: &str) -> String {
        // The dead are asked for nothing: their answer is empty, and the next one's is taken.
        let slot = self.slot(name);
        until("another owner", || {
            let stands = self.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
            self.try_owner(slot).filter(|owner| stands && owner != old)
        })
    }
}

/// Slots on their way.
pub struct Moving(std::process::Child);

impl Moving {
    /// Whether they still are.
    pub fn is_under_way(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Waits until all have come.
    pub fn ended(&mut self) {
        let status = until("the slots have moved", || self.0.try_wait().unwrap());
        assert!(status.success(), "redis-cli --cluster reshard: {status}");
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn manage(arguments: &[&str]) {
    let mut command = Command::new("redis-cli");
    command.arg("--cluster").args(arguments).arg("--cluster-yes").stdout(Stdio::null());
    assert!(command.status().unwrap().success(), "redis-cli --cluster {arguments:?}");
}

fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + CLUSTER_SOON;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < until, "not within {CLUSTER_SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
