//! The bugs that are planted: each one line of the core, as it is and as it might have been written.

/// A bug.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// A word for it.
    pub name: &'static str,
    /// The file, from the root.
    pub file: &'static str,
    /// The line as it is, without its indentation: exactly one of the file.
    pub before: &'static str,
    /// The line as it might have been.
    pub after: &'static str,
    /// What that means.
    pub story: &'static str,
}

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "key-vanished",
        file: "agent/src/decide/safety.rs",
        before: "Holder::Nobody if world.authority().is_none() => {",
        after: "Holder::Nobody if world.authority().is_none() && world.lease == super::world::OwnLease::None => {",
        story: "a primary whose leader key is gone serves on while it has a lease",
    },
    Mutant {
        name: "late-is-early-enough",
        file: "agent/src/decide/lease.rs",
        before: ".filter(|authority| world.now < authority.guard_deadline)",
        after: ".filter(|authority| world.now < authority.guard_deadline + world.timing.ttl)",
        story: "the right to lead outlives the lease",
    },
    Mutant {
        name: "forgets-release",
        file: "agent/src/decide/memory.rs",
        before: "self.released.is_some_and(|released| released.epoch == epoch)",
        after: "self.released.is_some_and(|released| released.epoch == epoch && released.done)",
        story: "a reign whose key we asked to delete counts until the answer comes, which may be lost",
    },
    Mutant {
        name: "consent-of-another-reign",
        file: "agent/src/decide/lease.rs",
        before: "Holder::Me(key) | Holder::MyName(key) => key.epoch == consent.epoch,",
        after: "Holder::Me(_) | Holder::MyName(_) => true,",
        story: "a promise for an earlier reign covers this one",
    },
    Mutant {
        name: "no-margin",
        file: "agent/src/timing.rs",
        before: "sent_at + ttl.saturating_sub(self.margin(ttl))",
        after: "sent_at + ttl",
        story: "clocks are taken for exact",
    },
    Mutant {
        name: "no-guard-budget",
        file: "agent/src/timing.rs",
        before: "before(self.lease_safe_until(sent_at, ttl), self.guard_budget, sent_at)",
        after: "before(self.lease_safe_until(sent_at, ttl), Duration::ZERO, sent_at)",
        story: "the guard begins to stop PostgreSQL when the lease ends",
    },
    Mutant {
        name: "longer-history-first",
        file: "agent/src/decide/candidate.rs",
        before: "let theirs = (timeline, their_epoch, *position);",
        after: "let theirs = (sql.timeline, their_epoch, *position);",
        story: "the further position wins whatever its timeline",
    },
    Mutant {
        name: "behind-and-leads",
        file: "agent/src/decide/candidate.rs",
        before: "if theirs > ours {",
        after: "if theirs.0 > ours.0 {",
        story: "a candidate does not wait for one that has more WAL",
    },
    Mutant {
        name: "primary-alive",
        file: "agent/src/decide/candidate.rs",
        before: "if *is_primary {",
        after: "if *is_primary && !running {",
        story: "a member that still answers as a primary does not stop the race",
    },
    Mutant {
        name: "old-mode-old-list",
        file: "agent/src/decide/candidate.rs",
        before: "let in_force = world.settings.failsafe_mode || !world.memory.led_by_patroni;",
        after: "let in_force = world.settings.failsafe_mode;",
        story: "the failsafe list is void once the mode is off, though a leader that is cut off counts on it",
    },
    Mutant {
        name: "vouches-though-store-answers",
        file: "agent/src/decide/consent.rs",
        before: "if !store_is_away(world) && !renewal_is_late(world) {",
        after: "if !store_is_away(world) && !renewal_is_late(world) && world.memory.leaderless_since.is_some() {",
        story: "a member vouches for a leader that is cut off alone",
    },
    Mutant {
        name: "vouches-while-it-promotes",
        file: "agent/src/decide/consent.rs",
        before: "if world.may_write() || becomes_primary {",
        after: "if world.may_write() && !becomes_primary {",
        story: "a member vouches for another while it becomes primary itself",
    },
    Mutant {
        name: "vouches-while-it-campaigns",
        file: "agent/src/decide/consent.rs",
        before: "if campaigning {",
        after: "if campaigning && world.may_write() {",
        story: "a member vouches for another while its own transaction is on the way",
    },
    Mutant {
        name: "asks-seen-list",
        file: "agent/src/decide/consent.rs",
        before: "let mut all = self.unsettled.clone();",
        after: "let mut all = BTreeMap::new();",
        story: "only those vouch that the failsafe list names as it was last seen",
    },
    Mutant {
        name: "promises-from-now",
        file: "agent/src/decide/memory.rs",
        before: "self.vouch.insert(Vouch { leader, until: before.max(now + ttl) })",
        after: "self.vouch.insert(Vouch { leader, until: before.min(now + ttl) })",
        story: "a shorter promise takes the place of a longer one",
    },
    Mutant {
        name: "races-against-its-word",
        file: "agent/src/decide/mod.rs",
        before: "if let Some(vouch) = world.memory.vouch.as_ref().filter(|_| leads) {",
        after: "if let Some(vouch) = world.memory.vouch.as_ref().filter(|_| leads && !serves) {",
        story: "who vouched for another may promote by a campaign that was under way",
    },
    Mutant {
        name: "unguarded",
        file: "agent/src/decide/mod.rs",
        before: "if self.settings.pause || self.local.guard == (Guard::Armed { epoch }) {",
        after: "if self.settings.pause || matches!(self.local.guard, Guard::Armed { .. }) {",
        story: "a guard that holds the deadline of another reign is enough to promote",
    },
    Mutant {
        name: "releases-under-a-start",
        file: "agent/src/decide/mod.rs",
        before: "if matches!(action, Action::Release { .. }) && !world.free(Slot::Postgres) {",
        after: "if matches!(action, Action::Release { optime: Some(_), .. }) && !world.free(Slot::Postgres) {",
        story: "the key is given back while the start of a primary is under way",
    },
    Mutant {
        name: "confirmed-before-the-stop",
        file: "agent/src/decide/hand_over.rs",
        before: "let confirmed = (world.peers.asked_at >= stopped_at)",
        after: "let confirmed = (world.peers.asked_at <= stopped_at)",
        story: "a hand-over counts on answers from before PostgreSQL had stopped",
    },
    Mutant {
        name: "hands-over-to-anybody",
        file: "agent/src/decide/hand_over.rs",
        before: "if tags.may_lead() && *position >= floor =>",
        after: "if tags.may_lead() || *position >= floor =>",
        story: "a hand-over does not wait until the candidate has everything",
    },
    Mutant {
        name: "clean-release-old-timeline",
        file: "agent/src/decide/candidate.rs",
        before: "if newest.is_some_and(|timeline| sql.timeline < timeline) {",
        after: "if newest.is_some_and(|timeline| sql.timeline > timeline) {",
        story: "after a clean release a server that missed the last promotion may lead unasked",
    },
    Mutant {
        name: "standby-initializes",
        file: "agent/src/decide/data.rs",
        before: "None if control.standby => Some(world.wait(Reason::StandbyMayNotBeFirst)),",
        after: "None if control.standby && !control.clean => Some(world.wait(Reason::StandbyMayNotBeFirst)),",
        story: "a standby writes `initialize` anew after the store was wiped",
    },
    Mutant {
        name: "old-claim",
        file: "cluster/src/view.rs",
        before: "(self.initialize_revision == Some(claim.mod_revision)).then_some(claim)",
        after: "(self.initialize_revision >= Some(claim.mod_revision)).then_some(claim)",
        story: "a claim to bootstrap outlives the `initialize` it was written with",
    },
    Mutant {
        name: "crash-hands-over",
        file: "agent/src/decide/leading.rs",
        before: "let down_for_long = || world.memory.down_since.is_some_and(|since| world.now.since(since) >= limit);",
        after: "let down_for_long = || world.memory.down_since.is_some_and(|since| world.now.since(since) <= limit);",
        story: "a crashed primary is handed over at once, and with it what the standbys lack",
    },
    Mutant {
        name: "guard-oversleeps",
        file: "agent/src/guard/core.rs",
        before: "&& now >= watch.deadline",
        after: "&& now >= watch.deadline + watch.budget",
        story: "the guard acts when the last process should be dead already",
    },
    Mutant {
        name: "guard-revokes-first",
        file: "agent/src/guard/core.rs",
        before: "Phase::Killing { watch, .. } if clean => fence_and_revoke(state, watch, now, now + SWEEP_SOON),",
        after: "Phase::Killing { watch, .. } => fence_and_revoke(state, watch, now, now + SWEEP_SOON),",
        story: "the guard gives the lease back while processes of PostgreSQL still live",
    },
    Mutant {
        name: "guard-forgets-spent-lease",
        file: "agent/src/guard/core.rs",
        before: "if state.spent == Some(asked.lease) {",
        after: "if state.spent == Some(asked.lease) && state.agent_gone_since.is_some() {",
        story: "the guard is armed for a lease that it began to give back",
    },
    Mutant {
        name: "guard-extends-any-lease",
        file: "agent/src/guard/core.rs",
        before: "Phase::Armed { watch, .. } if watch.lease == lease => {",
        after: "Phase::Armed { watch, .. } if watch.lease >= lease => {",
        story: "a renewal of another lease moves the guard's deadline",
    },
    Mutant {
        name: "guard-counts-forward",
        file: "agent/src/guard/core.rs",
        before: "watch.deadline = watch.deadline.max(deadline.min(now + watch.ttl));",
        after: "watch.deadline = watch.deadline.max(deadline).max(now + watch.ttl);",
        story: "the guard counts the lease from when it hears of the renewal",
    },
    Mutant {
        name: "list-without-leader",
        file: "agent/src/decide/announce.rs",
        before: "let differs = seen != Some(&list) && list.0.contains_key(&world.me);",
        after: "let differs = seen != Some(&list);",
        story: "a leader whose member key the store has lost may not race for what it loses next",
    },
    Mutant {
        name: "waits-after-nobody",
        file: "agent/src/decide/sync/mod.rs",
        before: "self.waits = self.waits.filter(|_| waits(names));",
        after: "",
        story: "commits are taken to wait although a change to nobody, whose end is unknown, may have let them go",
    },
    Mutant {
        name: "serves-over-an-old-rule",
        file: "agent/src/decide/sync/succession.rs",
        before: "let left = record(view)?;",
        after: "let left = record(view).filter(|_| false)?;",
        story: "with synchronous mode off a primary serves while the key still names standbys",
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::programs::root;

    #[test]
    fn each_applies_to_the_source() {
        let mut names = BTreeSet::new();
        for mutant in MUTANTS {
            assert!(names.insert(mutant.name), "{} is there twice", mutant.name);
            assert_ne!(mutant.before, mutant.after, "{}", mutant.name);
            let text = std::fs::read_to_string(root().join(mutant.file)).expect(mutant.file);
            let lines = text.lines().filter(|line| line.trim() == mutant.before).count();
            assert_eq!(
                lines, 1,
                "{}: {} has this line {lines} times:\n{}",
                mutant.name, mutant.file, mutant.before
            );
        }
        assert!(names.len() >= 20);
    }
}
