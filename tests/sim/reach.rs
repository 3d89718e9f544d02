//! How often what was meant to be reached was reached.

use std::collections::BTreeMap;

/// Counters with names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reach(BTreeMap<&'static str, u64>);

impl Reach {
    pub(crate) fn add(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub(crate) fn get(&self, what: &'static str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    pub(crate) fn merge(&mut self, other: &Reach) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(|(what, count)| format!("{count:>9}  {what}"))
    }
}
