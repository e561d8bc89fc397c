//! Which cluster: from agent.toml, or from options and the environment.

use std::path::{Path, PathBuf};

use clap::Args;
use pgvane_agent::config::{self, Login, Secret};
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
#[derive(Args)]
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
        let user = match args.username {
            Some(name) => Some((name, password("PGVANECTL_PASSWORD")?.expose().to_owned())),
            None => None,
        };
        let tls = EtcdTls { ca: args.cacert, identity: args.cert.zip(args.key), server_name: None };
        let secure = tls.ca.is_some()
            || tls.identity.is_some()
            || args.endpoints.iter().any(|e| e.starts_with("https:"));
        let options = EtcdOptions { tls: secure.then_some(tls), user, ..EtcdOptions::new(args.endpoints) };
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
        let namespace = namespace.unwrap_or(config.namespace);
        let login = rest_login.or(config.restapi.login);
        Ok(Target::new(
            config.etcd.options(),
            &namespace,
            scope.unwrap_or(config.scope),
            login,
            config.timing,
        ))
    }

    fn new(
        options: EtcdOptions,
        namespace: &str,
        scope: String,
        login: Option<Login>,
        timing: TimingOverrides,
    ) -> Target {
        let space = Keyspace::new(namespace, &scope);
        Target { store: EtcdStore::new(options.clone()), options, space, scope, login, timing }
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

fn password(variable: &str) -> Result<Secret, Failed> {
    match std::env::var(variable) {
        Ok(text) => Ok(Secret::new(text)),
        Err(_) => fail(format!("a user name needs its password in {variable}")),
    }
}
