//! The ways between the clusters, tried and measured by two agents that go again.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;
use tranship_api::migration::{Endpoint, Link};
use tranship_api::record::Path;
use tranship_api::{Record, Side};
use tranship_proto::control::{
    Ended, Event, Hello, Meeting, Order, Purpose, Request, Role, Secret, VERSION, VolumeKind, Way, Ways,
};

use super::made::fresh_secret;
use super::meeting::{self, addresses, until_listening};
use super::relay::{self, Relay};
use super::throwaway::Throwaway;
use super::{PairPlan, hear};
use crate::agents::{LISTEN_PORT, RELAY_PORT, volume_key};
use crate::control::{Agent, PassEvent};
use crate::watch::Watch;
use crate::{Cluster, Error, pod};

/// How long the pods may take until they run.
const RUNNING_MAX: Duration = Duration::from_secs(60);

/// How long the agents may take for the ways of one direction.
const PROBE_MAX: Duration = Duration::from_secs(30);

/// Digits by which the agents of one handshake are told from those of another.
const MARK_DIGITS: usize = 8;

/// A way that was tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tried {
    /// Which side listened.
    pub listen: Side,
    /// What it was reached by.
    pub endpoint: Endpoint,
    /// Where; nothing if there was no address, or it was reached through the API servers.
    pub address: Option<SocketAddr>,
    /// `quic` or `tcp`; nothing if there was nothing to dial.
    pub transport: Option<String>,
    /// Why it cannot be gone; nothing if it can.
    pub error: Option<String>,
    /// Milliseconds of a round trip.
    pub rtt_ms: Option<f64>,
    /// Bytes of UDP payload that it carries, as far as was found out.
    pub mtu: Option<u16>,
    /// Bytes per second that came from the side that is read to the one that is written, in a short burst.
    pub bytes_per_second: Option<f64>,
}

impl Tried {
    /// A way that could not even be dialled.
    fn never(path: &Path, link: &Link, error: String) -> Self {
        let endpoint = if path.is_relayed { Endpoint::Relay } else { link.endpoint };
        let (listen, error) = (path.listen, Some(error));
        Self {
            listen,
            endpoint,
            address: None,
            transport: None,
            error,
            rtt_ms: None,
            mtu: None,
            bytes_per_second: None,
        }
    }

    fn new(path: &Path, endpoint: Endpoint, way: Way) -> Self {
        Self {
            listen: path.listen,
            endpoint,
            address: (!path.is_relayed).then_some(way.address),
            transport: Some(way.transport),
            error: way.error,
            rtt_ms: way.rtt_ms,
            mtu: way.mtu,
            bytes_per_second: way.bytes_per_second,
        }
    }

    /// Whether it can be gone.
    pub fn works(&self) -> bool {
        self.error.is_none()
    }
}

/// Makes two agents at the places of a pair, tries all ways that a pass may take, in that order, the one through the API servers
/// only where no other works, and takes away all that was made, whatever happens: also if `stop` comes first, which is [`Error::Stopped`].
pub async fn try_ways(
    clusters: &[Cluster; 2],
    record: &Record,
    plan: &PairPlan,
    stop: impl Future<Output = ()>,
    watch: &Watch,
) -> Result<Vec<Tried>, Error> {
    let mark = fresh_secret()?;
    let secrets = [fresh_secret()?, fresh_secret()?];
    let throwaway = |plan, secret: &str| Throwaway::new(record, plan, &mark[..MARK_DIGITS], secret);
    let made = [throwaway(&plan.from, &secrets[0]), throwaway(&plan.to, &secrets[1])];
    let (from, to) = (plan.from.side, plan.to.side);
    let [cluster_from, cluster_to] = [from, to].map(|side| &clusters[side as usize]);
    // Not to be broken off: what an API server is asked to make while nobody waits for it may come after all was removed.
    let (made_from, made_to) = tokio::join!(made[0].make(cluster_from), made[1].make(cluster_to));
    let result = match made_from.and(made_to) {
        Ok(()) => tokio::select! {
            result = meet(clusters, record, [from, to], &made, &secrets, watch) => result,
            () = stop => Err(Error::Stopped),
        },
        Err(error) => Err(error),
    };
    watch.note("the two agents are taken away again");
    let (gone_from, gone_to) = tokio::join!(made[0].remove(cluster_from), made[1].remove(cluster_to));
    let tried = result?;
    gone_from.and(gone_to)?;
    Ok(tried)
}

/// The two agents, that of the side which is read first.
struct Probe<'a> {
    clusters: &'a [Cluster; 2],
    record: &'a Record,
    agents: [Agent; 2],
    sides: [Side; 2],
    watch: &'a Watch,
}

