//! The ways between the clusters, tried for real, and what follows from them for the first stage and for the downtime.

use serde::Serialize;
use tranship_api::migration::{Endpoint, Verify};
use tranship_api::quantity::{self, text};
use tranship_api::{Finding, Record, Severity, Side};

use crate::cutover::{BESIDE_SECONDS, downtime_seconds};
use crate::pair::{Tried, try_ways};
use crate::placement::{pairs, usage};
use crate::watch::Watch;
use crate::workload;
use crate::{Cluster, Error};

/// Bytes per second that a disk is taken to read for a proof, while no stage has shown what it does.
const READ_BYTES_PER_SECOND: f64 = 200e6;

/// Round trips of a final pass that finds nothing to do, rounded up.
const ROUND_TRIPS: f64 = 20.0;

/// What two agents found that were thrown away afterwards.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Handshake {
    /// All ways that were tried, in the order in which a pass tries them.
    pub ways: Vec<Tried>,
    /// Which of them a pass would go, as an index.
    pub chosen: Option<usize>,
    /// What may be expected of it.
    pub estimate: Option<Estimate>,
    /// What there is to say.
    #[serde(skip)]
    pub findings: Vec<Finding>,
}

/// What may be expected, from a burst of a second and before anything was copied.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Estimate {
    /// Bytes that the first stage carries, before they are compressed.
    pub bytes: u64,
    /// Whether sizes of claims stand in for what some of them hold.
    pub is_bound: bool,
    /// Bytes per second that the network carries, or that the migration may use.
    pub bytes_per_second: f64,
    /// Seconds that the network takes for the first stage.
    pub stage_seconds: f64,
    /// Seconds of downtime that a cutover would cost after it.
    pub downtime_seconds: f64,
    /// Whether stages have shown the downtime; else disks and changes are taken to be as usual.
    pub is_downtime_measured: bool,
}

/// Has two agents try all ways between the clusters, and takes them away again. `held_bytes` is what each volume holds, where
/// that is known. Whatever keeps them from it is a finding; the only errors are [`Error::Stopped`] and [`Error::Superseded`].
pub async fn handshake(
    clusters: &[Cluster; 2],
    record: &Record,
    held_bytes: &[Option<u64>],
    stop: impl Future<Output = ()>,
    watch: &Watch,
) -> Result<Handshake, Error> {
    match tried(clusters, record, stop, watch).await {
        Ok(ways) => Ok(judge(ways, record, held_bytes)),
        Err(error @ (Error::Stopped | Error::Superseded { .. })) => Err(error),
        Err(error) => Ok(untried(&error)),
    }
}

/// That it was not tried, since something else comes first.
pub fn postponed(why: &str, todo: &str) -> Handshake {
    let why = format!("the ways between the clusters were not tried: {why}");
    Handshake { findings: vec![Finding::new("TS-K145", Severity::Warning, why, todo)], ..Handshake::default() }
}

async fn tried(
    clusters: &[Cluster; 2],
    record: &Record,
    stop: impl Future<Output = ()>,
    watch: &Watch,
) -> Result<Vec<Tried>, Error> {
    let from = record.owner;
    let claims = record.claims(from);
    let survey = workload::survey(&clusters[from as usize], record.namespace(from), &claims, false).await?;
    let mut usages: Vec<_> = record.volumes.iter().map(|volume| usage(&survey, volume.claim(from))).collect();
    // Nobody mounts the volumes, so that one in exclusive use is as good a place as any.
    usages.iter_mut().for_each(|usage| usage.is_exclusive = false);
    // Where the application runs, if it runs anywhere.
    let plans = pairs(from, &usages);
    let plan = plans.iter().find(|plan| plan.from.node.is_some()).or(plans.first());
    let plan = plan.ok_or_else(|| {
        Error::refused("TS-K110", "the migration has no volume", "name claims with --pvc, and create it again")
    })?;
    try_ways(clusters, record, plan, stop, watch).await
}

fn untried(error: &Error) -> Handshake {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let todo = if error.is_forbidden() {
        "have an administrator allow you what is named, or let the first stage find out"
    } else {
        "see the cause and run `tranship preflight` again; `tranship cleanup` finds what could not be removed"
    };
    postponed(&format!("{error}{cause}"), error.todo().unwrap_or(todo))
}

