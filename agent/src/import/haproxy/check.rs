//! Health checks, and which role they ask for.

use super::sections::Line;

/// How a backend's servers are checked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum Health {
    /// By connecting, where at all.
    #[default]
    Connect,
    /// `option httpchk`.
    Http(Http),
    /// `option pgsql-check`.
    Pgsql {
        /// Who asks.
        user: Option<String>,
    },
    /// `option tcp-check` with a script that asks pg_is_in_recovery().
    Recovery {
        /// Whether a server in recovery passes.
        wants: bool,
    },
    /// By another protocol: `mysql-check`, `redis-check` and their like.
    Foreign(String),
}

/// An HTTP check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Http {
    /// Path and query.
    pub(crate) uri: String,
    /// Whether the answer that passes is the one Patroni gives when the path does not hold.
    pub(crate) inverted: bool,
    /// What the answer's text must say of a role.
    pub(crate) says: Option<Role>,
}

impl Default for Http {
    fn default() -> Http {
        Http { uri: "/".to_owned(), inverted: false, says: None }
    }
}

/// A role of pgvane's listeners.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Primary,
    Replica,
    Sync,
    Async,
    Any,
}

impl Role {
    /// As proxy.toml writes it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Replica => "replica",
            Role::Sync => "sync",
            Role::Async => "async",
            Role::Any => "any",
        }
    }

    /// Whether such a listener may fall back to the primary.
    pub(crate) fn is_for_replicas(self) -> bool {
        matches!(self, Role::Replica | Role::Sync | Role::Async)
    }
}

/// What a path asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    /// A listener of pgvane.
    Listener {
        role: Role,
        /// Whether the primary passes too.
        with_primary: bool,
        /// `lag` of the query.
        max_lag: Option<String>,
        /// What is not quite the same.
        but: Option<&'static str>,
    },
    /// Something that no listener of pgvane does.
    Nothing(&'static str),
    /// Nobody knows.
    Unknown,
}

impl Health {
    /// Takes over a line of a proxy.
    pub(super) fn apply(&mut self, line: &Line) {
        match (line.word(0), line.word(1)) {
            ("option", "httpchk") => *self = Health::Http(httpchk(line, self)),
            ("option", "pgsql-check") => {
                let user = (line.word(2) == "user").then(|| line.word(3).to_owned());
                *self = Health::Pgsql { user: user.filter(|user| !user.is_empty()) };
            }
            ("option", "tcp-check") => *self = Health::Connect,
            (
                "option",
                "mysql-check" | "redis-check" | "ldap-check" | "smtpchk" | "spop-check" | "ssl-hello-chk",
            ) => {
                *self = Health::Foreign(line.word(1).to_owned());
            }
            ("no", "option") if ["httpchk", "pgsql-check", "tcp-check"].contains(&line.word(2)) => {
                *self = Health::Connect;
            }
            ("http-check", what) => {
                if let Health::Http(http) = self {
                    http_check(http, what, line);
                }
            }
            ("tcp-check", what) => tcp_check(self, what, line),
            _ => {}
        }
    }
}

/// `option httpchk [[METHOD] URI [VERSION]]`; an expectation that stood before it stays.
fn httpchk(line: &Line, before: &Health) -> Http {
    let known = if let Health::Http(http) = before { http.clone() } else { Http::default() };
    let uri = match (line.word(2), line.word(3)) {
        ("", _) => "/",
        (uri, "") | (_, uri) => uri,
    };
    Http { uri: uri.to_owned(), ..known }
}

fn http_check(http: &mut Http, what: &str, line: &Line) {
    let texts: Vec<&str> = line.words.iter().skip(2).map(|word| word.text.as_str()).collect();
    match what {
        "send" => {
            if let Some(at) = texts.iter().position(|word| *word == "uri")
                && let Some(uri) = texts.get(at + 1)
            {
                (*uri).clone_into(&mut http.uri);
            }
        }
        "expect" => {
            let (not, texts) = match texts.split_first() {
                Some((&"!", rest)) => (true, rest),
                _ => (false, texts.as_slice()),
            };
            match texts {
                ["status" | "rstatus", status, ..] => {
                    http.inverted = not != (status.starts_with('5') || status.starts_with("^5"));
                }
                ["string" | "rstring", text, ..] if !not => http.says = role_in(text),
                _ => {}
            }
        }
        _ => {}
    }
}

