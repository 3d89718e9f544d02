//! Waiting until nobody has the volumes, and holding what was stopped in the meantime.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tranship_api::record::{Act, Change, ChangeState};

use super::change::{Standing, make_at, standing};
use super::holder::{Holder, holders, pods};
use super::{blame, live};
use crate::{Cluster, Error};

/// How often pods are looked at: what this adds to a downtime is half of it.
const LOOK: Duration = Duration::from_millis(300);

/// How often each change is looked at.
const LOOK_AT_CHANGES: Duration = Duration::from_secs(1);

/// How often somebody may start an application again before we give up.
const RETURNS_MAX: u32 = 3;

/// What is to be released.
#[derive(Debug, Clone, Copy)]
pub struct Release<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The claims.
    pub claims: &'a [String],
    /// Exact names of our agents' pods, which may have them.
    pub our_pods: &'a [String],
    /// What was changed to stop the application; it is made again where somebody takes it back.
    pub changes: &'a [Change],
}

/// Waits until nobody but us has the claims and every change stands. `on_change` gets whoever has them, each time that
/// it is somebody else.
///
/// Nothing is ever forced: a pod that was deleted by force may still write. When `patience` ends, the error (TS-K904)
/// names who still holds. A workload that is started again is stopped again; at the third time the error (TS-K322) names
/// who does it.
pub async fn wait_released(
    cluster: &Cluster,
    release: Release<'_>,
    patience: Duration,
    on_change: &mut (dyn FnMut(&[Holder]) + Send),
) -> Result<(), Error> {
    let end = Instant::now() + patience;
    let mut guard = Guard::default();
    let mut last: Option<Vec<Holder>> = None;
    loop {
        let stands = guard.stands(cluster, release.changes).await?;
        let now = look(cluster, release).await?;
        if last.as_ref() != Some(&now) {
            on_change(&now);
        }
        // What was found released counts only together with changes that stood, and stand still.
        if now.is_empty() && stands && guard.stands_now(cluster, release.changes).await? {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(late(&now, patience));
        }
        last = Some(now);
        sleep(LOOK).await;
    }
}

/// Everybody who holds; kubelets are asked only when there are no pods any more, since that takes larger answers.
async fn look(cluster: &Cluster, release: Release<'_>) -> Result<Vec<Holder>, Error> {
    let Release { namespace, claims, our_pods, .. } = release;
    let now = pods(cluster, namespace, claims, our_pods).await?;
    if now.is_empty() { holders(cluster, namespace, claims, our_pods).await } else { Ok(now) }
}

fn late(holders: &[Holder], patience: Duration) -> Error {
    let who: Vec<String> = holders.iter().map(Holder::to_string).collect();
    let who = if who.is_empty() { "somebody keeps starting the application".to_owned() } else { who.join("; ") };
    Error::Late { what: format!("letting go of the volumes ({who})"), seconds: patience.as_secs() }
}

/// Holds the changes.
#[derive(Default)]
struct Guard {
    returns: u32,
    looked_at: Option<Instant>,
    /// The last versions of objects in which their changes stood, by place.
    stood: BTreeMap<usize, String>,
    /// Who took changes back.
    names: BTreeSet<String>,
}

impl Guard {
    /// Whether all changes stand, as far as it is time to look.
    async fn stands(&mut self, cluster: &Cluster, changes: &[Change]) -> Result<bool, Error> {
        if self.looked_at.is_some_and(|at| at.elapsed() < LOOK_AT_CHANGES) {
            return Ok(true);
        }
        self.stands_now(cluster, changes).await
    }

    /// Whether all changes stand. What somebody took back is made again.
    async fn stands_now(&mut self, cluster: &Cluster, changes: &[Change]) -> Result<bool, Error> {
        self.looked_at = Some(Instant::now());
        let mut stands = true;
        for (at, change) in changes.iter().enumerate().filter(|(_, change)| is_held(change)) {
            match standing(cluster, change).await? {
                Standing::Stands(version) => self.stood.extend(version.map(|version| (at, version))),
                Standing::TakenBack(now) => {
                    stands = false;
                    self.returned(cluster, (at, change), &now).await?;
                }
            }
        }
        Ok(stands)
    }

    /// Makes a change again, unless that was done too often.
    async fn returned(
        &mut self,
        cluster: &Cluster,
        (at, change): (usize, &Change),
        now: &serde_json::Value,
    ) -> Result<(), Error> {
        let (object, stood) = (&change.object, self.stood.get(&at).map(String::as_str));
        let (pointer, (_, after)) = (live::pointer(&change.act).unwrap_or_default(), live::values(&change.act));
        let by = blame::since(cluster, object, now, (pointer, &after), stood).await?;
        tracing::warn!(%object, manager = by, "started again by somebody else; stopping it");
        self.returns += 1;
        self.names.extend(by);
        if self.returns >= RETURNS_MAX {
            let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
            let by = if names.is_empty() { "somebody".to_owned() } else { names.join(" and ") };
            let returns = self.returns;
            let what = format!("{by} started {object} again, {returns} times, while it was to stay stopped");
            let todo = format!("stop {by}, or have it leave {object} alone, then run the same command again");
            return Err(Error::refused("TS-K322", what, todo));
        }
        let again = |act: &Act| Change { state: ChangeState::Made, act: act.clone(), ..change.clone() };
        let version = match make_at(cluster, &again(&in_the_object(&change.act))).await {
            Err(error) if error.is_forbidden() => make_at(cluster, &again(&change.act)).await?,
            other => other?,
        };
        // From here on whoever changes it is seen, however soon.
        self.stood.extend(version.map(|version| (at, version)));
        Ok(())
    }
}

/// The same act as a change of the object itself. An API server writes down who scales through the subresource only where
/// the replicas are somebody's who wrote the object itself: so they are made ours, to learn who comes next.
fn in_the_object(act: &Act) -> Act {
    let (before, after) = live::values(act);
    match act {
        Act::Scale { .. } => Act::Set { pointer: live::REPLICAS.to_owned(), before, after },
        other => other.clone(),
    }
}

fn is_held(change: &Change) -> bool {
    change.state != ChangeState::Undone && !matches!(change.act, Act::Delete { .. })
}
