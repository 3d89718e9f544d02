//! The same work on many items by several threads, with the results in order.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::pass::PassError;

/// Items for which a thread of its own is worth starting.
const ITEMS_PER_THREAD_MIN: usize = 16;

/// Processors that this process may use. They are counted once: what the control group allows cannot be read any more
/// by a process that is confined.
pub fn processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| thread::available_parallelism().map_or(2, usize::from))
}

/// Does `work` on each of `items`: small ones side by side with one thread each, those that are large one after the
/// other with all threads. The first error ends it.
pub fn map<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    is_large: impl Fn(&T) -> bool + Sync,
    work: impl Fn(&T, usize) -> Result<R, PassError> + Sync,
) -> Result<Vec<R>, PassError> {
    let next = AtomicUsize::new(0);
    let run = || -> Result<Vec<(usize, R)>, PassError> {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return Ok(done) };
            if !is_large(item) {
                done.push((index, work(item, 1)?));
            }
        }
    };
    let others = threads.min(items.len().div_ceil(ITEMS_PER_THREAD_MIN)).saturating_sub(1);
    let mut done = thread::scope(|scope| -> Result<Vec<_>, PassError> {
        let others: Vec<_> = (0..others).map(|_| scope.spawn(run)).collect();
        let mut done = run()?;
        for other in others {
            done.extend(other.join().expect("workers do not panic")?);
        }
        Ok(done)
    })?;
    for (index, item) in items.iter().enumerate().filter(|(_, item)| is_large(item)) {
        done.push((index, work(item, threads)?));
    }
    done.sort_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}
