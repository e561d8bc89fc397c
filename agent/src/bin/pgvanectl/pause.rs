//! `pause` and `resume`: maintenance mode, in which agents change nothing by themselves.

use std::time::Duration;

use crate::following::Following;
use crate::members::names;
use crate::target::Target;
use crate::{Failed, fail, say};

/// Turns maintenance mode on or off; with `wait` until every member has seen it.
pub(crate) async fn set(target: &Target, on: bool, wait: bool) -> Result<(), Failed> {
    let view = target.view().await?;
    let Some(config) = view.config else {
        return fail(format!("{} has no dynamic configuration (yet)", target.scope));
    };
    let word = if on { "paused" } else { "resumed" };
    if config.value.settings.pause == on {
        return fail(format!("the cluster is {} already", if on { "paused" } else { "not paused" }));
    }
    let mut document = config.value.json;
    if let Some(map) = document.as_object_mut() {
        if on {
            map.insert("pause".to_owned(), true.into());
        } else {
            map.remove("pause");
        }
    }
    target.replace_config(&document, config.mod_revision, "changed").await?;
    if wait {
        until_seen(target, on, config.value.settings.loop_wait).await?;
    }
    say(&format!("Success: cluster management is {word}\n"))
}

/// Every agent says in its record whether it has seen the pause (contract 8.9).
async fn until_seen(target: &Target, on: bool, loop_wait: Duration) -> Result<(), Failed> {
    let mut missing = Vec::new();
    let seen = Following::begin(target)
        .until(loop_wait + Duration::from_secs(2), |view| {
            let blind = view.members.iter().filter(|(_, m)| (m.record.pause == Some(true)) != on);
            missing = blind.map(|(name, _)| name.clone()).collect();
            missing.is_empty().then_some(())
        })
        .await?;
    match seen {
        Some(()) => Ok(()),
        None => fail(format!("it is in force, and {} did not say yet that they know", names(&missing))),
    }
}
