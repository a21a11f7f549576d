//! The bad-input corpus: what strangers send, a line each, against a running fleet.
//!
//! `table` has the lines, `case` does one, `scenes` are those that are more than one exchange.
//! After every line all processes live and nobody has panicked; while the lines run, two people on
//! the same fleet go on talking and notice nothing; when all have run, the memory is where it was.
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
mod gauge;
mod ground;
mod report;
mod run;
mod scenes;
mod table;
mod token;

use harness::Parts;
use run::Lines;

/// What `./test quick` can do: one process on embedded parts.
#[tokio::test(flavor = "multi_thread")]
async fn one_process_stands_all_of_it() {
    run::all(|| Parts::Embedded, None, Lines::Ordinary).await.unwrap();
}

/// Balancer, servers and API as processes of their own, on Redis and DynamoDB Local.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_stands_all_of_it() {
    run::all(|| Parts::Fleet, run::optimised(), Lines::Ordinary).await;
}

/// What one process can't meet, where an overflow and a broken assertion are seen. (So does what
/// takes long; all else one process meets so.)
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_with_its_assertions_stands_what_only_it_meets() {
    run::all(|| Parts::Fleet, None, Lines::OfFleets).await;
}

/// The lines that take longer than a minute.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes five minutes: ./test full"]
async fn a_fleet_stands_what_takes_long() {
    run::all(|| Parts::Fleet, None, Lines::Long).await;
}
