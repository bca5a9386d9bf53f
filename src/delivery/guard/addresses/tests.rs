use super::*;

use super::super::Guard;

/// `+` open, `-` closed until the operator opens it, `!` never.
const TABLE: &str = "
# public
+ 1.1.1.1            + 8.8.8.8            + 9.255.255.255      + 11.0.0.0
+ 93.184.215.14      + 100.63.255.255     + 100.128.0.0        + 126.255.255.255
+ 128.0.0.0          + 168.63.129.15      + 168.63.129.17      + 169.253.255.255
+ 169.255.0.0        + 172.15.255.255     + 172.32.0.0         + 191.255.255.255
+ 192.0.1.0          + 192.0.3.0          + 192.167.255.255    + 192.169.0.0
+ 198.17.255.255     + 198.20.0.0         + 198.51.99.255      + 198.51.101.0
+ 203.0.112.255      + 203.0.114.0        + 223.255.255.255    + 192.88.98.255
+ 192.0.0.9          + 192.0.0.10         + 192.31.196.1       + 192.52.193.1
+ 192.175.48.1       + 1.0.0.0            + 192.88.100.0       + 34.117.59.81
+ 2000::             + 2001:200::1        + 2001:4860:4860::8888
+ 2606:4700:4700::1111  + 2a00:1450:4001::200e  + 2620:4f:8000::1  + 3ffe::1
+ 2001:1::1          + 2001:1::2          + 2001:1::3          + 2001:3::1
+ 2001:4:112::1      + 2001:20::1         + 2001:2f:ffff::1    + 2001:30::1
+ 2001:db7:ffff::1   + 2001:db9::         + 3ffd:ffff::        + 3fff:1000::

# not globally reachable
- 10.0.0.0           - 10.0.0.1           - 10.255.255.255     - 100.64.0.0
- 100.100.100.199    - 100.127.255.255    - 127.0.0.0          - 127.0.0.1
- 127.1.2.3          - 127.255.255.255    - 172.16.0.0         - 172.20.1.1
- 172.31.255.255     - 192.0.0.0          - 192.0.0.8          - 192.0.0.11
- 192.0.0.170        - 192.0.0.171        - 192.0.0.255        - 192.0.2.0
- 192.0.2.255        - 192.168.0.0        - 192.168.1.1        - 192.168.255.255
- 198.18.0.0         - 198.19.255.255     - 198.51.100.0       - 198.51.100.255
- 203.0.113.0        - 203.0.113.255      - 192.88.99.1        - 192.88.99.255
- ::1                - 100::              - 100::ffff:ffff:ffff:ffff
- 100:0:0:1::1       - 2001:1::           - 2001:1::4          - 2001:2::1
- 2001:4:111::1      - 2001:10::1         - 2001:1f:ffff::1    - 2001:40::1
- 2001:1ff:ffff::1   - 2001:db8::1        - 2001:db8:ffff::1   - 3fff::1
- 3fff:fff:ffff::1   - 5f00::1            - 5f00:ffff::1       - fc00::1
- fcff:ffff::1       - fd00::1            - fd12:3456:789a::1  - fd00:ec1::254
- fdff:ffff:ffff::1  - fec0::1            - feff::1            - 64:ff9b:1::1
- 64:ff9b:1:fffe::808:808

# whatever the operator says
! 0.0.0.0            ! 0.0.0.1            ! 0.255.255.255      ! 169.254.0.0
! 169.254.169.254    ! 169.254.170.2      ! 169.254.255.255    ! 100.100.100.200
! 168.63.129.16      ! 192.0.0.192        ! 224.0.0.0          ! 224.0.0.251
! 233.252.0.1        ! 239.255.255.255    ! 240.0.0.0          ! 250.1.2.3
! 255.255.255.254    ! 255.255.255.255
! ::                 ! fe80::             ! fe80::1            ! febf:ffff::1
! ff00::             ! ff02::1            ! ff0e::1            ! ffff::1
! fd00:ec2::254      ! fd00:ec2::253      ! fd00:ec2::123      ! fd20:ce::254
! ::2                ! ::8.8.8.8          ! ::127.0.0.1        ! ::10.0.0.1
! ::169.254.169.254  ! ::ffff:0:8.8.8.8   ! 64:ff9b:0:0:1::1   ! 64:ff9b:2::1
! 100:0:0:2::1       ! 200::1             ! 400::1             ! 1fff::1
! 4000::1            ! 5eff::1            ! 5f01::1            ! 6000::1
! 8000::1            ! c000::1            ! e000::1            ! fbff::1
! fe00::1

# v4-mapped
+ ::ffff:8.8.8.8     + ::ffff:192.0.0.9   - ::ffff:127.0.0.1   - ::ffff:10.0.0.1
- ::ffff:192.168.0.1 - ::ffff:100.64.0.1  - ::ffff:7f00:1      - ::ffff:192.0.2.1
! ::ffff:0.0.0.0     ! ::ffff:169.254.169.254  ! ::ffff:a9fe:a9fe  ! ::ffff:255.255.255.255
! ::ffff:224.0.0.1   ! ::ffff:100.100.100.200

# 6to4
+ 2002:808:808::1    + 2002:101:101::     - 2002:7f00:1::1     - 2002:a00:1::1
- 2002:c0a8:101::    - 2002:ac10:1::      - 2002:6440:1::      - 2002:c612:1::
! 2002:a9fe:a9fe::1  ! 2002::1            ! 2002:e000:1::      ! 2002:ffff:ffff::1

