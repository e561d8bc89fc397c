//! What is made from the settings: when the agent starts, and again whenever they are read anew.

use std::sync::Arc;

use tracing::warn;

use crate::api;
use crate::config::{Config, Ctl, VerifyClient};
use crate::decide::announce::Identity;
use crate::peers::Caller;
use crate::postgres::Instance;
use crate::postgres::instance::OnDivergence;

/// All of it.
#[derive(Debug)]
pub struct Parts {
    /// The local PostgreSQL.
    pub instance: Instance,
    /// What the REST API is told.
    pub rest: Arc<api::Settings>,
    /// How other members are asked.
    pub caller: Arc<Caller>,
    /// What members publish of this one.
    pub identity: Identity,
}

impl Parts {
    /// Reads what the settings name, such as certificates; the error says what cannot be used.
    pub fn of(config: &Config) -> Result<Parts, String> {
        let caller = caller(config);
        let rest = api::Settings::new(&config.restapi)?.with(Arc::clone(&caller), config.timing);
        let identity = Identity {
            conn_url: config.conn_url(),
            api_url: config.api_url(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            proxy_url: config.proxy_url(),
        };
        Ok(Parts { instance: instance(config), rest: Arc::new(rest), caller, identity })
    }
}

/// How other members are asked: as operators' tools are told to, with what our own API expects where they are told
/// nothing.
fn caller(config: &Config) -> Arc<Caller> {
    let own_ca = || config.restapi.tls.as_ref().and_then(|tls| tls.cafile.clone());
    let ctl = Ctl { cafile: config.ctl.cafile.clone().or_else(own_ca), ..config.ctl.clone() };
    let caller = Caller::new(&ctl);
    if let Some(tls) = &config.restapi.tls {
        if let Some(why) = caller.lacks_tls() {
            warn!(why, "members that speak https as this one does cannot be asked");
        }
        if tls.verify_client == VerifyClient::Required && ctl.client_cert.is_none() {
            warn!("members that want a certificate as this one does cannot be asked: ctl has none");
        }
    }
    Arc::new(caller)
}

fn instance(config: &Config) -> Instance {
    let p = &config.postgresql;
    Instance {
        member: config.name.clone(),
        scope: config.scope.clone(),
        data_dir: p.data_dir.clone(),
        bin_dir: p.bin_dir.clone(),
        listen_addresses: p.listen_addresses.clone(),
        port: p.port,
        connect_address: p.connect_address.clone(),
        database: p.database.clone(),
        superuser: p.superuser.clone(),
        replication: p.replication.clone(),
        rewind: p.rewind.clone(),
        pgpass: p.pgpass.clone(),
        socket_dir: p.socket_dir.clone(),
        parameters: p.parameters.clone(),
        pg_hba: p.pg_hba.clone(),
        vetted: crate::postgres::vetted::Vetted::default(),
        initdb: config.bootstrap.initdb.clone(),
        users: config.bootstrap.users.clone(),
        post_bootstrap: config.bootstrap.post_bootstrap.clone(),
        bootstrap_method: config.bootstrap.method.clone(),
        bootstrap_pg_hba: config.bootstrap.pg_hba.clone(),
        pg_ident: p.pg_ident.clone(),
        recovery_conf: p.recovery_conf.clone(),
        config_dir: p.config_dir.clone(),
        config_base_name: p.config_base_name.clone(),
        custom_conf: p.custom_conf.clone(),
        bin_names: p.bin_names.clone(),
        use_unix_socket_repl: p.use_unix_socket_repl,
        krbsrvname: p.krbsrvname.clone(),
        replica_methods: p.replica_methods.clone(),
        basebackup: p.basebackup.clone(),
        rewind_options: p.rewind_options.clone(),
        pre_promote: p.pre_promote.clone(),
        before_stop: p.before_stop.clone(),
        pg_ctl_timeout: p.pg_ctl_timeout,
        on_divergence: OnDivergence {
            use_pg_rewind: p.use_pg_rewind,
            clone_on_rewind_failure: p.remove_data_directory_on_rewind_failure,
            clone_on_divergence: p.remove_data_directory_on_diverged_timelines,
        },
    }
}
