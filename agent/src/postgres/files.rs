//! Where PostgreSQL's configuration files are, their copies in the data directory, and what a backup left in it
//! that would make the server do something else than it is told.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Instance, PostgresError, settings};

/// Parameters of recovery. They are written by us alone; what `postgresql.auto.conf` says of them would win.
const RECOVERY: [&str; 14] = [
    "archive_cleanup_command",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restore_command",
];

/// What tells the server that it is no primary of its own.
const SIGNALS: [&str; 2] = ["standby.signal", "recovery.signal"];

/// The name of the file whose appearance promotes a standby, where `promote_trigger_file` asks for one and as
/// `pg_ctl promote` writes it.
const TRIGGER: &str = "promote";

/// The configuration files of an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    /// The one that is generated.
    pub conf: PathBuf,
    /// The operator's, which the generated one includes.
    pub base: PathBuf,
    /// pg_hba.conf.
    pub hba: PathBuf,
    /// pg_ident.conf.
    pub ident: PathBuf,
}

impl Files {
    /// Those of `instance`.
    pub fn of(instance: &Instance) -> Files {
        let dir = instance.config_dir.as_ref().unwrap_or(&instance.data_dir);
        Files::within(dir, &instance.config_base_name)
    }

    /// Those in `dir`, where the main one is called so.
    pub fn within(dir: &Path, name: &str) -> Files {
        Files {
            conf: dir.join(format!("{name}.conf")),
            base: dir.join(format!("{name}.base.conf")),
            hba: dir.join("pg_hba.conf"),
            ident: dir.join("pg_ident.conf"),
        }
    }

    /// Whether the server would find them by itself.
    pub fn are_in_place(instance: &Instance) -> bool {
        instance.config_dir.as_ref().is_none_or(|dir| *dir == instance.data_dir)
            && instance.config_base_name == "postgresql"
    }

    /// Those that are copied into the data directory: a clone must find them there, and tools that leave
    /// configuration files out of a backup must not cost us ours.
    fn kept(&self, instance: &Instance) -> Vec<&Path> {
        let base = instance.custom_conf.is_none().then_some(&self.base);
        let all = [Some(&self.conf), base, Some(&self.hba), Some(&self.ident)];
        all.into_iter().flatten().map(PathBuf::as_path).collect()
    }
}

/// Makes the operator's base file out of what initdb or a backup left, once.
pub fn keep_base(instance: &Instance) -> Result<(), PostgresError> {
    let files = Files::of(instance);
    if instance.custom_conf.is_some() || files.base.exists() {
        return Ok(());
    }
    let initdbs = instance.data_dir.join("postgresql.conf");
    let found = [&files.conf, &initdbs].into_iter().find(|f| f.exists());
    let text = match found {
        Some(found) => fs::read(found).map_err(PostgresError::io(found.display().to_string()))?,
        None => Vec::new(),
    };
    write(&files.base, &text)
}

/// Copies the configuration files to `NAME.backup` in the data directory.
pub fn save(instance: &Instance) -> Result<(), PostgresError> {
    for file in Files::of(instance).kept(instance) {
        match fs::read(file) {
            Ok(text) => write(&backup(instance, file), &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(PostgresError::Io { what: file.display().to_string(), error }),
        }
    }
    Ok(())
}

/// Brings back from `NAME.backup` the configuration files that a backup did not hold.
pub fn restore(instance: &Instance) -> Result<(), PostgresError> {
    let files = Files::of(instance);
    for file in files.kept(instance).into_iter().filter(|file| !file.exists()) {
        match fs::read(backup(instance, file)) {
            Ok(text) => write(file, &text)?,
            // The server wants them to exist.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if file == files.ident || file == files.hba {
                    write(file, b"")?;
                }
            }
            Err(error) => return Err(PostgresError::Io { what: file.display().to_string(), error }),
        }
    }
    Ok(())
}

fn write(file: &Path, text: &[u8]) -> Result<(), PostgresError> {
    settings::replace(file, text, 0o600).map(drop)
}

fn backup(instance: &Instance, file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    instance.data_dir.join(format!("{name}.backup"))
}

/// Adds lines to the pg_hba.conf that initdb or a backup left.
pub fn append_hba(instance: &Instance, lines: &[String]) -> Result<(), PostgresError> {
    if lines.is_empty() {
        return Ok(());
    }
    let file = Files::of(instance).hba;
    let before = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(PostgresError::Io { what: file.display().to_string(), error }),
    };
    write(&file, format!("{}\n{}\n", before.trim_end(), lines.join("\n")).as_bytes())
}

/// Removes the files that tell a server that it is a standby or has to recover from an archive.
pub fn forget_signals(instance: &Instance) -> Result<(), PostgresError> {
    remove(instance, &SIGNALS)
}

