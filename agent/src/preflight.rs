//! What must be true of this host before anything is started: better one message now than a loop of failures.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::config::Config;
use crate::postgres::files::Files;
use crate::postgres::process::Postmaster;

/// Looks at the directories the agent needs; makes none but the one that the data directory is to be in. A server that
/// runs already is proof enough that its data directory will do.
pub fn check(config: &Config) -> Result<(), String> {
    let data_dir = &config.postgresql.data_dir;
    make_room(data_dir)?;
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
    configured(config)?;
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

/// As initdb would. Debian's pg_dropcluster takes the directory of the version away with its last cluster.
fn make_room(data_dir: &Path) -> Result<(), String> {
    let Some(dir) = data_dir.parent().filter(|dir| !dir.exists()) else { return Ok(()) };
    std::fs::create_dir_all(dir).map_err(|error| {
        format!("{}: {error}; this user must be able to make it (postgresql.data_dir)", dir.display())
    })
}

/// A server whose configuration is elsewhere than the settings say is somebody else's, and is not even stopped: its
/// distribution made it, and it may hold what matters.
fn configured(config: &Config) -> Result<(), String> {
    let postgresql = &config.postgresql;
    let data_dir = &postgresql.data_dir;
    let dir = postgresql.config_dir.as_ref().unwrap_or(data_dir);
    let name = &postgresql.config_base_name;
    let is_whole = data_dir.join("global/pg_control").exists();
    let Files { conf, base, .. } = Files::within(dir, name);
    let files = [conf, base, data_dir.join("postgresql.conf"), data_dir.join(format!("{name}.conf.backup"))];
    if !is_whole || postgresql.custom_conf.is_some() || files.iter().any(|file| file.exists()) {
        return Ok(());
    }
    let why = format!(
        "postgresql.data_dir {} has data, and there is no {name}.conf in {}",
        data_dir.display(),
        dir.display()
    );
    Err(match debians(data_dir) {
        Some((version, cluster, files)) => format!(
            "{why}: it is Debian's cluster {version}/{cluster}, whose files are in {files}. If it is the empty one that \
             came with the package: pg_dropcluster --stop {version} {cluster}. If it holds data that this cluster is \
             to begin with: docs/faq.md, \"a server that runs already\"",
            files = files.display()
        ),
        None => format!("{why}: name the directory in postgresql.config_dir"),
    })
}

/// Version, name and configuration of a cluster that `pg_createcluster` made.
fn debians(data_dir: &Path) -> Option<(&str, &str, PathBuf)> {
    let mut parts = data_dir.strip_prefix("/var/lib/postgresql").ok()?.iter().map(|part| part.to_str());
    let (version, cluster) = (parts.next()??, parts.next()??);
    Some((version, cluster, Path::new("/etc/postgresql").join(version).join(cluster)))
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
    fn a_server_with_its_configuration_elsewhere_is_somebody_elses() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = include_str!("../agent.toml.example");
        let mut config = crate::config::parse(text, "agent.toml", Path::new("/etc")).expect("the example");
        config.postgresql.data_dir = dir.path().join("data");
        let data = config.postgresql.data_dir.clone();
        std::fs::create_dir_all(data.join("global")).expect("creates");
        assert_eq!(configured(&config), Ok(()), "nothing yet, or half of a copy");
        std::fs::write(data.join("global/pg_control"), "").expect("writes");
        let why = configured(&config).expect_err("no configuration");
        assert!(why.ends_with("name the directory in postgresql.config_dir"), "{why}");
        let etc = dir.path().join("etc");
        std::fs::create_dir(&etc).expect("creates");
        std::fs::write(etc.join("postgresql.conf"), "").expect("writes");
        config.postgresql.config_dir = Some(etc);
        assert_eq!(configured(&config), Ok(()));
        config.postgresql.config_dir = None;
        std::fs::write(data.join("postgresql.conf.backup"), "").expect("writes");
        assert_eq!(configured(&config), Ok(()), "they are brought back from the copies");
    }

    #[test]
    fn the_directory_of_the_data_directory_is_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("15/main");
        assert_eq!(make_room(&data), Ok(()));
        assert!(dir.path().join("15").is_dir() && !data.exists());
        std::fs::write(dir.path().join("file"), "").expect("writes");
        let why = make_room(&dir.path().join("file/15/main")).expect_err("not below a file");
        assert!(why.contains("postgresql.data_dir"), "{why}");
    }

    #[test]
    fn debians_clusters_are_known_by_their_place() {
        let found = debians(Path::new("/var/lib/postgresql/15/main"));
        assert_eq!(found, Some(("15", "main", PathBuf::from("/etc/postgresql/15/main"))));
        assert_eq!(debians(Path::new("/var/lib/postgresql")), None);
        assert_eq!(debians(Path::new("/srv/data")), None);
    }

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
