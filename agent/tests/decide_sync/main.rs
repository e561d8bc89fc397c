//! Synchronous replication as decided: rule by rule, and as a property over a model of the store, the servers and an
//! agent that fails anywhere. Keeps S2.

#[path = "../decide_support/mod.rs"]
mod decide_support;
mod model;
mod rules;

use model::{Model, Op, ops};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

proptest! {
    // The same cases every day; PROPTEST_RNG_SEED plays others.
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(20_260_001), cases: 3000, max_shrink_iters: 200_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever fails in whichever order: no acknowledged commit is missing from anybody who may lead next.
    #[test]
    fn whoever_may_lead_next_has_every_acknowledged_commit(ops in ops()) {
        let mut model = Model::new();
        for (n, op) in ops.iter().enumerate() {
            model.play(op);
            if let Err(why) = model.check() {
                return Err(TestCaseError::fail(format!("after {op:?}, number {n}: {why}")));
            }
        }
        prop_assert!(model.check_race().is_ok(), "{:?}", model.check_race());
        // And once faults heal, all is as the settings want it.
        if let Err(why) = model.heal() {
            return Err(TestCaseError::fail(why));
        }
    }
}

/// Courses that broke it once.
#[test]
fn regressions() {
    use Op::{Agent, Checkpointer, Commit, Die, Failover, NoSync, Receive, Return, Settings, Walsender};
    use pgvane_cluster::settings::SynchronousMode::{Off, On, Quorum};
    let turns = |n: usize| vec![Agent(0); n];
    let courses = [
        vec![
            turns(7),
            vec![NoSync(0, true), Die(3)],
            turns(4),
            vec![Die(2), Commit],
            turns(2),
            vec![Return(2)],
            turns(2),
            vec![Agent(1), Agent(0), Checkpointer, Agent(0), Receive(2)],
            turns(3),
            vec![Walsender(2)],
            turns(2),
            vec![Commit],
        ],
        vec![
            vec![NoSync(2, true), Settings(Quorum, false, 1), NoSync(0, true)],
            turns(7),
            vec![Failover(34, 0), Agent(0), Settings(Off, false, 1)],
            turns(2),
            vec![Settings(On, false, 1)],
        ],
    ];
    for course in courses.map(|parts| parts.concat()) {
        let mut model = Model::new();
        for (n, op) in course.iter().enumerate() {
            model.play(op);
            assert_eq!(model.check(), Ok(()), "after {op:?}, number {n} of {course:?}");
        }
    }
}

/// The property must be able to fail.
#[test]
fn the_model_notices_a_commit_that_nobody_confirmed() {
    let mut model = Model::new();
    model.heal().expect("nothing fails");
    model.play(&Op::Commit);
    assert_eq!((model.check(), model.check_race()), (Ok(()), Ok(())));
    model.acknowledge_unconfirmed();
    assert!(model.check().is_err() && model.check_race().is_err(), "{model:?}");
}
