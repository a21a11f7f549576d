//! Histories made by hand: good ones of many shapes, and for each invariant bad ones that break it
//! and nothing else.

#![cfg(test)]

mod story;
mod good;
mod bad;
mod random;
mod spoil;
mod merging;
mod scale;
mod still;
