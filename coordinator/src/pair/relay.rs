//! Connections between two agents that cannot reach each other, through both API servers. What passes here is encrypted
//! from agent to agent.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::task::JoinSet;
use tranship_proto::control::RELAY_BEGINS;

use crate::control::{PodRef, forward};
use crate::watch::Watch;
use crate::{Cluster, Error};

/// Connections that are kept ready.
const READY: usize = 2;

/// Failures after each other that nobody is told of.
const FAILURES_MAX: u32 = 10;

/// One end: a port of a pod.
#[derive(Clone)]
pub(super) struct End {
    pub(super) cluster: Cluster,
    pub(super) pod: PodRef,
    pub(super) port: u16,
}

/// Brings connections to `dialler` and leads each to `listener` once the agent there wants it; until it is dropped.
pub(super) struct Relay {
    tasks: JoinSet<()>,
}

impl Relay {
    pub(super) fn start(dialler: End, listener: End, watch: &Watch) -> Self {
        let mut tasks = JoinSet::new();
        let ends = Arc::new((dialler, listener));
        for _ in 0..READY {
            let (ends, watch) = (ends.clone(), watch.clone());
            tasks.spawn(async move { keep_ready(&ends.0, &ends.1, &watch).await });
        }
        Self { tasks }
    }

    /// Ends what still runs.
    pub(super) async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Keeps one connection ready; as soon as it is used, there is another.
async fn keep_ready(dialler: &End, listener: &End, watch: &Watch) {
    let mut carrying = JoinSet::new();
    let (mut failures, mut is_told) = (0, false);
    loop {
        match wanted(dialler).await {
            Ok(near) => {
                failures = 0;
                let listener = listener.clone();
                carrying.spawn(async move {
                    let mut near = near;
                    // A connection that breaks is the link's to make again.
                    if let Ok(mut far) = forward(&listener.cluster, &listener.pod, listener.port).await {
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
            Err(error) => {
                failures += 1;
                // At first the agent there may not be at its port yet.
                if failures > FAILURES_MAX && !std::mem::replace(&mut is_told, true) {
                    watch.note(format!("connections through the API servers do not last: {error}"));
                }
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
        }
        while carrying.try_join_next().is_some() {}
    }
}

/// A connection to the dialler that it has begun to use.
async fn wanted(
    dialler: &End,
) -> Result<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + use<>, Error> {
    let mut near = forward(&dialler.cluster, &dialler.pod, dialler.port).await?;
    match near.read_u8().await {
        Ok(RELAY_BEGINS) => Ok(near),
        _ => Err(Error::Unreachable {
            side: dialler.cluster.side,
            what: format!("relay a connection to pod {}/{}", dialler.pod.namespace, dialler.pod.name),
            source: None,
        }),
    }
}
