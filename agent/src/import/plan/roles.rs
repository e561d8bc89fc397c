//! Which role a backend is for, by its checks and, where these do not tell, by names and servers.

use super::super::haproxy::{Health, Proxy, Role, Wanted, wanted};
use super::Intent;

/// What a backend's checks ask for.
pub(super) fn role(backend: &Proxy, frontend: &Proxy) -> Result<Intent, &'static str> {
    let plain = |role: Role, but: Option<&'static str>| Intent {
        backend: 0,
        role,
        with_primary: false,
        max_lag: None,
        but,
    };
    match &backend.health {
        Health::Foreign(_) => Err("its checks speak another protocol than PostgreSQL"),
        Health::Recovery { wants } => Ok(plain(if *wants { Role::Replica } else { Role::Primary }, None)),
        Health::Http(http) => match wanted(http) {
            Wanted::Listener { role, with_primary, max_lag, but } => {
                Ok(Intent { backend: 0, role, with_primary, max_lag, but })
            }
            Wanted::Nothing(why) => Err(why),
            Wanted::Unknown => match by_name(backend, frontend) {
                Some(role) => Ok(plain(role, Some("nothing but its name tells the role"))),
                None => Err("its checks do not tell which role it is for"),
            },
        },
        Health::Connect if !looks_like_postgresql(backend, frontend) => {
            Err("nothing says that PostgreSQL is behind it")
        }
        Health::Pgsql { .. } | Health::Connect => {
            let active = backend.serving().filter(|server| !server.backup).count();
            let role = match (active, by_name(backend, frontend)) {
                (_, Some(role)) => role,
                (1, None) => Role::Primary,
                (_, None) => Role::Any,
            };
            // Proxies that lead to one primary all look like it.
            let but = if role == Role::Primary && active > 1 {
                "pgvane asks each server whether it is in recovery: list PostgreSQL servers themselves, because of \
                 several that lead to the same primary none would get clients"
            } else {
                "its checks do not tell the role; pgvane asks who is in recovery"
            };
            Ok(plain(role, Some(but)))
        }
    }
}

/// What the names of a frontend and its backend say.
fn by_name(backend: &Proxy, frontend: &Proxy) -> Option<Role> {
    let says = |name: &str| {
        let name = name.to_ascii_lowercase();
        let words: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let has = |known: &[&str]| words.iter().any(|word| known.contains(word));
        if has(&[
            "replica",
            "replicas",
            "standby",
            "standbys",
            "slave",
            "slaves",
            "secondary",
            "read",
            "reads",
            "readonly",
            "ro",
        ]) {
            Some(Role::Replica)
        } else if has(&["primary", "master", "leader", "write", "writes", "rw", "writer"]) {
            Some(Role::Primary)
        } else {
            None
        }
    };
    says(&backend.name).or_else(|| says(&frontend.name))
}

/// Ports that PostgreSQL and its poolers usually have.
fn is_usual_port(port: u16) -> bool {
    (5432..=5440).contains(&port) || port == 6432
}

fn looks_like_postgresql(backend: &Proxy, frontend: &Proxy) -> bool {
    let named = [&backend.name, &frontend.name].iter().any(|name| {
        let name = name.to_ascii_lowercase();
        ["postgres", "pgsql", "psql", "pgbouncer", "patroni", "pgpool"].iter().any(|word| name.contains(word))
            || name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "pg")
    });
    named || backend.servers.iter().filter_map(|server| server.port).any(is_usual_port)
}
