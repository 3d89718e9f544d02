//! Migrations between two real clusters, by the real command line.
//!
//! All tests share one [lab](harness::lab()), which comes up if it is not there; each has a namespace of its own in both
//! clusters. They run with the feature `cluster` only: `./test --cluster` runs all of them, and what every change has to
//! pass stands in `smoke`.

mod errand;
mod handshake;
mod hangs;
mod hooks;
mod losses;
mod others;
mod paths;
mod refusals;
mod resident;
mod rights;
mod rollbacks;
mod shapes;
mod smoke;
mod workloads;

use tranship_tests::cluster as harness;
