//! Whose history is it: what agents keep of their timelines, and what they find when they compare WAL.

use std::time::Duration;

use pgvane_agent::decide::reign::{self, Word};
use pgvane_agent::decide::world::{Upstream, World as Snapshot};
use pgvane_agent::postgres::lineage::{self, Content, Course, Ours};
use pgvane_agent::postgres::rewind::LeaderHistory;
use pgvane_cluster::ids::{Epoch, Timeline};
use pgvane_cluster::reigns::{Descent, Lineage, Reign, Reigns};

use crate::agent::{name, tell};
use crate::effects::{Ctx, Order};
use crate::etcd::node_of;
use crate::postgres::Postgres;
use crate::runtime::{MS, Proc, Sim};
use crate::wal::Wal;
use crate::world::{Mutation, World};

impl Postgres {
    /// What is known of the data, with a promotion that was noted and did happen.
    pub(crate) fn descent(&self) -> Descent {
        let mut descent = self.descent.clone();
        if let Some((reign, after)) = &self.promising
            && !self.standby_signal
            && self.wal.timeline > *after
        {
            descent.known.0.entry(Timeline(self.wal.timeline)).or_insert(reign.clone());
        }
        descent
    }

    /// Replaces it.
    pub(crate) fn keep(&mut self, descent: Descent) {
        self.descent = descent;
        self.promising = None;
    }
}

/// What a look at the files shows: the same bytes where both have the same timeline.
fn content(ours: &Wal, theirs: &Wal) -> Content {
    let there = theirs.past.iter().find(|p| p.timeline == ours.timeline).map(|p| p.branch);
    match there.or((theirs.timeline == ours.timeline).then_some(theirs.branch)) {
        Some(branch) if branch == ours.branch => Content::Same,
        Some(_) => Content::Differs,
        None => Content::Unknown,
    }
}

fn list<'a>(w: &World, n: usize, order: &'a Order) -> Option<&'a Reigns> {
    let settings = &w.nodes[n].agent.as_ref()?.settings;
    let view = order.view.as_deref()?;
    match reign::word(settings, view, view.leader.as_ref()?) {
        Word::Told(list) if !is_blind(w) => Some(list),
        Word::Told(_) | Word::Expected | Word::None => None,
    }
}

fn is_blind(w: &World) -> bool {
    w.mutation == Some(Mutation::SharedTimelines)
}

impl Ctx<'_> {
    /// What `try_rejoin` comes to.
    pub(crate) fn judge(&self, source: usize, theirs: &LeaderHistory, order: &Order) -> Course {
        let w = self.sim.w();
        let pg = &w.nodes[self.n].pg;
        let ours = Ours {
            control: pg.control(),
            is_copy: false,
            checkpoint_end: None,
            ended: Some(pg.entries()),
            descent: pg.descent(),
        };
        let list = list(&w, self.n, order);
        let seen = content(&pg.wal, &w.nodes[source].pg.wal);
        // Files are not kept for ever.
        let looks = ours.needs_a_look(list, theirs) && !is_blind(&w);
        lineage::judge(&ours, theirs, list, if looks { seen } else { Content::Unknown })
    }

    /// What `enact::rejoin::parted` does.
    pub(crate) async fn parted(&self, upstream: &Upstream, order: &Order) -> Option<Epoch> {
        let source = node_of(upstream.name.as_str());
        self.pause(MS, 5 * MS).await;
        let reached = self.reaches(source);
        let w = self.sim.w();
        let view = order.view.as_deref().filter(|_| !is_blind(&w))?;
        let key = view.leader.as_ref()?;
        let pg = &w.nodes[self.n].pg;
        let timeline = Timeline(pg.wal.timeline);
        let word = list(&w, self.n, order).map_or(Word::None, Word::Told);
        let known = pg.descent();
        let parted = match reign::lineage(&known, timeline, word) {
            Lineage::Same => false,
            Lineage::Parted(_) => true,
            Lineage::Unknown => {
                !reign::is_same_by_record(view, &known, timeline, &upstream.name)
                    && reached
                    && content(&pg.wal, &w.nodes[source].pg.wal) == Content::Differs
            }
        };
        parted.then_some(key.epoch)
    }

    /// Notes a promotion before it happens.
    pub(crate) async fn promise(&self, epoch: Epoch) {
        self.pause(MS, 10 * MS).await;
        let mut w = self.sim.w();
        let pg = &mut w.nodes[self.n].pg;
        pg.descent = pg.descent();
        pg.promising = Some((Reign { epoch, leader: name(self.n) }, pg.wal.timeline));
    }

    /// Tells the loop whose the data are now.
    pub(crate) fn tell_descent(&self) {
        let known = {
            let w = self.sim.w();
            if is_blind(&w) { Descent::default() } else { w.nodes[self.n].pg.descent() }
        };
        tell(self.sim, self.n, self.proc, |agent, _| agent.memory.descent = known);
    }

    /// Notes in which reign the standby is pointed at somebody.
    pub(crate) fn note_reign(&self, order: &Order) {
        let Some(epoch) = order.view.as_ref().and_then(|v| Some(v.leader.as_ref()?.epoch)) else { return };
        {
            let mut w = self.sim.w();
            let pg = &mut w.nodes[self.n].pg;
            let descent = pg.descent().following(Timeline(pg.wal.timeline), epoch);
            pg.keep(descent);
        }
        self.tell_descent();
    }
}

/// What `Keeper::learn_reigns` does.
pub(crate) fn learn(sim: &Sim, n: usize, proc: Proc, world: &Snapshot) {
    if is_blind(&sim.w()) {
        return;
    }
    let Some(known) = reign::learned(world) else { return };
    let inner = sim.clone();
    sim.spawn(proc, async move {
        let takes = inner.w().rng.range(MS, 10 * MS);
        inner.sleep(proc, Duration::from_nanos(takes)).await;
        inner.w().nodes[n].pg.keep(known.clone());
        tell(&inner, n, proc, |agent, _| agent.memory.descent = known);
    });
}
