//! What does a name server of a test's own say?

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::PATIENCE;

/// A DNS server on 127.0.0.1, by UDP, that answers as it is told and remembers what it was asked.
pub struct NameServer {
    address: SocketAddr,
    asked: watch::Receiver<Vec<String>>,
    _serving: DropGuard,
}

/// The addresses of a name, for its `n`th question (from 1) of their family; `None` is silence.
type Zone = dyn Fn(&str, usize) -> Option<Vec<IpAddr>> + Send + Sync;

const A: u16 = 1;
const AAAA: u16 = 28;

impl NameServer {
    pub async fn answering(zone: impl Fn(&str, usize) -> Option<Vec<IpAddr>> + Send + Sync + 'static) -> NameServer {
        NameServer::on((Ipv4Addr::LOCALHOST, 0).into(), zone).await.expect("a port")
    }

    /// On an address of the test's choice, which may not be to be had.
    pub async fn on(
        address: SocketAddr,
        zone: impl Fn(&str, usize) -> Option<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> std::io::Result<NameServer> {
        let socket = UdpSocket::bind(address).await?;
        // Hundreds of questions come at once; the system may grant less.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4 << 20);
        let address = socket.local_addr().expect("it is bound");
        let (sender, asked) = watch::channel(Vec::new());
        let ended = CancellationToken::new();
        let serving = serve(socket, Arc::new(zone), sender);
        let until = ended.clone();
        tokio::spawn(async move { until.run_until_cancelled(serving).await });
        Ok(NameServer { address, asked, _serving: ended.drop_guard() })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The names whose IPv4 addresses it was asked for so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }

    /// Waits until it was asked for the IPv4 addresses of names that this counts to as many.
    pub async fn wait_for_names(&self, begin: &str, count: usize) {
        let mut asked = self.asked.clone();
        let enough = |all: &Vec<String>| {
            let names: std::collections::HashSet<_> = all.iter().filter(|name| name.starts_with(begin)).collect();
            names.len() >= count
        };
        let waited = tokio::time::timeout(PATIENCE, asked.wait_for(enough)).await;
        waited.unwrap_or_else(|_| panic!("{:?} were asked for", self.asked.borrow().len())).expect("it serves");
    }
}

async fn serve(socket: UdpSocket, zone: Arc<Zone>, sender: watch::Sender<Vec<String>>) {
    let mut datagram = [0; 1500];
    while let Ok((length, client)) = socket.recv_from(&mut datagram).await {
        let Some(question) = Question::read(&datagram[..length]) else { continue };
        let mut nth = 0;
        sender.send_modify(|asked| {
            if question.kind == A {
                asked.push(question.name.clone());
            }
            nth = asked.iter().filter(|name| **name == question.name).count();
        });
        if let Some(addresses) = zone(&question.name, nth) {
            let _ = socket.send_to(&question.answer(&datagram[..length], &addresses), client).await;
        }
    }
}

struct Question {
    /// In lower case, without the root's dot.
    name: String,
    kind: u16,
    /// Where the question ends in its message.
    end: usize,
}

impl Question {
    /// RFC 1035, section 4.1: a header of 12 bytes, the name's labels, type and class.
    fn read(message: &[u8]) -> Option<Question> {
        let mut labels = Vec::new();
        let mut at = 12;
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_lowercase());
            at += length;
        }
        let kind = u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]);
        Some(Question { name: labels.join("."), kind, end: at + 4 })
    }

    fn answer(&self, message: &[u8], addresses: &[IpAddr]) -> Vec<u8> {
        let fitting: Vec<Vec<u8>> = addresses
            .iter()
            .filter_map(|address| match (address, self.kind) {
                (IpAddr::V4(address), A) => Some(address.octets().to_vec()),
                (IpAddr::V6(address), AAAA) => Some(address.octets().to_vec()),
                _ => None,
            })
            .collect();
        let count = u8::try_from(fitting.len()).expect("a few");
        // The id; an answer, recursion wanted and had; one question, the answers, nothing else.
        let mut answer = message[..2].to_vec();
        answer.extend([0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0]);
        answer.extend(&message[12..self.end]);
        for address in fitting {
            // The question's name, its type, class IN, a minute, the address.
            answer.extend([0xc0, 12]);
            answer.extend(self.kind.to_be_bytes());
            answer.extend([0, 1, 0, 0, 0, 60, 0, u8::try_from(address.len()).expect("4 or 16")]);
            answer.extend(address);
        }
        answer
    }
}
