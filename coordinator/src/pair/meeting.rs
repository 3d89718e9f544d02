//! How two agents come together for one pass: which of them listens, where the other finds it, and what is tried next.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};
use tranship_api::migration::{Endpoint, Link, Listen};
use tranship_api::record::Path;
use tranship_api::{Record, Side};
use tranship_proto::control::{Ended, Event, Listening, Meeting, Order, Request, Role};

use super::relay::{self, Relay};
use super::{Pair, Wanted, hear, pass_name};
use crate::control::{Agent, PassEvent, PodRef};
use crate::watch::{Update, Watch};
use crate::{Cluster, Error};

/// What an agent's process says when there was nobody at any of the addresses.
const UNREACHABLE: &str = "TS-S602";

/// The ways to try, in order: the one that worked last, then either side listening, then through both API servers.
///
/// That one works through the API servers does not say that there is no shorter one by now: a stage has the time to look,
/// and a final pass goes where the stage before it went.
pub(super) fn paths(link: &Link, last: Option<&Path>, from: Side, is_final: bool) -> Vec<Path> {
    let path =
        |listen: Side, is_relayed: bool| Path { listen, is_relayed, transport: String::new(), address: String::new() };
    let sides = match link.listen {
        Listen::Auto => vec![from.other(), from],
        Listen::Source => vec![Side::Source],
        Listen::Destination => vec![Side::Destination],
    };
    let mut paths: Vec<Path> = Vec::new();
    if link.endpoint != Endpoint::Relay {
        paths.extend(sides.iter().map(|&side| path(side, false)));
    }
    if matches!(link.endpoint, Endpoint::Auto | Endpoint::Relay) {
        paths.push(path(sides[0], true));
    }
    if let Some(last) = last.filter(|last| is_final || !last.is_relayed)
        && let Some(at) = paths.iter().position(|path| (path.listen, path.is_relayed) == (last.listen, last.is_relayed))
    {
        paths[..=at].rotate_right(1);
    }
    paths
}

/// How long an agent may take to end a pass after the other has. One that takes the end for a broken link would wait on.
pub(super) const ALONE_MAX: Duration = Duration::from_secs(30);

/// What a pass says it does until the agents have met.
const CONNECTING: &str = "connecting";

/// What was heard of a pass.
enum Heard {
    /// All of it.
    All(Ended),
    /// That the dialler found nobody.
    Nobody(Ended),
    /// That the agents have met.
    Enough,
}

/// How an attempt ended.
pub(super) enum End {
    /// The pass ran, well or not.
    Over {
        /// When it began.
        began: Timestamp,
        /// How it ended, in the words of the agent beside the source volume.
        ended: Box<Ended>,
        /// How the agents met.
        path: Path,
    },
    /// The agents have met, and go on by themselves.
    Left,
    /// The agents did not meet.
    Unreachable {
        /// When it began.
        began: Timestamp,
        /// What the dialler says.
        ended: Box<Ended>,
    },
}

