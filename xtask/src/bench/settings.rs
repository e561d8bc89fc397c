//! The settings files of the peers: each as good as we know how to make it for this job, none with logs.

use std::net::SocketAddr;
use std::path::Path;

use super::encryption::Certificate;
use super::keys::SCOPE;
use super::wire::ROLE;

/// What every settings file is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site<'a> {
    /// Where clients connect.
    pub(super) listen: SocketAddr,
    /// Where the server listens.
    pub(super) server: SocketAddr,
    pub(super) cores: usize,
    /// Sessions that must fit.
    pub(super) sessions: u64,
    /// For what must be written somewhere.
    pub(super) dir: &'a Path,
    /// Where clients' TLS ends in the peer.
    pub(super) tls: Option<&'a Certificate>,
}

/// HAProxy's way to find the primary of two servers: ask each one's REST address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checked {
    pub(super) server: SocketAddr,
    pub(super) rest: SocketAddr,
}

/// Enough for a few streams; without a number, HAProxy keeps descriptors for a quarter of all sessions.
const HAPROXY_PIPES: &str = "global\n    maxpipes 200\n\n";

pub(super) fn haproxy(site: &Site, splice: bool) -> String {
    let (global, option) = if splice {
        (HAPROXY_PIPES, "    option splice-auto\n")
    } else {
        ("", "    no option splice-auto\n")
    };
    format!("{global}{}{option}    server pg {}\n", haproxy_head(site), site.server)
}

/// With the checks that Patroni's documentation recommends.
pub(super) fn haproxy_with_checks(site: &Site, servers: &[Checked]) -> String {
    let mut text = haproxy_head(site);
    text.push_str(
        "    option httpchk OPTIONS /primary\n    http-check expect status 200\n    \
         default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions\n",
    );
    for (number, Checked { server, rest }) in (1..).zip(servers) {
        text.push_str(&format!("    server pg{number} {server} check port {}\n", rest.port()));
    }
    text
}

fn haproxy_head(Site { listen, cores, sessions, tls, .. }: &Site) -> String {
    let tls = tls.map(|tls| format!(" ssl crt {} alpn postgresql", tls.both.display())).unwrap_or_default();
    format!(
        "global\n    maxconn {sessions}\n    nbthread {cores}\n\n\
         defaults\n    mode tcp\n    maxconn {sessions}\n    timeout connect 5s\n    timeout client 1h\n    \
         timeout server 1h\n\n\
         listen bench\n    bind {listen}{tls}\n"
    )
}

pub(super) fn nginx(
    Site { listen, server, cores, sessions, dir, .. }: &Site,
    module: Option<&Path>,
) -> String {
    let load = module.map(|path| format!("load_module {};\n", path.display())).unwrap_or_default();
    // A session takes two connections.
    let connections = sessions * 2;
    format!(
        "{load}daemon off;\nworker_processes {cores};\npid {dir}/nginx.pid;\nerror_log stderr error;\n\
         events {{ worker_connections {connections}; }}\n\
         stream {{\n    access_log off;\n    tcp_nodelay on;\n    proxy_connect_timeout 5s;\n    \
         proxy_timeout 1h;\n    server {{ listen {listen}; proxy_pass {server}; }}\n}}\n",
        dir = dir.display(),
    )
}

pub(super) fn pgbouncer(Site { listen, server, tls, .. }: &Site) -> String {
    let tls = tls.map(|Certificate { cert, key, .. }| {
        format!(
            "client_tls_sslmode = require\nclient_tls_cert_file = {}\nclient_tls_key_file = {}\n",
            cert.display(),
            key.display()
        )
    });
    format!(
        "[databases]\n* = host={} port={} user={ROLE}\n\n\
         [pgbouncer]\nlisten_addr = {}\nlisten_port = {}\nunix_socket_dir =\nauth_type = any\n\
         pool_mode = session\nmax_client_conn = 10000\ndefault_pool_size = 290\n\
         ignore_startup_parameters = extra_float_digits\nlog_connections = 0\nlog_disconnections = 0\n\
         log_pooler_errors = 0\nlog_stats = 0\n{}",
        server.ip(),
        server.port(),
        listen.ip(),
        listen.port(),
        tls.unwrap_or_default(),
    )
}

pub(super) fn pgvane(
    Site { listen, sessions, tls, .. }: &Site,
    etcd: SocketAddr,
    admin: SocketAddr,
) -> String {
    let tls = tls.map(|Certificate { cert, key, .. }| {
        format!(
            "[listener.tls]\nmode = \"terminate\"\ncert = \"{}\"\nkey = \"{}\"\nrequired = true\n",
            cert.display(),
            key.display()
        )
    });
    format!(
        "[log]\nlevel = \"warn\"\n\n[admin]\nlisten = [\"{admin}\"]\n\n\
         [cluster.{SCOPE}.etcd]\nendpoints = [\"http://{etcd}\"]\n\n\
         [[listener]]\nrole = \"primary\"\nlisten = [\"{listen}\"]\nmax_sessions = {sessions}\n{}",
        tls.unwrap_or_default()
    )
}
