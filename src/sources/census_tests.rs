//! Who leads by what the members say, and what it takes to say otherwise.

use std::num::NonZeroU32;

use pgvane_cluster::ids::Lsn;
use proptest::prelude::*;

use super::*;

const PROBE: Rules = Rules {
    limits: Limits { rise: NonZeroU32::MIN, fall: NonZeroU32::MIN.saturating_add(2) },
    proof: Duration::from_secs(9),
    claims_are_locked: false,
};

const PATRONI: Rules = Rules { claims_are_locked: true, ..PROBE };

#[expect(clippy::unnecessary_wraps, reason = "it stands for what a question led to")]
fn says(name: &str, leads: bool, timeline: u32) -> Answer {
    let role = if leads { MemberRole::Primary } else { MemberRole::Replica };
    let mut record = MemberRecord::new(MemberState::Running, role);
    record.timeline = Some(Timeline(timeline));
    Ok(Report { name: name.into(), record, leads, is_sync: false, identity: Some("7".to_owned()) })
}

fn primary(name: &str, timeline: u32) -> Answer {
    says(name, true, timeline)
}

fn replica(name: &str, timeline: u32) -> Answer {
    says(name, false, timeline)
}

fn of(identity: &str, answer: Answer) -> Answer {
    answer.map(|report| Report { identity: Some(identity.to_owned()), ..report })
}

fn silence() -> Answer {
    Err("refused".into())
}

/// A census whose members answer one after the other, one second apart.
struct Asked {
    census: Census,
    now: u64,
    last: Observation,
}

impl Asked {
    fn new(members: usize, rules: Rules) -> Asked {
        let labels = (1..=members).map(|n| NodeName::new(format!("host{n}:8008")));
        let contact = Contact::Up;
        let last = Observation { view: None, confirmed_at: Tick::ZERO, contact, leader_lease: None };
        Asked { census: Census::new(labels, rules), now: 0, last }
    }

    /// pg1 leads on timeline 3; all have answered.
    fn led(rules: Rules) -> Asked {
        let mut asked = Asked::new(3, rules);
        asked.hear([primary("pg1", 3), replica("pg2", 3), replica("pg3", 3)]);
        assert_eq!(asked.leads(), Ok(("pg1".to_owned(), 3000)));
        asked
    }

    /// Answers of the members, beginning with the first.
    fn hear(&mut self, answers: impl IntoIterator<Item = Answer>) -> &mut Asked {
        for (index, answer) in answers.into_iter().enumerate() {
            self.hear_one(index, answer);
        }
        self
    }

    fn hear_one(&mut self, index: usize, answer: Answer) -> &mut Asked {
        self.now += 1;
        self.last = self.census.hear(index, Tick::from_millis(self.now * 1000), answer);
        self
    }

    fn view(&self) -> &ClusterView {
        self.last.view.as_deref().expect("everybody was asked")
    }

    fn leads(&self) -> Result<(String, i64), Unled> {
        match &self.view().leader {
            Some(leader) => Ok((leader.name.to_string(), leader.epoch.0)),
            None => Err(self.view().unled.clone().expect("a reason")),
        }
    }

    fn state(&self, name: &str) -> String {
        self.view().members[&NodeName::from(name)].record.state.to_string()
    }
}

#[test]
fn nobody_is_picked_before_everybody_was_asked() {
    let mut asked = Asked::new(2, PROBE);
    assert!(asked.hear_one(0, primary("pg1", 3)).last.view.is_none());
    asked.hear_one(1, silence());
    assert_eq!(asked.leads(), Ok(("pg1".to_owned(), 3000)));
    assert_eq!(asked.state("host2:8008"), "silent (refused)");
    assert_eq!(asked.last.contact, Contact::Up);
}

#[test]
fn nobody_who_answers_is_a_source_that_is_down() {
    let mut asked = Asked::new(2, PROBE);
    asked.hear([silence(), silence()]);
    assert!(asked.last.view.is_none());
    let Contact::Down { since, why } = &asked.last.contact else { panic!("{:?}", asked.last) };
    assert_eq!((*since, why.as_str()), (Tick::from_millis(2000), "host1:8008: refused; host2:8008: refused"));
}

#[test]
fn another_leader_and_another_timeline_are_other_epochs() {
    let mut asked = Asked::led(PROBE);
    assert_eq!(asked.hear([primary("pg1", 3)]).leads(), Ok(("pg1".to_owned(), 3000)), "the same goes on");
    assert_eq!(asked.hear([primary("pg1", 4)]).leads(), Ok(("pg1".to_owned(), 4000)));
    asked.hear([replica("pg1", 4)]);
    assert_eq!(asked.leads(), Err(Unled::NoClaim), "its own word is enough");
    assert_eq!(asked.hear_one(1, primary("pg2", 5)).leads(), Ok(("pg2".to_owned(), 5000)));
    // A lock that moves without a promotion.
    let mut asked = Asked::led(PATRONI);
    asked.hear([replica("pg1", 3), primary("pg2", 3)]);
    assert_eq!(asked.leads(), Ok(("pg2".to_owned(), 3001)));
}

