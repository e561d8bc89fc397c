//! What the operator has to do for the new node, in the order in which it is done.

use std::collections::BTreeSet;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;

use pgvane_agent::config::Config;
use pgvane_agent::new_node::hba::{Verdict, replication};
use pgvane_agent::new_node::{Made, NewNode};
use pgvane_cluster::view::ClusterView;

/// Where packages have the settings.
const INSTALLED: &str = "/etc/pgvane/agent.toml";

/// Everything there is to say.
pub(super) fn text(view: &ClusterView, config: &Config, new: &NewNode, made: &Made, output: &Path) -> String {
    let mut text = format!("Written: {}, mode 600; it holds passwords.\n", output.display());
    text.extend(made.changed.iter().map(|line| format!("  {line}\n")));
    let warnings = [made.look_at.clone(), warnings(view, config, new)].concat();
    if !warnings.is_empty() {
        text.push_str("\nLook at:\n");
        text.extend(warnings.iter().map(|line| format!("  {line}\n")));
    }
    let NewNode { name, host, postgres, rest } = new;
    let version = version(config);
    let data_dir = config.postgresql.data_dir.display();
    let file = output.display();
    text.push_str(&format!(
        "\nWhat {name} needs, in this order:\n\
         1. PostgreSQL {version} and the package pgvane-agent. No server may run on {data_dir} or port {postgres}; what is \
         in an existing data directory of another cluster stays, and the agent refuses it.\n\
         2. Its settings:\n     scp {file} {host}:agent.toml\n     ssh {host} 'sudo install -D -m 600 -o postgres \
         agent.toml {INSTALLED} && rm agent.toml'\n\
         3. Open ports. From {name}: {}. To {name}, from every member: {postgres} and {rest}; from the proxies: {postgres} \
         and {rest}.\n\
         4. A look at it:\n     ssh {host} 'sudo -u postgres pgvane-agent --check {INSTALLED} && sudo -u postgres \
         pgvanectl doctor'\n\
         5. Its agent, which copies the data and follows:\n     ssh {host} 'sudo systemctl enable --now pgvane-agent'\n\
         6. Here: pgvanectl watch, until {name} streams. Proxies that follow etcd use it by themselves.\n",
        outward(view, config)
    ));
    text
}

/// What a new member has to reach: etcd, and every member's PostgreSQL and REST API.
fn outward(view: &ClusterView, config: &Config) -> String {
    let etcd = config.etcd.endpoints.iter().map(|url| url.rsplit('/').next().unwrap_or(url).to_owned());
    let members = view.members.values().flat_map(|member| {
        let record = &member.record;
        [record.postgres_address(), record.api_address()].into_iter().flatten()
    });
    let members =
        members.map(
            |(host, port)| {
                if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
            },
        );
    etcd.chain(members).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
}

/// The major version, as the data directory or the programs' directory has it.
fn version(config: &Config) -> String {
    let of_data = std::fs::read_to_string(config.postgresql.data_dir.join("PG_VERSION"));
    let of_data = of_data.ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    of_data.unwrap_or_else(|| "of the same major version".to_owned())
}

/// What would keep the new node out.
fn warnings(view: &ClusterView, config: &Config, new: &NewNode) -> Vec<String> {
    let mut said = Vec::new();
    let role = &config.postgresql.replication.username;
    let lines = &config.postgresql.pg_hba;
    if lines.is_empty() {
        said.push(format!(
            "pg_hba.conf is each member's own here: every one needs a line \"host replication {role} {} scram-sha-256\"",
            new.host
        ));
    } else if let Some(ip) = address(&new.host) {
        let line =
            format!("host replication {role} {ip}/{} scram-sha-256", if ip.is_ipv4() { 32 } else { 128 });
        let add = format!("add {line:?} to postgresql.pg_hba of every member, and `pgvanectl reload`");
        match replication(lines, role, ip) {
            Verdict::Admits(_) => {}
            Verdict::Rejects(by) => said.push(format!("pg_hba turns {role} from {ip} away ({by:?}): {add}")),
            Verdict::Nothing => said.push(format!("no line of pg_hba lets {role} from {ip} in: {add}")),
            Verdict::Unknown(line) => {
                said.push(format!("whether pg_hba lets {role} from {ip} in cannot be told from {line:?}"));
            }
        }
    } else {
        said.push(format!("{} cannot be resolved here: the other members have to know it as well", new.host));
    }
    let parameters = view.settings().postgresql.parameters;
    let wanted = view.members.len() + 2;
    for name in ["max_wal_senders", "max_replication_slots"] {
        let set = parameters.get(name).and_then(|value| value.parse::<usize>().ok()).unwrap_or(10);
        if set < wanted {
            said.push(format!(
                "{name} is {set}, and {} members want {wanted}: pgvanectl edit-config --pg {name}={wanted}, then restart",
                view.members.len() + 1
            ));
        }
    }
    said
}

fn address(host: &str) -> Option<IpAddr> {
    let resolved = || (host, 0).to_socket_addrs().ok()?.next().map(|address| address.ip());
    host.parse().ok().or_else(resolved)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::list::tests::{PAIR, view};

    fn config(pg_hba: &str) -> Config {
        let text = include_str!("../../../../agent.toml.example");
        let text = text.replace(
            "connect_address = \"10.0.0.1:5432\"",
            &format!("connect_address = \"10.0.0.1:5432\"\n{pg_hba}"),
        );
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("postgres"), "").expect("writes");
        let bin = format!("bin_dir = {:?}", dir.path());
        let text = text.replace("#bin_dir = \"/usr/lib/postgresql/15/bin\"", &bin);
        pgvane_agent::config::parse(&text, "agent.toml", Path::new("/")).unwrap_or_else(|e| panic!("{e}"))
    }

    #[tokio::test]
    async fn it_names_what_has_to_be_reached_and_what_stands_in_the_way() {
        let view = view(PAIR).await;
        let new = NewNode { name: "pg4".to_owned(), host: "10.0.0.4".to_owned(), postgres: 5432, rest: 8008 };
        let made = Made {
            toml: "password".to_owned(),
            changed: vec!["name = \"pg4\"".to_owned()],
            look_at: vec!["tags.nosync = true: why".to_owned()],
        };
        let said = |pg_hba: &str| text(&view, &config(pg_hba), &new, &made, &PathBuf::from("pg4.agent.toml"));
        let usual = said("");
        assert!(usual.starts_with("Written: pg4.agent.toml, mode 600"), "{usual}");
        assert!(
            usual.contains("From pg4: 10.0.0.1:5432, 10.0.0.2:5432, 10.0.0.3:5432, 127.0.0.1:2379."),
            "{usual}"
        );
        assert!(usual.contains("Look at:\n  tags.nosync = true: why\n\n"), "no other warning: {usual}");
        assert!(usual.contains("scp pg4.agent.toml 10.0.0.4:agent.toml"), "{usual}");
        let narrow = said("pg_hba = [\"host replication all 10.0.0.1/32 md5\"]");
        assert!(narrow.contains("no line of pg_hba lets replicator from 10.0.0.4 in"), "{narrow}");
        let own = said("keep_pg_hba = true");
        assert!(own.contains("pg_hba.conf is each member's own"), "{own}");
    }
}
