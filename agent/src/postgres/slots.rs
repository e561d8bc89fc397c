//! Replication slots of the members (contract 8.4): what there should be, and making it so.

use std::collections::BTreeMap;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Lsn, NodeName};
use pgvane_cluster::records::StatusRecord;

use super::{Instance, PostgresError, probe};

/// The longest slot name.
const MAX_NAME: usize = 63;

/// The slot of a member: its name in lower case, `-` and `.` as `_`, other characters as `u` and their number.
pub fn slot_name(member: &NodeName) -> String {
    let mut name = String::new();
    for c in member.as_str().to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' | '_' => name.push(c),
            '-' | '.' => name.push('_'),
            other => name.push_str(&format!("u{:04}", u32::from(other))),
        }
    }
    name.truncate(MAX_NAME);
    name
}

/// A physical slot that exists here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Existing {
    /// Its name.
    pub name: String,
    /// Whether somebody streams from it.
    pub active: bool,
    /// The WAL it keeps from.
    pub restart: Option<Lsn>,
}

/// One step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Create it.
    Create(String),
    /// Its member has been gone for longer than it is kept.
    Drop(String),
    /// Keep no more WAL than the leader does for it.
    Advance(String, Lsn),
}

/// Which members' slots are kept here, and since when a member has been missing.
#[derive(Clone, Debug, Default)]
pub struct Kept(BTreeMap<String, Tick>);

impl Kept {
    /// Notes the members there are: `others` are all but this one.
    pub fn note<'a>(&mut self, now: Tick, others: impl Iterator<Item = &'a NodeName>) {
        for member in others {
            self.0.insert(slot_name(member), now);
        }
    }

    /// What to do. Only slots that this agent has seen a member for are ever dropped: others may be somebody's.
    pub fn plan(
        &self,
        now: Tick,
        keep_for: Duration,
        existing: &[Existing],
        leader_status: Option<&StatusRecord>,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        for (name, seen_at) in &self.0 {
            let there = existing.iter().find(|e| e.name == *name);
            let wanted = now.since(*seen_at) <= keep_for;
            match there {
                None if wanted => steps.push(Step::Create(name.clone())),
                Some(slot) if !wanted && !slot.active => steps.push(Step::Drop(name.clone())),
                Some(slot) if !slot.active => {
                    let target = leader_status.and_then(|s| s.slots.as_ref()).and_then(|s| s.get(name));
                    if let Some(target) = target.filter(|t| slot.restart.is_some_and(|r| r < **t)) {
                        steps.push(Step::Advance(name.clone(), *target));
                    }
                }
                Some(_) | None => {}
            }
        }
        steps
    }
}

/// The physical slots there are.
pub async fn existing(instance: &Instance) -> Result<Vec<Existing>, PostgresError> {
    let client = probe::connect(instance).await.map_err(|e| PostgresError::Sql(e.to_string()))?;
    let rows = client
        .query(
            "SELECT slot_name::text, active, restart_lsn::text FROM pg_replication_slots
             WHERE slot_type = 'physical' AND NOT temporary",
            &[],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| Existing {
            name: row.get(0),
            active: row.get(1),
            restart: row.get::<_, Option<&str>>(2).and_then(|t| t.parse().ok()),
        })
        .collect())
}

/// Takes the steps. One that fails (a slot in use meanwhile) is left for the next round.
pub async fn perform(instance: &Instance, steps: &[Step]) -> Result<(), PostgresError> {
    if steps.is_empty() {
        return Ok(());
    }
    let client = probe::connect(instance).await.map_err(|e| PostgresError::Sql(e.to_string()))?;
    for step in steps {
        let done = match step {
            Step::Create(name) => {
                client.execute("SELECT pg_create_physical_replication_slot($1, true)", &[name]).await
            }
            Step::Drop(name) => client.execute("SELECT pg_drop_replication_slot($1)", &[name]).await,
            Step::Advance(name, to) => {
                let sql = "SELECT pg_replication_slot_advance($1, $2::text::pg_lsn)";
                client.execute(sql, &[name, &to.to_string()]).await
            }
        };
        if let Err(error) = done {
            tracing::debug!(?step, %error, "a slot could not be changed");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_patroni_makes_them() {
        assert_eq!(slot_name(&"PG-1.example".into()), "pg_1_example");
        assert_eq!(slot_name(&"a b".into()), "au0032b");
        assert_eq!(slot_name(&NodeName::new("x".repeat(80))).len(), 63);
    }

    #[test]
    fn members_get_slots_and_strangers_keep_theirs() {
        let minute = Duration::from_mins(1);
        let t = Tick::from_millis;
        let mut kept = Kept::default();
        kept.note(t(0), [NodeName::from("b")].iter());
        let slot = |name: &str, active| Existing { name: name.to_owned(), active, restart: Some(Lsn(5)) };
        assert_eq!(kept.plan(t(1), minute, &[], None), [Step::Create("b".to_owned())]);
        assert_eq!(kept.plan(t(1), minute, &[slot("b", true), slot("mine", false)], None), []);
        let status =
            StatusRecord { slots: Some([("b".to_owned(), Lsn(9))].into()), ..StatusRecord::default() };
        let advance = Step::Advance("b".to_owned(), Lsn(9));
        assert_eq!(kept.plan(t(1), minute, &[slot("b", false)], Some(&status)), [advance]);
        let gone = kept.plan(t(90_000), minute, &[slot("b", false), slot("mine", false)], None);
        assert_eq!(gone, [Step::Drop("b".to_owned())]);
        assert_eq!(kept.plan(t(90_000), minute, &[slot("b", true)], None), []);
    }
}
