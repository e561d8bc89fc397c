//! Which cluster: from an agent's settings, from patronictl's, or from options and the environment.

use std::path::{Path, PathBuf};

use clap::Args;
use pgvane_agent::config::{self, Ctl, Etcd, Login, Role, Secret};
use pgvane_agent::peers::Caller;
use pgvane_agent::timing::TimingOverrides;
use pgvane_cluster::fold;
use pgvane_cluster::ids::Revision;
use pgvane_cluster::keyspace::{Key, Keyspace};
use pgvane_cluster::store::etcd::{EtcdOptions, EtcdStore, EtcdTls};
use pgvane_cluster::store::{Compare, Store, Txn, Write};
use pgvane_cluster::view::ClusterView;
use serde_json::Value;

use crate::{Failed, fail};

/// Where packages put the agent's settings.
pub(crate) const DEFAULT_CONFIG: &str = "/etc/pgvane/agent.toml";

/// Where patronictl's own settings are named, and where they are, in the home directory, where they are not.
const PATRONICTL_VARIABLE: &str = "PATRONICTL_CONFIG_FILE";
const PATRONICTL_CONFIG: &str = ".config/patroni/patronictl.yaml";

/// How to reach the cluster.
#[derive(Args, Default)]
#[command(next_help_heading = "Which cluster")]
pub(crate) struct TargetArgs {
    /// An agent's settings, agent.toml or patroni.yml, or patronictl's: etcd, scope and REST login are taken from it.
    /// [default: what PATRONICTL_CONFIG_FILE names, /etc/pgvane/agent.toml, ~/.config/patroni/patronictl.yaml]
    #[arg(short, long, global = true, env = "PGVANECTL_CONFIG", conflicts_with = "endpoints")]
    pub(crate) config: Option<PathBuf>,
    /// etcd as patronictl is told of it, in place of what a settings file says: etcd3://HOST:PORT. Before the command.
    #[arg(short = 'd', long, visible_alias = "dcs", env = "DCS_URL", conflicts_with = "endpoints")]
    dcs_url: Option<String>,
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
    /// Asks the members' REST APIs, with the login that they want for changes.
    pub(crate) agents: Caller,
    /// Deadlines set by hand on this node.
    pub(crate) timing: TimingOverrides,
    /// Who may ask PostgreSQL, where an agent's settings tell.
    pub(crate) superuser: Option<Role>,
    /// Who may copy it, where an agent's settings tell.
    pub(crate) replication: Option<Role>,
    /// Where PostgreSQL's programs are, where that is said.
    pub(crate) bin_dir: Option<PathBuf>,
}

impl Target {
    pub(crate) fn find(args: TargetArgs) -> Result<Target, Failed> {
        let rest_login = match args.rest_username {
            Some(username) => Some(Login { username, password: password("PGVANECTL_REST_PASSWORD")? }),
            None => None,
        };
        let told = match &args.dcs_url {
            Some(url) => Some(etcd_of(url)?),
            None => None,
        };
        let file = args.config.clone().or_else(|| usual_file(told.is_some() && args.scope.is_some()));
        if args.endpoints.is_empty()
            && let Some(file) = file
        {
            return Target::of_file(&file, args.scope, args.namespace, rest_login, told);
        }
        let endpoints = told.map_or(args.endpoints, |endpoint| vec![endpoint]);
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
        let endpoints = urls(&endpoints, if secure { "https" } else { "http" })?;
        let secure = secure || endpoints.iter().any(|e| e.starts_with("https:"));
        let options = EtcdOptions { tls: secure.then_some(tls), user, ..EtcdOptions::new(endpoints) };
        let namespace = args.namespace.as_deref().unwrap_or("service");
        let ctl = Ctl { login: rest_login, ..Ctl::default() };
        Ok(Target::new(options, namespace, scope, &ctl, TimingOverrides::default()))
    }

    /// The cluster of an agent, as its settings say.
    pub(crate) fn of_agent(path: &Path) -> Result<Target, Failed> {
        Target::of_file(path, None, None, None, None)
    }

    fn of_file(
        path: &Path,
        scope: Option<String>,
        namespace: Option<String>,
        rest_login: Option<Login>,
        told: Option<String>,
    ) -> Result<Target, Failed> {
        let hint = "Name a settings file with -c, or the cluster with --endpoints and --scope.";
        let settings = config::reach(path).map_err(|e| Failed(format!("{e}\n{hint}")))?;
        let Some(scope) = scope.or(settings.scope) else {
            return fail(format!(
                "{}: there is no scope in it; name the cluster with --scope",
                path.display()
            ));
        };
        let scope = checked_scope(scope)?;
        let options = match (settings.etcd, told) {
            (Some(etcd), Some(endpoint)) => Etcd { endpoints: vec![endpoint], ..etcd }.options(),
            (Some(etcd), None) => etcd.options(),
            (None, Some(endpoint)) => EtcdOptions::new(vec![endpoint]),
            (None, None) => {
                let text = "there is no etcd3 in it; say where etcd is with -d etcd3://HOST:PORT";
                return fail(format!("{}: {text}", path.display()));
            }
        };
        let namespace = namespace.unwrap_or(settings.namespace);
        let ctl = Ctl { login: rest_login.or(settings.ctl.login.clone()), ..settings.ctl };
        Ok(Target {
            superuser: settings.superuser,
            replication: settings.replication,
            bin_dir: settings.bin_dir,
            ..Target::new(options, &namespace, scope, &ctl, settings.timing)
        })
    }

