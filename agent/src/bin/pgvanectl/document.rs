//! `show-config` and `edit-config`: the dynamic configuration, changed by compare-and-swap.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::Command;

use pgvane_agent::api::check_document;
use pgvane_cluster::ids::Revision;
use pgvane_cluster::settings::merge_patch;
use pgvane_cluster::settings_file::nearest;
use serde_json::{Map, Value};
use tempfile::NamedTempFile;

use crate::diff::diff;
use crate::prompt::confirm;
use crate::target::Target;
use crate::{Failed, fail, say};

/// Where PostgreSQL's parameters stand in the document.
pub(crate) const PARAMETERS: &str = "postgresql.parameters.";

/// Keys of the document that pgvane or Patroni reads (contract section 4).
const KNOWN: [&str; 24] = [
    "check_timeline",
    "failsafe_mode",
    "ignore_slots",
    "loop_wait",
    "master_start_timeout",
    "master_stop_timeout",
    "max_timelines_history",
    "maximum_lag_on_failover",
    "maximum_lag_on_syncnode",
    "member_slots_ttl",
    "pause",
    "permanent_replication_slots",
    "permanent_slots",
    "postgresql",
    "primary_race_backoff",
    "primary_start_timeout",
    "primary_stop_timeout",
    "retry_timeout",
    "slots",
    "standby_cluster",
    "synchronous_mode",
    "synchronous_mode_strict",
    "synchronous_node_count",
    "ttl",
];

pub(crate) async fn show(target: &Target) -> Result<(), Failed> {
    let (document, _) = read(target).await?;
    say(&text_of(&document))
}

pub(crate) async fn edit(
    target: &Target,
    set: &[String],
    apply: Option<&Path>,
    force: bool,
) -> Result<(), Failed> {
    let (before, revision) = read(target).await?;
    let mut after = before.clone();
    if let Some(path) = apply {
        if path == Path::new("-") && !force {
            return fail("--apply - reads standard input, so nothing can be asked there: add --force");
        }
        merge_patch(&mut after, &json_of(&read_file(path)?, &path.display().to_string())?);
    }
    for pair in set {
        set_path(&mut after, pair)?;
    }
    let mut edited = None;
    if apply.is_none() && set.is_empty() {
        let file = in_editor(&before)?;
        match json_of(&std::fs::read_to_string(file.path())?, "the edited text") {
            Ok(value) => after = value,
            Err(failed) => return Err(keeping(Some(file), failed)),
        }
        edited = Some(file);
    }
    if after == before {
        return say("Not changed\n");
    }
    let applied = apply_to(target, &before, &after, revision, force).await;
    applied.map_err(|failed| keeping(edited, failed))
}

/// Nobody should have to type it again: the text of the editor outlives what became of it.
fn keeping(edited: Option<NamedTempFile>, Failed(why): Failed) -> Failed {
    match edited.map(NamedTempFile::keep) {
        Some(Ok((_, path))) => Failed(format!("{why}; your text is kept in {}", path.display())),
        Some(Err(_)) | None => Failed(why),
    }
}

async fn apply_to(
    target: &Target,
    before: &Value,
    after: &Value,
    revision: Revision,
    force: bool,
) -> Result<(), Failed> {
    if let Err(why) = check_document(before, after, &target.timing) {
        return fail(format!("not applied: {why}"));
    }
    for warning in unknown(before, after) {
        eprintln!("warning: {warning}");
    }
    say(&diff(&lines_of(before), &lines_of(after)))?;
    if !force {
        confirm(&format!("Apply these changes to {}?", target.scope))?;
    }
    target.replace_config(after, revision, "applied").await?;
    say("Configuration changed\n")
}

/// Keys that are new in `after` and that nobody reads. They are kept: a later version may know them.
fn unknown(before: &Value, after: &Value) -> Vec<String> {
    let keys = after.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
    let new = keys.filter(|key| !KNOWN.contains(key) && before.get(*key).is_none());
    new.map(|key| {
        let near = nearest(key, KNOWN).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        format!("neither pgvane nor Patroni reads `{key}`{near}")
    })
    .collect()
}

async fn read(target: &Target) -> Result<(Value, Revision), Failed> {
    match target.view().await?.config {
        Some(config) => Ok((config.value.json, config.mod_revision)),
        None => fail(format!("{} has no dynamic configuration (yet)", target.scope)),
    }
}

fn text_of(document: &Value) -> String {
    format!("{document:#}\n")
}

/// For comparing: without the commas, which would make a neighbour of a new last key look changed.
fn lines_of(document: &Value) -> String {
    text_of(document).lines().map(|line| format!("{}\n", line.strip_suffix(',').unwrap_or(line))).collect()
}

fn read_file(path: &Path) -> Result<String, Failed> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path).map_err(|e| Failed(format!("{}: {e}", path.display())))
}