/// What the ways mean.
fn judge(ways: Vec<Tried>, record: &Record, held_bytes: &[Option<u64>]) -> Handshake {
    let chosen = chosen(&ways);
    let estimate = chosen.and_then(|at| estimate(&ways[at], record, held_bytes));
    let mut findings: Vec<Finding> = ways
        .iter()
        .enumerate()
        .filter(|(_, way)| way.works())
        .map(|(at, way)| {
            let intro = if chosen == Some(at) { "a pass goes this way: " } else { "" };
            Finding::new("TS-K141", Severity::Info, format!("{intro}{}: {}", name(way), figures(way)), "nothing")
        })
        .collect();
    let failed: Vec<String> = ways
        .iter()
        .filter(|way| !way.works())
        .map(|way| format!("{}: {}", name(way), way.error.as_deref().unwrap_or_default()))
        .collect();
    let failed = failed.join("; ");
    match chosen.map(|at| &ways[at]) {
        None => {
            let todo = "let UDP and TCP pass from the pods of one cluster to nodes of the other (ports 30000 to 32767), see the \
                        NetworkPolicies of both namespaces, or use --endpoint auto or relay";
            let why = format!("the agents cannot reach each other, so that no stage can run: {failed}");
            findings.push(Finding::new("TS-K144", Severity::Blocking, why, todo));
        }
        Some(way) => {
            findings.extend(slower(way));
            if !failed.is_empty() {
                let todo = "nothing, as long as another way works";
                findings.push(Finding::new("TS-K142", Severity::Info, format!("no way: {failed}"), todo));
            }
        }
    }
    findings.extend(estimate.map(|estimate| said(&estimate, record)));
    Handshake { ways, chosen, estimate, findings }
}

/// The way that a pass goes: of the first direction in which there is one, by QUIC if that works.
fn chosen(ways: &[Tried]) -> Option<usize> {
    let first = ways.iter().find(|way| way.works())?;
    let is_same = |way: &Tried| {
        way.works()
            && way.listen == first.listen
            && (way.endpoint == Endpoint::Relay) == (first.endpoint == Endpoint::Relay)
    };
    let is_quic = |way: &Tried| way.transport.as_deref() == Some("quic");
    ways.iter().position(|way| is_same(way) && is_quic(way)).or_else(|| ways.iter().position(is_same))
}

/// That there would be a better way than the one that works.
fn slower(way: &Tried) -> Option<Finding> {
    let (why, todo) = match (way.endpoint, way.transport.as_deref()) {
        (Endpoint::Relay, _) => (
            "only through the API servers do the agents reach each other: all that is carried passes both of them and this \
             machine, and a pass cannot be left alone (--detach)",
            "let UDP, or at least TCP, pass from the pods of one cluster to nodes of the other (ports 30000 to 32767)",
        ),
        (_, Some("tcp")) => (
            "only TCP comes through, which is slower than QUIC where the way is long or loses packets",
            "let UDP pass from the pods of one cluster to nodes of the other (ports 30000 to 32767)",
        ),
        _ => return None,
    };
    Some(Finding::new("TS-K143", Severity::Warning, why, todo))
}

fn name(way: &Tried) -> String {
    let by = way.transport.as_deref().map(|transport| format!(" by {}", transport.to_uppercase())).unwrap_or_default();
    let address = way.address.map(|address| format!(" ({address})")).unwrap_or_default();
    let side = way.listen;
    match way.endpoint {
        Endpoint::Relay => format!("through the API servers to the {side}{by}"),
        Endpoint::Pod => format!("to the {side}'s pod{address}{by}"),
        Endpoint::NodePort => format!("to a port of the {side}'s nodes{address}{by}"),
        Endpoint::LoadBalancer => format!("to the {side}'s load balancer{address}{by}"),
        Endpoint::Auto => format!("to the {side}{address}{by}"),
    }
}

fn figures(way: &Tried) -> String {
    let rtt = way.rtt_ms.map(|rtt| format!("round trip {rtt:.*} ms", if rtt < 1.0 { 2 } else { 1 }));
    let rate = match way.bytes_per_second {
        Some(rate) => format!("{}B/s in a short burst", text(rate as u64)),
        None => "too little came in a second to tell a rate".to_owned(),
    };
    let mtu = way.mtu.map(|mtu| format!("datagrams of {mtu} bytes"));
    rtt.into_iter().chain([rate]).chain(mtu).collect::<Vec<_>>().join(", ")
}

