//! From one rule of confirmation to another, one write at a time, safe at every instant. Keeps S2.
//!
//! `sync` says who may lead next: of its voters and the leader, one that finds `quorum` others of them not ahead of
//! itself. `synchronous_standby_names` says who confirms: `needed` of those it names. No acknowledged commit may be
//! missing from whoever may lead next, so for each of them at most `quorum` voters may lack it. From this follows
//! what may be done when (`V` voters, `q` quorum, `Y` the named, `n` needed):
//!
//! - Commits acknowledged under `(n, Y)` are on the leader and on `n` of `Y`: at most `|V ∪ Y| - n` voters lack
//!   one. So `|V ∪ Y| <= q + n` must hold at every instant, for every value that may be in force.
//! - What was acknowledged under an earlier value lies before the position noted once the new value was in force
//!   in every process of the server. Only voters that have not flushed so far may lack it.
//! - A voter less, or a vote more, never makes it worse.
//!
//! Hence: what removes is written to `sync` first and to the server then; what adds goes to the server first, and
//! to `sync` once enough have flushed past the noted position. A write without an answer may still happen: until
//! another one has settled what `sync` is, the server's value stays, and nobody is added on a value of the server
//! that was not set and noted by this agent in this reign.

use pgvane_cluster::ids::Lsn;
use pgvane_cluster::records::SyncRecord;

use super::choose::Aim;
use super::names::{Method, Names, StandbyNames};

/// The rule in `sync`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Who may lead next, beside the leader.
    pub voters: Names,
    /// Votes a racer needs besides its own.
    pub quorum: usize,
}

impl Held {
    /// The rule of `record`.
    pub fn of(record: &SyncRecord) -> Held {
        Held {
            voters: record.standbys().collect(),
            quorum: usize::try_from(record.quorum).unwrap_or(usize::MAX),
        }
    }
}

/// One step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// All is as it should be.
    Done,
    /// Write this rule to `sync`.
    Write(Held),
    /// Put this value in force and note the position.
    Set(StandbyNames),
    /// These have to catch up first.
    Await(Names),
}

/// What is, as far as it is certain.
#[derive(Clone, Copy, Debug)]
pub struct Now<'a> {
    /// The rule in `sync`.
    pub held: &'a Held,
    /// Whether no other write of ours to `sync` may still happen.
    pub settled: bool,
    /// The value that the server has in force.
    pub in_force: &'a StandbyNames,
    /// Where the WAL ended when that value was in force in all of the server; `None` where we do not know.
    pub noted: Option<Lsn>,
}

/// Whether commits acknowledged under `names` are on enough of the voters.
pub fn is_covered(names: &StandbyNames, held: &Held) -> bool {
    held.voters.is_empty() || fits(names, held)
}

/// The same, and as members of Patroni want it at every step.
fn is_proper(names: &StandbyNames, held: &Held) -> bool {
    fits(names, held) && are_nested(names, &held.voters)
}

fn fits(names: &StandbyNames, held: &Held) -> bool {
    held.voters.or(&names.of).len() <= held.quorum.saturating_add(names.guarantee())
}

fn are_nested(names: &StandbyNames, voters: &Names) -> bool {
    voters.is_within(&names.of) || names.of.is_within(voters)
}

/// The next step towards `aim`. `confirmed`: how far a standby that confirms commits has flushed.
pub fn step(now: Now<'_>, aim: &Aim, confirmed: impl Fn(&str) -> Option<Lsn>) -> Step {
    let Now { held, settled, in_force, noted } = now;
    if !is_covered(in_force, held) {
        // Somebody else changed the server's value: whoever may lack a commit must not lead.
        return Step::Write(shrunk(in_force, held, aim.wait_for.method));
    }
    let next = if in_force.is_like(&aim.wait_for) && noted.is_some() {
        widen(held, aim, |name| noted.is_some_and(|noted| confirmed(name).is_some_and(|at| at >= noted)))
    } else if is_proper(&aim.wait_for, held) {
        Step::Set(aim.wait_for.clone())
    } else {
        Step::Write(narrowed(in_force, held, aim))
    };
    match next {
        // A write that may still happen was right for the value in force, and may not be for the next one.
        Step::Set(_) if !settled => Step::Write(held.clone()),
        Step::Set(_) | Step::Write(_) | Step::Await(_) | Step::Done => next,
    }
}

/// The value is in force: let those lead that hold all.
fn widen(held: &Held, aim: &Aim, holds_all: impl Fn(&str) -> bool) -> Step {
    if held.voters == aim.voters && held.quorum == aim.quorum {
        return Step::Done;
    }
    let lacking: Names = aim.voters.iter().filter(|name| !holds_all(name)).collect();
    // Of those that were voters before, `quorum` may lack something; of the others, who has not caught up.
    let at_most = lacking.len().min(held.quorum.saturating_add(lacking.without(&held.voters).len()));
    if at_most <= aim.quorum {
        return Step::Write(Held { voters: aim.voters.clone(), quorum: aim.quorum });
    }
    let voters = aim.voters.without(&lacking.without(&held.voters));
    if voters == held.voters {
        return Step::Await(lacking);
    }
    Step::Write(Held { voters, quorum: held.quorum.max(aim.quorum) })
}

/// The rule that allows the server's value to become the one that is aimed at.
fn narrowed(in_force: &StandbyNames, held: &Held, aim: &Aim) -> Held {
    let stay = held.voters.and(&aim.voters);
    let voters = if are_nested(in_force, &stay) { stay } else { stay.and(&in_force.of) };
    Held { voters, quorum: held.quorum.max(aim.quorum) }
}

/// The rule that the server's value covers although it is not ours.
fn shrunk(in_force: &StandbyNames, held: &Held, method: Method) -> Held {
    let voters = held.voters.and(&in_force.of);
    let less = Held { voters, quorum: held.quorum };
    if is_covered(in_force, &less) {
        return less;
    }
    match method {
        // Not every member that reads a rule of names asks for votes.
        Method::First => Held { voters: Names::default(), quorum: held.quorum },
        Method::Any => {
            let all = less.voters.or(&in_force.of).len();
            Held { quorum: less.quorum.max(all.saturating_sub(in_force.guarantee())), ..less }
        }
    }
}
