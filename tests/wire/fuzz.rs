//! No input makes a decoder panic, loop, or contradict itself.

use tranship_tests::fuzz::{TARGETS, drive};
use tranship_tests::random::Random;

#[test]
fn no_input_breaks_a_decoder() {
    let executions = std::env::var("TRANSHIP_FUZZ_EXECUTIONS").map_or(20_000, |text| text.parse().expect("a number"));
    let seed = Random::seed_or(1);
    for target in TARGETS {
        drive(*target, executions, seed);
    }
}
