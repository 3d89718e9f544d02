//! Sorted lists of any length in little memory: sorted runs on disk, merged when they are read.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Atomic};

use tranship_engine::overlay::Dated;
use tranship_engine::run::Record;

use super::{StateError, Store, finish_list, read_list, write_list};

/// Records in memory before a run is written: a few megabytes.
const RUN_RECORDS: usize = 10_000;

/// Runs that are merged at once. Each is an open file with a buffer, and both are few.
const RUNS_MAX: usize = 16;

type Compare<T> = fn(&T, &T) -> Ordering;
type Run<T> = Box<dyn Iterator<Item = Result<T, StateError>> + Send>;

/// Collects records in any order, and gives them back in one.
pub struct Sorter<T> {
    store: Arc<dyn Store>,
    prefix: String,
    compare: Compare<T>,
    records: Vec<T>,
    /// Runs of records at the first level, of [`RUNS_MAX`] runs of the level before at each further one.
    levels: Vec<Vec<String>>,
    written: usize,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Sorter<Dated> {
    /// Changes in the order of places, and of history within a place.
    pub fn dated(store: Arc<dyn Store>, name: &str) -> Self {
        Self::new(store, name, |a, b| (a.change.place(), a.number).cmp(&(b.change.place(), b.number)))
    }
}

impl<T: Record + Send + 'static> Sorter<T> {
    /// An empty one, whose runs have `name` in theirs.
    pub fn new(store: Arc<dyn Store>, name: &str, compare: Compare<T>) -> Self {
        let prefix = format!("{name}-{}", NEXT.fetch_add(1, Atomic::Relaxed));
        Self { store, prefix, compare, records: Vec::new(), levels: Vec::new(), written: 0 }
    }

    /// Adds a record.
    pub fn push(&mut self, record: T) -> Result<(), StateError> {
        self.records.push(record);
        if self.records.len() >= RUN_RECORDS { self.spill() } else { Ok(()) }
    }

    /// Where its runs are.
    pub fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.levels.is_empty()
    }

    /// All records in order. The runs go with the result.
    pub fn sorted(mut self) -> Result<Run<T>, StateError> {
        self.records.sort_by(self.compare);
        let last = std::mem::take(&mut self.records);
        if self.levels.is_empty() {
            return Ok(Box::new(last.into_iter().map(Ok)));
        }
        let name = self.write(last.into_iter().map(Ok))?;
        self.levels.reverse();
        let mut left = std::mem::take(&mut self.levels).concat();
        left.push(name);
        // The small ones, which come last, until the rest can be merged as it is read.
        while left.len() > RUNS_MAX {
            let small = left.split_off(left.len() - RUNS_MAX);
            let merged = self.merge(small)?;
            left.push(self.write(merged)?);
        }
        Ok(Box::new(self.merge(left)?))
    }

    fn spill(&mut self) -> Result<(), StateError> {
        self.records.sort_by(self.compare);
        // Keeps its room for the next run.
        let mut records = std::mem::take(&mut self.records);
        let mut name = self.write(records.drain(..).map(Ok))?;
        self.records = records;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            self.levels[level].push(name);
            if self.levels[level].len() < RUNS_MAX {
                break;
            }
            let full = std::mem::take(&mut self.levels[level]);
            let merged = self.merge(full)?;
            name = self.write(merged)?;
        }
        Ok(())
    }

    fn write(&mut self, records: impl Iterator<Item = Result<T, StateError>>) -> Result<String, StateError> {
        let name = format!("{}-{}.tmp", self.prefix, self.written);
        self.written += 1;
        let mut run = write_list(&*self.store, &name)?;
        for record in records {
            run.push(record?)?;
        }
        finish_list(run)?;
        Ok(name)
    }

    fn merge(&self, names: Vec<String>) -> Result<Merge<T>, StateError> {
        let mut merge = Merge { heap: BinaryHeap::new(), runs: Vec::new(), compare: self.compare };
        for name in names {
            let run = read_list(&*self.store, &name)?.expect("it was written by us");
            // The open file lives on without its name, and so leaves nothing behind.
            self.store.remove(&name)?;
            merge.runs.push(run);
        }
        for index in 0..merge.runs.len() {
            merge.refill(index)?;
        }
        Ok(merge)
    }
}

struct Merge<T> {
    heap: BinaryHeap<Next<T>>,
    runs: Vec<Run<T>>,
    compare: Compare<T>,
}

struct Next<T> {
    record: T,
    run: usize,
    compare: Compare<T>,
}

impl<T> Merge<T> {
    fn refill(&mut self, run: usize) -> Result<(), StateError> {
        if let Some(record) = self.runs[run].next().transpose()? {
            self.heap.push(Next { record, run, compare: self.compare });
        }
        Ok(())
    }
}

impl<T> Iterator for Merge<T> {
    type Item = Result<T, StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Next { record, run, .. } = self.heap.pop()?;
        match self.refill(run) {
            Ok(()) => Some(Ok(record)),
            Err(error) => Some(Err(error)),
        }
    }
}

impl<T> Ord for Next<T> {
    /// Turned round, since a heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (self.compare)(&other.record, &self.record).then(other.run.cmp(&self.run))
    }
}

impl<T> PartialOrd for Next<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Next<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Next<T> {}

#[cfg(test)]
mod tests {
    use tranship_proto::codec::{Reader, WireError, Writer};

    use super::*;
    use crate::state::memory::MemoryStore;

    struct Number(u64);

    impl Record for Number {
        fn encode(&self, _: Option<&Self>, w: &mut Writer) {
            w.u64(self.0);
        }

        fn decode(_: Option<&Self>, r: &mut Reader<'_>) -> Result<Self, WireError> {
            r.u64("number").map(Self)
        }
    }

    #[test]
    fn any_number_of_records_comes_back_in_order_and_leaves_no_run() {
        let full_level = RUN_RECORDS * RUNS_MAX;
        for count in [0, 1, RUN_RECORDS, full_level - 1, full_level + RUN_RECORDS + 1, 2 * full_level + 5] {
            let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
            let mut sorter = Sorter::new(store.clone(), "numbers", |a: &Number, b| a.0.cmp(&b.0));
            assert!(sorter.is_empty());
            // A prime step visits every number once, in no order.
            (0..count as u64).for_each(|at| sorter.push(Number(at * 7_919 % count as u64)).expect("memory"));
            assert!(store.names().expect("memory").len() < 2 * RUNS_MAX, "{count}: too many files");
            let sorted = sorter.sorted().expect("memory").map(|number| number.expect("memory").0);
            assert!(sorted.eq(0..count as u64), "{count}");
            assert_eq!(store.names().expect("memory"), [""; 0]);
        }
    }
}
