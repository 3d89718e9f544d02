//! What the kernel says about this host's addresses and about the way to a peer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use rustix::net::sockopt;

/// Datagrams larger than this gain nothing that was measured.
pub(super) const JUMBO_BYTES: u16 = 8_952;

/// What fits everywhere that QUIC runs (RFC 9000, 14).
pub(super) const MTU_MIN: u16 = 1_200;

/// What most paths carry, for when the kernel does not tell.
const MTU_USUAL: u16 = 1_452;

/// The largest UDP payload that the first hop towards `peer` takes, in bytes: the route's MTU less the headers.
pub(super) fn datagram_bytes_max(peer: SocketAddr) -> u16 {
    let any: IpAddr = if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Connecting a UDP socket sends nothing; it looks up the route.
    let socket = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(peer).map(|()| socket));
    let payload = socket.ok().and_then(|socket| match peer {
        SocketAddr::V4(_) => sockopt::ip_mtu(&socket).ok().map(|mtu| mtu.saturating_sub(20 + 8)),
        SocketAddr::V6(_) => sockopt::ipv6_mtu(&socket).ok().map(|mtu| mtu.saturating_sub(40 + 8)),
    });
    payload.map_or(MTU_USUAL, |bytes| bytes.clamp(MTU_MIN.into(), JUMBO_BYTES.into()) as u16)
}

/// The addresses of one family under which others may reach this host: all that are up, neither loopback nor bound to
/// one link.
pub(super) fn reachable(is_v4: bool) -> Vec<IpAddr> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    if is_v4 {
        local_v4(&read("/proc/net/fib_trie")).into_iter().map(IpAddr::V4).collect()
    } else {
        local_v6(&read("/proc/net/if_inet6")).into_iter().map(IpAddr::V6).collect()
    }
}

/// The local addresses in the kernel's routing trie (proc_net(5)): an address stands above the line that calls it
/// `host LOCAL`. The trie is shown once for each table.
fn local_v4(trie: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut above = None;
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            above = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = above
            && !address.is_loopback()
            && !address.is_link_local()
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// The global addresses in `if_inet6`: address, interface, prefix length, scope, flags, name, all hexadecimal.
fn local_v6(table: &str) -> Vec<Ipv6Addr> {
    /// `IFA_F_DADFAILED`, `IFA_F_DEPRECATED` and `IFA_F_TENTATIVE` of rtnetlink(7).
    const UNUSABLE: u8 = 0x08 | 0x20 | 0x40;
    let usable = |line: &str| {
        let mut fields = line.split_whitespace();
        let address = u128::from_str_radix(fields.next()?, 16).ok()?;
        let scope = fields.nth(2)?;
        let flags = u8::from_str_radix(fields.next()?, 16).ok()?;
        (scope == "00" && flags & UNUSABLE == 0).then(|| Ipv6Addr::from(address))
    };
    table.lines().filter_map(usable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_found_once_and_without_loopback() {
        let trie = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.0.2.0/24 2 0 2
        +-- 10.0.2.0/28 2 0 2
           |-- 10.0.2.0
              /24 link UNICAST
           |-- 10.0.2.15
              /32 host LOCAL
        |-- 10.0.2.255
           /32 link BROADCAST
     |-- 127.0.0.1
        /32 host LOCAL
Local:
           |-- 10.0.2.15
              /32 host LOCAL
";
        assert_eq!(local_v4(trie), [Ipv4Addr::new(10, 0, 2, 15)]);
        assert!(local_v4("gibberish\n|-- x\n/32 host LOCAL").is_empty());
    }

    #[test]
    fn only_global_and_usable_v6_addresses_count() {
        let table = "\
00000000000000000000000000000001 01 80 10 80       lo
fe800000000000005054000000000001 02 40 20 80     eth0
20010db8000000000000000000000002 02 40 00 00     eth0
20010db8000000000000000000000003 02 40 00 40     eth0
";
        assert_eq!(local_v6(table), ["2001:db8::2".parse::<Ipv6Addr>().unwrap()]);
    }

    #[test]
    fn the_way_to_loopback_carries_jumbo_datagrams() {
        assert_eq!(datagram_bytes_max("127.0.0.1:9".parse().unwrap()), JUMBO_BYTES);
    }
}
