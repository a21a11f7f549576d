//! The architecture's flows, one file for each theme; each flow runs on embedded parts and on real
//! ones, and in a fleet where a server must die or be dealt to.

mod connect;
mod devices;
mod message;
mod offline;
mod order;
mod participants;
mod refs;
mod room;
mod status;
