//! An etcd that trusts nobody: TLS to clients and between members, users and roles as packaging/etcd makes them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::access::{ClientTls, EtcdAccess};
use crate::install;
use crate::playground::certificates::{Authority, Signed};
use crate::playground::home::{self, Home};
use crate::playground::{PlaygroundError, SCOPE};

/// As it is shipped.
const AUTH: &str = include_str!("../../../../packaging/etcd/auth.sh");

/// The users that it makes for a cluster; after `pgvane-SCOPE-`.
const USERS: [&str; 4] = ["agent", "proxy", "reader", "operator"];

/// The certificate of whoever has a password: etcd's gateway refuses those that name somebody.
const NAMELESS: &str = "nameless";

/// How long etcd's tool may take.
const TOOL_WITHIN: Duration = Duration::from_mins(2);

/// How often users and roles are made until it succeeds: a young etcd on a busy machine changes its leader.
const TRIES: usize = 3;

/// Certificates and passwords.
#[derive(Debug)]
pub(super) struct Guard {
    authority: Authority,
    dir: PathBuf,
    etcdctl: PathBuf,
}

impl Guard {
    /// Certificates for the operator and all users, and a password for each user.
    pub(super) fn prepare(home: &Home) -> Result<Guard, PlaygroundError> {
        let etcdctl = install::etcdctl().map_err(|error| PlaygroundError::Refused(error.to_string()))?;
        let dir = home.create_dir("etcd-clients")?;
        let guard = Guard { authority: Authority::new("etcd"), dir, etcdctl };
        home.write(&guard.dir.join("ca.pem"), &guard.authority.certificate())?;
        guard.renew_clients(home)?;
        for user in USERS.map(user) {
            home.write(&guard.dir.join(&user), &format!("{}\n", home::secret()?))?;
        }
        Ok(guard)
    }

    /// Writes new certificates for all clients over the old ones.
    pub(super) fn renew_clients(&self, home: &Home) -> Result<(), PlaygroundError> {
        for user in USERS.map(user).into_iter().chain(["root".to_owned()]) {
            self.write(home, &user, &self.authority.sign_client(&user))?;
        }
        self.write(home, NAMELESS, &self.authority.sign_nameless_client())
    }

    fn write(&self, home: &Home, user: &str, signed: &Signed) -> Result<(), PlaygroundError> {
        home.write(&self.dir.join(format!("{user}.key")), &signed.key)?;
        home.write(&self.dir.join(format!("{user}.pem")), &signed.certificate)
    }

    /// Writes a new certificate for a member at these addresses into `dir`, where its settings look for it.
    pub(super) fn sign_member(
        &self,
        home: &Home,
        dir: &Path,
        address: SocketAddr,
    ) -> Result<(), PlaygroundError> {
        let signed = self.authority.sign_all(&[&address.ip().to_string()]);
        home.write(&dir.join("ca.pem"), &self.authority.certificate())?;
        home.write(&dir.join("member.key"), &signed.key)?;
        home.write(&dir.join("member.pem"), &signed.certificate)
    }

    /// How `name` (agent, proxy, reader, operator) of the cluster comes in, with its password or by its certificate.
    pub(super) fn access(&self, endpoints: Vec<SocketAddr>, name: &str, by_password: bool) -> EtcdAccess {
        let user = user(name);
        let password = || fs::read_to_string(self.dir.join(&user)).unwrap_or_default().trim().to_owned();
        EtcdAccess {
            endpoints,
            tls: Some(self.client_tls(if by_password { NAMELESS } else { &user })),
            login: by_password.then(|| (user.clone(), password())),
        }
    }

    fn client_tls(&self, user: &str) -> ClientTls {
        ClientTls {
            cacert: self.dir.join("ca.pem"),
            cert: self.dir.join(format!("{user}.pem")),
            key: self.dir.join(format!("{user}.key")),
        }
    }

    /// Makes users and roles as a site does, and switches authentication on.
    pub(super) async fn switch_on(&self, endpoints: &[SocketAddr]) -> Result<(), PlaygroundError> {
        let mut made = self.auth(endpoints, &[SCOPE]).await;
        for _ in 1..TRIES {
            if made.is_err() {
                made = self.auth(endpoints, &[SCOPE]).await;
            }
        }
        made?;
        self.auth(endpoints, &["--enable"]).await
    }

    /// Runs `auth.sh`.
    pub(super) async fn auth(&self, endpoints: &[SocketAddr], args: &[&str]) -> Result<(), PlaygroundError> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", AUTH, "auth.sh"]).args(args).env("PGVANE_ETCD_PASSWORDS", &self.dir);
        // It calls etcdctl by its name.
        let tools = self.etcdctl.parent().unwrap_or(Path::new("/usr/bin"));
        command.env("PATH", format!("{}:/usr/bin:/bin", tools.display()));
        self.run(command, endpoints, "root").await.map(drop)
    }

    /// What etcd's own tool says as the user of that certificate: `root`, or one of the cluster's.
    pub(super) async fn ctl(
        &self,
        endpoints: &[SocketAddr],
        user: &str,
        args: &[&str],
    ) -> Result<String, PlaygroundError> {
        let mut command = Command::new(&self.etcdctl);
        command.args(args);
        self.run(command, endpoints, user).await
    }

    async fn run(
        &self,
        mut command: Command,
        endpoints: &[SocketAddr],
        user: &str,
    ) -> Result<String, PlaygroundError> {
        let ClientTls { cacert, cert, key } = self.client_tls(user);
        let urls: Vec<_> = endpoints.iter().map(|endpoint| format!("https://{endpoint}")).collect();
        let shown = format!("{:?}", command.as_std());
        command
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", urls.join(","))
            .env("ETCDCTL_CACERT", cacert);
        command.env("ETCDCTL_CERT", cert).env("ETCDCTL_KEY", key);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let failed = |why: String| PlaygroundError::Refused(format!("{shown}: {why}"));
        match timeout(TOOL_WITHIN, command.output()).await {
            Ok(Ok(output)) if output.status.success() => {
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            }
            Ok(Ok(output)) => Err(failed(String::from_utf8_lossy(&output.stderr).into_owned())),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no end within {} s", TOOL_WITHIN.as_secs()))),
        }
    }
}

/// The user's whole name.
pub(super) fn user(name: &str) -> String {
    format!("pgvane-{SCOPE}-{name}")
}
