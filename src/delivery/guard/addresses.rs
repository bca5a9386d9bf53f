//! May Orderly connect to this address?
//!
//! The tables follow IANA's special-purpose registries for IPv4 and IPv6 (RFC 6890 and its updates, as of
//! 2025). What they call globally reachable is open; what they do not is closed until the operator opens
//! it; and some addresses stay shut whatever the operator says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Why not, in two or three words; and whether `--allow-network` could change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Never(&'static str),
    Closed(&'static str),
}

impl Refusal {
    pub fn reason(self) -> &'static str {
        match self {
            Refusal::Never(reason) | Refusal::Closed(reason) => reason,
        }
    }
}

/// Judges one address, with the networks that the operator opened.
///
/// An address that carries an IPv4 address within (v4-mapped, 6to4, NAT64, Teredo) must be fit itself, and
/// so must the one inside.
pub fn judge(address: IpAddr, opened: &[IpNet]) -> Result<(), Refusal> {
    match address {
        IpAddr::V4(v4) => judge_v4(v4, opened),
        IpAddr::V6(v6) => judge_v6(v6, opened),
    }
}

/// What of this network stays shut although it was opened.
pub fn never_within(network: &IpNet) -> Vec<(IpNet, &'static str)> {
    let overlap = |never: IpNet| never.contains(network) || network.contains(&never);
    let v4 = NEVER_V4.iter().map(|(net, reason)| (IpNet::V4(*net), *reason));
    let v6 = NEVER_V6.iter().map(|(net, reason)| (IpNet::V6(*net), *reason));
    v4.chain(v6).filter(|(never, _)| overlap(*never)).collect()
}

fn judge_v4(address: Ipv4Addr, opened: &[IpNet]) -> Result<(), Refusal> {
    if let Some(reason) = find_v4(&NEVER_V4, address) {
        return Err(Refusal::Never(reason));
    }
    if GLOBAL_V4.iter().any(|net| net.contains(&address)) {
        return Ok(());
    }
    match find_v4(&CLOSED_V4, address) {
        Some(reason) if !opened.iter().any(|net| net.contains(&IpAddr::V4(address))) => Err(Refusal::Closed(reason)),
        _ => Ok(()),
    }
}

fn judge_v6(address: Ipv6Addr, opened: &[IpNet]) -> Result<(), Refusal> {
    if let Some(v4) = address.to_ipv4_mapped() {
        return judge_v4(v4, opened);
    }
    if let Some(reason) = find_v6(&NEVER_V6, address) {
        return Err(Refusal::Never(reason));
    }
    if !GLOBAL_V6.iter().any(|net| net.contains(&address)) {
        match find_v6(&CLOSED_V6, address) {
            Some(reason) if !opened.iter().any(|net| net.contains(&IpAddr::V6(address))) => {
                return Err(Refusal::Closed(reason));
            }
            Some(_) => {}
            None if !GLOBAL_UNICAST.contains(&address) => return Err(Refusal::Never("reserved")),
            None => {}
        }
    }
    embedded(address).into_iter().flatten().try_for_each(|v4| judge_v4(v4, opened))
}

/// The IPv4 addresses that packets to this address may end at.
fn embedded(address: Ipv6Addr) -> [Option<Ipv4Addr>; 4] {
    let bits = address.to_bits();
    let at = |first_bit: u32| Ipv4Addr::from_bits((bits >> (96 - first_bit)) as u32);
    if SIX_TO_FOUR.contains(&address) {
        return [Some(at(16)), None, None, None];
    }
    if TEREDO.contains(&address) {
        // The server, and the client's address with each bit turned (RFC 4380, section 4).
        return [Some(at(32)), Some(Ipv4Addr::from_bits(!at(96).to_bits())), None, None];
    }
    if NAT64.contains(&address) {
        return [Some(at(96)), None, None, None];
    }
    if NAT64_LOCAL.contains(&address) {
        // The prefix in use may be a /48, /56, /64 or /96 of it (RFC 8215), and each puts the IPv4 address
        // elsewhere, around a byte of zeros (RFC 6052, section 2.2). Which one it is cannot be told, and what
        // stands at the other places is padding or prefix: only plausible addresses count.
        let split = |first_bit: u32| {
            let before = 64 - first_bit;
            let high = if before == 0 { 0 } else { (bits >> 64) as u32 & (u32::MAX >> (32 - before)) };
            let low = (bits >> (24 + before)) as u32 & (u32::MAX >> before);
            let v4 = Ipv4Addr::from_bits(if before == 0 { low } else { high << (32 - before) | low });
            let zero_byte = (bits >> 56) as u8 == 0;
            (zero_byte && !matches!(v4.octets()[0], 0 | 240..)).then_some(v4)
        };
        let last = Some(at(96)).filter(|v4| v4.octets()[0] != 0);
        return [last, split(48), split(56), split(64)];
    }
    [None; 4]
}

