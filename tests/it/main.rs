//! End to end, from outside: real processes of the binary, a WebSocket client, HTTP, `redis-cli`.
//!
//! `harness` starts the processes on free ports. Every flow runs on the embedded parts and on real
//! Redis and DynamoDB Local (`./test` starts the latter); `./test quick` runs the embedded half.

mod harness;
#[allow(dead_code, reason = "tests/corpus, a program of its own, uses the rest")]
mod raw;

mod acl;
mod admin;
mod auth;
mod bad;
mod balancer;
mod bench;
mod bus_key;
mod cli;
mod costs;
mod disk;
mod flows;
mod handoff;
mod limits;
mod origins;
mod protocol;
mod proxies;
mod redis_cluster;
mod redis_full;
mod redis_hung;
mod shown;
mod tls;
mod wiped;