/// What may be expected over this way; nothing where its rate is not known.
fn estimate(way: &Tried, record: &Record, held_bytes: &[Option<u64>]) -> Option<Estimate> {
    let rate = way.bytes_per_second.filter(|rate| *rate > 0.0)?;
    let limit = record.migration.spec.link.bits_per_second.map_or(f64::INFINITY, |bits| bits as f64 / 8.0);
    let rate = rate.min(limit.max(1.0));
    let size = |at: usize| quantity::bytes(&record.volumes[at].claim(Side::Source).size).unwrap_or(0);
    let held = |at: usize| held_bytes.get(at).copied().flatten();
    let all = 0..record.volumes.len();
    let bytes = all.clone().map(|at| held(at).unwrap_or_else(|| size(at))).sum();
    let measured = downtime_seconds(record);
    let proof = match record.migration.spec.cutover.verify {
        Verify::Full => bytes as f64 / READ_BYTES_PER_SECOND,
        // A block volume is read in full at any level.
        Verify::Tracked => {
            let blocks: u64 = all.clone().filter(|&at| record.volumes[at].is_block).map(size).sum();
            blocks as f64 / READ_BYTES_PER_SECOND
        }
    };
    let assumed = || BESIDE_SECONDS + ROUND_TRIPS * way.rtt_ms.unwrap_or(0.0) / 1_000.0 + proof;
    Some(Estimate {
        bytes,
        is_bound: all.into_iter().any(|at| held(at).is_none()),
        bytes_per_second: rate,
        stage_seconds: bytes as f64 / rate,
        downtime_seconds: measured.unwrap_or_else(assumed),
        is_downtime_measured: measured.is_some(),
    })
}

fn said(estimate: &Estimate, record: &Record) -> Finding {
    let Estimate { bytes, bytes_per_second, stage_seconds, downtime_seconds, .. } = *estimate;
    let downtime = duration(downtime_seconds);
    let (most, rate) = (if estimate.is_bound { "at most " } else { "" }, text(bytes_per_second as u64));
    let stage = format!(
        "estimate: the network takes {} for a first stage of {most}{}B at {rate}B/s",
        duration(stage_seconds),
        text(bytes)
    );
    let why = match (estimate.is_downtime_measured, record.migration.spec.cutover.verify) {
        (true, _) => format!("{stage}; a cutover now would cost a downtime of {downtime}, as the last stages have it"),
        (false, Verify::Full) => format!(
            "{stage}; a cutover after it would cost a downtime of about {downtime}, if disks read {}B/s for the proof and the \
             application changes little meanwhile",
            text(READ_BYTES_PER_SECOND as u64)
        ),
        (false, Verify::Tracked) => format!(
            "{stage}; a cutover after it would cost a downtime of about {downtime}, if the application changes little meanwhile"
        ),
    };
    let todo = match estimate.is_downtime_measured {
        true => "nothing; each stage predicts it anew",
        false => "nothing; the first stage measures what is assumed here, and `tranship status` shows its prediction",
    };
    Finding::new("TS-K146", Severity::Info, why, todo)
}

