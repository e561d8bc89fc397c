//! Who began the timelines of our data, kept in the data directory.
//!
//! Inside it, because what is true of the data must travel with them: pg_basebackup and pg_rewind copy the file along
//! with its source's data, and a directory that is wiped or restored takes it with it. A promotion is noted before it
//! happens: whatever comes after cannot be taken for somebody else's timeline of that number.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use pgvane_cluster::ids::Timeline;
use pgvane_cluster::reigns::{Reign, Reigns};
use serde::{Deserialize, Serialize};

use super::controldata::ControlData;
use super::{Instance, PostgresError};

/// What is kept.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct OnDisk {
    timelines: Reigns,
    /// A promotion that was about to happen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    promoting: Option<Promoting>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Promoting {
    reign: Reign,
    /// The timeline that it was to end.
    after: Timeline,
}

impl OnDisk {
    /// The list, with a promotion that did happen: the data are a primary's on a later timeline.
    fn settled(self, timeline: Timeline, is_primary: bool) -> Reigns {
        let mut known = self.timelines;
        if let Some(promotion) = self.promoting
            && is_primary
            && timeline > promotion.after
        {
            known.0.entry(timeline).or_insert(promotion.reign);
        }
        known
    }
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("pgvane.reigns.json")
}

/// The list of data in the state that pg_control tells.
pub fn load(instance: &Instance, control: &ControlData) -> Reigns {
    let is_primary = !instance.data_dir.join("standby.signal").exists();
    // The end of a promotion is noted as a minimum of recovery, long before the first checkpoint.
    let timeline = control.timeline.max(control.min_recovery_timeline);
    read(&instance.data_dir).settled(timeline, is_primary)
}

/// A file that cannot be read says nothing: what it told will have to be found out from the WAL itself.
fn read(data_dir: &Path) -> OnDisk {
    let file = path(data_dir);
    let read = match fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return OnDisk::default(),
        Err(e) => Err(e),
    };
    read.unwrap_or_else(|error| {
        tracing::warn!(file = %file.display(), %error, "the list of reigns cannot be read");
        OnDisk::default()
    })
}

/// The list of a standby's data.
pub fn known(instance: &Instance) -> Reigns {
    read(&instance.data_dir).timelines
}

/// The list once the promotion that was noted has begun `timeline`.
pub fn promised(instance: &Instance, timeline: Timeline) -> Reigns {
    read(&instance.data_dir).settled(timeline, true)
}

/// Replaces the list, durably.
///
/// # Errors
/// When the file cannot be written.
pub fn save(instance: &Instance, known: &Reigns) -> Result<(), PostgresError> {
    write(&instance.data_dir, &OnDisk { timelines: known.clone(), promoting: None })
}

/// Notes that `reign` is about to promote this server, which is on timeline `after`, durably.
///
/// # Errors
/// When the file cannot be written; the promotion must not happen then.
pub fn promise(instance: &Instance, reign: Reign, after: Timeline) -> Result<(), PostgresError> {
    let timelines = read(&instance.data_dir).timelines;
    write(&instance.data_dir, &OnDisk { timelines, promoting: Some(Promoting { reign, after }) })
}

/// Settles a promotion that was noted: it began `timeline`.
///
/// # Errors
/// When the file cannot be written. The note stays and is settled later.
pub fn keep(instance: &Instance, timeline: Timeline) -> Result<Reigns, PostgresError> {
    let known = promised(instance, timeline);
    save(instance, &known)?;
    Ok(known)
}

fn write(data_dir: &Path, record: &OnDisk) -> Result<(), PostgresError> {
    let file = path(data_dir);
    let attempt = || -> io::Result<()> {
        let fresh = file.with_extension("json.new");
        let mut open = File::create(&fresh)?;
        open.write_all(&serde_json::to_vec(record)?)?;
        open.sync_all()?;
        fs::rename(&fresh, &file)?;
        File::open(data_dir)?.sync_all()
    };
    attempt().map_err(PostgresError::io(format!("{}", file.display())))
}

#[cfg(test)]
mod tests {
    use pgvane_cluster::ids::Epoch;

    use super::*;
    use crate::postgres::settings::tests::instance;

    fn reign(epoch: i64) -> Reign {
        Reign { epoch: Epoch(epoch), leader: "pg-1".into() }
    }

    #[test]
    fn a_promotion_is_noted_before_it_happens_and_settled_by_what_came_of_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let i = instance(dir.path());
        fs::create_dir(&i.data_dir).expect("creates");
        save(&i, &Reigns([(Timeline(2), reign(10))].into())).expect("saves");
        promise(&i, reign(20), Timeline(2)).expect("notes");
        let settled =
            |timeline, is_primary| read(&i.data_dir).settled(Timeline(timeline), is_primary).0.len();
        assert_eq!(settled(2, true), 1, "it did not happen");
        assert_eq!(settled(3, false), 1, "the timeline is another's: this is a standby's data");
        assert_eq!(settled(3, true), 2, "the agent ended before it could note the end");
        let known = keep(&i, Timeline(3)).expect("saves");
        assert_eq!(known.0.get(&Timeline(3)), Some(&reign(20)));
        assert_eq!(read(&i.data_dir), OnDisk { timelines: known, promoting: None });
    }

    #[test]
    fn no_file_and_no_list_in_it_say_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(read(dir.path()), OnDisk::default());
        fs::write(path(dir.path()), "{").expect("writes");
        assert_eq!(read(dir.path()), OnDisk::default());
    }
}