async fn meet(
    clusters: &[Cluster; 2],
    record: &Record,
    sides: [Side; 2],
    made: &[Throwaway; 2],
    secrets: &[String; 2],
    watch: &Watch,
) -> Result<Vec<Tried>, Error> {
    let greet = async |at: usize| {
        let (cluster, pod) = (&clusters[sides[at] as usize], made[at].pod());
        pod::until_phase(cluster, &pod, "Running", RUNNING_MAX, watch).await?;
        let hello = Hello {
            version: VERSION,
            secret: Secret(secrets[at].clone()),
            migration: record.id.clone(),
            epoch: record.epoch,
            coordinator: record.coordinator.clone(),
            observes: false,
        };
        Agent::greet(cluster, pod, hello).await
    };
    let (from, to) = tokio::try_join!(greet(0), greet(1))?;
    let link = &record.migration.spec.link;
    from.say(Request::Bandwidth { bits_per_second: link.bits_per_second });
    let probe = Probe { clusters, record, agents: [from, to], sides, watch };
    let mut all = Vec::new();
    for (number, path) in meeting::paths(link, None, sides[0], false).iter().enumerate() {
        // As a pass has it: through the API servers goes only what has no other way.
        if path.is_relayed && all.iter().any(Tried::works) {
            break;
        }
        watch.note(match path.is_relayed {
            true => "trying the way through the API servers".to_owned(),
            false => format!("trying the ways to the {}", path.listen),
        });
        all.extend(probe.way(&format!("probe-{number}"), path).await?);
    }
    Ok(all)
}

impl Probe<'_> {
    /// The agent that listens, or the one that dials, and what it is.
    fn agent(&self, path: &Path, listens: bool) -> (&Agent, Role, Side) {
        let side = if listens { path.listen } else { path.listen.other() };
        let is_source = side == self.sides[0];
        let role = if is_source { Role::Source } else { Role::Destination };
        (&self.agents[usize::from(!is_source)], role, side)
    }

    async fn way(&self, pass: &str, path: &Path) -> Result<Vec<Tried>, Error> {
        let (listener, role, side) = self.agent(path, true);
        let mut heard = listener.begin(order(pass, role, Meeting::Listen { port: LISTEN_PORT }));
        let listening = match until_listening(&mut heard, side).await? {
            Ok(listening) => listening,
            Err(ended) => return Ok(vec![self.never(path, why(&ended))]),
        };
        let tried = match path.is_relayed {
            true => {
                let (dialler, _, side) = self.agent(path, false);
                let end = |agent: &Agent, port: u16, side: Side| relay::End {
                    cluster: self.clusters[side as usize].clone(),
                    pod: agent.pod.clone(),
                    port,
                };
                let ends = (end(dialler, RELAY_PORT, side), end(listener, listening.port, path.listen));
                let relay = Relay::start(ends.0, ends.1, self.watch);
                let (fingerprint, secret) = (listening.fingerprint, listening.secret);
                let meeting = Meeting::Relayed { port: RELAY_PORT, fingerprint, secret };
                let tried = self.dial(pass, path, meeting, &[]).await;
                relay.end().await;
                tried?
            }
            false => {
                let (cluster, link) = (&self.clusters[side as usize], &self.record.migration.spec.link);
                match addresses(cluster, &listener.pod, link.endpoint, listening.port).await {
                    Ok(found) => {
                        let meeting = Meeting::Dial {
                            addresses: found.iter().map(|(_, address)| *address).collect(),
                            fingerprint: listening.fingerprint,
                            secret: listening.secret,
                        };
                        self.dial(pass, path, meeting, &found).await?
                    }
                    Err(error @ Error::Refused { .. }) => vec![self.never(path, error.to_string())],
                    Err(error) => return Err(error),
                }
            }
        };
        listener.end(pass).await?;
        Ok(tried)
    }

    /// Has the other side dial, and hears what it found at `addresses`.
    async fn dial(
        &self,
        pass: &str,
        path: &Path,
        meeting: Meeting,
        addresses: &[(Endpoint, SocketAddr)],
    ) -> Result<Vec<Tried>, Error> {
        let (dialler, role, side) = self.agent(path, false);
        let mut events = dialler.begin(order(pass, role, meeting));
        let Ok(ended) = timeout(PROBE_MAX, until_ended(&mut events, side)).await else {
            dialler.end(pass).await?;
            return Ok(vec![self.never(path, format!("it took longer than {} s", PROBE_MAX.as_secs()))]);
        };
        let ended = ended?;
        let report = ended.report.clone().unwrap_or(Value::Null);
        let Ok(Ways { ways, .. }) = serde_json::from_value(report) else {
            return Ok(vec![self.never(path, why(&ended))]);
        };
        let kind = |way: &Way| addresses.iter().find(|(_, address)| *address == way.address).map(|(kind, _)| *kind);
        Ok(ways.into_iter().map(|way| Tried::new(path, kind(&way).unwrap_or(Endpoint::Relay), way)).collect())
    }

    fn never(&self, path: &Path, error: String) -> Tried {
        Tried::never(path, &self.record.migration.spec.link, error)
    }
}

async fn until_ended(events: &mut UnboundedReceiver<PassEvent>, side: Side) -> Result<Ended, Error> {
    loop {
        if let Event::Ended(ended) = hear(events, side).await? {
            return Ok(ended);
        }
    }
}

/// What an agent says in place of a report.
fn why(ended: &Ended) -> String {
    let text = ended.error.as_ref().and_then(|error| error["message"].as_str());
    text.unwrap_or("it ended without a word").to_owned()
}

fn order(pass: &str, role: Role, meeting: Meeting) -> Order {
    Order {
        pass: pass.to_owned(),
        volume: volume_key(0),
        role,
        meeting,
        purpose: Purpose::Probe,
        mode: "plain".to_owned(),
        accept_gaps: Vec::new(),
        exclude: Vec::new(),
        compress: "none".to_owned(),
        transport: "auto".to_owned(),
        bits_per_second: None,
        kind: VolumeKind::Tree,
    }
}
