//! `flush`: scheduled events are dropped.

use std::time::Duration;

use clap::Subcommand;
use hyper::Method;
use pgvane_cluster::keyspace::Key;
use pgvane_cluster::records::FailoverRecord;
use pgvane_cluster::store::{Compare, Store, Txn, Write};

use crate::members::{MembersArgs, names};
use crate::prompt::confirm;
use crate::target::Target;
use crate::{Failed, call, fail, say};

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What is dropped.
#[derive(Subcommand)]
pub(crate) enum FlushCommand {
    /// Scheduled restarts.
    Restart {
        #[command(flatten)]
        which: MembersArgs,
        /// Do not ask.
        #[arg(long)]
        force: bool,
    },
    /// The scheduled switchover.
    Switchover,
}

pub(crate) async fn run(target: &Target, command: FlushCommand) -> Result<(), Failed> {
    match command {
        FlushCommand::Restart { which, force } => restarts(target, &which, force).await,
        FlushCommand::Switchover => switchover(target).await,
    }
}

async fn restarts(target: &Target, which: &MembersArgs, force: bool) -> Result<(), Failed> {
    let view = target.view().await?;
    let mut chosen = which.choose(&view)?;
    chosen.retain(|name| view.members[name].record.scheduled_restart.is_some());
    if chosen.is_empty() {
        return say("No restart is scheduled\n");
    }
    if !force {
        say(&format!("The scheduled restart of {} will not happen.\n", names(&chosen)))?;
        confirm("Drop it?")?;
    }
    let mut failed = Vec::new();
    for name in &chosen {
        let answer = call::ask(target, &view, name, (Method::DELETE, "/restart", None), ANSWER_WITHIN).await;
        match answer.and_then(|answer| call::text_of(&answer)) {
            Ok(_) => say(&format!("{name}: the scheduled restart was dropped\n"))?,
            Err(Failed(why)) => {
                eprintln!("{name}: {why}");
                failed.push(name);
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { fail(format!("not dropped on {}", names(failed))) }
}

/// Done in the store itself: it works while no agent answers.
async fn switchover(target: &Target) -> Result<(), Failed> {
    let view = target.view().await?;
    let Some(pending) = view.failover.filter(|f| f.value.scheduled_at.is_some()) else {
        return say("No switchover is scheduled\n");
    };
    let key = target.space.path(&Key::Failover);
    let txn = Txn {
        when: vec![Compare::ModRevisionIs(key.clone(), pending.mod_revision)],
        then: vec![Write::Put(key, FailoverRecord::default().to_json(), None)],
    };
    if !target.store.txn(txn).await?.succeeded {
        return fail("somebody else changed the request meanwhile; nothing was dropped");
    }
    say("Success: the scheduled switchover was dropped\n")
}
