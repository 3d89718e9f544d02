//! Pods of ours, waited for and ended.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod, PodStatus};
use kube::api::ListParams;
use tokio::time::{Instant, sleep};

use crate::control::PodRef;
use crate::watch::Watch;
use crate::{Cluster, Error};

/// How long an agent that is about to end may take for it.
const ENDING_MAX: Duration = Duration::from_secs(60);

/// How long a pod may take until it is said what it waits for, and how long until the next word.
const PATIENCE: Duration = Duration::from_secs(5);

/// Characters of what a cluster says that people are shown.
const COMPLAINT_CHARS_MAX: usize = 300;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// Ends a pod of ours in order; it is gone when this returns.
pub(crate) async fn remove(cluster: &Cluster, pod: &PodRef) -> Result<(), Error> {
    let Some(found) = cluster.find::<Pod>(&pod.namespace, &pod.name).await? else { return Ok(()) };
    cluster.delete::<Pod>(&pod.namespace, &pod.name, found.metadata.uid.as_deref()).await?;
    let deadline = Instant::now() + ENDING_MAX;
    while let Some(still) = cluster.find::<Pod>(&pod.namespace, &pod.name).await? {
        if still.metadata.uid != found.metadata.uid {
            break;
        }
        if Instant::now() > deadline {
            let what = format!("the end of pod {}/{} in the {} cluster", pod.namespace, pod.name, cluster.side);
            return Err(Error::Late { what, seconds: ENDING_MAX.as_secs() });
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// Waits until a pod is in the phase that is wanted.
pub(crate) async fn until_phase(
    cluster: &Cluster,
    pod: &PodRef,
    wanted: &str,
    patience: Duration,
    watch: &Watch,
) -> Result<(), Error> {
    let began = Instant::now();
    let (mut told, mut tells_at) = (String::new(), began + PATIENCE);
    loop {
        let found: Pod = cluster.get(&pod.namespace, &pod.name).await?;
        let (status, uid) = (found.status.unwrap_or_default(), found.metadata.uid.unwrap_or_default());
        let name = format!("pod {}/{}", pod.namespace, pod.name);
        match status.phase.as_deref() {
            Some(phase) if phase == wanted => return Ok(()),
            Some(phase @ ("Failed" | "Succeeded")) => {
                let what = format!("{name} is {phase}: {}", why(&status));
                return Err(Error::Agent { side: cluster.side, code: "TS-K933".to_owned(), what });
            }
            _ if is_hopeless(&status) => {
                let what = format!("{name} cannot start: {}", why(&status));
                return Err(Error::Agent { side: cluster.side, code: "TS-K933".to_owned(), what });
            }
            _ if began.elapsed() > patience => {
                let what =
                    format!("{name}, which is to be {wanted} ({})", complaint(cluster, pod, &uid, &status).await);
                return Err(Error::Late { what, seconds: patience.as_secs() });
            }
            // What is said is asked for seldom, but the pod is looked at as often as before: an application may stand.
            _ if Instant::now() > tells_at => {
                let complaint = complaint(cluster, pod, &uid, &status).await;
                if complaint != told {
                    watch.note(format!("{name} is waited for: {complaint}"));
                    told = complaint;
                }
                tells_at = Instant::now() + PATIENCE;
            }
            _ => {}
        }
        sleep(LOOK).await;
    }
}

/// Why a pod does not start: the last warning about it, since a volume that cannot be mounted is told nowhere else.
async fn complaint(cluster: &Cluster, pod: &PodRef, uid: &str, status: &PodStatus) -> String {
    let params = ListParams::default().fields(&format!("involvedObject.uid={uid},type=Warning"));
    let events = cluster.api::<Event>(&pod.namespace);
    let events = cluster.call(format!("list Events in {}", pod.namespace), events.list(&params)).await;
    // Without the right to read events there is what the pod says itself.
    let last = events.ok().and_then(|list| list.items.into_iter().max_by_key(|event| event.last_timestamp.clone()));
    let told = last.map(|event| [event.reason, event.message].into_iter().flatten().collect::<Vec<_>>().join(": "));
    let text = told.unwrap_or_else(|| why(status));
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ").chars().take(COMPLAINT_CHARS_MAX).collect()
}

/// Whether the pod waits for something that does not come by itself.
pub(crate) fn is_hopeless(status: &PodStatus) -> bool {
    let waiting =
        status.container_statuses.iter().flatten().filter_map(|status| status.state.as_ref()?.waiting.as_ref());
    let hopeless = [
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImagePullBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
    ];
    waiting.filter_map(|waiting| waiting.reason.as_deref()).any(|reason| hopeless.contains(&reason))
}

/// Why a pod is where it is, as the cluster tells it.
pub(crate) fn why(status: &PodStatus) -> String {
    let containers = status.container_statuses.iter().flatten().filter_map(|status| {
        let state = status.state.as_ref()?;
        let waiting = state.waiting.as_ref().map(|waiting| (waiting.reason.clone(), waiting.message.clone()));
        waiting.or_else(|| state.terminated.as_ref().map(|ended| (ended.reason.clone(), ended.message.clone())))
    });
    let conditions = status.conditions.iter().flatten().filter(|condition| condition.status == "False");
    let conditions = conditions.map(|condition| (condition.reason.clone(), condition.message.clone()));
    let mut told: Vec<String> = containers
        .chain(conditions)
        .map(|(reason, message)| [reason, message].into_iter().flatten().collect::<Vec<_>>().join(": "))
        .filter(|text| !text.is_empty())
        .collect();
    // The pod and its containers are not ready for one and the same reason.
    told.dedup();
    if told.is_empty() { "no reason is given".to_owned() } else { told.join("; ") }
}
