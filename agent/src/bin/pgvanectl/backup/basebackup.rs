//! PostgreSQL's own program at work: which one, as whom, and what it says of its progress.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use pgvane_agent::backup::BackupError;
use pgvane_agent::backup::shelf::Holder;
use pgvane_agent::config::Role;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::process::{ChildStderr, Command};

use super::{Progress, Stop};
use crate::target::Target;
use crate::{Failed, fail};

/// Where Debian and Ubuntu have PostgreSQL's programs, by version.
const ROOT: &str = "/usr/lib/postgresql";

/// The first version that takes every kind of compression in one option.
const ONE_OPTION: u32 = 15;

/// Lines of its complaints that are shown.
const SHOWN: usize = 8;

/// Runs a command on a leash. pg_basebackup has a second process for the WAL, which would go on for ever, and hold WAL
/// back on the server, where the first one or we are killed: when standard input ends, so does the whole group, and
/// nothing of it outlives the command.
const ON_A_LEASH: &str = r#"
exec 3<&0
(exec 2>/dev/null; cat <&3 >&2; kill -KILL 0) &
"$@" </dev/null 3<&-
status=$?
trap '' TERM
kill -TERM 0
exit $status
"#;

/// A copy to be made.
pub(super) struct Copy<'a> {
    pub(super) pg_basebackup: PathBuf,
    pub(super) role: Role,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) compress: &'a str,
    pub(super) max_rate: Option<&'a str>,
    pub(super) spread: bool,
    pub(super) label: &'a str,
}

/// The directory of PostgreSQL's programs: what was said, else the newest. `None`: PATH finds them.
pub(super) fn programs(said: Option<&PathBuf>) -> Option<PathBuf> {
    let newest = || {
        let versions = fs::read_dir(ROOT).into_iter().flatten().flatten();
        let version = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
        let has_program =
            |version: &u32| Path::new(ROOT).join(format!("{version}/bin/pg_basebackup")).exists();
        versions.filter_map(version).filter(has_program).max()
    };
    said.cloned().or_else(|| Some(Path::new(ROOT).join(format!("{}/bin", newest()?))))
}

pub(super) fn program(bin_dir: Option<&Path>, name: &str) -> PathBuf {
    bin_dir.map_or_else(|| PathBuf::from(name), |dir| dir.join(name))
}

/// Who copies.
pub(super) fn role(target: &Target, named: Option<&str>) -> Role {
    let known = [&target.replication, &target.superuser].into_iter().flatten();
    let found = known.into_iter().find(|role| named.is_none_or(|name| role.username == name));
    found.cloned().unwrap_or_else(|| {
        let user = named.map(str::to_owned).or_else(|| std::env::var("PGUSER").ok());
        let username = user.unwrap_or_else(|| "replicator".to_owned());
        Role { username, password: None, connection: std::collections::BTreeMap::new() }
    })
}

impl Copy<'_> {
    /// Fills `holder`.
    pub(super) async fn run(
        &self,
        holder: &Holder,
        progress: &Progress,
        stop: &mut Stop,
    ) -> Result<(), Failed> {
        let version = self.version().await?;
        fs::create_dir(holder.scratch())?;
        let service = holder.scratch().join("service");
        self.write_service(&service)?;
        let mut command = Command::new("sh");
        command.args(["-c", ON_A_LEASH, "sh"]).arg(&self.pg_basebackup).process_group(0);
        command.arg("--pgdata").arg(holder.inside()).args(["--format=tar", "--wal-method=stream"]);
        command.args(["--no-password", "--dbname=service=pgvanectl"]).arg(format!("--label={}", self.label));
        // The server counts its files for it.
        command.args(progress.is_shown().then_some("--progress"));
        command.args(compression(self.compress, version)?);
        command.arg(if self.spread { "--checkpoint=spread" } else { "--checkpoint=fast" });
        command.args(self.max_rate.map(|rate| format!("--max-rate={rate}")));
        command.env("PGSERVICEFILE", &service).env("LC_ALL", "C.UTF-8").env_remove("PGSERVICE");
        if let Some(password) = &self.role.password {
            command.env("PGPASSWORD", password.expose());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| self.not_run(&e))?;
        let (leash, heard) = (child.stdin.take(), child.stderr.take());
        let heard = async {
            match heard {
                Some(stderr) => listen(stderr, progress).await,
                None => vec![],
            }
        };
        let work = async { tokio::join!(heard, child.wait()) };
        let (said, status) = tokio::select! {
            ended = work => ended,
            () = stop.wanted() => {
                drop(leash);
                child.wait().await?;
                return Err(BackupError::Interrupted.into());
            }
        };
        drop(leash);
        let status = status?;
        if status.success() {
            return Ok(());
        }
        let said = said[said.len().saturating_sub(SHOWN)..].join("\n");
        fail(format!("pg_basebackup of {}:{} ended with {status}\n{said}", self.host, self.port))
    }

    async fn version(&self) -> Result<u32, Failed> {
        let output = Command::new(&self.pg_basebackup).arg("--version").output().await;
        let output = output.map_err(|e| self.not_run(&e))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        major(&text)
            .ok_or_else(|| Failed(format!("{}: {text:?} tells no version", self.pg_basebackup.display())))
    }

    fn not_run(&self, error: &std::io::Error) -> Failed {
        let program = self.pg_basebackup.display();
        Failed(format!("{program} cannot be run: {error}; --bin-dir says where it is"))
    }

    /// Where to and as whom: in a file, since everybody can read command lines. The password has a variable.
    fn write_service(&self, path: &Path) -> Result<(), Failed> {
        let mut text =
            format!("[pgvanectl]\nhost={}\nport={}\nuser={}\n", self.host, self.port, self.role.username);
        // Not a member's name: a copy that streams under it would count as that standby.
        text.push_str("application_name=pgvanectl backup\n");
        text.extend(self.role.connection.iter().map(|(key, value)| format!("{key}={value}\n")));
        let mut file = File::options().create_new(true).write(true).mode(0o600).open(path)?;
        Ok(file.write_all(text.as_bytes())?)
    }
}

