//! Who should confirm commits: by what the server says of its standbys, the members' own words, and the settings.

use pgvane_cluster::ids::{Lsn, NodeName};
use pgvane_cluster::records::{MemberState, Tags};
use pgvane_cluster::settings::{ClusterSettings, SynchronousMode};
use pgvane_cluster::view::ClusterView;

use super::machine::Held;
use super::names::{Method, Names, StandbyNames};

/// What the local server says of synchronous replication.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replication {
    /// `synchronous_standby_names` in force.
    pub names: String,
    /// Which position of a standby confirms a commit, by `synchronous_commit`.
    pub confirms: Confirms,
    /// Who streams from here: one for each walsender.
    pub standbys: Vec<Standby>,
}

/// Which position of a standby confirms a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Confirms {
    /// Written (`remote_write`).
    Write,
    /// Flushed.
    #[default]
    Flush,
    /// Replayed (`remote_apply`).
    Replay,
}

impl Confirms {
    /// By the value of `synchronous_commit`.
    pub fn by(synchronous_commit: &str) -> Confirms {
        match synchronous_commit {
            "remote_write" => Confirms::Write,
            "remote_apply" => Confirms::Replay,
            _ => Confirms::Flush,
        }
    }
}

/// One walsender.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standby {
    /// The name that the standby gave.
    pub name: String,
    /// Whether it has caught up and streams.
    pub streaming: bool,
    /// What it is to synchronous replication.
    pub sync: SyncState,
    /// How far it has written.
    pub write: Lsn,
    /// How far it has flushed.
    pub flush: Lsn,
    /// How far it has replayed.
    pub replay: Lsn,
}

/// `pg_stat_replication.sync_state`, the lesser first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SyncState {
    /// Nothing.
    Async,
    /// Would be the next.
    Potential,
    /// One of several of which some must confirm.
    Quorum,
    /// Must confirm.
    Sync,
}

impl SyncState {
    /// By PostgreSQL's word.
    pub fn by(word: &str) -> SyncState {
        match word {
            "sync" => SyncState::Sync,
            "quorum" => SyncState::Quorum,
            "potential" => SyncState::Potential,
            _ => SyncState::Async,
        }
    }
}

impl Replication {
    /// How far the standby `name` has surely flushed what the server wrote; `None` while it does not confirm
    /// commits here. Two connections of one name: the lesser counts, for one may be somebody else's (trap 7).
    pub fn confirmed(&self, name: &str) -> Option<Lsn> {
        let rows = self.standbys.iter().filter(|s| s.name.eq_ignore_ascii_case(name));
        let confirms = |s: &Standby| (s.streaming && s.sync >= SyncState::Quorum).then_some(s.flush);
        rows.map(confirms).min().flatten()
    }

    /// Whether enough of those that commits wait for are there to confirm them.
    pub fn can_confirm(&self, names: &StandbyNames) -> bool {
        let there = self.standbys.iter().filter(|s| s.streaming);
        !names.waits()
            || there.filter(|s| names.anybody || names.of.contains(&s.name)).count() >= names.needed
    }
}

/// What is to be: who races, with how many votes of the others, and whom commits wait for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Aim {
    /// The names in `sync`.
    pub voters: Names,
    /// Votes a racer needs besides its own.
    pub quorum: usize,
    /// `synchronous_standby_names`.
    pub wait_for: StandbyNames,
}

struct Candidate {
    name: String,
    no_failover: bool,
    priority: i64,
    sync: SyncState,
    position: Lsn,
}

