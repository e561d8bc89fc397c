//! Which cluster: from agent.toml, or from options and the environment.

use std::path::{Path, PathBuf};

use clap::Args;
use pgvane_agent::config::{self, Login, Role, Secret};
use pgvane_agent::timing::TimingOverrides;
use pgvane_cluster::fold;
use pgvane_cluster::keyspace::Keyspace;
use pgvane_cluster::store::Store;
use pgvane_cluster::store::etcd::{EtcdOptions, EtcdStore, EtcdTls};
use pgvane_cluster::view::ClusterView;

use crate::{Failed, fail};

/// Where packages put the agent's settings.
const DEFAULT_CONFIG: &str = "/etc/pgvane/agent.toml";

/// How to reach the cluster.
#[derive(Args, Default)]
#[command(next_help_heading = "Which cluster")]
pub(crate) struct TargetArgs {
    /// An agent's settings: etcd, scope and REST login are taken from it. [default: /etc/pgvane/agent.toml]
    #[arg(short, long, global = true, env = "PGVANECTL_CONFIG", conflicts_with = "endpoints")]
    config: Option<PathBuf>,
    /// etcd client URLs, with commas, instead of a settings file.
    #[arg(long, global = true, env = "PGVANECTL_ENDPOINTS", value_delimiter = ',')]
    endpoints: Vec<String>,
    /// Name of the cluster.
    #[arg(long, global = true, env = "PGVANECTL_SCOPE")]
    scope: Option<String>,
    /// Part of etcd's key space the cluster lives in. [default: service]
    #[arg(long, global = true, env = "PGVANECTL_NAMESPACE")]
    namespace: Option<String>,
    /// CA certificate of etcd.
    #[arg(long, global = true, env = "PGVANECTL_CACERT", requires = "endpoints")]
    cacert: Option<PathBuf>,
    /// Client certificate for etcd.
    #[arg(long, global = true, env = "PGVANECTL_CERT", requires_all = ["endpoints", "key"])]
    cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, global = true, env = "PGVANECTL_KEY", requires_all = ["endpoints", "cert"])]
    key: Option<PathBuf>,
    /// etcd user; its password comes from PGVANECTL_PASSWORD only.
    #[arg(long, global = true, env = "PGVANECTL_USERNAME", requires = "endpoints")]
    username: Option<String>,
    /// User of the agents' REST APIs; its password comes from PGVANECTL_REST_PASSWORD only.
    #[arg(long, global = true, env = "PGVANECTL_REST_USERNAME")]
    rest_username: Option<String>,
}

/// A cluster that can be read and changed.
pub(crate) struct Target {
    pub(crate) store: EtcdStore,
    pub(crate) options: EtcdOptions,
    pub(crate) space: Keyspace,
    pub(crate) scope: String,
    /// What the agents' REST APIs want for changes.
    pub(crate) login: Option<Login>,
    /// Deadlines set by hand on this node.
    pub(crate) timing: TimingOverrides,
    /// Who may ask PostgreSQL, where an agent's settings tell.
    pub(crate) superuser: Option<Role>,
}

