//! Parlor: a chat backend that a team runs itself.
//!
//! The modules stand in reading order. A connection passes the `edge`. A frame comes in at
//! `gateway`, is parsed by `protocol`, stored and routed by `chat` through four ports (`store`,
//! `directory`, `bus`, `board`), put into outboxes by `hub`, and leaves through `gateway` again.
//! `auth` says who somebody is, `limits` how much he may do. `api` is the same over HTTP,
//! `balancer` deals connections, `node` starts and stops a process, `wiring` picks the adapters.

// Tests may unwrap; what serves people gives an answer instead.
#![warn(clippy::unwrap_used, clippy::expect_used)]

pub mod protocol;
pub mod edge;
pub mod gateway;
pub mod hub;
pub mod chat;
pub mod store;
pub mod directory;
pub mod bus;
pub mod board;
pub mod auth;
pub mod limits;
pub mod api;
pub mod balancer;
pub mod roles;
pub mod node;
pub mod wiring;
pub mod config;
pub mod telemetry;
pub mod client;
pub mod terminal;
pub mod table;
pub mod folder;
pub mod bench;
pub mod checker;
pub mod torture;
pub mod planted;
mod chance;
mod slab;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod sim;
