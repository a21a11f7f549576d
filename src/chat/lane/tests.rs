//! A lane over a real store (in memory) that can be slow, away, or answer late.
//!
//! `faulty` is the store between, `world` sends and looks; the other files go by what a lane
//! promises. Time is paused: what waits for three seconds takes none.

mod faulty;
mod world;

mod raising;
mod repeats;
mod reach;
mod unknown;
mod away;
mod bounds;
mod opening;
mod rooms;
mod changes;
mod two_lanes;
