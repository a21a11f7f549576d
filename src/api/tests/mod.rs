//! The API's promises, asked of the router with the real handlers and embedded parts.

mod contract;
mod limits;
mod reading;
mod refusals;
mod switched;
mod tokens;
mod world;
