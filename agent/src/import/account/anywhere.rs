//! What became of settings that mean the same wherever they stand, and of the process's own.

use crate::config::Fate;

use super::super::haproxy::Word;
use super::super::plan::Listener;
use super::super::proxy_toml::keepalive;
use super::{carried, changed, left};

pub(super) const BY_SYSTEMD: &str = "the unit of systemd says who pgvane is and what it may do";
pub(super) const LOGS: &str = "pgvane logs to standard error, which is the journal; every session has a line";
pub(super) const IDLE: &str =
    "idle sessions are never ended; TCP keepalive finds those whose client has gone";
pub(super) const RETRIES: &str =
    "a server that refuses or is silent is passed over for the next until hold_timeout ends";
pub(super) const POLLING: &str = "etcd tells of every change at once; nothing is polled";
pub(super) const NO_EQUIVALENT: &str = "pgvane has no such setting";

/// A line of `global`.
pub(super) fn global(words: &[Word]) -> Fate {
    let word = |index: usize| words.get(index).map_or("", |word| word.text.as_str());
    match (word(0), word(1)) {
        ("maxconn", _) => changed(
            "listener.max_sessions",
            "it limits each listener that has no limit of its own; who comes after gets the error 53300 at once",
        ),
        ("stats", "socket") => changed(
            "admin.socket",
            "`pgvanectl proxy` speaks through a socket of its own, /run/pgvane/admin.sock",
        ),
        ("stats", _) => left("it is about the socket of statistics"),
        ("setenv" | "presetenv", _) => left("its value was put in where it is used"),
        ("log" | "log-tag" | "log-send-hostname", _) => left(LOGS),
        (
            "user" | "group" | "uid" | "gid" | "chroot" | "daemon" | "pidfile" | "ulimit-n" | "master-worker",
            _,
        ) => left(BY_SYSTEMD),
        ("nbthread" | "nbproc" | "cpu-map" | "thread-groups" | "thread-group", _) => left(
            "sessions run on as many threads as there are cores, unless [process] workers says otherwise",
        ),
        ("ca-base" | "crt-base" | "key-base", _) => {
            left("pgvane takes whole paths: write them so where TLS is used")
        }
        _ => left(NO_EQUIVALENT),
    }
}

/// Settings that mean the same in `defaults` and in a proxy.
pub(super) fn common(words: &[Word], listener: Option<&Listener>) -> Fate {
    let word = |index: usize| words.get(index).map_or("", |word| word.text.as_str());
    let option = if word(0) == "no" { word(2) } else { word(1) };
    match (word(0), option) {
        ("mode", _) => left("pgvane speaks nothing but PostgreSQL"),
        ("timeout", "client" | "server" | "tunnel" | "client-fin" | "server-fin" | "client-hs") => left(IDLE),
        ("timeout", "queue") => left("nobody waits in a queue unless servers have a limit (maxconn)"),
        ("timeout", "check") => left("pgvane waits 1s for an answer, where it asks at all"),
        ("retries" | "retry-on", _) | ("option", "redispatch") => left(RETRIES),
        ("option", "tcpka" | "clitcpka" | "srvtcpka") => {
            left("TCP keepalive is always on, to both sides: [tcp]")
        }
        ("clitcpka-idle" | "srvtcpka-idle", _) => keepalive_fate(word(1), "tcp.keepalive_idle"),
        ("clitcpka-intvl" | "srvtcpka-intvl", _) => keepalive_fate(word(1), "tcp.keepalive_interval"),
        ("clitcpka-cnt" | "srvtcpka-cnt", _) => carried("tcp.keepalive_count"),
        ("log" | "log-format" | "log-tag" | "log-format-sd" | "error-log-format", _) => left(LOGS),
        ("option", name) if name.contains("log") || name == "dontlognull" => left(LOGS),
        ("option" | "no", "splice-auto" | "splice-request" | "splice-response") => {
            left("bulk goes through pipes of the kernel by itself")
        }
        ("option" | "no", "httpchk" | "pgsql-check" | "tcp-check") if listener.is_none() => {
            carried("listener.role")
        }
        (
            "timeout" | "errorfile" | "http-request" | "http-response" | "errorloc" | "compression"
            | "cookie",
            _,
        )
        | (
            "option",
            "http-server-close" | "forwardfor" | "http-keep-alive" | "httpclose" | "http-buffer-request",
        ) => left("it is about HTTP"),
        ("stick-table" | "stick" | "hash-type", _) => {
            left("the lease decides who is the primary: no memory of clients is needed")
        }
        _ => left(NO_EQUIVALENT),
    }
}

fn keepalive_fate(text: &str, key: &str) -> Fate {
    match keepalive(text).filter(|time| time.subsec_nanos() == 0 && time.as_secs() > 0) {
        Some(_) => carried(key),
        None => left("keepalive counts whole seconds"),
    }
}
