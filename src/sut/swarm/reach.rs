//! Whether the nodes of a trial still answer at the swarm's own port: they fall silent at once, and the managers believe
//! it only after some missed heartbeats. A probe that ends in between would be charged to the config.
//!
//! Only nodes that answered there when the trial came up are asked: a firewall is not a node that went away.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;

use super::tasks::Node;

/// Where every node of a swarm listens for the others (gossip).
const PORT: u16 = 7946;
/// For a connection.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// A node that answered when the trial came up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Watched {
    pub(super) id: String,
    pub(super) name: String,
    address: SocketAddr,
}

/// Those of `nodes` that are ready and answer now.
pub(super) async fn answering(nodes: &[Node]) -> Vec<Watched> {
    let asked = nodes
        .iter()
        .filter(|n| n.is_ready)
        .filter_map(|n| {
            let ip: IpAddr = n.address.parse().ok()?;
            Some(Watched {
                id: n.id.clone(),
                name: n.name.clone(),
                address: SocketAddr::new(ip, PORT),
            })
        })
        .map(|w| async move { answers(&w).await.then_some(w) });
    join_all(asked).await.into_iter().flatten().collect()
}

/// The first of `watched` that does not answer any more, asked twice.
pub(super) async fn silent(watched: &[Watched]) -> Option<&Watched> {
    let asked = watched.iter().map(|w| async move {
        let is_silent = !answers(w).await && !answers(w).await;
        is_silent.then_some(w)
    });
    join_all(asked).await.into_iter().flatten().next()
}

async fn answers(w: &Watched) -> bool {
    let connected = tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(w.address)).await;
    matches!(connected, Ok(Ok(_)))
}
