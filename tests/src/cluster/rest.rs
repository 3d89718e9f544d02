//! What lies at the source while an application stands still: a migration reads it, and changes nothing.

use crate::walker::Tree;

use super::place::Place;
use super::volume::{Volume, changes};

/// Volumes at rest, as they were.
pub struct AtRest(Vec<(Volume, Tree)>);

impl AtRest {
    /// Those behind these claims. Nobody may write to them from here on.
    pub fn of(place: &Place, claims: &[&str]) -> Self {
        let look = |claim: &&str| {
            let volume = Volume::of(place, claim);
            let tree = volume.tree();
            (volume, tree)
        };
        Self(claims.iter().map(look).collect())
    }

    /// Looks again.
    ///
    /// # Panics
    /// When anything is not as it was.
    pub fn is_unchanged(&self) {
        for (volume, before) in &self.0 {
            assert_eq!(changes(before, &volume.tree()), [""; 0], "it was changed");
        }
    }
}