/// Seconds for people, without a precision that an estimate does not have.
fn duration(seconds: f64) -> String {
    match seconds.ceil() as u64 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3_600)),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::json;
    use tranship_api::Migration;
    use tranship_api::migration::Mode;

    use super::*;

    fn way(listen: Side, endpoint: Endpoint, transport: &str, error: Option<&str>) -> Tried {
        let works = error.is_none();
        Tried {
            listen,
            endpoint,
            address: (endpoint != Endpoint::Relay).then(|| "192.0.2.7:30001".parse().expect("an address")),
            transport: Some(transport.to_owned()),
            error: error.map(str::to_owned),
            rtt_ms: works.then_some(10.0),
            mtu: (works && transport == "quic").then_some(1_452),
            bytes_per_second: works.then_some(50e6),
        }
    }

    fn record() -> Record {
        let claim: PersistentVolumeClaim = serde_json::from_value(
            json!({"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "4Gi"}}}}),
        )
        .expect("a claim");
        let migration = Migration::new("move", "shop");
        let volumes = vec![crate::claims::volume_of(&claim, &migration)];
        Record::new("00".to_owned(), "test".to_owned(), migration, Default::default(), Mode::Plain, volumes)
    }

    fn codes(ways: &[Tried]) -> Vec<(String, Severity)> {
        let found = judge(ways.to_vec(), &record(), &[Some(1 << 30)]).findings;
        found.into_iter().map(|finding| (finding.code, finding.severity)).collect()
    }

    fn is(codes: &[&str], severities: &[Severity]) -> Vec<(String, Severity)> {
        codes.iter().map(|&code| code.to_owned()).zip(severities.iter().copied()).collect()
    }

    use Endpoint::{NodePort, Pod, Relay};
    use Severity::{Blocking, Info, Warning};
    use Side::{Destination, Source};

    #[test]
    fn every_way_that_works_is_told_and_what_is_lacking_has_its_code() {
        let (good, none) = (None, Some("no answer"));
        let pod = way(Destination, Pod, "quic", none);
        let quic = way(Destination, NodePort, "quic", good);
        let tcp = way(Destination, NodePort, "tcp", good);
        let relay = way(Destination, Relay, "tcp", good);
        let all = [pod.clone(), quic, tcp.clone(), relay.clone()];
        assert_eq!(
            codes(&all),
            is(&["TS-K141", "TS-K141", "TS-K141", "TS-K142", "TS-K146"], &[Info, Info, Info, Info, Info])
        );
        let only_tcp = is(&["TS-K141", "TS-K143", "TS-K142", "TS-K146"], &[Info, Warning, Info, Info]);
        assert_eq!(codes(&[pod.clone(), tcp]), only_tcp);
        assert_eq!(codes(&[pod.clone(), relay]), only_tcp);
        assert_eq!(codes(&[pod]), is(&["TS-K144"], &[Blocking]));
    }

    #[test]
    fn a_pass_goes_where_quic_works_in_the_first_direction_that_has_a_way() {
        let chosen = |ways: &[(Side, Endpoint, &str, bool)]| {
            let ways: Vec<Tried> = ways
                .iter()
                .map(|&(side, endpoint, transport, works)| way(side, endpoint, transport, (!works).then_some("no")))
                .collect();
            super::chosen(&ways)
        };
        let tcp_first = [(Destination, Pod, "tcp", true), (Destination, NodePort, "quic", true)];
        assert_eq!(chosen(&tcp_first), Some(1));
        let other_side = [(Destination, Pod, "tcp", true), (Source, NodePort, "quic", true)];
        assert_eq!(chosen(&other_side), Some(0));
        let relay = [(Destination, Pod, "quic", false), (Destination, Relay, "tcp", true)];
        assert_eq!(chosen(&relay), Some(1));
        assert_eq!(chosen(&[(Destination, Pod, "quic", false)]), None);
    }

    #[test]
    fn the_estimate_is_of_what_is_held_at_the_rate_that_was_measured_or_is_allowed() {
        let quic = way(Destination, NodePort, "quic", None);
        let mut record = record();
        let held = |bytes| [Some(bytes)];
        let found = estimate(&quic, &record, &held(1_000_000_000)).expect("there is a rate");
        assert_eq!((found.stage_seconds, found.is_bound, found.is_downtime_measured), (20.0, false, false));
        // Stopping and starting, twenty round trips, and reading all of it.
        assert!((found.downtime_seconds - (5.0 + 0.2 + 5.0)).abs() < 1e-9, "{found:?}");
        record.migration.spec.link.bits_per_second = Some(80_000_000);
        assert_eq!(estimate(&quic, &record, &held(1_000_000_000)).map(|found| found.stage_seconds), Some(100.0));
        // What nobody has measured is at most the size of its claim.
        let found = estimate(&quic, &record, &[None]).expect("there is a rate");
        assert_eq!((found.bytes, found.is_bound), (4 << 30, true));
        record.migration.spec.cutover.verify = Verify::Tracked;
        let found = estimate(&quic, &record, &held(1_000_000_000)).expect("there is a rate");
        assert!((found.downtime_seconds - 5.2).abs() < 1e-9, "{found:?}");
        record.volumes[0].predicted_seconds = Some(1.5);
        let found = estimate(&quic, &record, &held(1)).expect("there is a rate");
        assert_eq!((found.downtime_seconds, found.is_downtime_measured), (6.5, true));
        assert_eq!(estimate(&Tried { bytes_per_second: None, ..quic }, &record, &held(1)), None);
    }

    #[test]
    fn what_is_said_names_the_way_its_figures_and_that_an_estimate_is_one() {
        let quic = way(Destination, NodePort, "quic", None);
        let lost = way(Destination, Pod, "quic", Some("no answer"));
        let found = judge(vec![lost, quic], &record(), &[None]).findings;
        let all: Vec<&str> = found.iter().map(|finding| finding.why.as_str()).collect();
        let all = all.join("\n");
        for words in [
            "a pass goes this way: to a port of the destination's nodes (192.0.2.7:30001) by QUIC: round trip 10.0 ms",
            "47.7MiB/s in a short burst, datagrams of 1452 bytes",
            "no way: to the destination's pod (192.0.2.7:30001) by QUIC: no answer",
            "estimate: the network takes 86 s for a first stage of at most 4.00GiB",
            "a downtime of about 27 s, if disks read",
        ] {
            assert!(all.contains(words), "{words:?} is not in {all}");
        }
    }
}