impl Target {
    pub(crate) fn find(args: TargetArgs) -> Result<Target, Failed> {
        let rest_login = match args.rest_username {
            Some(username) => Some(Login { username, password: password("PGVANECTL_REST_PASSWORD")? }),
            None => None,
        };
        if args.endpoints.is_empty() {
            let path = args.config.unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG));
            return Target::of_file(&path, args.scope, args.namespace, rest_login);
        }
        let Some(scope) = args.scope else {
            return fail("--endpoints needs --scope (or PGVANECTL_SCOPE): the name of the cluster");
        };
        let scope = checked_scope(scope)?;
        let user = match args.username {
            Some(name) => Some((name, password("PGVANECTL_PASSWORD")?.expose().to_owned())),
            None => None,
        };
        for file in [&args.cacert, &args.cert, &args.key].into_iter().flatten() {
            if let Err(e) = std::fs::File::open(file) {
                return fail(format!("{}: {e}", file.display()));
            }
        }
        let tls = EtcdTls { ca: args.cacert, identity: args.cert.zip(args.key), server_name: None };
        let secure = tls.ca.is_some() || tls.identity.is_some();
        let endpoints = urls(&args.endpoints, if secure { "https" } else { "http" })?;
        let secure = secure || endpoints.iter().any(|e| e.starts_with("https:"));
        let options = EtcdOptions { tls: secure.then_some(tls), user, ..EtcdOptions::new(endpoints) };
        let namespace = args.namespace.as_deref().unwrap_or("service");
        Ok(Target::new(options, namespace, scope, rest_login, TimingOverrides::default()))
    }

    fn of_file(
        path: &Path,
        scope: Option<String>,
        namespace: Option<String>,
        rest_login: Option<Login>,
    ) -> Result<Target, Failed> {
        let config = config::load(path)
            .map_err(|e| {
                Failed(format!(
                    "{e}\nName a settings file with -c, or the cluster with --endpoints and --scope."
                ))
            })?
            .config;
        let scope = checked_scope(scope.unwrap_or(config.scope))?;
        let namespace = namespace.unwrap_or(config.namespace);
        let login = rest_login.or(config.restapi.login);
        let superuser = Some(config.postgresql.superuser);
        Ok(Target {
            superuser,
            ..Target::new(config.etcd.options(), &namespace, scope, login, config.timing)
        })
    }

    fn new(
        options: EtcdOptions,
        namespace: &str,
        scope: String,
        login: Option<Login>,
        timing: TimingOverrides,
    ) -> Target {
        let space = Keyspace::new(namespace, &scope);
        Target {
            store: EtcdStore::new(options.clone()),
            options,
            space,
            scope,
            login,
            timing,
            superuser: None,
        }
    }

    /// The cluster as it is now; an error where there is none under this name.
    pub(crate) async fn view(&self) -> Result<ClusterView, Failed> {
        let snapshot = self.store.snapshot(self.space.prefix()).await?;
        if snapshot.keys.is_empty() {
            return fail(format!("there is no cluster under {} in the store", self.space.prefix()));
        }
        Ok(fold::from_snapshot(&self.space, &snapshot, None))
    }
}

/// An empty scope would mean everything in the namespace.
fn checked_scope(scope: String) -> Result<String, Failed> {
    if scope.trim_matches('/').is_empty() { fail("--scope: the cluster needs a name") } else { Ok(scope) }
}

fn urls(endpoints: &[String], scheme: &str) -> Result<Vec<String>, Failed> {
    let url = |text: &String| {
        config::etcd_url(text, scheme)
            .ok_or_else(|| Failed(format!("--endpoints: {text:?} is not http(s)://host:port")))
    };
    endpoints.iter().map(url).collect()
}

fn password(variable: &str) -> Result<Secret, Failed> {
    match std::env::var(variable) {
        Ok(text) => Ok(Secret::new(text)),
        Err(_) => fail(format!("a user name needs its password in {variable}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(args: TargetArgs) -> String {
        Target::find(args).err().map_or_else(|| "not refused".to_owned(), |Failed(why)| why)
    }

    fn at(endpoint: &str) -> TargetArgs {
        let scope = Some("demo".to_owned());
        TargetArgs { endpoints: vec![endpoint.to_owned()], scope, ..TargetArgs::default() }
    }

    #[tokio::test]
    async fn a_cluster_that_cannot_be_meant_is_refused_before_anything_is_asked() {
        for bad in ["", "nonsense://", "10.0.0.1", "http://10.0.0.1:x", "ftp://10.0.0.1:1"] {
            assert_eq!(refused(at(bad)), format!("--endpoints: {bad:?} is not http(s)://host:port"));
        }
        let nameless = TargetArgs { scope: Some("/".to_owned()), ..at("10.0.0.1:2379") };
        assert_eq!(refused(nameless), "--scope: the cluster needs a name");
        let absent = TargetArgs { cacert: Some("/nowhere/ca.pem".into()), ..at("10.0.0.1:2379") };
        assert!(refused(absent).starts_with("/nowhere/ca.pem: No such file"));
        let missing = TargetArgs { config: Some("/nowhere/agent.toml".into()), ..TargetArgs::default() };
        assert!(refused(missing).starts_with("/nowhere/agent.toml: there is no such file"));
    }

    #[tokio::test]
    async fn an_endpoint_without_a_scheme_is_plain_http() {
        let target = Target::find(at("10.0.0.1:2379/")).unwrap_or_else(|Failed(why)| panic!("{why}"));
        assert_eq!(target.options.endpoints, ["http://10.0.0.1:2379"]);
        assert_eq!(target.space.prefix(), "/service/demo/");
    }
}