fn json_of(text: &str, name: &str) -> Result<Value, Failed> {
    match serde_json::from_str::<Value>(text) {
        Ok(value) if value.is_object() => Ok(value),
        Ok(_) => fail(format!("{name}: a JSON object is expected")),
        Err(e) => fail(format!("{name}: {e}")),
    }
}

/// Applies `key=value`. Names of PostgreSQL parameters may hold dots: below postgresql.parameters the rest is
/// one name.
fn set_path(document: &mut Value, pair: &str) -> Result<(), Failed> {
    let Some((path, text)) = pair.split_once('=') else {
        return fail(format!("{pair:?} is not key=value"));
    };
    let path = path.trim();
    let names: Vec<&str> = match path.strip_prefix(PARAMETERS) {
        Some(parameter) => vec!["postgresql", "parameters", parameter],
        None => path.split('.').collect(),
    };
    if names.iter().any(|n| n.is_empty()) {
        return fail(format!("{path:?} is not a key"));
    }
    let text = text.trim();
    // What is not JSON is text: on, 16MB, replica.
    let value = if text.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(text).unwrap_or_else(|_| text.into())
    };
    let wanted = names
        .iter()
        .rev()
        .fold(value, |inner, name| Value::Object(Map::from_iter([((*name).to_owned(), inner)])));
    merge_patch(document, &wanted);
    Ok(())
}

/// Lets the operator edit the document; the file is gone when it is dropped.
fn in_editor(before: &Value) -> Result<NamedTempFile, Failed> {
    let mut file = tempfile::Builder::new().prefix("pgvanectl-").suffix(".json").tempfile()?;
    file.write_all(text_of(before).as_bytes())?;
    file.flush()?;
    let editor =
        ["VISUAL", "EDITOR"].iter().find_map(|v| std::env::var(v).ok().filter(|e| !e.trim().is_empty()));
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    // An editor may come with arguments; the shell is what knows how to split them.
    let status = Command::new("sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(file.path())
        .status()
        .map_err(|e| Failed(format!("{editor}: {e}")))?;
    if !status.success() {
        return fail(format!("{editor} ended with {status}; nothing was changed"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(pair: &str) -> Result<Value, String> {
        let mut document = json!({"ttl": 30, "postgresql": {"use_slots": true, "parameters": {"a.b": 1}}});
        set_path(&mut document, pair).map(|()| document).map_err(|Failed(why)| why)
    }

    #[test]
    fn pairs_become_patches() {
        assert_eq!(set("ttl=20").expect("applies")["ttl"], 20);
        assert_eq!(set("pause=true").expect("applies")["pause"], true);
        assert_eq!(set("synchronous_mode = on").expect("applies")["synchronous_mode"], "on");
        assert_eq!(set("ttl=").expect("applies").get("ttl"), None);
        assert_eq!(set("ttl=null").expect("applies").get("ttl"), None);
        let parameters = &set("postgresql.parameters.x.y=16MB").expect("applies")["postgresql"]["parameters"];
        assert_eq!(*parameters, json!({"a.b": 1, "x.y": "16MB"}));
        assert_eq!(set("postgresql.use_slots=false").expect("applies")["postgresql"]["use_slots"], false);
    }

    #[test]
    fn unknown_keys_are_warned_about_once_and_kept() {
        let before = json!({"ttl": 10, "mine": 1});
        let after = json!({"ttl": 10, "mine": 2, "tttl": 3, "postgresql": {}, "zzz": 1});
        let warnings = unknown(&before, &after);
        assert_eq!(
            warnings,
            [
                "neither pgvane nor Patroni reads `tttl`; did you mean `ttl`?",
                "neither pgvane nor Patroni reads `zzz`"
            ]
        );
    }

    #[test]
    fn a_new_last_key_changes_no_other_line() {
        let (before, after) = (json!({"a": 1, "b": [2, 3]}), json!({"a": 1, "b": [2, 3], "c": 4}));
        let shown = diff(&lines_of(&before), &lines_of(&after));
        assert!(shown.ends_with("    ]\n+   \"c\": 4\n  }\n") && !shown.contains("\n-"), "{shown}");
    }

    #[test]
    fn an_edited_text_outlives_its_refusal() {
        let mut file = NamedTempFile::new().expect("a temporary file");
        file.write_all(b"mine").expect("writes");
        let path = file.path().to_owned();
        let Failed(why) = keeping(Some(file), Failed("refused".to_owned()));
        assert_eq!(why, format!("refused; your text is kept in {}", path.display()));
        assert_eq!(std::fs::read(&path).expect("reads"), b"mine");
        std::fs::remove_file(path).expect("removes");
    }

    #[test]
    fn what_is_no_pair_is_refused() {
        for bad in ["ttl", "=1", "a..b=1", ".a=1"] {
            assert!(set(bad).is_err(), "{bad}");
        }
    }
}
