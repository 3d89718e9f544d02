//! Thousands of passes with everything that can go wrong, from a seed, without a disk, a link or a clock.
//!
//! `TRANSHIP_SIM_SEED=n` repeats one run, `TRANSHIP_SIM_RUNS=n` does more of them.
#![expect(clippy::print_stdout, reason = "a simulation says what it reached, and the seed that repeats a failure")]

mod application;
mod chance;
mod pass;
mod power;
mod promises;
mod reach;
mod run;
mod world;

use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use reach::Reach;

/// Runs of the default test, and where their seeds begin.
const RUNS: u64 = 700;
const FIRST_SEED: u64 = 1;

#[test]
fn whatever_goes_wrong_no_byte_is_lost_and_no_success_is_false() {
    let number = |name| std::env::var(name).ok().and_then(|value: String| value.parse::<u64>().ok());
    if let Some(seed) = number("TRANSHIP_SIM_SEED") {
        let (log, result) = run::run(seed);
        println!("{}", log.join("\n"));
        result.unwrap();
        return;
    }
    let runs = number("TRANSHIP_SIM_RUNS").unwrap_or(RUNS);
    let began = Instant::now();
    let (next, reach, failed) = (AtomicU64::new(FIRST_SEED), Mutex::new(Reach::default()), Mutex::new(Vec::new()));
    panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= FIRST_SEED + runs {
                        return;
                    }
                    match run::run(seed) {
                        (_, Ok(reached)) => reach.lock().unwrap().merge(&reached),
                        (_, Err(why)) => failed.lock().unwrap().push((seed, why)),
                    }
                }
            });
        }
    });
    let _ = panic::take_hook();
    let (reach, failed) = (reach.into_inner().unwrap(), failed.into_inner().unwrap());
    let per_second = runs as f64 / began.elapsed().as_secs_f64();
    println!("{runs} runs, {per_second:.0} a second");
    reach.lines().for_each(|line| println!("{line}"));
    for (seed, why) in failed.iter().take(12) {
        println!("TRANSHIP_SIM_SEED={seed}: {}", why.lines().next().unwrap_or_default());
    }
    assert!(failed.is_empty(), "{} of {runs} runs failed", failed.len());
    if runs >= RUNS {
        run::assert_reached(&reach);
    }
}

/// Runs `run`, and makes a panic a result.
fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}
