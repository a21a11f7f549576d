//! The limits that some invariants are judged by.

use serde::{Deserialize, Serialize};

/// What invariants are judged by. `None` switches a judgement off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// I10: for so long a stored status may trail the receipt.
    pub status_ms: u64,
    /// I1: in so long a connected device is handed what its conversations have, whoever has died
    /// and whatever hint was lost: a death shows in 16 s, the second reading comes 20 s later.
    pub hand_on_ms: u64,
    /// I15: after so long all is as before the faults.
    pub recovery_ms: Option<u64>,
    /// I15: how often the quiet p99 from send to receipt may be after the faults.
    pub latency_factor: Option<f64>,
    /// I15: a p99 up to this is good in any case.
    pub latency_floor_ms: u64,
    /// I16: by so many percent memory and open files may have grown.
    pub growth_percent: Option<u64>,
    /// I16: growth by so many bytes is not looked at.
    pub growth_floor_bytes: u64,
    /// I16: growth by so many open files is not looked at.
    pub growth_floor_files: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            status_ms: 32_000,
            hand_on_ms: 40_000,
            recovery_ms: Some(30_000),
            latency_factor: Some(2.0),
            latency_floor_ms: 50,
            growth_percent: Some(10),
            growth_floor_bytes: 32 << 20,
            growth_floor_files: 16,
        }
    }
}
