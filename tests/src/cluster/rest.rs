//! What lies at the source while an application stands still: a migration reads it, and changes nothing.

use crate::walker::Tree;

use super::place::Place;
use super::volume::{Volume, changes};

/// Volumes at rest, as they were.
pub struct AtRest(Vec<(Volume, Look)>);

/// All that can be seen of a volume.
enum Look {
    Tree(Tree),
    Device(String),
}

impl Look {
    fn at(volume: &Volume) -> Self {
        if volume.is_block() { Self::Device(volume.digest()) } else { Self::Tree(volume.tree()) }
    }
}

impl AtRest {
    /// Those behind these claims. Nobody may write to them from here on.
    pub fn of(place: &Place, claims: &[impl AsRef<str>]) -> Self {
        let look = |claim: &_| {
            let volume = Volume::of(place, AsRef::<str>::as_ref(claim));
            let look = Look::at(&volume);
            (volume, look)
        };
        Self(claims.iter().map(look).collect())
    }

    /// Looks again.
    ///
    /// # Panics
    /// When anything is not as it was.
    pub fn is_unchanged(&self) {
        for (volume, before) in &self.0 {
            match (before, Look::at(volume)) {
                (Look::Tree(before), Look::Tree(after)) => {
                    assert_eq!(changes(before, &after), [""; 0], "it was changed");
                }
                (Look::Device(before), Look::Device(after)) => assert_eq!(before, &after, "it was changed"),
                _ => unreachable!("a volume stays what it is"),
            }
        }
    }
}
