//! `demote-cluster` and `promote-cluster`: a cluster begins or ceases to follow another (contract sections 7, 8.7).

use std::time::Duration;

use clap::Args;
use pgvane_cluster::records::{MemberRole, MemberState};
use serde_json::{Map, Value};

use crate::following::Following;
use crate::prompt::confirm;
use crate::target::Target;
use crate::{Failed, fail, list, say};

/// How long the leader may take to become what it should be.
const DONE_WITHIN: Duration = Duration::from_mins(5);

/// What `demote-cluster` takes.
#[derive(Args)]
pub(crate) struct DemoteArgs {
    /// The host to follow, or several with commas.
    #[arg(long, required_unless_present = "restore_command")]
    host: Option<String>,
    /// Its port.
    #[arg(long)]
    port: Option<u16>,
    /// How to fetch WAL from an archive.
    #[arg(long)]
    restore_command: Option<String>,
    /// The slot on the host.
    #[arg(long)]
    primary_slot_name: Option<String>,
    /// Do not ask.
    #[arg(long)]
    force: bool,
}

pub(crate) async fn demote(target: &Target, args: DemoteArgs) -> Result<(), Failed> {
    let mut section = Map::new();
    let texts = [
        ("host", args.host),
        ("restore_command", args.restore_command),
        ("primary_slot_name", args.primary_slot_name),
    ];
    section.extend(texts.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text?.into()))));
    section.extend(args.port.map(|port| ("port".to_owned(), port.into())));
    let what = "stops accepting writes and follows another cluster; its sessions end";
    set(target, Some(section.into()), what, MemberRole::StandbyLeader, args.force).await
}

pub(crate) async fn promote(target: &Target, force: bool) -> Result<(), Failed> {
    let what = "stops following and accepts writes. What it follows must not accept writes any more";
    set(target, None, what, MemberRole::Primary, force).await
}

async fn set(
    target: &Target,
    section: Option<Value>,
    what: &str,
    wanted: MemberRole,
    force: bool,
) -> Result<(), Failed> {
    let view = target.view().await?;
    let Some(config) = &view.config else {
        return fail(format!("{} has no dynamic configuration (yet)", target.scope));
    };
    let is_standby = config.value.settings.standby_cluster.is_some();
    if is_standby == section.is_some() {
        return fail(format!(
            "{} is {} a standby cluster",
            target.scope,
            if is_standby { "already" } else { "not" }
        ));
    }
    if !force {
        say(&list::pretty(target, &view))?;
        say(&format!("The cluster {} {what}.\n", target.scope))?;
        confirm("Proceed?")?;
    }
    let mut document = config.value.json.clone();
    if let Some(map) = document.as_object_mut() {
        match section {
            Some(section) => map.insert("standby_cluster".to_owned(), section),
            None => map.remove("standby_cluster"),
        };
    }
    target.replace_config(&document, config.mod_revision, "changed").await?;
    let done = Following::begin(target)
        .until(DONE_WITHIN, |view| {
            let record = &view.leader_member()?.record;
            let is_it = record.role == wanted && record.state == MemberState::Running;
            is_it.then(|| view.leader.as_ref().map(|l| l.name.clone()))?
        })
        .await?;
    match done {
        Some(leader) => say(&format!("Success: {leader} is now the {wanted} of {}\n", target.scope)),
        None => fail(format!("the leader is no {wanted} yet; see `list`")),
    }
}
