//! How are names resolved as this machine is set to, without one that never resolves in another's way?
//!
//! The C library's `getaddrinfo` keeps a thread for as long as a name server is silent; tokio has 512 of them
//! for everything, so that some hundred dead names would hold up all others (G5). Here a question is a task
//! and a socket. `/etc/hosts` and `/etc/resolv.conf` (servers, search domains, ndots, timeout, attempts) are
//! read as the C library does, and again when they change; `/etc/nsswitch.conf` is not.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};

use super::{Looking, Lookup};

/// Asks the hosts file first, then name servers.
pub struct SystemLookup {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    /// Asked instead of the machine's; names are then whole, without search domains.
    servers: Vec<SocketAddr>,
    current: Mutex<Option<Current>>,
}

/// What was read, and from which state of the files.
struct Current {
    stamps: [Stamp; 2],
    sources: Sources,
}

/// Which file it is, when it was written, and how long it is; `None`: there is none.
type Stamp = Option<(u64, SystemTime, u64)>;

#[derive(Clone)]
struct Sources {
    hosts: Arc<Hosts>,
    resolver: TokioResolver,
}

impl SystemLookup {
    /// Asks these name servers, by UDP and, for long answers, TCP; without any, the machine's.
    pub fn with_servers(servers: Vec<SocketAddr>) -> SystemLookup {
        SystemLookup { servers, ..SystemLookup::default() }
    }

    /// Reads other files than the machine's; for tests.
    pub fn from_files(hosts: PathBuf, resolv_conf: PathBuf) -> SystemLookup {
        SystemLookup { hosts, resolv_conf, servers: Vec::new(), current: Mutex::default() }
    }

    fn build(&self) -> Result<TokioResolver, NetError> {
        let read = || system_conf::parse_resolv_conf(std::fs::read(&self.resolv_conf)?);
        let (config, mut options) = match &self.servers[..] {
            [] => read().unwrap_or_else(|error| {
                tracing::warn!(%error, "no name servers are known: 127.0.0.1 is asked, as the C library does");
                (of_servers(&[(Ipv4Addr::LOCALHOST, 53).into()]), ResolverOpts::default())
            }),
            servers => (of_servers(servers), ResolverOpts::default()),
        };
        // Both families, always: one forbidden answer refuses the name.
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Never;
        // Each new connection asks anew, as without a cache in this process: the machine's own is near.
        options.cache_size = 0;
        options.positive_max_ttl = Some(Duration::ZERO);
        options.negative_max_ttl = Some(Duration::ZERO);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        builder.build()
    }

    /// As the files are now. Two small files are looked at, as the C library does for each name.
    fn sources(&self) -> Result<Sources, NetError> {
        let stamps = [stamp(&self.hosts), stamp(&self.resolv_conf)];
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = current.as_ref().filter(|known| known.stamps == stamps) {
            return Ok(known.sources.clone());
        }
        let sources = Sources { hosts: Arc::new(read_hosts(&self.hosts)), resolver: self.build()? };
        *current = Some(Current { stamps, sources: sources.clone() });
        Ok(sources)
    }
}

impl Default for SystemLookup {
    fn default() -> SystemLookup {
        SystemLookup::from_files("/etc/hosts".into(), "/etc/resolv.conf".into())
    }
}

impl Lookup for SystemLookup {
    fn lookup(&self, name: &str) -> Looking {
        let (sources, name) = (self.sources(), name.to_owned());
        Box::pin(async move { sources.map_err(told)?.lookup(&name).await.map_err(told) })
    }
}

impl Sources {
    async fn lookup(&self, text: &str) -> Result<Vec<IpAddr>, NetError> {
        let name = Name::from_utf8(text).map_err(NetError::from)?;
        // A name of the hosts file is asked of no server, in neither family.
        let known: Vec<IpAddr> = [RecordType::A, RecordType::AAAA]
            .into_iter()
            .filter_map(|kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind)))
            .flat_map(|found| found.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>())
            .collect();
        if !known.is_empty() {
            return Ok(known);
        }
        Ok(self.resolver.lookup_ip(name).await?.iter().collect())
    }
}

fn stamp(file: &Path) -> Stamp {
    let found = file.metadata().ok()?;
    Some((found.ino(), found.modified().ok()?, found.len()))
}

/// Without a file, or with lines that mean nothing, as if they were not there.
fn read_hosts(file: &Path) -> Hosts {
    let mut hosts = Hosts::default();
    if let Ok(file) = File::open(file)
        && let Err(error) = hosts.read_hosts_conf(file)
    {
        tracing::warn!(%error, "the hosts file cannot be read");
    }
    hosts
}

fn of_servers(servers: &[SocketAddr]) -> ResolverConfig {
    let servers = servers.iter().map(|server| {
        let mut config = NameServerConfig::udp_and_tcp(server.ip());
        config.connections.iter_mut().for_each(|connection| connection.port = server.port());
        config
    });
    ResolverConfig::from_parts(None, Vec::new(), servers.collect())
}

/// In words that a person who reads the log of tries understands.
fn told(error: NetError) -> io::Error {
    let text = match &error {
        NetError::Timeout => "no name server answered for the name",
        NetError::Dns(DnsError::NoRecordsFound(_)) => "the name has no address",
        _ => return io::Error::other(error),
    };
    io::Error::other(text)
}
