//! Where a client is, as far as limits tell clients apart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU64;

const NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

/// An IPv4 address, or a /64 of IPv6: what one client can choose freely counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address(NonZeroU64);

impl Address {
    /// `None` for this machine itself: what comes from there are tools, tests and proxies, each of
    /// them many clients or none.
    pub fn of(ip: IpAddr) -> Option<Self> {
        let ip = behind_nat64(ip.to_canonical());
        let number = match ip {
            _ if ip.is_loopback() => return None,
            // Beside all prefixes of IPv6 that are given to anybody.
            IpAddr::V4(ip) => 1 << 32 | u64::from(ip.to_bits()),
            IpAddr::V6(ip) => prefix(ip),
        };
        NonZeroU64::new(number).map(Self)
    }

    /// The same as bytes, which a map holds without gaps.
    pub(super) fn bytes(self) -> [u8; 8] {
        self.0.get().to_ne_bytes()
    }
}

/// The address of IPv4 that a translator writes into its well-known prefix (RFC 6052), which would
/// make all of them one client.
fn behind_nat64(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) if v6.to_bits() >> 32 == NAT64.to_bits() >> 32 => {
            let last = u32::try_from(v6.to_bits() & u128::from(u32::MAX)).unwrap_or(0);
            let v4 = Ipv4Addr::from_bits(last);
            // Nobody on this machine comes by a translator.
            if v4.is_loopback() { ip } else { IpAddr::V4(v4) }
        }
        ip => ip,
    }
}

fn prefix(ip: Ipv6Addr) -> u64 {
    u64::try_from(ip.to_bits() >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ip: &str) -> Option<Address> {
        Address::of(ip.parse().unwrap())
    }

    #[test]
    fn clients_are_told_apart_by_what_they_cannot_choose() {
        assert_ne!(of("203.0.113.7"), of("203.0.113.8"));
        assert_eq!(of("203.0.113.7"), of("::ffff:203.0.113.7"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("203.0.113.7"), of("2001:db8::1"));
        assert_eq!(of("203.0.113.7"), of("64:ff9b::203.0.113.7"));
        assert_ne!(of("64:ff9b::203.0.113.8"), of("64:ff9b::203.0.113.7"));
        assert_eq!(of("64:ff9b:0:1::203.0.113.8"), of("64:ff9b:0:1::203.0.113.7"));
        for local in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "::"] {
            assert_eq!(of(local), None, "{local}");
        }
        assert!(of("10.0.0.1").is_some() && of("0.0.0.0").is_some());
    }
}
