//! The API's promises, asked of the router with the real handlers and parts in memory.

mod contract;
mod memory;
mod reading;
mod refusals;
mod world;
