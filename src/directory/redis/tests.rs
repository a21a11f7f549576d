//! The map on real servers, and on one that only complains.

use std::time::{Duration, Instant};

use super::super::CALL_MS_MAX;
use super::super::contract::{self, entry, user};
use super::super::testing::{Cluster, FakeRedis, NOT_TWO, Server, prefix, quick, shared_url};
use super::*;
use crate::planted::plant;
use crate::telemetry::Call;

async fn connect(url: &str, prefix: &str) -> RedisDirectory {
    let metrics = Arc::new(Metrics::new("test"));
    RedisDirectory::connect(Target::parse(url).unwrap(), prefix, metrics).await.unwrap()
}

#[tokio::test]
async fn passes_the_contract() {
    let Some(url) = shared_url() else { return };
    contract::all(&connect(&url, &prefix()).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_contract_on_a_cluster() {
    if quick() {
        return;
    }
    let cluster = Cluster::start();
    let map = connect(&cluster.url(), "").await;
    contract::all(&map).await;
    let names = map.instance().await.unwrap();
    assert_eq!(names.split(',').count(), 3, "{names}");
}

#[tokio::test]
async fn an_entry_is_json_that_a_person_can_read() {
    if quick() {
        return;
    }
    let server = Server::start(&[]);
    let map = connect(&server.url(), "").await;
    let user = UserId::parse("userB").unwrap();
    map.claim(&user, &entry(1, 7), &[]).await.unwrap();
    let first = "{\"socketId\":\"00000000000000000000000000000001\",\"server\":\"ws3\",\
                 \"epoch\":\"feedbeef01234567\",\"device\":\"default\",\"claim\":\"7\",\"v\":1";
    assert_eq!(server.cli(&["GET", "user:userB"]).trim(), format!("{first}}}"));
    map.claim(&user, &entry(2, u64::MAX), &[]).await.unwrap();
    let second = first
        .replace("01\",\"server", "02\",\"server")
        .replace("\"claim\":\"7\"", "\"claim\":\"18446744073709551615\"");
    let both = format!("{second},\"others\":[{first}}}]}}");
    assert_eq!(server.cli(&["GET", "user:userB"]).trim(), both);
    map.claim(&user, &entry(3, 8), &[]).await.unwrap();
    map.release(&user, SocketId(3), 8).await.unwrap();
    assert_eq!(server.cli(&["GET", "user:userB"]).trim(), both, "release keeps the form too");
    map.release(&user, SocketId(2), u64::MAX).await.unwrap();
    assert_eq!(server.cli(&["GET", "user:userB"]).trim(), format!("{first}}}"));

    let ttl =
        |server: &Server| -> u64 { server.cli(&["TTL", "user:userB"]).trim().parse().unwrap() };
    assert!((3_590..=3_600).contains(&ttl(&server)));
    server.cli(&["EXPIRE", "user:userB", "100"]);
    map.release(&user, SocketId(99), 1).await.unwrap();
    assert!(ttl(&server) <= 100, "a release extends nothing");
    assert!(map.extend(&user, SocketId(1), 7).await.unwrap());
    assert!((3_590..=3_600).contains(&ttl(&server)));
    map.release(&user, SocketId(1), 7).await.unwrap();
    assert_eq!(server.cli(&["DBSIZE"]).trim(), "0", "nothing stays behind");
}

#[tokio::test]
async fn a_damaged_entry_counts_as_none_and_is_replaced() {
    if quick() {
        return;
    }
    let server = Server::start(&[]);
    let map = connect(&server.url(), "").await;
    let user = UserId::parse("userB").unwrap();
    let damaged = ["", "{", "[]", "7", "{\"socketId\":7}", "{\"others\":[1]}"];
    for text in damaged {
        server.cli(&["SET", "user:userB", text]);
        assert_eq!(map.locate(std::slice::from_ref(&user)).await.unwrap(), [vec![]], "{text}");
        assert!(!map.extend(&user, SocketId(1), 1).await.unwrap());
        map.release(&user, SocketId(1), 1).await.unwrap();
        map.claim(&user, &entry(1, 1), &[]).await.unwrap();
        assert_eq!(map.locate(std::slice::from_ref(&user)).await.unwrap()[0].len(), 1);
    }
    server.cli(&["DEL", "user:userB"]);
    server.cli(&["HSET", "user:userB", "a", "b"]);
    assert!(map.locate(std::slice::from_ref(&user)).await.is_err(), "another type is no entry");
    map.claim(&user, &entry(1, 1), &[]).await.unwrap();
    assert_eq!(map.locate(&[user]).await.unwrap()[0].len(), 1);
    let call = Call { operation: "locate", outcome: "malformed" };
    let counted = map.link.counted(&call);
    assert_eq!(counted, damaged.len() as u64);
}

/// Whoever else writes there: as many are read as Parlor keeps, and what is longer than these could
/// be is not looked at.
#[test]
fn no_more_is_read_than_is_kept() {
    let long = "x".repeat(32);
    let longest = SocketEntry {
        socket_id: SocketId(u128::MAX),
        server: ProcessId::parse(&long).unwrap(),
        epoch: Epoch(u64::MAX),
        device: DeviceId::parse(&long).unwrap(),
        claim: u64::MAX,
    };
    let entry = |others: usize| {
        let written = || serde_json::to_value(Written { entry: &longest, v: ENTRY_VERSION });
        let mut first = written().unwrap();
        first["others"] = (0..others).map(|_| written().unwrap()).collect();
        first.to_string()
    };
    let most = entry(SOCKETS_KEPT_MAX - 1);
    assert!(2 * most.len() <= ENTRY_BYTES_MAX, "{} bytes", most.len());
    assert_eq!(sockets(most.as_bytes()).unwrap(), vec![longest.clone(); SOCKETS_KEPT_MAX]);
    let more = entry(SOCKETS_KEPT_MAX + 5);
    assert_eq!(sockets(more.as_bytes()).unwrap().len(), SOCKETS_KEPT_MAX);
    let padded = format!("{most}{}", " ".repeat(ENTRY_BYTES_MAX));
    assert!(sockets(padded.as_bytes()).unwrap_err().to_string().contains("bytes"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_redis_costs_the_deadline_and_no_more() {
    if quick() {
        return;
    }
    let server = Server::start(&[]);
    let map = connect(&server.url(), "").await;
    let user = user();
    map.claim(&user, &entry(1, 1), &[]).await.unwrap();
    server.signal("STOP");
    for round in 0..10 {
        let begun = Instant::now();
        let again = entry(1, 2);
        let (a, b, c) = tokio::join!(
            map.locate(std::slice::from_ref(&user)),
            map.claim(&user, &again, &[]),
            map.release(&user, SocketId(1), 2),
        );
        assert!(a.is_err() && b.is_err() && c.is_err());
        let took = begun.elapsed();
        assert!(took < NOT_TWO, "round {round}: {took:?}");
    }
    server.signal("CONT");
    answers_again(&map).await;
}

async fn answers_again(map: &RedisDirectory) {
    let until = Instant::now() + Duration::from_secs(3);
    while map.instance().await.is_err() {
        assert!(Instant::now() < until, "no answer after Redis came back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_died_is_used_again_under_another_name() {
    if quick() {
        return;
    }
    let mut server = Server::start(&[]);
    let map = connect(&server.url(), "").await;
    let before = map.instance().await.unwrap();
    server.kill();
    let begun = Instant::now();
    assert!(map.locate(&[user()]).await.is_err());
    assert!(begun.elapsed() < NOT_TWO);
    server.start_again();
    answers_again(&map).await;
    assert_ne!(map.instance().await.unwrap(), before, "its data is another now");
    let user = user();
    // The scripts went with the old process.
    map.claim(&user, &entry(1, 1), &[]).await.unwrap();
    assert_eq!(map.locate(&[user]).await.unwrap()[0].len(), 1);
}

#[tokio::test]
async fn what_can_not_work_is_said_at_the_start() {
    if quick() {
        return;
    }
    let refusal = async |url: &str| {
        let metrics = Arc::new(Metrics::new("test"));
        match Target::parse(url) {
            Err(error) => error,
            Ok(target) => {
                let directory = RedisDirectory::connect(target, "", metrics).await;
                directory.err().unwrap().to_string()
            }
        }
    };
    let evicting = Server::start(&["--maxmemory-policy", "allkeys-lru"]);
    let error = refusal(&evicting.url()).await;
    assert!(error.contains("allkeys-lru") && error.contains("noeviction"), "{error}");
    let error = refusal("redis://127.0.0.1:1").await;
    assert!(error.contains("127.0.0.1:1"), "{error}");
    assert!(refusal("http://127.0.0.1").await.contains("redis://"));
}

#[tokio::test]
async fn rights_without_info_are_enough() {
    if quick() {
        return;
    }
    let server = Server::start(&[]);
    let rule = "on >s3cret ~user:* &messages:* -@all +@connection +@string +@keyspace +@pubsub \
                +@scripting -@dangerous";
    let mut command = vec!["ACL", "SETUSER", "parlor"];
    command.extend(rule.split_whitespace());
    assert_eq!(server.cli(&command).trim(), "OK");
    let url = server.url().replace("redis://", "redis://parlor:s3cret@");
    let map = connect(&url, "").await;
    contract::all(&map).await;
    assert_eq!(map.instance().await.unwrap(), UNKNOWN_INSTANCE);
}

/// On one thread, for which the bug is planted.
#[tokio::test]
async fn the_contract_finds_a_release_that_removes_any() {
    let Some(url) = shared_url() else { return };
    let map = connect(&url, &prefix()).await;
    plant(Some(Bug::ReleaseAny));
    let found = tokio::spawn(async move { contract::all(&map).await });
    assert!(found.await.is_err_and(|error| error.is_panic()));
    plant(None);
}

/// Every complaint of Redis is an error of its own name, at once, and nothing is tried again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_complains_of_is_told_apart() {
    let redis = FakeRedis::start().await;
    let metrics = Arc::new(Metrics::new("test"));
    let map =
        RedisDirectory::connect(Target::parse(&redis.url).unwrap(), "", metrics).await.unwrap();
    let (user, socket) = (user(), entry(1, 1));
    for (complaint, name) in [
        ("-READONLY You can't write against a read only replica.", "readonly"),
        ("-MASTERDOWN Link with MASTER is down.", "readonly"),
        ("-NOREPLICAS Not enough good replicas to write.", "readonly"),
        ("-LOADING Redis is loading the dataset in memory", "loading"),
        ("-OOM command not allowed when used memory > 'maxmemory'.", "full"),
        ("-NOAUTH Authentication required.", "denied"),
        ("-NOPERM this user has no permissions to run the 'get' command", "denied"),
        ("-BUSY Redis is busy running a script.", "busy"),
        ("-MOVED 3999 127.0.0.1:6381", "moved"),
        ("-CLUSTERDOWN Hash slot not served", "moved"),
        ("-ERR whatever", "error"),
    ] {
        redis.complain(Some(complaint));
        let calls = ["locate", "claim", "release", "extend"];
        let count = |operation| map.link.counted(&Call { operation, outcome: name });
        let before = calls.map(count);
        let (begun, asked) = (Instant::now(), redis.asked());
        let users = std::slice::from_ref(&user);
        let error = map.locate(users).await.unwrap_err();
        assert!(map.claim(&user, &socket, &[]).await.is_err(), "{complaint}");
        assert!(map.release(&user, SocketId(1), 1).await.is_err(), "{complaint}");
        assert!(map.extend(&user, SocketId(1), 1).await.is_err(), "{complaint}");
        assert!(begun.elapsed() < Duration::from_millis(CALL_MS_MAX), "{complaint}");
        assert_eq!(redis.asked() - asked, 4, "{complaint}: each is asked once");
        assert_eq!(calls.map(count), before.map(|count| count + 1), "{complaint}: {error}");
        // As soon as it complains no more it is used again.
        redis.complain(None);
        assert_eq!(map.locate(users).await, Ok(vec![vec![]]), "{complaint}");
    }
}

/// After a failover behind one address the old connection leads to what is a replica now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_to_a_demoted_primary_is_replaced() {
    let redis = FakeRedis::start().await;
    let metrics = Arc::new(Metrics::new("test"));
    let map =
        RedisDirectory::connect(Target::parse(&redis.url).unwrap(), "", metrics).await.unwrap();
    redis.complain_on_old_connections("-READONLY You can't write against a read only replica.");
    assert!(map.claim(&user(), &entry(1, 1), &[]).await.is_err());
    let until = Instant::now() + Duration::from_secs(2);
    while map.locate(&[user()]).await.is_err() {
        assert!(Instant::now() < until, "the old connection is still used");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// While Redis hangs, most calls fail at once; when it goes on, all succeed soon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_redis_is_not_waited_for_by_everybody() {
    if quick() {
        return;
    }
    let server = Server::start(&[]);
    let map = connect(&server.url(), "").await;
    let users = [user()];
    map.locate(&users).await.unwrap();
    server.signal("STOP");
    let begun = Instant::now();
    for number in 0..1_000 {
        assert!(map.locate(&users).await.is_err());
        assert!(begun.elapsed() < Duration::from_secs(10), "at the {number}th");
    }
    let took = begun.elapsed();
    let of = |outcome| map.link.counted(&Call { operation: "locate", outcome });
    println!("1,000 calls one after the other: {took:?}, {} of them waited", of("timeout"));
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(of("not_asked") > 950, "{}", of("not_asked"));
    server.signal("CONT");
    let begun = Instant::now();
    let mut answered = 0;
    while answered < 10 {
        answered = if map.locate(&users).await.is_ok() { answered + 1 } else { 0 };
        assert!(begun.elapsed() < Duration::from_secs(3), "no answer after Redis goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
