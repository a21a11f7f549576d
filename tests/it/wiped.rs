//! What is left of a secret in the memory of a running process: nothing, once it was read and is
//! needed no more.

use std::fs::{self, File};
use std::io::BufRead;
use std::os::unix::fs::FileExt;

use crate::harness::Process;

/// Longer than the block of its hash, so that what signs by it holds a digest alone.
const BUS_KEY: &str = "~ a bus key of this test alone, that nobody else has and that is longer \
                       than a block of SHA-256 is";

/// How often this stands in memory that the process can write to.
fn count(process: &Process, text: &str) -> usize {
    let maps = fs::read_to_string(format!("/proc/{}/maps", process.pid())).unwrap();
    let memory = File::open(format!("/proc/{}/mem", process.pid())).unwrap();
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let mut found = 0;
    for region in maps.lines().filter(|line| line.contains(" rw")) {
        let (from, to) = region.split(' ').next().unwrap().split_once('-').unwrap();
        let mut page = vec![0; (number(to) - number(from)) as usize];
        // What is given back meanwhile holds nothing.
        if memory.read_exact_at(&mut page, number(from)).is_ok() {
            let (first, others) = text.as_bytes().split_first().unwrap();
            let mut rest = page.as_slice();
            while rest.skip_until(*first).unwrap() > 0 {
                found += usize::from(rest.starts_with(others));
            }
        }
    }
    found
}

#[tokio::test]
async fn a_key_that_was_read_is_wiped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bus-key");
    fs::write(&file, BUS_KEY).unwrap();
    let file = file.to_str().unwrap();
    let ports = ["up", "--memory", "--balancer-port", "0", "--server-port", "0", "--api-port", "0"];
    let arguments = ports.into_iter().chain(["--bus-key-file", file]).map(str::to_owned);
    let up = Process::start("up", &arguments.collect::<Vec<_>>());
    up.ready().await;
    assert!(count(&up, file) > 0, "what is in memory is found");
    assert_eq!(count(&up, BUS_KEY), 0);
    assert!(up.stop().await.success());
}
