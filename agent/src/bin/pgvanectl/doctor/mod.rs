//! `doctor`: whether this node may be trusted with a cluster. Looks, and changes nothing. Exit codes: 0 all is well, 1
//! warnings, 2 something that breaks a failover.

mod certificates;
mod finding;
mod host;
mod others;
mod server;
mod shown;
mod store;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use pgvane_agent::config::{self, Config, Environment, Origin};
use pgvane_cluster::store::StoreError;
use rustls::pki_types::UnixTime;
use tokio::net::TcpListener;
use tokio::time::timeout;

use self::certificates::Limits;
use self::finding::{COLUMNS, Finding, Level};
use crate::output::{Format, Paper, Sheet};
use crate::target::Target;
use crate::{Failed, say};

/// What `doctor` takes.
#[derive(Args)]
pub(crate) struct DoctorArgs {
    /// How to show what was found.
    #[arg(short, long, value_enum, default_value = "pretty")]
    format: Format,
    /// Warn of a certificate that expires in fewer days than this.
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    certificate_warning: u32,
    /// Call critical a certificate that expires in fewer days than this.
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    certificate_critical: u32,
}

impl DoctorArgs {
    fn limits(&self) -> Limits {
        let days = |days: u32| Duration::from_hours(24) * days;
        Limits {
            now: UnixTime::now(),
            warning: days(self.certificate_warning),
            critical: days(self.certificate_critical),
        }
    }
}

/// How long the store may take for everything that it is asked.
const STORE_WITHIN: Duration = Duration::from_mins(1);

/// Looks at everything, shows it, and answers with the exit code; `file` is the agent's settings.
pub(crate) async fn run(file: &Path, args: &DoctorArgs) -> Result<ExitCode, Failed> {
    let loaded = config::read(&Origin::of(Some(file)), &Environment::of_process());
    let loaded = loaded.map_err(|e| Failed(e.to_string()))?;
    let mut findings: Vec<Finding> = loaded
        .warnings
        .iter()
        .map(|warning| Finding::warning("settings", warning.clone(), "see the example file"))
        .collect();
    let config = loaded.config;
    findings.push(host::secret_file(file));
    findings.extend(host::pgpass(&config));
    findings.push(host::data_dir(&config));
    findings.extend(host::programs(&config));
    findings.push(host::clock_source());
    findings.push(host::clock_rate(&config).await);
    findings.push(host::files(&config));
    findings.push(host::watchdog(&config));
    findings.extend(certificates::files(&config, args.limits()));
    findings.extend(Box::pin(of_cluster(file, &config, args.limits())).await);

    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Good);
    let sheet = Sheet {
        title: Some(format!("{} in {}", config.name, config.scope)),
        columns: COLUMNS.to_vec(),
        rows: findings.iter().map(Finding::row).collect(),
        footer: String::new(),
    };
    say(&sheet.show(args.format, Paper::stdout()))?;
    Ok(ExitCode::from(match worst {
        Level::Good => 0,
        Level::Warning => 1,
        Level::Critical => 2,
    }))
}

/// What needs the store.
async fn of_cluster(file: &Path, config: &Config, limits: Limits) -> Vec<Finding> {
    // Also where it is not reached: a certificate may be why.
    let mut findings = certificates::of_etcd(config, limits).await;
    let shown = findings.clone();
    let unreachable = |why: String| {
        let advice = "see that it runs, and that endpoints, TLS and login are right";
        [shown, vec![Finding::critical("etcd", why, advice)]].concat()
    };
    let target = match Target::of_agent(file) {
        Ok(target) => target,
        Err(Failed(why)) => return unreachable(why),
    };
    let health = timeout(STORE_WITHIN, target.store.health()).await.ok().and_then(Result::ok);
    findings.extend(health.as_ref().map(store::health));
    let latency = match timeout(STORE_WITHIN, store::measure(&target)).await {
        Ok(Ok(latency)) => Some(latency),
        Ok(Err(error @ StoreError::Full(_))) => {
            if health.is_none() {
                findings.push(store::full(&error));
            }
            None
        }
        Ok(Err(error)) => return unreachable(error.to_string()),
        Err(_) => return unreachable(format!("it takes longer than {} s", STORE_WITHIN.as_secs())),
    };
    // A cluster that is yet to be made has no keys.
    let view = target.view().await.unwrap_or_default();
    findings.extend(latency.map(|latency| store::judge(latency, view.settings().ttl, &config.timing)));
    findings.extend(others::look(&target, config, &view).await);
    findings.extend(certificates::of_members(config, &view, limits).await);
    if view.members.contains_key(&config.name) {
        findings.extend(server::look(config, view.members.len()).await);
    } else {
        findings.extend(ports(config).await);
    }
    findings
}

/// Whether the ports are free, before there is an agent.
async fn ports(config: &Config) -> Vec<Finding> {
    let postgresql = config.postgresql.listen_addresses.split(',').map(str::trim);
    let postgresql = postgresql.map(|host| if host == "*" { "0.0.0.0" } else { host });
    let mut wanted: Vec<String> =
        postgresql.map(|host| format!("{host}:{}", config.postgresql.port)).collect();
    wanted.push(config.restapi.listen.to_string());
    let mut findings = Vec::new();
    for address in wanted {
        let what = format!("port {address}");
        findings.push(match TcpListener::bind(&address).await {
            Ok(_) => Finding::good(what, "free"),
            Err(error) => {
                Finding::critical(what, error.to_string(), "stop what listens there, or take another port")
            }
        });
    }
    findings
}

/// The settings file of the agent here, where none was named.
pub(crate) fn settings_file(named: Option<&PathBuf>) -> PathBuf {
    named.cloned().unwrap_or_else(|| PathBuf::from(crate::target::DEFAULT_CONFIG))
}
