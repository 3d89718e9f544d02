//! From a pod up to what made it.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use tranship_api::ObjectRef;

use super::controller::Controller;

/// Owners that are followed before we give up: no real chain is as long, and a circle ends.
const CHAIN_MAX: usize = 8;

/// Who owns an object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Ancestry {
    /// Controllers that we know, the nearest first, as places in the list.
    pub(super) known: Vec<usize>,
    /// Who owns the last of them, where that is nobody we know.
    pub(super) beyond: Option<ObjectRef>,
}

/// Controllers, found by their UID.
pub(super) struct Family<'a> {
    controllers: &'a [Controller],
    by_uid: HashMap<&'a str, usize>,
}

impl<'a> Family<'a> {
    pub(super) fn new(controllers: &'a [Controller]) -> Self {
        let by_uid = controllers.iter().enumerate().map(|(at, controller)| (controller.object.uid.as_str(), at));
        Self { controllers, by_uid: by_uid.collect() }
    }

    /// Who owns the object with this metadata.
    pub(super) fn of(&self, meta: &ObjectMeta) -> Ancestry {
        let mut ancestry = Ancestry::default();
        let mut meta = meta;
        while let Some(owner) = owner(meta) {
            match self.by_uid.get(owner.uid.as_str()) {
                Some(&at) if ancestry.known.len() < CHAIN_MAX => {
                    ancestry.known.push(at);
                    meta = &self.controllers[at].meta;
                }
                _ => {
                    ancestry.beyond = Some(reference(owner, meta.namespace.as_deref()));
                    break;
                }
            }
        }
        ancestry
    }
}

/// The owner that makes the object again, else the first that has it deleted.
fn owner(meta: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true)).or(owners.first())
}

fn reference(owner: &OwnerReference, namespace: Option<&str>) -> ObjectRef {
    let namespace = if owner.kind == "Node" { None } else { namespace };
    ObjectRef { uid: owner.uid.clone(), ..ObjectRef::named(&owner.api_version, &owner.kind, namespace, &owner.name) }
}