/// Removes a leftover order to promote: whoever finds it would act on it at once.
pub fn forget_trigger(instance: &Instance) -> Result<(), PostgresError> {
    remove(instance, &[TRIGGER])
}

fn remove(instance: &Instance, names: &[&str]) -> Result<(), PostgresError> {
    for file in names.iter().map(|name| instance.data_dir.join(name)) {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(PostgresError::Io { what: file.display().to_string(), error });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Removes parameters of recovery from `postgresql.auto.conf`, where tools such as pgBackRest leave them: they
/// would win over ours.
pub fn sanitize_auto_conf(instance: &Instance) -> Result<(), PostgresError> {
    let file = instance.data_dir.join("postgresql.auto.conf");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(PostgresError::Io { what: file.display().to_string(), error }),
    };
    let kept: String = text.split_inclusive('\n').filter(|line| !is_of_recovery(line)).collect();
    if kept == text { Ok(()) } else { write(&file, kept.as_bytes()) }
}

fn is_of_recovery(line: &str) -> bool {
    let name = line.trim_start().split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next();
    name.is_some_and(|name| RECOVERY.contains(&name.to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::settings::tests::instance;

    fn made(dir: &Path) -> Instance {
        let i = instance(dir);
        fs::create_dir(&i.data_dir).expect("creates");
        i
    }

    fn read(path: impl AsRef<Path>) -> String {
        fs::read_to_string(path).expect("reads")
    }

    #[test]
    fn what_a_backup_lacks_comes_back_from_the_copies() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut i = made(dir.path());
        i.config_dir = Some(dir.path().join("etc"));
        i.config_base_name = "main".to_owned();
        fs::create_dir(dir.path().join("etc")).expect("creates");
        let files = Files::of(&i);
        assert!(!Files::are_in_place(&i));
        for (file, text) in [(&files.conf, "a\n"), (&files.base, "b\n"), (&files.hba, "c\n")] {
            fs::write(file, text).expect("writes");
        }
        save(&i).expect("copies");
        assert_eq!(read(i.data_dir.join("main.base.conf.backup")), "b\n");
        fs::remove_file(&files.conf).expect("removes");
        fs::remove_file(&files.hba).expect("removes");
        fs::write(&files.base, "mine\n").expect("writes");
        restore(&i).expect("restores");
        assert_eq!((read(&files.conf), read(&files.hba)), ("a\n".to_owned(), "c\n".to_owned()));
        assert_eq!(read(&files.base), "mine\n", "what is there stays");
        assert_eq!(read(&files.ident), "", "the server wants one");
    }

    #[test]
    fn the_base_file_is_made_once_from_what_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut i = made(dir.path());
        i.config_base_name = "main".to_owned();
        fs::write(i.data_dir.join("postgresql.conf"), "# initdb's\n").expect("writes");
        keep_base(&i).expect("makes it");
        fs::write(i.data_dir.join("postgresql.conf"), "# other\n").expect("writes");
        keep_base(&i).expect("leaves it");
        assert_eq!(read(i.data_dir.join("main.base.conf")), "# initdb's\n");
        i.config_base_name = "third".to_owned();
        i.custom_conf = Some("/etc/custom.conf".into());
        keep_base(&i).expect("needs none");
        assert!(!i.data_dir.join("third.base.conf").exists());
    }

    #[test]
    fn leftovers_of_recovery_are_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let i = made(dir.path());
        for name in ["standby.signal", "recovery.signal", "promote"] {
            fs::write(i.data_dir.join(name), "").expect("writes");
        }
        let auto = "# Do not edit\nwork_mem = '5MB'\nrestore_command = 'x'\n Recovery_Target_Time='now'\n\
                    recovery_target_custom = 'kept'\n";
        fs::write(i.data_dir.join("postgresql.auto.conf"), auto).expect("writes");
        forget_signals(&i).expect("removes");
        forget_trigger(&i).expect("removes");
        sanitize_auto_conf(&i).expect("removes");
        let left: Vec<_> =
            fs::read_dir(&i.data_dir).expect("reads").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["postgresql.auto.conf"]);
        let text = read(i.data_dir.join("postgresql.auto.conf"));
        assert_eq!(text, "# Do not edit\nwork_mem = '5MB'\nrecovery_target_custom = 'kept'\n");
    }

    #[test]
    fn lines_are_appended_to_what_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let i = made(dir.path());
        append_hba(&i, &["local all all peer".to_owned()]).expect("writes");
        append_hba(&i, &["host a b samenet md5".to_owned(), "host c d samenet md5".to_owned()])
            .expect("writes");
        append_hba(&i, &[]).expect("nothing to do");
        let text = read(i.data_dir.join("pg_hba.conf"));
        assert_eq!(text.trim_start(), "local all all peer\nhost a b samenet md5\nhost c d samenet md5\n");
    }
}
