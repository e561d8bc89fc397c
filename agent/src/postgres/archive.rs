//! WAL of a former primary that was not archived yet (contract 8.3): pg_rewind removes it, and with it the only copy.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use pgvane_cluster::settings::PostgresqlSettings;
use tokio::process::Command;
use tracing::{info, warn};

use super::Instance;

/// Archives what waits for it, oldest first, with the command that the server itself would have used. What cannot be
/// archived is left: the operator is told.
pub async fn push_ready(instance: &Instance, dynamic: &PostgresqlSettings) {
    let parameter = |name: &str| instance.parameters.get(name).or_else(|| dynamic.parameters.get(name));
    let archives = parameter("archive_mode").is_some_and(|mode| ["on", "always"].contains(&mode.as_str()));
    let Some(command) = parameter("archive_command").filter(|c| archives && !c.trim().is_empty()) else {
        return;
    };
    let ready = ready(instance);
    for file in &ready {
        match archive(instance, command, file).await {
            Ok(()) => info!(file, "archived before the data are rewound"),
            Err(why) => {
                warn!(file, why, left = ready.len(), "WAL could not be archived before the data are rewound");
                return;
            }
        }
    }
}

fn status(instance: &Instance) -> PathBuf {
    instance.data_dir.join("pg_wal/archive_status")
}

/// The files that wait, in the order in which they were written.
fn ready(instance: &Instance) -> Vec<String> {
    let Ok(entries) = fs::read_dir(status(instance)) else { return vec![] };
    let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
    let mut ready: Vec<String> = names.filter_map(|n| n.strip_suffix(".ready").map(str::to_owned)).collect();
    ready.sort();
    ready
}

async fn archive(instance: &Instance, command: &str, file: &str) -> Result<(), String> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(filled(command, file)).current_dir(&instance.data_dir);
    shell.stdin(Stdio::null()).env_remove("NOTIFY_SOCKET").kill_on_drop(true);
    let output = shell.output().await.map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end()));
    }
    let status = status(instance);
    let (ready, done) = (status.join(format!("{file}.ready")), status.join(format!("{file}.done")));
    fs::rename(ready, done).map_err(|e| e.to_string())
}

/// `%p` and `%f` as the server fills them in.
fn filled(command: &str, file: &str) -> String {
    let mut text = String::new();
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '%' { chars.next() } else { None }) {
            ('%', Some('p')) => text.push_str(&format!("pg_wal/{file}")),
            ('%', Some('f')) => text.push_str(file),
            ('%', Some('%')) => text.push('%'),
            ('%', Some(other)) => text.extend(['%', other]),
            (c, _) => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::settings::tests::instance;

    #[test]
    fn names_are_filled_in() {
        assert_eq!(filled("cp %p /a/%f; echo 5%% %x%", "00"), "cp pg_wal/00 /a/00; echo 5% %x%");
    }

    #[tokio::test]
    async fn what_waits_is_archived_in_order_until_one_fails() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut i = instance(dir.path());
        let status = status(&i);
        fs::create_dir_all(&status).expect("creates");
        for file in ["B", "A", "C"] {
            fs::write(i.data_dir.join("pg_wal").join(file), file).expect("writes");
            fs::write(status.join(format!("{file}.ready")), "").expect("writes");
        }
        fs::write(status.join("0.done"), "").expect("writes");
        let command = format!("test %f != C && cat %p >>{}", dir.path().join("archive").display());
        let dynamic = pgvane_cluster::settings::ClusterSettings::default().postgresql;
        i.parameters = [("archive_command".to_owned(), command)].into();
        push_ready(&i, &dynamic).await;
        assert_eq!(ready(&i), ["A", "B", "C"], "archiving is off");
        i.parameters.insert("archive_mode".to_owned(), "on".to_owned());
        push_ready(&i, &dynamic).await;
        assert_eq!(fs::read_to_string(dir.path().join("archive")).expect("reads"), "AB");
        assert_eq!(ready(&i), ["C"]);
    }
}
