//! Where may a delivery go?
//!
//! URLs come from strangers and are called from inside a private network. One [`Guard`] answers for
//! registration, for updates and for every connection alike: the URL's text is checked first, then each
//! address that its name resolves to ([`resolver`](super::resolver)), and the checked address is the one
//! that is dialled.

mod addresses;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use url::{Host, Url};

pub use addresses::{Refusal, judge};

use super::resolver::{Lookup, ResolveError, SystemLookup};

/// How long registration waits for a name. One that does not resolve is accepted, and checked at each
/// connection.
const REGISTRATION_LOOKUP: Duration = Duration::from_secs(2);

/// Names that never lead outside (RFC 6761, RFC 6762, ICANN's `internal`), with all below them.
const LOCAL_NAMES: [&str; 4] = ["localhost", "local", "internal", "invalid"];

/// Cheap to clone.
#[derive(Clone)]
pub struct Guard {
    rules: Arc<Rules>,
    lookup: Arc<dyn Lookup>,
}

struct Rules {
    opened: Vec<IpNet>,
    denied_ports: Vec<u16>,
    schemes: Schemes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schemes {
    HttpsOnly,
    HttpAndHttps,
}

/// Why a URL or an address is refused. To a client of the API that is a 422.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    #[error("only https is allowed")]
    HttpsOnly,
    #[error("not an http or https URL with a host")]
    NotHttp,
    #[error("port {0} is not allowed")]
    Port(u16),
    #[error("forbidden name {0}")]
    Name(String),
    #[error("forbidden address {address} ({})", refusal.reason())]
    Address { address: IpAddr, refusal: Refusal },
}

impl Guard {
    /// `allow_networks` opens networks that are closed by default; `https_only` is for production.
    pub fn new(allow_networks: Vec<IpNet>, deny_ports: Vec<u16>, https_only: bool) -> Guard {
        let schemes = if https_only { Schemes::HttpsOnly } else { Schemes::HttpAndHttps };
        let opened = allow_networks.into_iter().map(unmapped).collect();
        let rules = Rules { opened, denied_ports: deny_ports, schemes };
        Guard { rules: Arc::new(rules), lookup: Arc::new(SystemLookup::default()) }
    }

    /// Resolves names in another way than the system's.
    pub fn with_lookup(self, lookup: Arc<dyn Lookup>) -> Guard {
        Guard { lookup, ..self }
    }

    /// What an operator should know of the networks that he opened: parts of them stay shut.
    pub fn warnings(&self) -> Vec<String> {
        let warn = |opened: &IpNet| {
            addresses::never_within(opened)
                .into_iter()
                .map(move |(never, reason)| {
                    format!("--allow-network {opened}: {never} ({reason}) is never allowed and stays refused")
                })
                .collect::<Vec<_>>()
        };
        self.rules.opened.iter().flat_map(warn).collect()
    }

    /// Whether one address may be dialled.
    pub fn check_address(&self, address: IpAddr) -> Result<(), GuardError> {
        judge(address, &self.rules.opened).map_err(|refusal| GuardError::Address { address, refusal })
    }

    /// All that can be told without resolving: scheme, port, the name, a literal address.
    ///
    /// The URL standard has brought the host into one form already: decimal, octal, hexadecimal and short
    /// addresses are addresses, percent-encoding and look-alike letters are gone, case is folded, and
    /// IPv6 zones did not parse.
    pub fn check_url(&self, url: &Url) -> Result<(), GuardError> {
        match (url.scheme(), self.rules.schemes) {
            ("https", _) | ("http", Schemes::HttpAndHttps) => {}
            ("http", Schemes::HttpsOnly) => return Err(GuardError::HttpsOnly),
            _ => return Err(GuardError::NotHttp),
        }
        let port = url.port_or_known_default().ok_or(GuardError::NotHttp)?;
        if port == 0 || self.rules.denied_ports.contains(&port) {
            return Err(GuardError::Port(port));
        }
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => self.check_address(IpAddr::V6(address)),
            Some(Host::Domain(name)) => self.check_name(name),
            None => Err(GuardError::NotHttp),
        }
    }

    /// What registration and updates ask: the URL's text, and each address that its name has now.
    ///
    /// A name that does not resolve within 2 s is accepted.
    pub async fn check_registration(&self, url: &Url) -> Result<(), GuardError> {
        self.check_url(url)?;
        let Some(Host::Domain(name)) = url.host() else { return Ok(()) };
        match tokio::time::timeout(REGISTRATION_LOOKUP, self.resolve(name)).await {
            Ok(Err(ResolveError::Forbidden(error))) => Err(error),
            Ok(Err(ResolveError::Failed(_)) | Ok(_)) | Err(_) => Ok(()),
        }
    }

    /// The addresses of a name, all of them fit to be dialled: one forbidden answer refuses the name, or
    /// else whoever runs its server could have the good one checked and the bad one dialled.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        self.check_name(name).map_err(ResolveError::Forbidden)?;
        if without_root(name).eq_ignore_ascii_case("localhost") {
            // No server is asked (RFC 6761, section 6.3), and only one of the two may be open.
            return Ok(self.open_loopbacks().collect());
        }
        let answers = self.lookup.lookup(name).await.map_err(ResolveError::Failed)?;
        if answers.is_empty() {
            return Err(ResolveError::Failed(std::io::Error::other("the name has no address")));
        }
        answers.iter().try_for_each(|answer| self.check_address(*answer)).map_err(ResolveError::Forbidden)?;
        Ok(answers)
    }

    fn check_name(&self, name: &str) -> Result<(), GuardError> {
        let bare = without_root(name).to_ascii_lowercase();
        let local = |suffix: &str| bare.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        let open = bare == "localhost" && self.open_loopbacks().next().is_some();
        // `127.0.0.1..` is no address to the URL standard, and no name to DNS; what a proxy makes of it is
        // anyone's guess.
        let hollow = bare.split('.').any(str::is_empty);
        if hollow || (LOCAL_NAMES.iter().any(|suffix| local(suffix)) && !open) {
            return Err(GuardError::Name(name.to_owned()));
        }
        Ok(())
    }

    fn open_loopbacks(&self) -> impl Iterator<Item = IpAddr> {
        [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
            .into_iter()
            .filter(|address| self.check_address(*address).is_ok())
    }
}

/// A name with the root's dot is the same name.
fn without_root(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// `::ffff:10.0.0.0/104` opens what it means: addresses are judged in their IPv4 form.
fn unmapped(network: IpNet) -> IpNet {
    match network {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => v6
            .network()
            .to_ipv4_mapped()
            .and_then(|v4| IpNet::new(IpAddr::V4(v4), v6.prefix_len() - 96).ok())
            .unwrap_or(network),
        IpNet::V4(_) | IpNet::V6(_) => network,
    }
}

#[cfg(test)]
mod tests;