/// Shows how far it is; answers what else it said.
async fn listen(stderr: ChildStderr, progress: &Progress) -> Vec<String> {
    let (mut stderr, mut line, mut said) = (BufReader::new(stderr), Vec::new(), Vec::new());
    loop {
        let byte = stderr.read_u8().await;
        // On a terminal each progress report replaces the one before.
        if let Ok(byte) = byte
            && !matches!(byte, b'\n' | b'\r')
        {
            line.push(byte);
            continue;
        }
        let text = String::from_utf8_lossy(&line).trim().to_owned();
        line.clear();
        match done(&text) {
            Some((done, total)) => progress.of(done << 10, total.max(done) << 10),
            None if text.is_empty() || text.starts_with("waiting for checkpoint") => {}
            None => said.push(text),
        }
        if byte.is_err() {
            return said;
        }
    }
}

/// Kilobytes done and to do, of a line such as `  1024/4096 kB (25%), 0/1 tablespace`.
fn done(line: &str) -> Option<(u64, u64)> {
    let (done, rest) = line.split_once('/')?;
    let (total, rest) = rest.split_once(' ')?;
    Some((done.trim().parse().ok()?, total.parse().ok()?)).filter(|_| rest.starts_with("kB"))
}

/// What this version takes for it.
fn compression(how: &str, version: u32) -> Result<Vec<OsString>, Failed> {
    if version >= ONE_OPTION {
        return Ok(vec![format!("--compress={how}").into()]);
    }
    match how.split_once(':').unwrap_or((how, "")) {
        ("none", "") => Ok(vec![]),
        ("gzip" | "client-gzip", "") => Ok(vec!["--gzip".into()]),
        ("gzip" | "client-gzip", level) if level.parse::<u8>().is_ok_and(|level| level <= 9) => {
            Ok(vec![format!("--compress={level}").into()])
        }
        _ => fail(format!(
            "--compress={how}: pg_basebackup {version} knows none, gzip and gzip:LEVEL (0 to 9); others need {ONE_OPTION}"
        )),
    }
}

fn major(version: &str) -> Option<u32> {
    let number = version.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_from_complaints() {
        assert_eq!(done("  1024/4096 kB (25%), 0/1 tablespace"), Some((1024, 4096)));
        assert_eq!(done("1024/4096 kB (25%), 0/1 tablespace (/x/base.tar.gz)"), Some((1024, 4096)));
        for other in ["", "pg_basebackup: error: a/b c", "12/13 tables", "waiting for checkpoint"] {
            assert_eq!(done(other), None, "{other}");
        }
    }

    #[test]
    fn compression_is_said_as_each_version_takes_it() {
        let said = |how, version| {
            let words = compression(how, version).map_err(|Failed(why)| why)?;
            Ok::<_, String>(
                words.iter().map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "),
            )
        };
        assert_eq!(said("server-zstd:3", 15).as_deref(), Ok("--compress=server-zstd:3"));
        assert_eq!(said("gzip", 14).as_deref(), Ok("--gzip"));
        assert_eq!(said("gzip:1", 13).as_deref(), Ok("--compress=1"));
        assert_eq!(said("none", 13).as_deref(), Ok(""));
        assert!(said("zstd", 14).expect_err("not known").contains("need 15"));
        assert_eq!(major("pg_basebackup (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major("pg_basebackup (PostgreSQL) 17beta1"), Some(17));
        assert_eq!(major("none"), None);
    }
}
