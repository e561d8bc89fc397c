//! When one reign goes on, ends and the next begins. Keeps S4 and S6.

use std::sync::Arc;

use pgvane_cluster::ids::{Epoch, NodeName};

use super::Reign;
use super::derive::Plan;
use super::freshness::{Judgement, Standing};
use crate::close::CloseReason;

/// Keeps, begins or ends the `current` reign, as the newest view names `leader`; answers the one that is to end,
/// and why.
pub fn succeed(
    current: &mut Option<(NodeName, Arc<Reign>)>,
    plan: &Plan,
    leader: Option<&(NodeName, Epoch)>,
    judgement: Judgement,
) -> Option<(Arc<Reign>, CloseReason)> {
    let mut ended = None;
    if let Some((name, reign)) = current.take() {
        let goes_on = leader.is_some_and(|(n, epoch)| *n == name && *epoch == reign.epoch());
        if !goes_on {
            ended = Some((reign, CloseReason::EpochEnded));
        } else if judgement.standing == Standing::Lost {
            ended = Some((reign, CloseReason::StoreLost));
        } else {
            reign.extend(judgement.valid_until);
            *current = Some((name, reign));
        }
    }
    if let (None, Ok(primary)) = (&current, &plan.primary) {
        let reign = Reign::new(primary.epoch, judgement.valid_until);
        *current = Some((primary.name.clone(), Arc::new(reign)));
    }
    ended
}
