//! Whose a volume is: a Lease beside each claim, so that no two migrations work on one.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{DeleteParams, Preconditions};
use tranship_api::{LABEL_ID, LABEL_MIGRATION};

use super::ATTEMPTS_MAX;
use crate::{Cluster, Error};

/// Characters of a claim's name that a Lease's name can hold besides our own.
const NAME_CHARS_MAX: usize = 200;

/// Holds the claim for the migration in this epoch, until it is released: a migration that rests still has its volumes.
/// An earlier epoch of the same migration gives way; a later one is an error, as is another migration (TS-K333).
pub async fn hold(
    cluster: &Cluster,
    namespace: &str,
    claim: &str,
    migration: &str,
    id: &str,
    epoch: u64,
) -> Result<(), Error> {
    for _ in 0..ATTEMPTS_MAX {
        let live = cluster.find::<Lease>(namespace, &name(claim)).await?;
        let held = live.as_ref().and_then(holder);
        let wanted = |live: Option<&Lease>| lease(claim, migration, id, epoch, live);
        let done = match (&live, decide(held, id, epoch)) {
            (_, Decision::Held) => return Ok(()),
            (_, Decision::Superseded(epoch)) => {
                return Err(Error::Superseded { coordinator: "another tranship".to_owned(), epoch });
            }
            (Some(live), Decision::Others) => return Err(others(namespace, claim, live)),
            (Some(live), Decision::Take) => cluster.replace(namespace, &wanted(Some(live))).await,
            (None, _) => cluster.create(namespace, &wanted(None)).await,
        };
        match done {
            Err(error) if error.is_conflict() => {}
            other => return other.map(drop),
        }
    }
    let what = format!("the Lease of claim {namespace}/{claim} is changed by others without a pause");
    Err(Error::refused("TS-K324", what, "see that no second tranship works on this claim"))
}

/// Lets go of the claim, if this migration has it in this epoch or an earlier one.
pub async fn release(cluster: &Cluster, namespace: &str, claim: &str, id: &str, epoch: u64) -> Result<(), Error> {
    let name = name(claim);
    let Some(live) = cluster.find::<Lease>(namespace, &name).await? else { return Ok(()) };
    if !holder(&live).is_some_and(|(holder, held)| holder == id && held <= epoch) {
        return Ok(());
    }
    let meta = &live.metadata;
    let preconditions = Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let api = cluster.api::<Lease>(namespace);
    match cluster.call(format!("delete Lease {namespace}/{name}"), api.delete(&name, &params)).await {
        // Somebody has taken it in between: it is not ours any more.
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

/// What a Lease says to whoever wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Held,
    Take,
    Superseded(u64),
    Others,
}

fn decide(held: Option<(&str, u64)>, id: &str, epoch: u64) -> Decision {
    match held {
        None => Decision::Take,
        Some((holder, _)) if holder != id => Decision::Others,
        Some((_, held)) if held > epoch => Decision::Superseded(held),
        Some((_, held)) if held == epoch => Decision::Held,
        Some(_) => Decision::Take,
    }
}

/// Who has it, `ID/EPOCH`; nothing where nobody does. A text that is not ours is somebody else's.
fn holder(lease: &Lease) -> Option<(&str, u64)> {
    let text = lease.spec.as_ref()?.holder_identity.as_deref().filter(|text| !text.is_empty())?;
    let ours = text.split_once('/').and_then(|(id, epoch)| Some((id, epoch.parse().ok()?)));
    Some(ours.unwrap_or((text, 0)))
}

fn name(claim: &str) -> String {
    if claim.len() <= NAME_CHARS_MAX {
        return format!("tranship-{claim}");
    }
    let hash = blake3::hash(claim.as_bytes()).to_hex();
    format!("tranship-{}-{}", claim.get(..NAME_CHARS_MAX).unwrap_or_default(), &hash[..16])
}

fn lease(claim: &str, migration: &str, id: &str, epoch: u64, live: Option<&Lease>) -> Lease {
    let now = Some(MicroTime(Timestamp::now()));
    let labels = [(LABEL_MIGRATION, migration), (LABEL_ID, id)];
    let transitions = live.and_then(|live| live.spec.as_ref()?.lease_transitions).map_or(0, |count| count + 1);
    Lease {
        metadata: ObjectMeta {
            name: Some(name(claim)),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            resource_version: live.and_then(|live| live.metadata.resource_version.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(format!("{id}/{epoch}")),
            acquire_time: now.clone(),
            renew_time: now,
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }),
    }
}

fn others(namespace: &str, claim: &str, live: &Lease) -> Error {
    let migration = live.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_MIGRATION));
    let who = migration.map_or_else(|| "somebody else".to_owned(), |name| format!("migration {name}"));
    let what = format!("claim {namespace}/{claim} is held by {who}");
    let todo = format!("finish that one first, or delete Lease {namespace}/{} if it is left over", name(claim));
    Error::refused("TS-K333", what, todo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_goes_to_nobody_else_and_never_back_to_an_earlier_epoch() {
        for (held, expected) in [
            (None, Decision::Take),
            (Some(("a", 4)), Decision::Take),
            (Some(("a", 5)), Decision::Held),
            (Some(("a", 6)), Decision::Superseded(6)),
            (Some(("b", 1)), Decision::Others),
        ] {
            assert_eq!(decide(held, "a", 5), expected, "{held:?}");
        }
    }

    #[test]
    fn who_holds_is_read_as_it_was_written() {
        let written = lease("data", "shop", "abc", 7, None);
        assert_eq!(holder(&written), Some(("abc", 7)));
        assert_eq!(
            lease("data", "shop", "abc", 8, Some(&written)).spec.and_then(|spec| spec.lease_transitions),
            Some(1)
        );
        assert_eq!(holder(&Lease::default()), None);
    }

    #[test]
    fn a_long_claim_has_a_name_of_its_own_that_fits() {
        let (one, other) = ("c".repeat(253), format!("{}d", "c".repeat(252)));
        assert!(name(&one).len() <= 253 && name(&one) != name(&other));
        assert_eq!(name("data"), "tranship-data");
    }
}
