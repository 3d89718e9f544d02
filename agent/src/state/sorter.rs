//! Sorted lists of any length in little memory: sorted runs on disk, merged when they are read.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Atomic};

use tranship_engine::overlay::Dated;
use tranship_engine::run::Record;

use super::{StateError, Store, finish_list, read_list, write_list};

/// Records in memory before a run is written.
const RUN_RECORDS: usize = 50_000;

type Compare<T> = fn(&T, &T) -> Ordering;
type Run<T> = Box<dyn Iterator<Item = Result<T, StateError>> + Send>;

/// Collects records in any order, and gives them back in one.
pub struct Sorter<T> {
    store: Arc<dyn Store>,
    prefix: String,
    compare: Compare<T>,
    records: Vec<T>,
    runs: Vec<String>,
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
        Self { store, prefix, compare, records: Vec::new(), runs: Vec::new() }
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
        self.records.is_empty() && self.runs.is_empty()
    }

    /// All records in order. The runs go with the result.
    pub fn sorted(mut self) -> Result<Run<T>, StateError> {
        if self.runs.is_empty() {
            self.records.sort_by(self.compare);
            return Ok(Box::new(std::mem::take(&mut self.records).into_iter().map(Ok)));
        }
        self.spill()?;
        let mut merge = Merge { heap: BinaryHeap::new(), runs: Vec::new(), compare: self.compare };
        for name in std::mem::take(&mut self.runs) {
            let run = read_list(&*self.store, &name)?.expect("it was written by us");
            // The open file lives on without its name, and so leaves nothing behind.
            self.store.remove(&name)?;
            merge.runs.push(run);
        }
        for index in 0..merge.runs.len() {
            merge.refill(index)?;
        }
        Ok(Box::new(merge))
    }

    fn spill(&mut self) -> Result<(), StateError> {
        self.records.sort_by(self.compare);
        let name = format!("{}-{}.tmp", self.prefix, self.runs.len());
        let mut run = write_list(&*self.store, &name)?;
        for record in self.records.drain(..) {
            run.push(record)?;
        }
        finish_list(run)?;
        self.runs.push(name);
        Ok(())
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
