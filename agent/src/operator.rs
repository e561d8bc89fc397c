//! What operators ask of the loop: a wish is judged, remembered, and answered when it has come true or cannot.
//!
//! The judgement and every step are `decide`'s; here is only who waits for the answer.

use pgvane_cluster::view::ClusterView;
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::api::{RestartAnswer, RestartAsk};
use crate::decide::memory::Memory;
use crate::decide::reinit::{self, Reinit};
use crate::decide::restart::{self, Facts, Progress, Restart, Scheduled, ScheduledRestart};
use crate::decide::rewind;
use crate::decide::world::{Dcs, Slot, World};

/// The wishes under way.
#[derive(Debug, Default)]
pub struct Operator {
    /// The number of the last restart.
    last: u64,
    /// Who waits for its end.
    waiting: Option<(u64, oneshot::Sender<RestartAnswer>)>,
    /// Who waits for this member to follow.
    rewinding: Option<oneshot::Sender<Result<String, String>>>,
    /// Whether our member record of an earlier agent was looked at.
    adopted: bool,
}

impl Operator {
    /// Whether the member record may be written: what the one of an earlier agent holds is known.
    pub fn has_adopted(&self) -> bool {
        self.adopted
    }

    /// Whether nobody waits for anything.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_none() && self.rewinding.is_none()
    }

    /// Takes in what an earlier agent was asked to do later, once, before our own record replaces its.
    pub fn adopt(&mut self, memory: &mut Memory, world: &World) {
        let Dcs::Known(view) = &world.dcs else { return };
        if std::mem::replace(&mut self.adopted, true) {
            return;
        }
        memory.scheduled_restart = memory.scheduled_restart.take().or_else(|| scheduled_before(view, world));
        if let Some(found) = &memory.scheduled_restart {
            info!(schedule = found.schedule, "a restart is scheduled");
        }
    }

    /// Takes the steps that are due: a scheduled restart begins or is dropped, whoever waits is answered.
    /// `settled`: our member record tells the end already, so that who is answered sees it in the store.
    pub fn turn(&mut self, memory: &mut Memory, world: &World, facts: &Facts, settled: bool) {
        match restart::scheduled(world, facts) {
            None | Some(Scheduled::Keep) => {}
            Some(Scheduled::Drop(why)) => {
                info!(why, "the scheduled restart is dropped");
                memory.scheduled_restart = None;
            }
            Some(Scheduled::Begin) => {
                // `world` does not know of it yet, and cannot tell how it stands.
                self.begin_scheduled(memory, world, facts);
                return;
            }
        }
        self.answer(memory, world, settled);
        if self.rewinding.is_some()
            && let Some(answer) = rewind::settled(&rewind::standing(world))
        {
            self.rejoined(memory, answer);
        }
    }

    /// The member is to follow its leader, by whatever that takes.
    pub fn rewind(
        &mut self,
        memory: &mut Memory,
        world: &World,
        reply: oneshot::Sender<Result<String, String>>,
    ) {
        let under_way = || Err("an operator waits for that already".to_owned());
        let now = rewind::settled(&rewind::standing(world));
        match now.or_else(|| self.rewinding.is_some().then(under_way)) {
            // Whoever asked may have gone.
            Some(answer) => drop(reply.send(answer)),
            None => {
                info!("rewind is asked for");
                memory.rewind = true;
                memory.pauses.remove(&Slot::Postgres);
                self.rewinding = Some(reply);
            }
        }
    }

    /// The way back to the leader ended so.
    pub fn rejoined(&mut self, memory: &mut Memory, answer: Result<String, String>) {
        memory.rewind = false;
        if let Some(reply) = self.rewinding.take() {
            info!(?answer, "the rewind ended");
            let _ = reply.send(answer);
        }
    }

    fn begin_scheduled(&mut self, memory: &mut Memory, world: &World, facts: &Facts) {
        let Some(due) = memory.scheduled_restart.take() else { return };
        match restart::judge(world, &due.filters, facts) {
            Ok(()) => {
                info!(schedule = due.schedule, "the time of the scheduled restart has come");
                self.begin(memory, world, due.timeout);
            }
            Err(why) => warn!(why, "the scheduled restart is not done"),
        }
    }

    fn begin(&mut self, memory: &mut Memory, world: &World, timeout: Option<u64>) -> u64 {
        self.last += 1;
        let timeout = timeout.map(std::time::Duration::from_secs);
        memory.restart = Some(Restart::new(world, self.last, timeout));
        self.last
    }

    fn answer(&mut self, memory: &mut Memory, world: &World, settled: bool) {
        let id = match (&self.waiting, memory.restart) {
            (Some((id, _)), _) => *id,
            (None, Some(restart)) => restart.id,
            (None, None) => return,
        };
        let answer = match restart::progress(world, id) {
            Progress::Done if settled => RestartAnswer::Restarted,
            Progress::UnderWay | Progress::Done => return,
            Progress::Failed => RestartAnswer::NotDone("restart failed".to_owned()),
            Progress::StillStarting => RestartAnswer::NotDone("postgres is still starting".to_owned()),
            Progress::NotBegun => RestartAnswer::NotDone("the restart could not begin in time".to_owned()),
        };
        if let Some((_, reply)) = self.waiting.take() {
            info!(?answer, "the restart ended");
            // Whoever asked may have gone.
            let _ = reply.send(answer);
        } else if memory.restart.is_some_and(|r| r.stopped.is_none()) {
            warn!(?answer, "the scheduled restart ended");
        }
        // One that stopped the server is still there for the rules that start it.
        memory.restart = memory.restart.filter(|r| r.stopped.is_some());
    }

    /// A restart is asked for, now or for later.
    pub fn restart(
        &mut self,
        memory: &mut Memory,
        world: &World,
        facts: &Facts,
        ask: RestartAsk,
        reply: oneshot::Sender<RestartAnswer>,
    ) {
        let RestartAsk { schedule, filters, timeout } = ask;
        if let Some(schedule) = schedule {
            let answer = if memory.scheduled_restart.is_some() {
                RestartAnswer::AlreadyScheduled
            } else {
                info!(schedule, "a restart is scheduled");
                let postmaster_start_time = facts.started_at.clone();
                let scheduled = ScheduledRestart { schedule, postmaster_start_time, filters, timeout };
                memory.scheduled_restart = Some(scheduled);
                RestartAnswer::Scheduled
            };
            let _ = reply.send(answer);
            return;
        }
        match restart::judge(world, &filters, facts) {
            Ok(()) => {
                info!("a restart is asked for");
                let id = self.begin(memory, world, timeout);
                self.waiting = Some((id, reply));
            }
            Err(why) => {
                info!(why, "not proceeding with the restart");
                let _ = reply.send(RestartAnswer::NotDone(why));
            }
        }
    }

    /// The replica is to be made anew; the error is the text for the operator.
    pub fn reinitialize(
        &mut self,
        memory: &mut Memory,
        world: &World,
        force: bool,
        from_leader: bool,
    ) -> Result<(), String> {
        reinit::judge(world, force)?;
        info!(force, from_leader, "reinitialize is asked for");
        // It makes a restart needless, and whoever waits for one in vain is told.
        memory.restart = None;
        if let Some((_, reply)) = self.waiting.take() {
            let _ = reply.send(RestartAnswer::NotDone("the member is reinitialized".to_owned()));
        }
        memory.reinit = Some(Reinit { asked_at: world.now, from_leader, cloned: false });
        Ok(())
    }
}

fn scheduled_before(view: &ClusterView, world: &World) -> Option<ScheduledRestart> {
    let record = &view.members.get(&world.me)?.record;
    serde_json::from_value(record.scheduled_restart.clone()?).ok()
}