/// One attempt at one pass.
pub(super) struct Attempt<'a> {
    pair: &'a Pair,
    record: &'a Record,
    place: usize,
    path: Path,
    wanted: &'a Wanted,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(pair: &'a Pair, record: &'a Record, place: usize, path: Path, wanted: &'a Wanted) -> Self {
        Self { pair, record, place, path, wanted }
    }

    fn is_source_listening(&self) -> bool {
        self.path.listen == self.pair.plan.from.side
    }

    fn agent(&self, listens: bool) -> &'a Agent {
        if self.is_source_listening() == listens { &self.pair.from } else { &self.pair.to }
    }

    /// What the agent that listens, or the one that dials, is told.
    fn order(&self, pass: &str, listens: bool, meeting: Meeting) -> Order {
        let role = if self.is_source_listening() == listens { Role::Source } else { Role::Destination };
        let mut order = Order { meeting, ..self.pair.order(self.record, self.place, self.wanted, pass, role) };
        if self.path.is_relayed {
            order.transport = "tcp".to_owned();
        }
        order
    }

    pub(super) async fn run(mut self, watch: &Watch) -> Result<End, Error> {
        let began = Timestamp::now();
        let pass = pass_name(self.record.epoch, self.pair.volumes()[self.place], &self.wanted.purpose, began);
        let result = self.meet(&pass, began, watch).await;
        if result.is_err() {
            // One that is left alone would wait for the other, and keep the next pass out.
            for listens in [true, false] {
                self.agent(listens).say(Request::Stop { pass: pass.clone() });
            }
        }
        result
    }

    async fn meet(&mut self, pass: &str, began: Timestamp, watch: &Watch) -> Result<End, Error> {
        let listen_port = self.pair.plan.from.listen_port(self.place);
        let (listener, dialler) = (self.agent(true), self.agent(false));
        let mut heard = listener.begin(self.order(pass, true, Meeting::Listen { port: listen_port }));
        let listening = match until_listening(&mut heard, self.path.listen).await? {
            Ok(listening) => listening,
            // It ended before it listened.
            Err(ended) => return Ok(End::Over { began, ended: Box::new(ended), path: self.path.clone() }),
        };
        let relay = self.path.is_relayed.then(|| self.relay(&listening, watch));
        let meeting = self.meeting(&listening).await?;
        if let Meeting::Dial { addresses, .. } = &meeting {
            self.path.address = addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
        }
        let order = self.order(pass, false, meeting);
        let mut dialled = dialler.begin(order);
        let result = self.both(pass, &mut heard, &mut dialled, watch).await;
        if let Some(relay) = relay {
            relay.end().await;
        }
        Ok(match result? {
            Heard::Nobody(ended) => End::Unreachable { began, ended: Box::new(ended) },
            Heard::All(ended) => End::Over { began, ended: Box::new(ended), path: self.path.clone() },
            Heard::Enough => End::Left,
        })
    }

    /// Hears both agents to the end of the pass, or until they have met where that is enough.
    async fn both(
        &self,
        pass: &str,
        heard: &mut UnboundedReceiver<PassEvent>,
        dialled: &mut UnboundedReceiver<PassEvent>,
        watch: &Watch,
    ) -> Result<Heard, Error> {
        let volume = self.pair.volumes()[self.place];
        let mut ends: [Option<Ended>; 2] = [None, None];
        let mut unreachable = None;
        let mut alone_until: Option<Instant> = None;
        while ends.iter().any(Option::is_none) {
            let (listens, event) = tokio::select! {
                event = hear(heard, self.path.listen), if ends[0].is_none() => (true, event?),
                event = hear(dialled, self.path.listen.other()), if ends[1].is_none() => (false, event?),
                () = sleep_until(alone_until.unwrap_or_else(Instant::now)), if alone_until.is_some() => {
                    alone_until = None;
                    self.agent(ends[0].is_none()).say(Request::Stop { pass: pass.to_owned() });
                    continue;
                }
            };
            let is_source = self.is_source_listening() == listens;
            match event {
                Event::Progress(progress) if is_source && self.wanted.detaches && progress.phase != CONNECTING => {
                    return Ok(Heard::Enough);
                }
                Event::Progress(progress) if is_source => watch.show(Update::Progress(volume, Box::new(progress))),
                Event::Note { text, .. } => watch.note(text),
                Event::Ended(ended) => {
                    let found_nobody = !listens && code(&ended) == Some(UNREACHABLE);
                    // Whoever is left waits for somebody who does not come any more.
                    if found_nobody || ended.error.is_some() {
                        self.agent(!listens).say(Request::Stop { pass: pass.to_owned() });
                    }
                    if found_nobody {
                        unreachable = Some(ended.clone());
                    }
                    ends[usize::from(!listens)] = Some(ended);
                    alone_until = Some(Instant::now() + ALONE_MAX);
                }
                _ => {}
            }
        }
        watch.show(Update::Passed(volume));
        let [listener, dialler] = ends.map(|end| end.expect("both have ended"));
        let (source, destination) = if self.is_source_listening() { (listener, dialler) } else { (dialler, listener) };
        Ok(match unreachable {
            Some(ended) => Heard::Nobody(ended),
            None => Heard::All(more_telling(source, destination)),
        })
    }

    fn relay(&self, listening: &Listening, watch: &Watch) -> Relay {
        let end = |agent: &Agent, port: u16, side: Side| relay::End {
            cluster: self.pair.clusters[side as usize].clone(),
            pod: agent.pod.clone(),
            port,
        };
        let dialler = end(self.agent(false), self.pair.plan.from.relay_port(self.place), self.path.listen.other());
        let listener = end(self.agent(true), listening.port, self.path.listen);
        Relay::start(dialler, listener, watch)
    }

    async fn meeting(&self, listening: &Listening) -> Result<Meeting, Error> {
        let (fingerprint, secret) = (listening.fingerprint.clone(), listening.secret.clone());
        if self.path.is_relayed {
            return Ok(Meeting::Relayed { port: self.pair.plan.from.relay_port(self.place), fingerprint, secret });
        }
        let (cluster, pod) = (&self.pair.clusters[self.path.listen as usize], &self.agent(true).pod);
        let found = addresses(cluster, pod, self.record.migration.spec.link.endpoint, listening.port).await?;
        let addresses = found.into_iter().map(|(_, address)| address).collect();
        Ok(Meeting::Dial { addresses, fingerprint, secret })
    }
}

