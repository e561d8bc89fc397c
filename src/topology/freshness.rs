//! Whether what was last read of the leader may still be acted on. Pure; time is a parameter.
//!
//! A leader key that was seen proves a leader only as long as its lease can live. The deadline is the
//! store's own word on the lease (or the time of the last proof plus the cluster's ttl), minus a margin. Past
//! it the cluster's policy decides: `fence` at once, or `hold` as long as the leader's own agent vouches
//! (contract section 9, rule 3). Nothing here ever picks another leader.

use std::time::Duration;

use pgvane_cluster::clock::Tick;

/// How long a proxy that was itself frozen waits for a new proof before it cuts; nothing is forwarded
/// meanwhile.
pub const RESUME_GRACE: Duration = Duration::from_secs(1);

/// etcd tells what is left of a lease in whole seconds: of one that nobody renews, each answer is a little later than the
/// one before.
const ROUNDING: Duration = Duration::from_secs(1);

/// What to do with the last leader when the store no longer proves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnStoreLoss {
    /// Keep it while its own agent vouches for it.
    Hold,
    /// Cut its sessions at the deadline.
    Fence,
}

impl OnStoreLoss {
    /// The word in the settings file and in `/topology`.
    pub const fn label(self) -> &'static str {
        match self {
            OnStoreLoss::Hold => "hold",
            OnStoreLoss::Fence => "fence",
        }
    }
}

/// What is known about one leader at one epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Evidence {
    /// By the store: the lease lives at least until here. `None` before the store answered.
    pub lease_until: Option<Tick>,
    /// When the store last said that this leader leads.
    pub confirmed_at: Option<Tick>,
    /// When the latest question that the leader's agent answered "yes, I lead" was sent.
    pub vouched_at: Option<Tick>,
    /// When the latest question that it answered "no" was sent.
    pub refused_at: Option<Tick>,
    /// When this process was found to have been stopped or starved, if it was.
    pub resumed_at: Option<Tick>,
    /// `lease_until` as it was when it proved nothing any more; `None` again once the lease was renewed.
    pub expired: Option<Tick>,
}

impl Evidence {
    /// Until when the lease proves anything.
    fn deadline(&self, policy: &Policy) -> Option<Tick> {
        let until = self.expired.filter(|_| !self.is_renewed()).or(self.lease_until)?;
        Some(until - policy.margin())
    }

    /// Whether the lease was renewed since it proved nothing any more: the same one, only counted otherwise, would prove
    /// the leader and lose it again with every answer until it ends.
    fn is_renewed(&self) -> bool {
        match (self.expired, self.lease_until) {
            (Some(expired), Some(until)) => until >= expired + ROUNDING,
            (None, _) | (_, None) => true,
        }
    }

    /// Takes note of a lease that proves nothing any more at `now`.
    pub fn note_expiry(&mut self, policy: &Policy, now: Tick) {
        if !self.is_renewed() {
            return;
        }
        self.expired = self.lease_until.filter(|until| now >= *until - policy.margin());
    }

    /// When the leader's agent said "no", if nobody has said otherwise since.
    fn last_word_is_no(&self) -> Option<Tick> {
        let is_later = |refused: &Tick, other: Option<Tick>| other.is_none_or(|other| other < *refused);
        self.refused_at
            .filter(|refused| is_later(refused, self.vouched_at) && is_later(refused, self.confirmed_at))
    }
}

/// What the deadlines are made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// What to do past the deadline.
    pub on_store_loss: OnStoreLoss,
    /// The cluster's lease time.
    pub ttl: Duration,
}

impl Policy {
    /// Kept off every deadline for clock rates that differ and answers that were slow: a tenth of ttl.
    pub fn margin(&self) -> Duration {
        self.ttl / 10
    }

    /// How long before the deadline the leader's agent is first asked, and how long it may take to answer.
    pub fn ask_lead(&self) -> Duration {
        (self.ttl / 6).min(Duration::from_secs(1))
    }