/// Whose answer has this text in it.
fn role_in(text: &str) -> Option<Role> {
    let text = text.to_ascii_lowercase();
    if text.contains("primary") || text.contains("master") {
        Some(Role::Primary)
    } else if text.contains("replica") || text.contains("standby") {
        Some(Role::Replica)
    } else {
        None
    }
}

/// "pg_is_in_recovery", as scripts have it in hexadecimal.
const QUESTION: &str = "70675f69735f696e5f7265636f76657279";

/// Scripts that log in and ask: the last thing they expect is the row, whose value is `f` (66) or `t` (74).
fn tcp_check(health: &mut Health, what: &str, line: &Line) {
    let data: String = line.words.iter().skip(2).map(|word| word.text.to_ascii_lowercase()).collect();
    match what {
        "send-binary" | "send" if data.contains(QUESTION) || data.contains("pg_is_in_recovery") => {
            *health = Health::Recovery { wants: false };
        }
        "expect" => {
            if let Health::Recovery { wants } = health {
                match data.strip_prefix("binary").or_else(|| data.strip_prefix("string")) {
                    Some(value) if value.ends_with("74") || value == "t" => *wants = true,
                    Some(value) if value.ends_with("66") || value == "f" => *wants = false,
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

/// What an HTTP check asks for, by the paths of Patroni's REST API.
pub(crate) fn wanted(http: &Http) -> Wanted {
    let (path, query) = http.uri.split_once('?').unwrap_or((&http.uri, ""));
    let mut found = match of_path(path.trim_matches('/')) {
        Wanted::Listener { role, .. } if http.says.is_some() => plain(http.says.unwrap_or(role)),
        Wanted::Unknown => http.says.map_or(Wanted::Unknown, plain),
        found => found,
    };
    if let Wanted::Listener { role, max_lag, but, .. } = &mut found {
        if http.inverted {
            *role = match role {
                Role::Primary => Role::Replica,
                Role::Replica => Role::Primary,
                Role::Sync => Role::Async,
                Role::Async => Role::Sync,
                Role::Any => return Wanted::Nothing("it asks for servers that do not run"),
            };
            *but = Some("it is what fails this check that is wanted");
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("lag", lag)) if pgvane_cluster::units::parse_size(lag).is_some() => {
                    *max_lag = Some(lag.to_owned());
                }
                Some(("replication_state", "streaming")) => {}
                _ => *but = Some("listeners do not choose by tags; noloadbalance alone counts"),
            }
        }
    }
    found
}

fn plain(role: Role) -> Wanted {
    Wanted::Listener { role, with_primary: false, max_lag: None, but: None }
}

fn of_path(path: &str) -> Wanted {
    let but = |role: Role, with_primary: bool, why: &'static str| Wanted::Listener {
        role,
        with_primary,
        max_lag: None,
        but: Some(why),
    };
    match path.to_ascii_lowercase().as_str() {
        "" | "primary" | "master" | "read-write" => plain(Role::Primary),
        "leader" => but(Role::Primary, false, "the leader of a standby cluster is no primary here"),
        "replica" | "slave" | "standby" | "secondary" => plain(Role::Replica),
        "read-only" | "health" | "patroni" | "liveness" | "readiness" => plain(Role::Any),
        "synchronous" | "sync" => plain(Role::Sync),
        "asynchronous" | "async" => plain(Role::Async),
        "quorum" => but(Role::Sync, false, "the standbys of the quorum are those of the sync key"),
        "read-only-sync" | "read-only-synchronous" | "read-only-quorum" => {
            but(Role::Sync, true, "the primary serves only while no synchronous standby does")
        }
        "standby-leader" | "standby_leader" => {
            Wanted::Nothing("no listener is for the leader of a standby cluster")
        }
        other if ["primary", "master", "leader", "write"].iter().any(|word| other.contains(word)) => {
            but(Role::Primary, false, "the path is none of Patroni's; its name tells the role")
        }
        other
            if ["replica", "slave", "standby", "secondary", "read"]
                .iter()
                .any(|word| other.contains(word)) =>
        {
            but(Role::Replica, false, "the path is none of Patroni's; its name tells the role")
        }
        _ => Wanted::Unknown,
    }
}
