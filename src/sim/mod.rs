//! The simulation: real `chat`, `hub` and session code over a store, a board, a Redis, clocks and
//! connections that fail as a seed says. One thread, one queue, virtual time.
#![cfg(test)]

mod client;
mod faults;
mod judge;
mod link;
mod load;
mod redis;
mod sea;
mod server;
mod store;
mod wire;
mod world;

mod tests;