    /// How long before the deadline the store is asked again out of turn. With short leases the deadline may
    /// come before the next regular read.
    pub fn refresh_lead(&self) -> Duration {
        self.ttl / 4
    }
}

/// Where the last known leader stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The store has not answered yet.
    NeverSeen,
    /// The store proves it.
    Proven,
    /// The store does not answer in time; the leader's own agent vouches.
    Vouched,
    /// This process was frozen past the deadline. Nothing is forwarded until there is a new proof.
    Suspended,
    /// Nobody proves it: its sessions are cut, new ones are held.
    Lost,
}

impl Standing {
    /// All of them.
    pub const ALL: [Standing; 5] =
        [Standing::NeverSeen, Standing::Proven, Standing::Vouched, Standing::Suspended, Standing::Lost];

    /// The word in `/topology` and in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Standing::NeverSeen => "never_seen",
            Standing::Proven => "proven",
            Standing::Vouched => "vouched",
            Standing::Suspended => "suspended",
            Standing::Lost => "lost",
        }
    }

    /// Whether new sessions may go to the primary.
    pub const fn may_route(self) -> bool {
        matches!(self, Standing::Proven | Standing::Vouched)
    }
}

/// The standing, how long it lasts unless something is learned, and whether to ask the agent now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// Where the leader stands.
    pub standing: Standing,
    /// Bytes may be forwarded to the primary until here.
    pub valid_until: Tick,
    /// Judge again here at the latest; `None` when only news can change anything.
    pub wake_at: Option<Tick>,
    /// Whether the leader's agent should be asked.
    pub ask: bool,
    /// Whether the store should be asked out of turn.
    pub refresh: bool,
}

impl Judgement {
    fn new(standing: Standing, valid_until: Tick) -> Judgement {
        Judgement { standing, valid_until, wake_at: None, ask: false, refresh: false }
    }
}

