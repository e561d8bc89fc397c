//! A standby whose replay paused because its primary was given larger values than it has (contract section 4). From
//! version 14 on it would wait so for ever; resumed, it stops, and is started again with the values of its primary.

use super::pending::Held;
use super::probe;
use super::{Instance, PostgresError, controldata::ControlData};

/// The first version that pauses; older ones stop by themselves.
pub const SINCE: i32 = 140_000;

/// Resumes the replay, if it paused for want of larger values and not by an operator's word. Answers whether it did.
pub async fn resume(instance: &Instance, held: &[Held]) -> Result<bool, PostgresError> {
    let control = ControlData::read(instance).await?;
    if !is_outgrown(&control.floors, held) {
        return Ok(false);
    }
    let client = probe::connect(instance).await.map_err(|e| PostgresError::Sql(e.to_string()))?;
    client.batch_execute("SELECT pg_wal_replay_resume()").await?;
    Ok(true)
}

/// Whether a setting of the server is smaller than recovery wants it.
fn is_outgrown(floors: &[(&'static str, u64)], held: &[Held]) -> bool {
    floors.iter().any(|(name, floor)| {
        let value = held.iter().find(|h| h.name == *name).and_then(|h| h.setting.parse::<u64>().ok());
        value.is_some_and(|value| value < *floor)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_setting_that_is_too_small_is_enough() {
        let held = |name: &str, setting: &str| Held {
            name: name.to_owned(),
            shown: setting.to_owned(),
            setting: setting.to_owned(),
            unit: None,
            pending: false,
        };
        let server = [held("max_connections", "100"), held("max_wal_senders", "10")];
        assert!(!is_outgrown(&[("max_connections", 100), ("max_wal_senders", 5)], &server));
        assert!(is_outgrown(&[("max_connections", 100), ("max_wal_senders", 11)], &server));
        assert!(!is_outgrown(&[("max_worker_processes", 99)], &server), "not told");
    }
}
