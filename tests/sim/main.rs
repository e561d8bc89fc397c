//! The seeded simulation: the real decisions, guard, timing, fold and topology over a world that goes wrong.
//!
//! A run is a function of its seed. What fails is replayed with the whole event log by
//! `PGVANE_SIM_SEED=<seed> cargo test --test sim one_schedule -- --nocapture`: one line per event, true time
//! first, then who (pg1 to pg3, etcd, proxy0 and proxy1), then what.

mod agent;
mod check;
mod chores;
mod clock;
mod effects;
mod etcd;
mod fact;
mod faults;
mod guard;
mod lineage;
mod network;
mod pg_effects;
mod postgres;
mod proxy;
mod rng;
mod runtime;
mod schedule;
mod server;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use world::{Counts, Mutation, Outcome};

/// Where the seeds of a plain `cargo test` begin, so that it is the same test every day.
const BASE_SEED: u64 = 20_260_000;
const RUNS: u64 = 10_000;

/// Within so many runs a broken variant is noticed.
const MUTANT_RUNS: u64 = 1_000;

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.trim().parse().unwrap_or_else(|_| panic!("{name} must be a whole number, not {text}")))
}

/// Runs `count` seeds from `first` on all cores; stops at the first that fails. Answers what was seen, or the
/// seed and how it ended.
fn run_many(
    first: u64,
    count: u64,
    mutation: Option<Mutation>,
    each: impl Fn(&Outcome) + Sync,
) -> Option<(u64, Outcome)> {
    let next = AtomicU64::new(0);
    let failed: Mutex<Option<(u64, Outcome)>> = Mutex::new(None);
    // To see all that fails rather than the first.
    let survey = std::env::var_os("PGVANE_SIM_SURVEY").is_some();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let over = failed.lock().expect("no thread panics with it").is_some() && !survey;
                    if number >= count || over {
                        return;
                    }
                    let seed = first + number;
                    let outcome = world::run(seed, mutation, false);
                    if survey && outcome.violation.is_some() {
                        println!("{}", complain(seed, &outcome).lines().next().unwrap_or_default());
                    }
                    each(&outcome);
                    if outcome.violation.is_some() {
                        let mut failed = failed.lock().expect("no thread panics with it");
                        if failed.as_ref().is_none_or(|(s, _)| seed < *s) {
                            *failed = Some((seed, outcome));
                        }
                    }
                }
            });
        }
    });
    failed.into_inner().expect("no thread panics with it")
}

fn complain(seed: u64, outcome: &Outcome) -> String {
    let violation = outcome.violation.as_ref().expect("only what failed is complained about");
    format!(
        "seed {seed} breaks {} at {:.3} s: {}\nreplay it with\n    PGVANE_SIM_SEED={seed} cargo test --test sim \
         one_schedule -- --nocapture",
        violation.invariant,
        fact::seconds(violation.at),
        violation.what
    )
}

fn summed(each: &Mutex<Counts>, more: &Counts) {
    each.lock().expect("no thread panics with it").add(more);
}

#[test]
fn ten_thousand_schedules() {
    let first = from_environment("PGVANE_SIM_SEED").unwrap_or(BASE_SEED);
    let count = from_environment("PGVANE_SIM_RUNS").unwrap_or(RUNS);
    let began = Instant::now();
    let sum = Mutex::new(Counts::default());
    let slowest = AtomicU64::new(0);
    let failed = run_many(first, count, None, |outcome| {
        summed(&sum, &outcome.count);
        slowest.fetch_max(outcome.recovery, Ordering::Relaxed);
    });
    let slowest = fact::seconds(slowest.into_inner());
    let sum = sum.into_inner().expect("no thread panics with it");
    println!("{count} runs from seed {first} in {:.1?}: {sum:?}", began.elapsed());
    println!("the slowest was well {slowest:.1} s after everything was healed");
    if let Some((seed, outcome)) = failed {
        panic!("{}", complain(seed, &outcome));
    }
    if count >= 1_000 {
        sum.assert_eventful(count);
    }
}

/// For people: one seed with its whole event log.
#[test]
fn one_schedule() {
    let Some(seed) = from_environment("PGVANE_SIM_SEED") else { return };
    let outcome = world::run(seed, None, true);
    println!("{:?}", outcome.count);
    assert!(outcome.violation.is_none(), "{}", complain(seed, &outcome));
}

/// Seeds that failed once, each with its story.
#[test]
fn regressions() {
    let lines = include_str!("regressions.txt").lines().filter(|l| !l.starts_with('#') && !l.is_empty());
    for line in lines {
        let (seed, story) = line.split_once(' ').expect("a seed and its story");
        let seed = seed.parse().expect("a seed is a number");
        let outcome = world::run(seed, None, false);
        assert!(outcome.violation.is_none(), "{}\nits story: {story}", complain(seed, &outcome));
    }
}

/// A checker that notices nothing proves nothing: each of these is noticed, and for what it breaks.
#[test]
fn broken_variants_are_caught() {
    // Some need a rare coincidence: the search begins not far from where it happens. When the schedules change,
    // a survey of some ten thousand seeds finds the place anew.
    for (mutation, breaks, first) in [
        (Mutation::DeafAgent, "S1", BASE_SEED),
        (Mutation::NoGuard, "S1", BASE_SEED),
        (Mutation::ForgottenVouch, "S1", BASE_SEED),
        (Mutation::EarlyRelease, "S1", BASE_SEED),
        (Mutation::StealingCampaign, "S3", BASE_SEED),
        (Mutation::ProxyKeepsSessions, "S6", BASE_SEED),
        (Mutation::ProxyRoutesStale, "S5", BASE_SEED),
        (Mutation::RenewsSpentLease, "L1", BASE_SEED),
        (Mutation::SharedTimelines, "D1", BASE_SEED),
        (Mutation::IgnoresFence, "L1", BASE_SEED + 3_900),
        (Mutation::AsksSeenList, "S1", BASE_SEED + 20_400),
        (Mutation::MovesKeyFirst, "S1", BASE_SEED + 17_000),
        (Mutation::ForgetsRelease, "S3", BASE_SEED + 24_000),
        (Mutation::PromisesOwnTtl, "S1", BASE_SEED + 5_400),
        (Mutation::ActsBlindly, "S3", 7_000_060_000),
    ] {
        let failed = run_many(first, MUTANT_RUNS, Some(mutation), |_| {});
        let (seed, outcome) = failed.unwrap_or_else(|| panic!("{mutation:?} is not noticed"));
        let violation = outcome.violation.expect("it failed");
        println!("{mutation:?}: seed {seed} breaks {}: {}", violation.invariant, violation.what);
        assert_eq!(violation.invariant, breaks, "{mutation:?}: {}", violation.what);
    }
}

/// A run is a function of its seed, whatever else the machine does.
#[test]
fn a_seed_is_one_run() {
    for seed in BASE_SEED..BASE_SEED + 5 {
        let (a, b) = (world::run(seed, None, false), world::run(seed, None, false));
        assert_eq!((a.count, a.recovery), (b.count, b.recovery));
    }
}
