//! What it costs: micro-benchmarks (`frame`), and comparisons with peers (`compare`, `cutover`) that print ratios.
