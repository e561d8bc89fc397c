//! What one decision costs: it is made again after every event.
//!
//! `cargo bench -p pgvane-agent` measures; `cargo test` runs each once.

#[path = "../tests/decide_support/mod.rs"]
mod decide_support;

use divan::black_box;
use pgvane_agent::decide::decide;

fn main() {
    divan::main();
}

/// The worlds an agent meets most: a quiet replica, a quiet leader, an election.
#[divan::bench(args = ["following", "leading", "leaderless"])]
fn decision(bencher: divan::Bencher, world: &str) {
    let world = match world {
        "following" => decide_support::following(),
        "leading" => decide_support::leading(),
        _ => decide_support::leaderless(),
    };
    bencher.bench_local(|| decide(black_box(&world)));
}