/// Where an agent that listens on `port` can be reached, and what each is an address of, the likeliest first: the pod's own,
/// then those of a load balancer, then ports of its node.
pub(super) async fn addresses(
    cluster: &Cluster,
    pod: &PodRef,
    endpoint: Endpoint,
    port: u16,
) -> Result<Vec<(Endpoint, SocketAddr)>, Error> {
    let found: Pod = cluster.get(&pod.namespace, &pod.name).await?;
    let status = found.status.unwrap_or_default();
    let ips = |ips: Vec<String>| ips.into_iter().filter_map(|ip| ip.parse::<IpAddr>().ok());
    let mut addresses: Vec<(Endpoint, SocketAddr)> = Vec::new();
    if matches!(endpoint, Endpoint::Auto | Endpoint::Pod) {
        let own = status.pod_ips.unwrap_or_default().into_iter().map(|ip| ip.ip).collect();
        addresses.extend(ips(own).map(|ip| (Endpoint::Pod, SocketAddr::new(ip, port))));
    }
    if endpoint != Endpoint::Pod
        && let Some(service) = cluster.find::<Service>(&pod.namespace, &pod.name).await?
    {
        let hosts = status.host_ips.unwrap_or_default().into_iter().map(|ip| ip.ip).collect();
        addresses.extend(exposed(&service, port, ips(hosts)));
    }
    addresses.truncate(tranship_proto::limit::CONTROL_ADDRESSES_MAX);
    if addresses.is_empty() {
        return Err(Error::refused(
            "TS-K931",
            format!(
                "the {} agent, pod {}/{}, has no address of the kind that is wanted",
                cluster.side, pod.namespace, pod.name
            ),
            "choose another --endpoint, or let the other side listen",
        ));
    }
    Ok(addresses)
}

/// Addresses of a service that lead to `port` of its pod.
fn exposed(service: &Service, port: u16, hosts: impl Iterator<Item = IpAddr>) -> Vec<(Endpoint, SocketAddr)> {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let Some(exposed) = ports.iter().find(|exposed| exposed.port == i32::from(port)) else { return Vec::new() };
    let node_port = exposed.node_port.and_then(|port| u16::try_from(port).ok());
    let balancers = service.status.clone().and_then(|status| status.load_balancer).and_then(|all| all.ingress);
    let balanced = balancers.unwrap_or_default().into_iter().filter_map(|ingress| ingress.ip?.parse().ok());
    let balanced = balanced.map(|ip: IpAddr| (Endpoint::LoadBalancer, SocketAddr::new(ip, port)));
    balanced.chain(hosts.filter_map(|ip| Some((Endpoint::NodePort, SocketAddr::new(ip, node_port?))))).collect()
}

pub(super) async fn until_listening(
    events: &mut UnboundedReceiver<PassEvent>,
    side: Side,
) -> Result<Result<Listening, Ended>, Error> {
    loop {
        match hear(events, side).await? {
            Event::Listening(listening) => return Ok(Ok(listening)),
            Event::Ended(ended) => return Ok(Err(ended)),
            _ => {}
        }
    }
}

fn code(ended: &Ended) -> Option<&str> {
    ended.error.as_ref()?.get("code")?.as_str()
}

/// The source's end tells how the pass went. Where it only says that the other side left, the other side's tells why.
fn more_telling(source: Ended, destination: Ended) -> Ended {
    let is_vague = matches!(code(&source), Some("TS-P120" | "TS-P109" | "TS-S603" | "TS-S604"));
    match destination.error {
        Some(error) if is_vague && destination.exit != 0 => Ended { error: Some(error), ..source },
        _ => source,
    }
}

/// What kind of service an endpoint needs; nothing if none.
pub(super) fn service_kind(record: &Record) -> Option<&'static str> {
    match record.migration.spec.link.endpoint {
        Endpoint::Auto | Endpoint::NodePort => Some("NodePort"),
        Endpoint::LoadBalancer => Some("LoadBalancer"),
        Endpoint::Pod | Endpoint::Relay => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(last: Option<(Side, bool)>, is_final: bool) -> Vec<(Side, bool)> {
        let last = last.map(|(listen, is_relayed)| Path {
            listen,
            is_relayed,
            transport: String::new(),
            address: String::new(),
        });
        paths(&Link::default(), last.as_ref(), Side::Source, is_final)
            .into_iter()
            .map(|path| (path.listen, path.is_relayed))
            .collect()
    }

    #[test]
    fn what_worked_last_is_tried_first_but_a_stage_looks_for_a_way_without_the_api_servers() {
        use Side::{Destination, Source};
        assert_eq!(order(None, false), [(Destination, false), (Source, false), (Destination, true)]);
        assert_eq!(order(Some((Source, false)), false)[0], (Source, false));
        assert_eq!(order(Some((Destination, true)), false)[0], (Destination, false));
        assert_eq!(order(Some((Destination, true)), true)[0], (Destination, true));
    }
}