fn find_v4(table: &[(Ipv4Net, &'static str)], address: Ipv4Addr) -> Option<&'static str> {
    table.iter().find(|(net, _)| net.contains(&address)).map(|(_, reason)| *reason)
}

fn find_v6(table: &[(Ipv6Net, &'static str)], address: Ipv6Addr) -> Option<&'static str> {
    table.iter().find(|(net, _)| net.contains(&address)).map(|(_, reason)| *reason)
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

/// The first four groups; the rest is zero.
const fn v6(a: u16, b: u16, c: u16, d: u16, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), length)
}

const fn host(a: u16, b: u16, h: u16) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, h), 128)
}

/// The metadata services hand out a machine's credentials to whoever asks; those that are not link-local
/// stand in networks that an operator may well open, or in public ones.
static NEVER_V4: [(Ipv4Net, &str); 7] = [
    (v4(0, 0, 0, 0, 8), "unspecified"),
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(100, 100, 100, 200, 32), "cloud metadata"), // Alibaba
    (v4(168, 63, 129, 16, 32), "cloud metadata"),   // Azure
    (v4(192, 0, 0, 192, 32), "cloud metadata"),     // Oracle, of old
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 0, 4), "reserved"), // 255.255.255.255 with it
];

static NEVER_V6: [(Ipv6Net, &str); 5] = [
    (host(0, 0, 0), "unspecified"),
    (v6(0xfe80, 0, 0, 0, 10), "link-local"),
    (v6(0xff00, 0, 0, 0, 8), "multicast"),
    (v6(0xfd00, 0x0ec2, 0, 0, 32), "cloud metadata"), // AWS: metadata, time and names
    (host(0xfd20, 0x00ce, 0x0254), "cloud metadata"), // Google
];

static CLOSED_V4: [(Ipv4Net, &str); 11] = [
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "carrier NAT"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "protocol assignments"),
    (v4(192, 0, 2, 0, 24), "documentation"),
    (v4(192, 88, 99, 0, 24), "6to4 relay"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(198, 18, 0, 0, 15), "benchmarking"),
    (v4(198, 51, 100, 0, 24), "documentation"),
    (v4(203, 0, 113, 0, 24), "documentation"),
];

/// Globally reachable although within a closed network.
static GLOBAL_V4: [Ipv4Net; 2] = [v4(192, 0, 0, 9, 32), v4(192, 0, 0, 10, 32)];

static CLOSED_V6: [(Ipv6Net, &str); 10] = [
    (host(0, 0, 1), "loopback"),
    (NAT64_LOCAL, "local NAT64"),
    (v6(0x0100, 0, 0, 0, 64), "discard-only"),
    (v6(0x0100, 0, 0, 1, 64), "dummy"),
    (v6(0x2001, 0, 0, 0, 23), "protocol assignments"), // benchmarking and ORCHID with it
    (v6(0x2001, 0x0db8, 0, 0, 32), "documentation"),
    (v6(0x3fff, 0, 0, 0, 20), "documentation"),
    (v6(0x5f00, 0, 0, 0, 16), "segment routing"),
    (v6(0xfc00, 0, 0, 0, 7), "unique local"),
    (v6(0xfec0, 0, 0, 0, 10), "site-local"),
];

/// Globally reachable although within a closed network, or judged by what they carry.
static GLOBAL_V6: [Ipv6Net; 9] = [
    NAT64,
    TEREDO,
    host(0x2001, 1, 1),
    host(0x2001, 1, 2),
    host(0x2001, 1, 3),
    v6(0x2001, 3, 0, 0, 32),
    v6(0x2001, 4, 0x0112, 0, 48),
    v6(0x2001, 0x20, 0, 0, 28),
    v6(0x2001, 0x30, 0, 0, 28),
];

/// All that is assigned for hosts of the public Internet (RFC 4291, section 2.4). Outside of it, and of the
/// tables, nothing is assigned; the v4-compatible `::a.b.c.d` is deprecated and falls there too.
const GLOBAL_UNICAST: Ipv6Net = v6(0x2000, 0, 0, 0, 3);
const SIX_TO_FOUR: Ipv6Net = v6(0x2002, 0, 0, 0, 16);
const TEREDO: Ipv6Net = v6(0x2001, 0, 0, 0, 32);
const NAT64: Ipv6Net = v6(0x0064, 0xff9b, 0, 0, 96);
const NAT64_LOCAL: Ipv6Net = v6(0x0064, 0xff9b, 1, 0, 48);

#[cfg(test)]
mod tests;