/// Judges the last known leader at `now`. `store_down` is whether the store left the last question
/// unanswered.
pub fn judge(evidence: &Evidence, policy: &Policy, store_down: bool, now: Tick) -> Judgement {
    let Some(deadline) = evidence.deadline(policy) else {
        return Judgement::new(Standing::NeverSeen, Tick::ZERO);
    };
    let holds = policy.on_store_loss == OnStoreLoss::Hold;
    // While the store is silent the leader's own "no" is the newest word: it may have handed over behind our back.
    if let Some(refused) = evidence.last_word_is_no().filter(|_| holds && store_down) {
        return Judgement { ask: true, refresh: true, ..Judgement::new(Standing::Lost, refused.min(now)) };
    }
    if now < deadline {
        let ask_from = deadline - policy.ask_lead();
        let refresh_from = deadline - policy.refresh_lead();
        return Judgement {
            wake_at: [refresh_from, ask_from, deadline].into_iter().find(|at| *at > now),
            ask: holds && (store_down || now >= ask_from),
            refresh: now >= refresh_from,
            ..Judgement::new(Standing::Proven, deadline)
        };
    }
    // A "no" outweighs any earlier "yes".
    let vouched_until = evidence
        .vouched_at
        .filter(|vouched| evidence.refused_at.is_none_or(|refused| refused < *vouched))
        .map(|vouched| vouched + policy.ttl - policy.margin());
    if let Some(until) = vouched_until.filter(|until| holds && now < *until) {
        let wake_at = Some(until);
        return Judgement { wake_at, ask: true, refresh: true, ..Judgement::new(Standing::Vouched, until) };
    }
    let grace_until = evidence
        .resumed_at
        .filter(|resumed| evidence.refused_at.is_none_or(|refused| refused < *resumed))
        .map(|resumed| resumed + RESUME_GRACE);
    if let Some(until) = grace_until.filter(|until| now < *until) {
        let wake_at = Some(until);
        return Judgement {
            wake_at,
            ask: holds,
            refresh: true,
            ..Judgement::new(Standing::Suspended, deadline)
        };
    }
    Judgement { ask: holds, refresh: true, ..Judgement::new(Standing::Lost, deadline) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOLD: Policy = Policy { on_store_loss: OnStoreLoss::Hold, ttl: Duration::from_secs(10) };
    const FENCE: Policy = Policy { on_store_loss: OnStoreLoss::Fence, ttl: Duration::from_secs(10) };

    /// Seconds after boot.
    fn at(seconds: u64) -> Tick {
        Tick::from_millis(seconds * 1000)
    }

    /// The lease lives until second 100, so the deadline is second 99.
    fn leased() -> Evidence {
        Evidence { lease_until: Some(at(100)), ..Evidence::default() }
    }

    fn standing(evidence: Evidence, policy: &Policy, now: Tick) -> Standing {
        judge(&evidence, policy, true, now).standing
    }

    /// A machine that died: nobody renews, and each answer of etcd's is rounded down anew.
    #[test]
    fn a_lease_that_is_only_counted_otherwise_proves_nothing_again() {
        let mut evidence = leased();
        evidence.note_expiry(&FENCE, at(89));
        assert_eq!(standing(evidence, &FENCE, at(89)), Standing::Proven);
        evidence.note_expiry(&FENCE, at(99));
        assert_eq!(standing(evidence, &FENCE, at(99)), Standing::Lost);
        for more in [100, 500, 999] {
            evidence.lease_until = Some(at(100) + Duration::from_millis(more));
            evidence.note_expiry(&FENCE, at(99));
            assert_eq!(standing(evidence, &FENCE, at(99)), Standing::Lost, "{more} ms more");
        }
        evidence.lease_until = Some(at(110));
        assert_eq!(standing(evidence, &FENCE, at(99)), Standing::Proven, "renewed");
        evidence.note_expiry(&FENCE, at(99));
        assert_eq!(evidence.expired, None);
        assert_eq!(standing(evidence, &FENCE, at(109)), Standing::Lost);
    }

    #[test]
    fn before_the_first_answer_nobody_is_routed_to() {
        let j = judge(&Evidence::default(), &HOLD, true, at(5));
        assert_eq!((j.standing, j.ask), (Standing::NeverSeen, false));
        assert!(!j.standing.may_route());
    }

    #[test]
    fn the_store_proves_until_the_margin_and_nobody_is_asked_meanwhile() {
        let proven = Judgement::new(Standing::Proven, at(99));
        let quiet = judge(&leased(), &HOLD, false, at(90));
        assert_eq!(quiet, Judgement { wake_at: Some(Tick::from_millis(96_500)), ..proven });
        let near = judge(&leased(), &HOLD, false, at(97));
        assert_eq!(near, Judgement { wake_at: Some(at(98)), refresh: true, ..proven });
        assert!(judge(&leased(), &HOLD, true, at(90)).ask, "a store that does not answer is reason to ask");
        assert!(judge(&leased(), &HOLD, false, at(98)).ask, "so is a deadline that comes near");
        assert!(!judge(&leased(), &FENCE, true, at(98)).ask, "who fences asks nobody");
    }

    #[test]
    fn fence_cuts_at_the_deadline_whoever_vouches() {
        let vouched = Evidence { vouched_at: Some(at(98)), ..leased() };
        assert_eq!(standing(vouched, &FENCE, at(98)), Standing::Proven);
        assert_eq!(standing(vouched, &FENCE, at(99)), Standing::Lost);
    }

    #[test]
    fn hold_lasts_while_the_agent_vouches() {
        assert_eq!(standing(leased(), &HOLD, at(99)), Standing::Lost, "nobody vouched");
        let vouched = Evidence { vouched_at: Some(at(98)), ..leased() };
        assert_eq!(standing(vouched, &HOLD, at(106)), Standing::Vouched);
        assert_eq!(standing(vouched, &HOLD, at(107)), Standing::Lost, "silent for ttl minus margin");
        let again = Evidence { vouched_at: Some(at(107)), ..leased() };
        assert_eq!(standing(again, &HOLD, at(108)), Standing::Vouched, "the same leader may come back");
    }

    #[test]
    fn a_refusal_ends_the_hold_at_once() {
        let refused = Evidence { vouched_at: Some(at(100)), refused_at: Some(at(101)), ..leased() };
        assert_eq!(standing(refused, &HOLD, at(101)), Standing::Lost);
        let outvoted = Evidence { vouched_at: Some(at(102)), refused_at: Some(at(101)), ..leased() };
        assert_eq!(standing(outvoted, &HOLD, at(102)), Standing::Vouched);
        let early = Evidence { refused_at: Some(at(50)), confirmed_at: Some(at(55)), ..leased() };
        assert_eq!(standing(early, &HOLD, at(60)), Standing::Proven, "the store said otherwise since");
    }

    #[test]
    fn a_refusal_after_the_stores_last_word_ends_it_before_the_lease_does() {
        let later = Evidence { refused_at: Some(at(60)), confirmed_at: Some(at(55)), ..leased() };
        let lost = judge(&later, &HOLD, true, at(61));
        assert_eq!((lost.standing, lost.ask), (Standing::Lost, true), "and it is asked on");
        assert!(lost.valid_until <= at(60));
        assert_eq!(
            judge(&later, &HOLD, false, at(61)).standing,
            Standing::Proven,
            "the store is there to be asked"
        );
        assert_eq!(standing(later, &FENCE, at(61)), Standing::Proven, "who fences asks nobody");
        let again = Evidence { vouched_at: Some(at(62)), ..later };
        assert_eq!(standing(again, &HOLD, at(62)), Standing::Proven);
    }

    #[test]
    fn after_a_freeze_nothing_moves_but_nothing_is_cut_for_a_moment() {
        let thawed = Evidence { resumed_at: Some(at(200)), ..leased() };
        for policy in [HOLD, FENCE] {
            assert_eq!(standing(thawed, &policy, at(200)), Standing::Suspended);
            assert_eq!(standing(thawed, &policy, at(201)), Standing::Lost);
        }
        assert!(!Standing::Suspended.may_route());
        assert!(judge(&thawed, &HOLD, true, at(200)).valid_until < at(200), "the gate is shut");
        let refused = Evidence { refused_at: Some(at(200)), ..thawed };
        assert_eq!(standing(refused, &HOLD, at(200)), Standing::Lost);
    }

    fn any_tick() -> impl Strategy<Value = Option<Tick>> {
        proptest::option::of((0_u64..200_000).prop_map(Tick::from_millis))
    }

    proptest! {
        /// Whatever is known: routing implies an open gate, and a wake-up is never in the past.
        #[test]
        fn routing_implies_an_open_gate(
            lease_until in any_tick(), confirmed_at in any_tick(), vouched_at in any_tick(), refused_at in any_tick(),
            resumed_at in any_tick(), fence in any::<bool>(), down in any::<bool>(), now in 0_u64..250_000,
        ) {
            let now = Tick::from_millis(now);
            let evidence =
                Evidence { lease_until, confirmed_at, vouched_at, refused_at, resumed_at, expired: None };
            let policy = if fence { FENCE } else { HOLD };
            let j = judge(&evidence, &policy, down, now);
            prop_assert_eq!(j.standing.may_route(), now < j.valid_until);
            prop_assert!(j.wake_at.is_none_or(|wake| wake > now), "{:?}", j);
            prop_assert!(!(fence && j.ask));
            if fence && lease_until.is_some_and(|until| now >= until) {
                prop_assert!(!j.standing.may_route());
            }
        }
    }
}
