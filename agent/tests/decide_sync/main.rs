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