/// What is to be now. `position`: how far the primary has flushed; `held`: the rule in `sync`, which strict mode
/// keeps where nobody could take over.
pub fn aim(
    view: &ClusterView,
    me: &NodeName,
    settings: &ClusterSettings,
    replication: &Replication,
    position: Lsn,
    held: &Held,
) -> Aim {
    let wanted = usize::try_from(settings.synchronous_node_count).unwrap_or(usize::MAX).max(1);
    let able = able(view, me, settings, replication, position);
    let strict = settings.synchronous_mode_strict;
    if settings.synchronous_mode == SynchronousMode::Quorum {
        // A member that never leads may be ahead of those that could: it counts only where it is needed.
        let enough = |place: usize, c: &Candidate| !c.no_failover || place < wanted;
        let voters: Names =
            able.iter().enumerate().filter(|(n, c)| enough(*n, c)).map(|(_, c)| c.name.as_str()).collect();
        return if voters.is_empty() && strict {
            kept(held, Method::Any, wanted)
        } else {
            let needed = wanted.min(voters.len());
            Aim { quorum: voters.len() - needed, wait_for: StandbyNames::any(needed, voters.clone()), voters }
        };
    }
    let voters: Names = able.iter().take(wanted).map(|c| c.name.as_str()).collect();
    if voters.is_empty() && strict {
        return kept(held, Method::First, wanted);
    }
    Aim { quorum: 0, wait_for: StandbyNames::all(voters.clone()), voters }
}

/// Strict mode with nobody able to confirm: those that did so last stay, and commits wait.
pub(super) fn kept(held: &Held, method: Method, wanted: usize) -> Aim {
    let voters = held.voters.clone();
    if voters.is_empty() {
        return Aim { voters, quorum: held.quorum, wait_for: StandbyNames::placeholder(method) };
    }
    let least = voters.len().saturating_sub(held.quorum).max(1);
    let (needed, quorum) = match method {
        Method::First => (voters.len(), held.quorum),
        Method::Any => {
            let needed = wanted.clamp(least, voters.len());
            (needed, held.quorum)
        }
    };
    let wait_for = StandbyNames { method, needed, of: voters.clone(), anybody: false };
    Aim { voters, quorum, wait_for }
}

/// The standbys that may confirm commits, the best first (contract 8.8).
fn able(
    view: &ClusterView,
    me: &NodeName,
    settings: &ClusterSettings,
    replication: &Replication,
    position: Lsn,
) -> Vec<Candidate> {
    let mut able: Vec<Candidate> = view
        .members
        .iter()
        .filter(|(name, m)| {
            !name.as_str().eq_ignore_ascii_case(me.as_str())
                && m.record.state == MemberState::Running
                && m.record.tags.may_confirm()
                && !is_cascader(view, me, &m.record.tags)
        })
        .filter_map(|(name, m)| candidate(name, &m.record.tags, replication))
        .collect();
    if let Some(limit) = settings.maximum_lag_on_syncnode {
        let best = match able.as_slice() {
            [] | [_] => position,
            several => several.iter().map(|c| c.position).max().unwrap_or(position),
        };
        able.retain(|c| best.bytes_since(c.position) <= limit);
    }
    able.sort_by(|a, b| {
        let rank = |c: &Candidate| (!c.no_failover, c.priority, c.sync, c.position);
        rank(b).cmp(&rank(a)).then_with(|| a.name.cmp(&b.name))
    });
    able
}

/// Whether a member with these tags replicates from another standby that is there.
fn is_cascader(view: &ClusterView, me: &NodeName, tags: &Tags) -> bool {
    let upstream = tags.replicate_from().filter(|name| name != me);
    let upstream = upstream.and_then(|name| view.members.get(&name));
    upstream.is_some_and(|m| m.record.state == MemberState::Running)
}

fn candidate(name: &NodeName, tags: &Tags, replication: &Replication) -> Option<Candidate> {
    let rows = replication.standbys.iter().filter(|s| s.name.eq_ignore_ascii_case(name.as_str()));
    let rows: Vec<&Standby> = rows.filter(|s| s.streaming).collect();
    let position = rows.iter().map(|s| match replication.confirms {
        Confirms::Write => s.write,
        Confirms::Flush => s.flush,
        Confirms::Replay => s.replay,
    });
    Some(Candidate {
        name: name.as_str().to_owned(),
        no_failover: !tags.may_lead(),
        priority: tags.sync_priority(),
        position: position.min()?,
        sync: rows.iter().map(|s| s.sync).max()?,
    })
}