# NAT64
+ 64:ff9b::8.8.8.8   + 64:ff9b::5db8:d70e - 64:ff9b::127.0.0.1 - 64:ff9b::10.0.0.1
- 64:ff9b::192.168.1.1  - 64:ff9b::100.64.0.1  - 64:ff9b::c000:201
! 64:ff9b::169.254.169.254  ! 64:ff9b::a9fe:a9fe  ! 64:ff9b::0.0.0.0  ! 64:ff9b::255.255.255.255

# Teredo: server, flags, port, client with its bits turned
+ 2001:0:808:808::f7f7:f7f7  - 2001:0:4136:e378:8000:63bf:3fff:fdd2
- 2001:0:808:808::80ff:fffe  - 2001:0:808:808::f5ff:fffe  - 2001:0:7f00:1::f7f7:f7f7
- 2001:0:a00:1::f7f7:f7f7    - 2001:0:808:808::3f57:fefe
! 2001:0:808:808::5601:5601  ! 2001:0:a9fe:a9fe::f7f7:f7f7  ! 2001::  ! 2001:0:808:808::
";

fn table() -> Vec<(char, IpAddr)> {
    let words: Vec<&str> =
        TABLE.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace).collect();
    words
        .chunks(2)
        .map(|pair| {
            let address = pair[1].parse().unwrap_or_else(|_| panic!("{} is no address", pair[1]));
            (pair[0].chars().next().expect("a mark"), address)
        })
        .collect()
}

fn mark(verdict: Result<(), Refusal>) -> char {
    match verdict {
        Ok(()) => '+',
        Err(Refusal::Closed(_)) => '-',
        Err(Refusal::Never(_)) => '!',
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

#[test]
fn every_address_gets_its_verdict() {
    let table = table();
    assert!(table.len() >= 150, "{}", table.len());
    for (expected, address) in table {
        assert_eq!(mark(judge(address, &[])), expected, "{address}: {:?}", judge(address, &[]));
    }
}

#[test]
fn opening_everything_opens_all_but_what_is_never_allowed() {
    let everything = [net("0.0.0.0/0"), net("::/0")];
    for (expected, address) in table() {
        let opened = if expected == '!' { '!' } else { '+' };
        assert_eq!(mark(judge(address, &everything)), opened, "{address}");
    }
}

#[test]
fn a_network_opens_itself_in_every_form_and_nothing_beside_it() {
    let opened = [net("10.1.0.0/16")];
    for (address, expected) in [
        ("10.1.2.3", '+'),
        ("10.2.0.0", '-'),
        ("10.0.255.255", '-'),
        ("192.168.0.1", '-'),
        ("::ffff:10.1.2.3", '+'),
        ("64:ff9b::10.1.2.3", '+'),
        ("2002:a01:203::1", '+'),
        ("2001:0:808:808::f5fe:fdfc", '+'),
        ("2001:0:a01:203::f5fe:fdfc", '+'),
        ("2001:0:a02:203::f5fe:fdfc", '-'),
        ("::10.1.2.3", '!'),
        ("64:ff9b:1::10.1.2.3", '-'),
    ] {
        assert_eq!(mark(judge(address.parse().expect("an address"), &opened)), expected, "{address}");
    }
}

#[test]
fn a_local_nat64_prefix_is_no_way_round() {
    let opened = [net("64:ff9b:1::/48")];
    for (address, expected) in [
        // A /96: the last 32 bits.
        ("64:ff9b:1:fffe::8.8.8.8", '+'),
        ("64:ff9b:1:fffe::10.0.0.1", '-'),
        ("64:ff9b:1:fffe::169.254.169.254", '!'),
        // The /48 itself: around the byte of zeros.
        ("64:ff9b:1:808:8:800::", '+'),
        ("64:ff9b:1:a00:0:100::", '-'),
        ("64:ff9b:1:a9fe:a9:fe00::", '!'),
        ("64:ff9b:1:a9fe:a9:fe00:0:1", '!'),
        // A /56 and a /64 of it.
        ("64:ff9b:1:1a9:fe:a9fe::", '!'),
        ("64:ff9b:1:1:a9:fea9:fe00::", '!'),
        ("64:ff9b:1:1:7f:0:100:0", '-'),
    ] {
        let address = address.parse().expect("an address");
        assert_eq!(mark(judge(address, &opened)), expected, "{address}: {:?}", judge(address, &opened));
    }
}

#[test]
fn opening_what_is_never_allowed_gets_a_warning() {
    for (network, expected) in [
        ("10.0.0.0/8", 0),
        ("127.0.0.0/8", 0),
        ("::1/128", 0),
        ("192.168.0.0/16", 0),
        ("169.254.0.0/16", 1),
        ("169.254.169.254/32", 1),
        ("100.64.0.0/10", 1),
        ("fc00::/7", 2),
        ("fd00:ec2::/32", 1),
        ("0.0.0.0/0", 7),
        ("::/0", 5),
        ("::ffff:169.254.0.0/112", 1),
    ] {
        let warnings = Guard::new(vec![net(network)], Vec::new(), false).warnings();
        assert_eq!(warnings.len(), expected, "{network}: {warnings:?}");
    }
}
