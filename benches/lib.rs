//! What it costs: micro-benchmarks (`frame`), and comparisons with peers (`compare`) that print ratios.
