//! `backup`: copies a member into a directory of backups, makes sure that the copy is whole, and removes what is too
//! old. `backups` shows what is there.

mod basebackup;
mod list;
mod log;
mod progress;
mod stop;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use pgvane_agent::backup::manifest::Manifest;
use pgvane_agent::backup::read::{self, Facts};
use pgvane_agent::backup::record::Record;
use pgvane_agent::backup::retention::{Keep, superfluous};
use pgvane_agent::backup::shelf::{self, Holder, Shelf};
use pgvane_agent::backup::wal_check::{self, WalOnly};
use pgvane_agent::backup::{BackupError, source, wal_archive};
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::view::ClusterView;

use self::basebackup::Copy;
pub(crate) use self::list::{BackupsArgs, run as list};
pub(crate) use self::progress::Progress;
pub(crate) use self::stop::Stop;
use crate::members::names;
use crate::target::Target;
use crate::{Failed, fail, say};

/// How long another run that is about to end is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What `backup` takes.
#[derive(Args)]
pub(crate) struct BackupArgs {
    /// The directory of backups; it must be there.
    dir: PathBuf,
    /// The member to copy. Unless given: a replica that streams on the leader's timeline and is not further behind than
    /// maximum_lag_on_failover, one tagged clonefrom before others, then the least behind; without any, the leader.
    #[arg(long, value_name = "MEMBER", conflicts_with = "from_primary")]
    from: Option<String>,
    /// Copy the leader.
    #[arg(long)]
    from_primary: bool,
    /// As pg_basebackup --compress: none, gzip, zstd, lz4, with client- or server- before and :LEVEL behind. Before
    /// PostgreSQL 15: none, gzip, gzip:LEVEL.
    #[arg(long, value_name = "HOW", default_value = "gzip")]
    compress: String,
    /// As pg_basebackup --max-rate: kB/s, or with the suffix M.
    #[arg(long, value_name = "RATE")]
    max_rate: Option<String>,
    /// Whether the copy begins at once, or when the next checkpoint is due.
    #[arg(long, value_enum, default_value = "fast")]
    checkpoint: Checkpoint,
    /// Afterwards keep the newest so many backups.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    /// Afterwards keep backups of the last so many days. With --keep, one goes only where both let it go.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    keep_days: Option<u32>,
    /// Afterwards remove from this archive the WAL that no backup here needs.
    #[arg(long, value_name = "DIR")]
    prune_archive: Option<PathBuf>,
    /// Who copies; the agent's replication role where its settings are at hand, else $PGUSER. A password comes from the
    /// settings, or from $PGPASSWORD or ~/.pgpass.
    #[arg(short = 'U', long = "db-user", value_name = "NAME")]
    db_user: Option<String>,
    /// Where pg_basebackup and pg_waldump are; what the settings say, else the newest in /usr/lib/postgresql, else PATH.
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Say nothing but what went wrong.
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Checkpoint {
    Fast,
    Spread,
}

/// Makes a backup and removes what is too old; one line in the log says how it went.
pub(crate) async fn run(target: &Target, args: &BackupArgs) -> Result<(), Failed> {
    let shelf = Shelf::open(&args.dir, PATIENCE)?;
    let progress = Progress::new(args.quiet);
    for name in &shelf.leftovers {
        progress.tell(&format!("removed {name}, which a run that died had left"));
    }
    let began = Timestamp::now();
    let made = make(target, args, &shelf, &progress).await;
    progress.finish();
    log::append(&args.dir, began, &target.scope, &made).map_err(Failed)?;
    let record = made?;
    if !args.quiet {
        say(&format!("{}\n", summary(&record)))?;
    }
    retain(args, &shelf, &record, &progress)
}

/// The line that tells an operator what was made.
fn summary(record: &Record) -> String {
    let Record { name, member, role, timeline, start_lsn, stop_lsn, .. } = record;
    let size = indicatif::DecimalBytes(record.size());
    format!("{name}: {member} ({role}), timeline {timeline}, {start_lsn} to {stop_lsn}, {size}, verified")
}

async fn make(
    target: &Target,
    args: &BackupArgs,
    shelf: &Shelf,
    progress: &Progress,
) -> Result<Record, Failed> {
    let view = target.view().await?;
    let member = source(&view, args)?;
    let address = view.members.get(&member).and_then(|m| m.record.postgres_address());
    let Some((host, port)) = address else {
        return fail(format!("{member} tells no address of PostgreSQL"));
    };
    let bin_dir = basebackup::programs(args.bin_dir.as_ref().or(target.bin_dir.as_ref()));
    let is_leader = view.leader.as_ref().is_some_and(|leader| leader.name == member);
    let started = Timestamp::now();
    let name = shelf.name(&target.scope, started);
    let mut stop = Stop::on_signals()?;
    let holder = shelf.begin(&name)?;
    let copy = Copy {
        pg_basebackup: basebackup::program(bin_dir.as_deref(), "pg_basebackup"),
        role: basebackup::role(target, args.db_user.as_deref()),
        host,
        port,
        compress: &args.compress,
        max_rate: args.max_rate.as_deref(),
        spread: args.checkpoint == Checkpoint::Spread,
        label: &name,
    };
    progress.stage(&format!("copying {member}"), None);
    copy.run(&holder, progress, &mut stop).await?;
    let finished = Timestamp::now();
    let pg_waldump = basebackup::program(bin_dir.as_deref(), "pg_waldump");
    let (manifest, facts) = verify(&holder.inside(), &holder.scratch(), &pg_waldump, progress, &stop).await?;
    if let Some(expected) = view.system_identifier()
        && expected != facts.system_identifier
    {
        let found = &facts.system_identifier;
        return fail(format!(
            "{member} is a server of another cluster: its system identifier is {found}, not {expected}"
        ));
    }
    let Some(last) = manifest.last() else { return fail("the manifest names no WAL") };
    let record = Record {
        name,
        scope: target.scope.clone(),
        system_identifier: facts.system_identifier,
        member: member.to_string(),
        role: if is_leader { "primary" } else { "replica" }.to_owned(),
        started,
        finished,
        verified: Timestamp::now(),
        timeline: last.timeline,
        start_lsn: manifest.start().to_string(),
        stop_lsn: last.end.to_string(),
        first_wal: facts.first_wal,
        postgres: facts.version,
        compress: args.compress.clone(),
        files: sizes(&holder)?,
        unpacked: facts.bytes,
    };
    if stop.is_wanted() {
        return Err(BackupError::Interrupted.into());
    }
    shelf.finish(holder, &record)?;
    Ok(record)
}

fn source(view: &ClusterView, args: &BackupArgs) -> Result<NodeName, Failed> {
    let leader = view.leader.as_ref().map(|leader| leader.name.clone());
    if args.from_primary {
        return leader.ok_or_else(|| Failed("this cluster has no leader".to_owned()));
    }
    match &args.from {
        Some(name) => {
            let wanted = NodeName::from(name.as_str());
            if view.members.contains_key(&wanted) {
                return Ok(wanted);
            }
            fail(format!("{name:?} is not a member; members are {}", names(view.members.keys())))
        }
        None => {
            let none = "no member serves: no leader runs, and no replica streams; see `list`";
            source::choose(view).cloned().ok_or_else(|| Failed(none.to_owned()))
        }
    }
}

/// Makes sure that the backup in `dir` is whole. `scratch` takes its WAL meanwhile.
async fn verify(
    dir: &Path,
    scratch: &Path,
    pg_waldump: &Path,
    progress: &Progress,
    stop: &Stop,
) -> Result<(Manifest, Facts), Failed> {
    let (dir, wal, pg_waldump) = (dir.to_owned(), scratch.join("wal"), pg_waldump.to_owned());
    let total = std::fs::read_dir(&dir)?.flatten().filter_map(|entry| entry.metadata().ok()).map(|m| m.len());
    progress.stage("verifying", Some(total.sum()));
    let (progress, stop) = (progress.clone(), stop.clone());
    let task = tokio::task::spawn_blocking(move || {
        let manifest = Manifest::load(&dir)?;
        let mut go_on = |read| {
            progress.at(read);
            !stop.is_wanted()
        };
        let mut only_wal = WalOnly { dir: wal.clone() };
        let facts = read::read(&dir, &manifest, &mut only_wal, &mut go_on)?;
        wal_check::check(&pg_waldump, &wal, &manifest)?;
        Ok::<_, BackupError>((manifest, facts))
    });
    let verified = task.await.map_err(|e| Failed(format!("the verification broke: {e}")))?;
    Ok(verified?)
}

fn sizes(holder: &Holder) -> Result<std::collections::BTreeMap<String, u64>, Failed> {
    let mut sizes = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(holder.inside())? {
        let entry = entry?;
        sizes.insert(entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.len());
    }
    Ok(sizes)
}

/// Removes what is too old of this cluster's backups, and the WAL that none needs.
fn retain(args: &BackupArgs, shelf: &Shelf, made: &Record, progress: &Progress) -> Result<(), Failed> {
    let keep = Keep { count: args.keep.map(|count| count as usize), days: args.keep_days };
    let whole = || -> Result<Vec<Record>, Failed> {
        let all = shelf::list(&args.dir)?.into_iter().filter(|stored| stored.wrong.is_none());
        let own = |record: &Record| {
            record.scope == made.scope && record.system_identifier == made.system_identifier
        };
        Ok(all.map(|stored| stored.record).filter(own).collect())
    };
    for record in superfluous(&whole()?, keep, Timestamp::now()) {
        shelf.remove(&record.name)?;
        progress.tell(&format!("removed {}", record.name));
    }
    let Some(archive) = &args.prune_archive else { return Ok(()) };
    // By number alone: of two timelines the older file comes first.
    let needed =
        whole()?.into_iter().map(|record| record.first_wal).min_by(|a, b| a.get(8..).cmp(&b.get(8..)));
    if let Some(first) = needed {
        let removed = wal_archive::prune(archive, &first)?;
        progress.tell(&format!("removed {removed} files before {first} from {}", archive.display()));
    }
    Ok(())
}

impl From<BackupError> for Failed {
    fn from(error: BackupError) -> Failed {
        Failed(error.to_string())
    }
}
