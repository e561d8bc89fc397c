//! What must be true of this host before anything is started: better one message now than a loop of failures.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Access, access};

use crate::config::Config;
use crate::postgres::process::Postmaster;

/// Looks at the directories the agent needs; changes nothing. A server that runs already is proof enough that its
/// data directory will do.
pub fn check(config: &Config) -> Result<(), String> {
    let data_dir = &config.postgresql.data_dir;
    for (file, key) in [
        (data_dir, "postgresql.data_dir"),
        (&config.postgresql.pgpass, "postgresql.pgpass"),
        (&config.guard.socket, "guard.socket"),
    ] {
        let dir = file.parent().unwrap_or(Path::new("/"));
        if let Err(error) = access(dir, Access::WRITE_OK | Access::EXEC_OK) {
            return Err(format!(
                "{}: {error}; this user must be able to create files there ({key})",
                dir.display()
            ));
        }
    }
    match std::fs::metadata(data_dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("postgresql.data_dir {}: {error}", data_dir.display())),
        Ok(_) if matches!(Postmaster::find(data_dir), Ok(Some(_))) => Ok(()),
        Ok(found) => {
            let user = rustix::process::geteuid().as_raw();
            suits_postgres(&found, user, data_dir.join("PG_VERSION").exists())
                .map_err(|why| format!("postgresql.data_dir {} {why}", data_dir.display()))
        }
    }
}

/// What PostgreSQL asks of its data directory, and would only say in its own log. `filled`: it has data already;
/// else initdb or pg_basebackup set the mode.
fn suits_postgres(found: &Metadata, user: u32, filled: bool) -> Result<(), String> {
    if !found.is_dir() {
        return Err("is not a directory".to_owned());
    }
    if found.uid() != user {
        return Err(format!(
            "belongs to user {}, and this is user {user}; PostgreSQL wants its own",
            found.uid()
        ));
    }
    if filled && found.mode() & 0o027 != 0 {
        return Err(format!("has mode {:04o}; PostgreSQL wants 0700 or 0750", found.mode() & 0o7777));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn postgres_wants_a_directory_of_its_own() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("data");
        std::fs::create_dir(&path).expect("creates");
        let found = |mode: u32| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("sets the mode");
            std::fs::metadata(&path).expect("looks")
        };
        let us = found(0o700).uid();
        for (mode, filled) in [(0o700, true), (0o750, true), (0o755, false)] {
            assert_eq!(suits_postgres(&found(mode), us, filled), Ok(()), "{mode:o}");
        }
        let wide = suits_postgres(&found(0o755), us, true).expect_err("others may look");
        assert_eq!(wide, "has mode 0755; PostgreSQL wants 0700 or 0750");
        let foreign = suits_postgres(&found(0o700), u32::MAX, true).expect_err("not ours");
        assert!(foreign.starts_with("belongs to user"), "{foreign}");
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("writes");
        let found = std::fs::metadata(&file).expect("looks");
        assert_eq!(suits_postgres(&found, found.uid(), true), Err("is not a directory".to_owned()));
    }
}
