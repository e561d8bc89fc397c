//! `restore`: a backup becomes a data directory; as an agent's `bootstrap.method` it begins a new cluster.

use std::path::PathBuf;

use clap::Args;
use jiff::{Timestamp, ZonedDateTime};
use pgvane_agent::backup::restore::{Mapping, restore};
use pgvane_agent::backup::shelf;

use crate::backup::{Progress, Stop};
use crate::{Failed, at, fail, say};

/// What `restore` takes. An agent adds --scope, the new cluster's name, which is of no interest here.
#[derive(Args)]
pub(crate) struct RestoreArgs {
    /// A backup, or a directory of backups: the newest that is whole.
    backup: PathBuf,
    /// The data directory to fill; empty, or not there.
    #[arg(long, value_name = "DIR")]
    datadir: PathBuf,
    /// Of a directory with backups of several clusters, those of this one.
    #[arg(long, value_name = "SCOPE")]
    of: Option<String>,
    /// The newest that had ended by this time: from there a recovery can reach it. With a zone, or in this host's time.
    #[arg(long, value_name = "TIME")]
    before: Option<String>,
    /// Where a tablespace goes; to where it was unless told. May be repeated.
    #[arg(long, value_name = "OLD=NEW", value_parser = mapping)]
    tablespace_mapping: Vec<(PathBuf, PathBuf)>,
    /// Say nothing but what went wrong.
    #[arg(short, long)]
    quiet: bool,
}

fn mapping(text: &str) -> Result<(PathBuf, PathBuf), String> {
    match text.split_once('=') {
        Some((old, new)) if old.starts_with('/') && new.starts_with('/') => Ok((old.into(), new.into())),
        _ => Err("OLD=NEW is expected, both absolute".to_owned()),
    }
}

pub(crate) async fn run(args: RestoreArgs) -> Result<(), Failed> {
    let before = args.before.as_deref().map(time).transpose()?;
    let stored = shelf::find(&args.backup, args.of.as_deref(), before)?;
    let (progress, stop) = (Progress::new(args.quiet), Stop::on_signals()?);
    progress.stage(&format!("restoring {}", stored.record.name), Some(stored.record.size()));
    let (from, to) = (stored.dir.clone(), std::path::absolute(&args.datadir)?);
    let mapping: Mapping = args.tablespace_mapping.into_iter().collect();
    let (bar, data_dir) = (progress.clone(), to.clone());
    let task = tokio::task::spawn_blocking(move || {
        let mut go_on = |read| {
            bar.at(read);
            !stop.is_wanted()
        };
        restore(&from, &data_dir, &mapping, &mut go_on)
    });
    let restored = task.await.map_err(|e| Failed(format!("the restore broke: {e}")))?;
    progress.finish();
    let facts = restored?;
    if args.quiet {
        return Ok(());
    }
    let record = &stored.record;
    let size = indicatif::DecimalBytes(facts.bytes);
    say(&format!(
        "{} is in {}: {size}, of {} on timeline {}, consistent at {}\n",
        record.name,
        to.display(),
        record.scope,
        record.timeline,
        record.stop_lsn
    ))
}

fn time(text: &str) -> Result<Timestamp, Failed> {
    match at::instant(text.trim(), &ZonedDateTime::now()) {
        Some(at) => Ok(at),
        None => fail(format!("--before: {text:?} is not a time such as 2027-01-01T03:00:00Z")),
    }
}
