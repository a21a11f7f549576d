//! Dealing new connections: by turns, to the same server, to the emptiest; and never to a dead one.

use std::time::Duration;

use parlor::client::ClientOptions;

use crate::harness::{Parts, Person, Stack, eventually, on_both, within};

on_both!(by_turns);

/// How long a server that was killed takes to be back: its name must be seen not to move first.
const RETURN: Duration = Duration::from_secs(30);

/// The servers that so many new users are dealt to; their sockets stay open.
async fn dealt(url: &str, users: &[&str]) -> Vec<Person> {
    let mut people = Vec::new();
    for user in users {
        people.push(Person::connect(url, user).await);
    }
    people
}

fn servers(people: &[Person]) -> Vec<&str> {
    people.iter().map(|person| person.server.as_str()).collect()
}

async fn by_turns(stack: Stack) {
    let people = dealt(&stack.ws(), &["u1", "u2", "u3", "u4", "u5"]).await;
    assert_eq!(servers(&people), ["ws1", "ws2", "ws3", "ws1", "ws2"]);
    stack.stop().await;
}

#[tokio::test]
async fn sticky_in_one_process() {
    let stack = Stack::start_with(Parts::Embedded, &["--pick", "sticky"]).await.unwrap();
    let users = ["u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8"];
    let first = dealt(&stack.ws(), &users).await;
    let again = dealt(&stack.ws(), &users).await;
    assert_eq!(servers(&first), servers(&again));
    let mut used = servers(&first);
    used.sort_unstable();
    used.dedup();
    assert!(used.len() > 1, "all on {used:?}");
    stack.stop().await;
}

#[tokio::test]
async fn least_connections_in_one_process() {
    let options = ["--pick", "least-connections"];
    let stack = Stack::start_with(Parts::Embedded, &options).await.unwrap();
    // Who dials a server itself counts as well.
    let _at_1 = stack.at("ws1", "u1").await;
    let at_2 = stack.at("ws2", "u2").await;
    let people = dealt(&stack.ws(), &["u3", "u4", "u5", "u6"]).await;
    assert_eq!(servers(&people), ["ws3", "ws1", "ws2", "ws3"]);
    at_2.leave().await;
    let to_2 = async || {
        let person = Person::connect(&stack.ws(), "u7").await;
        let it_is = person.server == "ws2";
        person.leave().await;
        it_is.then_some(())
    };
    eventually("the place on ws2 is given again", to_2).await;
    stack.stop().await;
}

/// A fleet with a balancer for each way of dealing, and how the test calls them.
async fn fleet() -> Option<(Stack, Vec<(&'static str, String)>)> {
    let mut stack = Stack::start(Parts::Fleet).await?;
    let named: Vec<String> =
        stack.servers.iter().map(|(id, address)| format!("{id}={address}")).collect();
    let named = ["--server", &named[0], "--server", &named[1], "--server", &named[2]];
    let sticky = [&named[..], &["--pick", "sticky"]].concat();
    let urls = vec![
        ("board", stack.ws()),
        ("named", stack.add_balancer("named", &named).await),
        ("sticky", stack.add_balancer("sticky", &["--pick", "sticky"]).await),
        ("named sticky", stack.add_balancer("named sticky", &sticky).await),
        ("least", stack.add_balancer("least", &["--pick", "least-connections"]).await),
    ];
    Some((stack, urls))
}

const USERS: [&str; 6] = ["u1", "u2", "u3", "u4", "u5", "u6"];

/// Servers on the board or by name, every way of dealing; then ws2 dies, and comes back.
#[tokio::test]
async fn a_fleet_deals_around_a_dead_server() {
    let Some((mut stack, urls)) = fleet().await else { return };
    for (how, url) in &urls[..2] {
        let people = dealt(url, &USERS[..4]).await;
        assert_eq!(servers(&people), ["ws1", "ws2", "ws3", "ws1"], "{how}");
    }
    let homes = dealt(&urls[2].1, &USERS).await;
    let homes: Vec<String> = homes.into_iter().map(|person| person.server).collect();
    for (how, url) in &urls[2..4] {
        assert_eq!(servers(&dealt(url, &USERS).await), homes, "{how}: every balancer agrees");
    }
    stack.kill("ws2");
    for (how, url) in &urls {
        // At once, and not only after 3 s: a refused connection goes on to the next.
        let people = dealt(url, &USERS).await;
        let all = servers(&people);
        assert!(!all.contains(&"ws2"), "{how}: {all:?}");
        assert!(all.contains(&"ws1") && all.contains(&"ws3"), "{how}: {all:?}");
        if how.ends_with("sticky") {
            let stayed = homes.iter().zip(&all).filter(|(home, _)| *home != "ws2");
            assert!(stayed.clone().all(|(home, now)| home == now), "{how}: {homes:?} {all:?}");
        }
    }
    stack.start_server("ws2").await;
    for (how, url) in &urls {
        let back = async || servers(&dealt(url, &USERS).await).contains(&"ws2").then_some(());
        within(RETURN, &format!("{how}: ws2 gets users again"), back).await;
    }
    for (how, url) in &urls[2..4] {
        assert_eq!(servers(&dealt(url, &USERS).await), homes, "{how}: home again");
    }
    stack.stop().await;
}

/// A server that hangs takes connections (its kernel does) and answers nothing: it gets no new
/// user after 3 s. Who is nearly empty gets the next ones.
#[tokio::test]
async fn a_fleet_deals_around_a_hanging_server() {
    let Some((mut stack, urls)) = fleet().await else { return };
    stack.process("ws2").signal("STOP");
    tokio::time::sleep(Duration::from_secs(3)).await;
    for (how, url) in &urls {
        for user in USERS {
            let person = Person::try_with(&ClientOptions::new(url.as_str(), user)).await;
            let person = person.unwrap_or_else(|error| panic!("{how}, {user}: {error}"));
            assert_ne!(person.server, "ws2", "{how}");
        }
    }
    stack.process("ws2").signal("CONT");
    let least = &urls[4].1;
    let mut people = Vec::new();
    let balanced = async || {
        people.push(Person::connect(least, &format!("v{}", people.len())).await);
        let count = |id: &str| people.iter().filter(|person| person.server == id).count();
        let counts = ["ws1", "ws2", "ws3"].map(count);
        (counts[1] > 0 && counts.iter().all(|own| own.abs_diff(counts[1]) <= 1)).then_some(())
    };
    eventually("least connections evens it out", balanced).await;
    stack.stop().await;
}