#[test]
fn the_highest_timeline_wins_at_once() {
    let mut asked = Asked::led(PROBE);
    assert_eq!(asked.hear_one(1, primary("pg2", 4)).leads(), Ok(("pg2".to_owned(), 4000)));
    assert_eq!(
        asked.hear_one(0, primary("pg1", 3)).leads(),
        Ok(("pg2".to_owned(), 4000)),
        "it claims in vain"
    );
}

#[test]
fn two_on_one_timeline_lead_neither() {
    let mut asked = Asked::led(PROBE);
    let both = Unled::Disputed(vec!["pg1".into(), "pg3".into()], Timeline(3));
    assert_eq!(asked.hear_one(2, primary("pg3", 3)).leads(), Err(both.clone()));
    asked.hear_one(0, silence()).hear_one(0, silence());
    assert_eq!(asked.leads(), Err(both), "two silences are no outage");
    assert_eq!(asked.hear_one(0, silence()).leads(), Ok(("pg3".to_owned(), 3001)), "one of them is gone");
}

#[test]
fn who_missed_a_promotion_never_leads_again_without_a_lock() {
    let mut asked = Asked::led(PROBE);
    asked.hear_one(1, primary("pg2", 4));
    for _ in 0..2 {
        asked.hear_one(1, silence());
        assert_eq!(asked.leads(), Ok(("pg2".to_owned(), 4000)));
    }
    asked.hear_one(1, silence());
    assert_eq!(asked.leads(), Ok(("pg2".to_owned(), 4000)), "its proof runs out; nobody takes its place");
    asked.hear_one(1, replica("pg2", 4));
    let outdated = Unled::Outdated { claimant: "pg1".into(), timeline: Timeline(3), newest: Timeline(4) };
    assert_eq!(asked.hear_one(0, primary("pg1", 3)).leads(), Err(outdated.clone()));

    let mut standby_knows = Asked::new(2, PROBE);
    standby_knows.hear([primary("pg1", 3), replica("pg2", 4)]);
    assert_eq!(standby_knows.leads(), Err(outdated), "a standby has seen the promotion");

    let mut locked = Asked::new(2, PATRONI);
    locked.hear([primary("pg1", 3), replica("pg2", 4)]);
    assert_eq!(locked.leads(), Ok(("pg1".to_owned(), 3000)), "the lock decides");
}

#[test]
fn a_silent_leader_stays_named_and_counts_as_down_after_three_failures() {
    let mut asked = Asked::led(PATRONI);
    let proven = asked.last.confirmed_at;
    assert_eq!(proven, Tick::from_millis(1000));
    for _ in 0..2 {
        asked.hear_one(0, silence()).hear_one(1, replica("pg2", 3));
        assert_eq!(asked.state("pg1"), "running");
    }
    asked.hear_one(0, silence());
    assert_eq!(asked.state("pg1"), "silent (refused)");
    assert_eq!(asked.leads(), Ok(("pg1".to_owned(), 3000)));
    assert_eq!(asked.last.confirmed_at, proven, "others prove nothing");
    assert_eq!(asked.last.contact, Contact::Up);
    asked.hear_one(0, primary("pg1", 3));
    assert_eq!((asked.state("pg1"), asked.leads()), ("running".to_owned(), Ok(("pg1".to_owned(), 3000))));
    assert_eq!(asked.last.confirmed_at, Tick::from_millis(asked.now * 1000));
}

#[test]
fn a_leader_that_is_proven_to_be_gone_takes_no_new_sessions_at_once() {
    let mut asked = Asked::led(PROBE);
    asked.hear_one(0, Err(NoReport::Gone("shutting down".to_owned())));
    assert_eq!(asked.state("pg1"), "silent (shutting down)");
    assert_eq!(asked.leads(), Ok(("pg1".to_owned(), 3000)), "it may come back");
    assert_eq!(asked.hear_one(1, primary("pg2", 4)).leads(), Ok(("pg2".to_owned(), 4000)));
}

#[test]
fn a_return_takes_as_many_answers_as_the_settings_ask_for() {
    let rise = NonZeroU32::MIN.saturating_add(1);
    let mut asked = Asked::led(Rules { limits: Limits { rise, fall: NonZeroU32::MIN }, ..PATRONI });
    asked.hear_one(1, silence()).hear_one(1, replica("pg2", 3));
    assert_eq!(asked.state("pg2"), "answering again");
    assert_eq!(asked.hear_one(1, replica("pg2", 3)).state("pg2"), "running");
}

#[test]
fn a_promotion_under_a_lock_begins_with_a_leader_that_does_not_serve() {
    let mut asked = Asked::led(PATRONI);
    let mut promoting = replica("pg2", 3).expect("a report");
    promoting.leads = true;
    asked.hear([replica("pg1", 3), Ok(promoting)]);
    assert_eq!(asked.leads(), Ok(("pg2".to_owned(), 3001)));
    assert!(!asked.view().leader_member().expect("a record").record.is_serving_primary());
    assert_eq!(asked.hear_one(1, primary("pg2", 4)).leads(), Ok(("pg2".to_owned(), 4000)));
}

