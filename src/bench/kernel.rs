//! What the kernel holds, as Linux counts it: for the whole machine, with no word of who it is for.
//!
//! A socket costs the kernel several times what it costs a lean server, so a figure without it says
//! little. Over loopback each connection has both its ends here; half of what grows is the
//! servers', and the other half, the load's, would be on other machines.

use std::fs::read_to_string;

/// A page, on every machine that the servers run on.
const PAGE_BYTES: u64 = 4_096;

/// Memory of the whole machine at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Kernel {
    /// Objects of the kernel: sockets, inodes, epoll's entries, and whatever else.
    pub slab_bytes: u64,
    /// What of that are the names under which open files stand in `/proc/PID/fd`. They are made
    /// when somebody looks there, a program that watches processes, and are no socket's. Zero
    /// where `/proc/slabinfo` may not be read: it is root's.
    pub names_bytes: u64,
    /// What lies in the buffers of TCP sockets.
    pub tcp_bytes: u64,
    /// What can be had without swapping.
    pub available_bytes: u64,
}

impl Kernel {
    /// Reads /proc; zeros where there is none.
    pub fn now() -> Self {
        let read = |path| read_to_string(path).unwrap_or_default();
        let names_bytes = names(&read("/proc/slabinfo"));
        Self { names_bytes, ..Self::parse(&read("/proc/meminfo"), &read("/proc/net/sockstat")) }
    }

    fn parse(meminfo: &str, sockstat: &str) -> Self {
        let kib = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
            number(line.unwrap_or_default().split_whitespace().next())
        };
        let tcp = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"));
        let mut words = tcp.unwrap_or_default().split_whitespace();
        let pages = words.find(|word| *word == "mem").and_then(|_| words.next());
        Self {
            slab_bytes: kib("Slab:") * 1_024,
            names_bytes: 0,
            tcp_bytes: number(pages) * PAGE_BYTES,
            available_bytes: kib("MemAvailable:") * 1_024,
        }
    }

    /// All that sockets may be in.
    pub fn socket_bytes(&self) -> u64 {
        self.slab_bytes.saturating_sub(self.names_bytes) + self.tcp_bytes
    }
}

/// Each name is an inode of /proc, its entry in a folder, and a label of the security module.
fn names(slabinfo: &str) -> u64 {
    let cache = |name: &str| {
        let line = slabinfo.lines().find(|line| line.split_whitespace().next() == Some(name));
        let mut words = line.unwrap_or_default().split_whitespace().skip(2);
        (number(words.next()), number(words.next()))
    };
    let (count, inode_bytes) = cache("proc_inode_cache");
    count * (inode_bytes + cache("dentry").1 + cache("lsm_inode_cache").1)
}

fn number(word: Option<&str>) -> u64 {
    word.and_then(|word| word.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_memory_is_read() {
        let meminfo = "MemTotal: 9 kB\nMemAvailable:   7 kB\nSlab:            3 kB\n";
        let sockstat = "sockets: used 29\nTCP: inuse 2 orphan 0 tw 0 alloc 3 mem 8\nUDP: mem 9\n";
        let kernel = Kernel::parse(meminfo, sockstat);
        let (slab_bytes, tcp_bytes) = (3 * 1_024, 8 * 4_096);
        let available_bytes = 7 * 1_024;
        assert_eq!(kernel, Kernel { slab_bytes, names_bytes: 0, tcp_bytes, available_bytes });
        assert_eq!(kernel.socket_bytes(), slab_bytes + tcp_bytes);
        assert_eq!(Kernel::parse("", ""), Kernel::default());
        assert!(Kernel::now().available_bytes > 0);
    }

    #[test]
    fn names_of_open_files_are_no_sockets() {
        let slabinfo = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize> …\n\
                        proc_inode_cache 5 7 696 23 4 : tunables 0 0 0\n\
                        inode_cache 90 90 600 1 1 : tunables 0 0 0\n\
                        dentry 100 120 192 21 1 : tunables 0 0 0\n";
        assert_eq!(names(slabinfo), 7 * (696 + 192));
        assert_eq!(names(""), 0);
        let kernel = Kernel { slab_bytes: 10_000, names_bytes: 6_216, ..Kernel::default() };
        assert_eq!(kernel.socket_bytes(), 3_784);
    }
}
