//! `backups`: what is in a directory of backups, and whether it is still whole.

use std::path::PathBuf;

use clap::Args;
use indicatif::DecimalBytes;
use pgvane_agent::backup::shelf::{self, Stored};

use super::{Progress, Stop, basebackup, verify};
use crate::output::{Cell, Column, Format, Paper, Sheet};
use crate::terminal::Colour;
use crate::{Failed, fail, say};

/// What `backups` takes.
#[derive(Args)]
pub(crate) struct BackupsArgs {
    /// The directory of backups.
    dir: PathBuf,
    /// Read every backup and hold it against its manifest again; exit code 1 where one is damaged.
    #[arg(long)]
    verify: bool,
    /// Where pg_waldump is, for --verify; the newest in /usr/lib/postgresql unless given, else PATH.
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// How to show them.
    #[arg(short, long, value_enum, default_value = "pretty")]
    format: Format,
}

/// Shows them, oldest first.
pub(crate) async fn run(args: &BackupsArgs) -> Result<(), Failed> {
    let mut found = shelf::list(&args.dir)?;
    if args.verify {
        again(&mut found, args).await?;
    }
    say(&sheet(&found).show(args.format, Paper::stdout()))?;
    let damaged = found.iter().filter(|stored| stored.wrong.is_some()).count();
    if args.verify && damaged > 0 {
        return fail(format!("{damaged} of {} backups are damaged", found.len()));
    }
    Ok(())
}

async fn again(found: &mut [Stored], args: &BackupsArgs) -> Result<(), Failed> {
    let (progress, stop) = (Progress::new(false), Stop::on_signals()?);
    let bin_dir = basebackup::programs(args.bin_dir.as_ref());
    let pg_waldump = basebackup::program(bin_dir.as_deref(), "pg_waldump");
    for stored in found.iter_mut().filter(|stored| stored.wrong.is_none()) {
        let scratch = tempfile::tempdir_in(&args.dir)?;
        let verified = verify(&stored.dir, scratch.path(), &pg_waldump, &progress, &stop).await;
        stored.wrong = verified.err().map(|Failed(why)| why);
        if stop.is_wanted() {
            return fail("interrupted");
        }
    }
    progress.finish();
    Ok(())
}

const COLUMNS: [Column; 10] = [
    Column::text("Backup"),
    Column::text("Finished"),
    Column::text("Member"),
    Column::text("Role"),
    Column::number("TL"),
    Column::text("Start LSN"),
    Column::text("Stop LSN"),
    Column::number("Size"),
    Column::number("Unpacked"),
    Column {
        colour: |state| Some(if state == "verified" { Colour::Green } else { Colour::Red }),
        ..Column::text("State")
    },
];

fn sheet(found: &[Stored]) -> Sheet {
    Sheet {
        title: None,
        columns: COLUMNS.to_vec(),
        rows: found.iter().map(row).collect(),
        footer: String::new(),
    }
}

fn row(Stored { record, wrong, .. }: &Stored) -> Vec<Cell> {
    let bytes = |bytes: u64| Cell { text: DecimalBytes(bytes).to_string(), value: bytes.into() };
    vec![
        Cell::text(&record.name),
        Cell::text(format!("{:.0}", record.finished)),
        Cell::text(&record.member),
        Cell::text(&record.role),
        Cell::number(Some(record.timeline.0.into())),
        Cell::text(&record.start_lsn),
        Cell::text(&record.stop_lsn),
        bytes(record.size()),
        bytes(record.unpacked),
        Cell::text(wrong.as_deref().unwrap_or("verified")),
    ]
}
