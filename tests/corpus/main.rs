//! The bad-input corpus: what strangers send, a line each, against a running fleet.
//!
//! `table` has the lines, `case` does one, `scenes` are those that are more than one exchange.
//! After every line all processes live and nobody has panicked; while the lines run, two people go
//! on talking and notice nothing; when all have run, the memory is where it was.
//!
//! This is a program of its own, since it measures: nothing else runs beside it.

#[path = "../it/harness/mod.rs"]
#[allow(dead_code, unused_imports, unused_macros, reason = "each program uses a part of it")]
mod harness;
#[path = "../it/raw.rs"]
#[allow(dead_code, reason = "each program uses a part of it")]
mod raw;

mod bus;
mod bystanders;
mod case;
mod fleet;
mod run;
mod scenes;
mod table;
mod token;

use fleet::Fleet;
use harness::Parts;
use run::Lines;

/// What `./test quick` can do: one process on embedded parts.
#[tokio::test(flavor = "multi_thread")]
async fn one_process_stands_all_of_it() {
    let fleet = Fleet::start(Parts::Embedded).await.unwrap();
    run::all(fleet, Lines::Ordinary).await;
}

/// Balancer, servers and API as processes of their own, on Redis and DynamoDB Local.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_stands_all_of_it() {
    let Some(fleet) = Fleet::start(Parts::Fleet).await else { return };
    run::all(fleet, Lines::Ordinary).await;
}

/// The lines that take longer than a minute.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes: ./test full"]
async fn a_fleet_stands_what_takes_long() {
    let Some(fleet) = Fleet::start(Parts::Fleet).await else { return };
    run::all(fleet, Lines::Long).await;
}
