//! The architecture's flows, one file for each theme; each flow runs on embedded parts and on real
//! ones, and in a fleet where a server must die or be dealt to.

mod connect;
mod crash;
mod cut_off;
mod dealing;
mod devices;
mod message;
mod offline;
mod order;
mod participants;
mod paused;
mod redis_away;
mod refs;
mod room;
mod server_dies;
mod status;
mod stop;
mod ten_thousand;