#[test]
fn an_answer_without_a_timeline_keeps_the_last_one() {
    let mut asked = Asked::led(PATRONI);
    let mut busy = primary("pg1", 3).expect("a report");
    busy.record.timeline = None;
    assert_eq!(asked.hear_one(0, Ok(busy)).leads(), Ok(("pg1".to_owned(), 3000)));
}

#[test]
fn servers_of_two_clusters_are_told_apart() {
    let mut asked = Asked::new(2, PROBE);
    asked.hear([primary("pg1", 3), of("8", primary("pg2", 9))]);
    let both = vec![("pg1".into(), "7".to_owned()), ("pg2".into(), "8".to_owned())];
    assert_eq!(asked.leads(), Err(Unled::Strangers(both)), "nobody can say which is meant");
    asked.hear_one(1, replica("pg2", 3));
    assert_eq!(asked.leads(), Ok(("pg1".to_owned(), 3000)));
    asked.hear_one(1, of("8", primary("pg2", 9)));
    assert_eq!(asked.leads(), Ok(("pg1".to_owned(), 3000)), "the cluster of the first leader is meant");
    assert_eq!(asked.state("pg2"), "a server of another cluster");
}

#[test]
fn a_member_listed_twice_is_one() {
    let mut asked = Asked::new(2, PATRONI);
    asked.hear([primary("pg1", 3), primary("pg1", 3)]);
    assert_eq!(asked.leads(), Ok(("pg1".to_owned(), 3000)));
    for _ in 0..3 {
        asked.hear_one(1, silence());
    }
    assert_eq!(asked.state("pg1"), "running", "one of its addresses answers");
}

#[test]
fn synchronous_standbys_are_those_that_say_so() {
    let mut asked = Asked::led(PATRONI);
    let sync = replica("pg2", 3).map(|report| Report { is_sync: true, ..report });
    asked.hear_one(1, sync);
    let names: Vec<_> = asked.view().sync.iter().flat_map(|key| key.value.standbys()).collect();
    assert_eq!(names, ["pg2"]);
}

#[test]
fn the_revision_grows_with_every_change_and_only_then() {
    let mut asked = Asked::led(PROBE);
    let before = asked.view().revision;
    assert_eq!(asked.hear([primary("pg1", 3)]).view().revision, before);
    let mut moved = primary("pg1", 3).expect("a report");
    moved.record.xlog_location = Some(Lsn(9));
    assert_eq!(asked.hear([Ok(moved)]).view().revision, Revision(before.0 + 1));
}

/// What one member may say; a timeline of 0 stands for silence.
fn any_answer() -> impl Strategy<Value = (usize, bool, u32, bool)> {
    (0_usize..3, any::<bool>(), 0_u32..4, any::<bool>())
}

proptest! {
    /// Whatever is said: epochs never go back, one epoch is one leader, and of those who claim and answer nobody is
    /// on a higher timeline than the leader, or on the same.
    #[test]
    fn epochs_grow_and_the_leader_is_alone_at_the_top(
        said in proptest::collection::vec(any_answer(), 0..80), locked in any::<bool>(),
    ) {
        let mut asked = Asked::new(3, Rules { claims_are_locked: locked, ..PROBE });
        let mut reigns: BTreeMap<i64, String> = BTreeMap::new();
        let mut newest = Timeline(0);
        for (index, leads, timeline, stranger) in said {
            let answer = says(&format!("pg{index}"), leads, timeline);
            let answer = if stranger && index == 2 { of("8", answer) } else { answer };
            asked.hear_one(index, if timeline == 0 { silence() } else { answer });
            let Some(view) = asked.last.view.as_deref() else { continue };
            prop_assert_eq!(view.leader.is_some(), view.unled.is_none());
            let Some(leader) = &view.leader else { continue };
            prop_assert!(reigns.last_key_value().is_none_or(|(epoch, _)| *epoch <= leader.epoch.0));
            let owner = reigns.entry(leader.epoch.0).or_insert_with(|| leader.name.to_string());
            prop_assert_eq!(owner.as_str(), leader.name.as_str());
            let timeline = view.leader_member().and_then(|member| member.record.timeline).unwrap_or_default();
            if !locked {
                prop_assert!(timeline >= newest, "{:?} after {:?}", timeline, newest);
            }
            newest = timeline;
            for known in &asked.census.members {
                let rival = known.is_up()
                    && known.report.as_ref().is_some_and(|report| report.leads)
                    && !known.is_stranger(asked.census.identity.as_ref())
                    && *known.name() != leader.name;
                let leader_is_up = asked.state(leader.name.as_str()) == "running";
                prop_assert!(!(rival && leader_is_up) || known.timeline() < Some(timeline));
            }
        }
    }
}