    fn new(
        options: EtcdOptions,
        namespace: &str,
        scope: String,
        ctl: &Ctl,
        timing: TimingOverrides,
    ) -> Target {
        let space = Keyspace::new(namespace, &scope);
        Target {
            store: EtcdStore::new(options.clone()),
            options,
            space,
            scope,
            agents: Caller::new(ctl),
            timing,
            superuser: None,
            replication: None,
            bin_dir: None,
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

    /// Replaces the dynamic configuration if it is still that of `revision`; otherwise the error says that nothing was
    /// `done`.
    pub(crate) async fn replace_config(
        &self,
        document: &Value,
        revision: Revision,
        done: &str,
    ) -> Result<(), Failed> {
        let key = self.space.path(&Key::Config);
        let txn = Txn {
            when: vec![Compare::ModRevisionIs(key.clone(), revision)],
            then: vec![Write::Put(key, document.to_string().into_bytes(), None)],
        };
        if self.store.txn(txn).await?.succeeded {
            return Ok(());
        }
        fail(format!("somebody else changed the configuration meanwhile; nothing was {done}"))
    }
}

/// The settings file to take where none is named; `None` where there is none and `all_is_said` without one.
fn usual_file(all_is_said: bool) -> Option<PathBuf> {
    let named = std::env::var_os(PATRONICTL_VARIABLE).map(PathBuf::from);
    let ours = Some(PathBuf::from(DEFAULT_CONFIG)).filter(|path| path.exists());
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(PATRONICTL_CONFIG));
    let found = named.or(ours).or_else(|| home.filter(|path| path.exists()));
    found.or_else(|| (!all_is_said).then(|| PathBuf::from(DEFAULT_CONFIG)))
}

/// The endpoint in patronictl's form of it.
fn etcd_of(url: &str) -> Result<String, Failed> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("etcd3", url));
    if scheme != "etcd3" {
        let text = "etcd's API v3 is what clusters are kept in here: etcd3://HOST:PORT";
        return fail(format!("-d: {scheme}:// is not known; {text}"));
    }
    let address = rest.trim_end_matches('/');
    let address = if address.contains(':') { address.to_owned() } else { format!("{address}:2379") };
    let endpoint = config::etcd_url(&address, "http");
    endpoint.ok_or_else(|| Failed(format!("-d: {url:?} is not etcd3://HOST:PORT")))
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
    async fn patronis_settings_will_do() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("patroni.yml");
        let text = "scope: demo\nnamespace: /db/\netcd3: {hosts: [a, 'b:1'], username: u, password: hunter2}\n\
                    restapi: {auth: 'admin:hunter2', lisen: x}\n\
                    postgresql: {authentication: {superuser: {username: boss, password: hunter2}}}\n";
        std::fs::write(&file, text).expect("writes");
        let found = |args: TargetArgs| {
            let args = TargetArgs { config: Some(file.clone()), ..args };
            Target::find(args).unwrap_or_else(|Failed(why)| panic!("{why}"))
        };
        let target = found(TargetArgs::default());
        assert_eq!(target.options.endpoints, ["http://a:2379", "http://b:1"]);
        assert_eq!(target.options.user, Some(("u".to_owned(), "hunter2".to_owned())));
        assert_eq!(target.space.prefix(), "/db/demo/");
        let ctl = config::reach(&file).expect("reads").ctl;
        assert_eq!(ctl.login.map(|login| login.username).as_deref(), Some("admin"));
        assert_eq!(target.superuser.map(|role| role.username).as_deref(), Some("boss"));
        let elsewhere = TargetArgs { dcs_url: Some("etcd3://c".to_owned()), ..TargetArgs::default() };
        let target = found(elsewhere);
        assert_eq!(target.options.endpoints, ["http://c:2379"]);
        assert!(target.options.user.is_some());

        // patronictl's own file says as little as this.
        std::fs::write(&file, "ctl: {insecure: true}\n").expect("writes");
        let said = |dcs_url: Option<&str>, scope: Option<&str>| TargetArgs {
            config: Some(file.clone()),
            dcs_url: dcs_url.map(str::to_owned),
            scope: scope.map(str::to_owned),
            ..TargetArgs::default()
        };
        assert!(refused(said(None, Some("demo"))).contains("there is no etcd3 in it"));
        assert!(refused(said(Some("etcd3://c:1"), None)).contains("there is no scope in it"));
        assert!(refused(said(Some("etcd://c:1"), Some("demo"))).starts_with("-d: etcd:// is not known"));
        let target = Target::find(said(Some("etcd3://c:1"), Some("demo")));
        assert_eq!(target.unwrap_or_else(|Failed(why)| panic!("{why}")).options.endpoints, ["http://c:1"]);
    }

    #[tokio::test]
    async fn an_endpoint_without_a_scheme_is_plain_http() {
        let target = Target::find(at("10.0.0.1:2379/")).unwrap_or_else(|Failed(why)| panic!("{why}"));
        assert_eq!(target.options.endpoints, ["http://10.0.0.1:2379"]);
        assert_eq!(target.space.prefix(), "/service/demo/");
    }
}
