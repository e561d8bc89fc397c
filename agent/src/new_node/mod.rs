//! The settings of one more node, made of those of a node that is there: the text stays as it was, comments and all,
//! but for the name and the addresses.

pub mod hba;

use toml_edit::{DocumentMut, Item, Table, TableLike, Value};

use crate::config::HostPort;

/// The new node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// Its name.
    pub name: String,
    /// Its host name or address.
    pub host: String,
    /// The port of its PostgreSQL.
    pub postgres: u16,
    /// The port of its REST API.
    pub rest: u16,
}

/// The node that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldNode {
    /// Its name.
    pub name: String,
    /// Where its PostgreSQL is reached.
    pub postgres: HostPort,
    /// Where its REST API is reached.
    pub rest: HostPort,
}

/// Settings that were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The text of agent.toml. It holds passwords.
    pub toml: String,
    /// Which settings became which.
    pub changed: Vec<String>,
    /// What an operator has to look at: the setting, and why.
    pub look_at: Vec<String>,
}

/// Settings that say what one node is, and not what a cluster is; and why to look at them.
const PER_NODE: [(&str, &str); 9] = [
    ("postgresql.parameters", "parameters of one node alone: does its hardware have what they take?"),
    ("postgresql.config_dir", "the directory must be there, and postgres' own"),
    ("postgresql.custom_conf", "the file must be there"),
    ("postgresql.pre_promote", "the program must be there"),
    ("postgresql.before_stop", "the program must be there"),
    ("postgresql.callbacks", "the programs must be there"),
    ("tags", "what that node is willing to do: is this one too?"),
    ("timing", "deadlines of that node: do they fit this one?"),
    ("watchdog.mode", "the device must be there and open to postgres"),
];

/// Files with certificates and keys, by the ends of their settings' names.
const CERTIFICATES: [&str; 7] = ["cert", "key", "ca", "certfile", "keyfile", "cafile", "cacert"];

/// Makes them of `text`, which is an agent.toml without mistakes.
pub fn make(text: &str, old: &OldNode, new: &NewNode) -> Result<Made, String> {
    let mut document: DocumentMut = text.parse().map_err(|e: toml_edit::TomlError| e.to_string())?;
    let mut changed = Vec::new();
    let rest = HostPort { host: new.host.clone(), port: new.rest };
    let postgres = HostPort { host: new.host.clone(), port: new.postgres };
    let listen = |section: &str, old: &HostPort, new: &HostPort| {
        let said = get(&document, section, "listen")?.as_str()?.to_owned();
        Some(listening(&said, old, new))
    };
    let rest_listen = listen("restapi", &old.rest, &rest);
    let postgres_listen = listen("postgresql", &old.postgres, &postgres);
    let proxy = get(&document, "postgresql", "proxy_address").and_then(Item::as_str);
    let proxy = proxy.map(|said| said.replace(&old.postgres.host, &new.host));
    let wanted = [
        ("", "name", Some(new.name.clone())),
        (
            "restapi",
            "listen",
            rest_listen.or_else(|| (new.rest != 8008).then(|| format!("0.0.0.0:{}", new.rest))),
        ),
        ("restapi", "connect_address", Some(rest.to_string())),
        (
            "postgresql",
            "listen",
            postgres_listen.or_else(|| (new.postgres != 5432).then(|| format!("*:{}", new.postgres))),
        ),
        ("postgresql", "connect_address", Some(postgres.to_string())),
        ("postgresql", "proxy_address", proxy),
    ];
    for (section, key, value) in wanted {
        let Some(value) = value else { continue };
        let name = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
        let before = get(&document, section, key).and_then(Item::as_str).map(str::to_owned);
        if before.as_deref() != Some(value.as_str()) {
            let was = before.map(|before| format!(" (was {before:?})")).unwrap_or_default();
            changed.push(format!("{name} = {value:?}{was}"));
            set(&mut document, section, key, &value)?;
        }
    }
    let look_at = look_at(&document, old, new);
    Ok(Made { toml: document.to_string(), changed, look_at })
}

fn get<'d>(document: &'d DocumentMut, section: &str, key: &str) -> Option<&'d Item> {
    if section.is_empty() {
        return document.get(key);
    }
    document.get(section)?.as_table_like()?.get(key)
}

fn set(document: &mut DocumentMut, section: &str, key: &str, value: &str) -> Result<(), String> {
    let table: &mut dyn TableLike = if section.is_empty() {
        document.as_table_mut()
    } else {
        let item = document.entry(section).or_insert(Item::Table(Table::new()));
        item.as_table_like_mut().ok_or_else(|| format!("{section} is no table"))?
    };
    match table.get_mut(key).and_then(Item::as_value_mut) {
        // What stands around it, such as a comment behind it, stays.
        Some(before) => {
            let decor = before.decor().clone();
            *before = Value::from(value);
            *before.decor_mut() = decor;
        }
        None => drop(table.insert(key, toml_edit::value(value))),
    }
    Ok(())
}

/// Where the new node listens: as the old one did, with its own address and port in place of the old one's.
fn listening(said: &str, old: &HostPort, new: &HostPort) -> String {
    let (hosts, port) = match said.rsplit_once(':') {
        Some((hosts, port)) if port.parse::<u16>().is_ok() && !port.is_empty() => (hosts, true),
        _ => (said, false),
    };
    let bare = |host: &str| host.trim().trim_matches(['[', ']']).to_owned();
    let written = |host: &str| {
        if bare(host) != old.host {
            return host.trim().to_owned();
        }
        if new.host.contains(':') { format!("[{}]", new.host) } else { new.host.clone() }
    };
    let hosts: Vec<_> = hosts.split(',').map(written).collect();
    let hosts = hosts.join(",");
    if port || new.port != old.port { format!("{hosts}:{}", new.port) } else { hosts }
}

/// What belongs to the old node alone, as far as that can be seen.
fn look_at(document: &DocumentMut, old: &OldNode, new: &NewNode) -> Vec<String> {
    let mut leaves: Vec<(String, String)> = Vec::new();
    walk("", document.as_table(), &mut leaves);
    leaves.retain(|(key, _)| !is_secret(key) && !key.starts_with("bootstrap.method"));
    let mut said = Vec::new();
    for (setting, why) in PER_NODE {
        let below = format!("{setting}.");
        let (found, others): (Vec<_>, Vec<_>) =
            leaves.into_iter().partition(|(key, _)| key == setting || key.starts_with(&below));
        leaves = others;
        let counts = |text: &str| setting != "watchdog.mode" || text != "\"off\"";
        let keys = found.iter().filter(|(_, text)| counts(text));
        let keys: Vec<_> = keys.map(|(key, _)| key.strip_prefix(&below).unwrap_or(key)).collect();
        match keys.as_slice() {
            [] => {}
            [one] if *one == setting => said.push(format!("{setting}: {why}")),
            keys => said.push(format!("{setting} ({}): {why}", keys.join(", "))),
        }
    }
    let names_old = |text: &str| names(text, &old.name) && !names(&new.name, &old.name);
    let is_elsewhere = old.postgres.host != new.host;
    for (key, text) in &leaves {
        let why = if CERTIFICATES.contains(&key.rsplit('.').next().unwrap_or_default()) {
            "the file must be there; a certificate names the new node".to_owned()
        } else if names_old(text) {
            format!("it still names {}", old.name)
        } else if is_elsewhere && !key.starts_with("etcd.") && names(text, &old.postgres.host) {
            format!("it still names {}", old.postgres.host)
        } else {
            continue;
        };
        said.push(format!("{key} = {text}: {why}"));
    }
    said
}

/// Whether it is there as a word.
fn names(text: &str, what: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || "-_.:".contains(c);
    text.split(|c: char| !is_part(c))
        .any(|word| word == what || word.split(['.', ':', '-', '_']).any(|w| w == what))
}

fn is_secret(key: &str) -> bool {
    pgvane_cluster::settings_file::is_secret(key.rsplit('.').next().unwrap_or_default())
}

fn walk(above: &str, table: &dyn TableLike, leaves: &mut Vec<(String, String)>) {
    for (key, item) in table.iter() {
        let key = if above.is_empty() { key.to_owned() } else { format!("{above}.{key}") };
        match (item.as_table_like(), item) {
            (Some(table), _) => walk(&key, table, leaves),
            (None, Item::Value(value)) => leaves.push((key, value.clone().decorated("", "").to_string())),
            (None, Item::ArrayOfTables(tables)) => {
                tables.iter().for_each(|table| walk(&key, table, leaves));
            }
            (None, Item::None | Item::Table(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, parse};
    use crate::reload::differences;

    fn settings(more: &str) -> String {
        format!(
            "# mine\nname = \"pg1\" # the first\nscope = \"demo\"\n\n[etcd]\nendpoints = [\"http://10.0.0.1:2379\"]\n\n\
             [restapi]\nlisten = \"10.0.0.1:8008\"\nconnect_address = \"10.0.0.1:8008\"\n\n[postgresql]\n\
             data_dir = \"/data\"\nbin_dir = \"BIN\"\nlisten = \"127.0.0.1,10.0.0.1:5432\"\n\
             connect_address = \"10.0.0.1:5432\"\nsuperuser = {{ password = \"pg1\" }}\n\
             replication = {{ password = \"b\" }}\n{more}"
        )
    }

    fn config(text: &str) -> Config {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("postgres"), "").expect("writes");
        let text = text.replace("BIN", &dir.path().display().to_string());
        let mut config = parse(&text, "agent.toml", Path::new("/etc")).unwrap_or_else(|e| panic!("{e}"));
        config.postgresql.bin_dir = "BIN".into();
        config
    }

    fn made(more: &str, host: &str) -> Made {
        let address = |port| HostPort { host: "10.0.0.1".to_owned(), port };
        let old = OldNode { name: "pg1".to_owned(), postgres: address(5432), rest: address(8008) };
        let new = NewNode { name: "pg4".to_owned(), host: host.to_owned(), postgres: 5433, rest: 8009 };
        make(&settings(more), &old, &new).expect("makes")
    }

    #[test]
    fn name_and_addresses_change_and_nothing_else() {
        let made = made("", "10.0.0.4");
        let text = &made.toml;
        assert!(text.starts_with("# mine\nname = \"pg4\" # the first\n"), "{text}");
        let (old, new) = (config(&settings("")), config(text));
        let expected = [
            "name",
            "postgresql.connect_address",
            "postgresql.listen",
            "restapi.connect_address",
            "restapi.listen",
        ];
        let mut found = differences(&old, &new);
        found.sort();
        assert_eq!(found, expected);
        assert_eq!(new.postgresql.listen_addresses, "127.0.0.1,10.0.0.4");
        assert_eq!((new.postgresql.port, new.restapi.connect_address.port), (5433, 8009));
        assert_eq!(made.changed[0], "name = \"pg4\" (was \"pg1\")");
        assert_eq!(made.look_at, Vec::<String>::new());
    }

    #[test]
    fn what_belongs_to_one_node_is_pointed_out() {
        let more = "pgpass = \"/var/pg1.pgpass\"\nproxy_address = \"10.0.0.1:6432\"\n\
                    [postgresql.parameters]\nwork_mem = \"1GB\"\nssl_cert_file = \"/pg1.pem\"\n\
                    [tags]\nnofailover = true\n[watchdog]\nmode = \"off\"\n[log]\ndir = \"/log/10.0.0.1\"\n";
        let made = made(more, "db4.example.com");
        let heads: Vec<_> = made.look_at.iter().filter_map(|line| line.split(": ").next()).collect();
        let expected = [
            "postgresql.parameters (work_mem, ssl_cert_file)",
            "tags (nofailover)",
            "postgresql.pgpass = \"/var/pg1.pgpass\"",
            "log.dir = \"/log/10.0.0.1\"",
        ];
        assert_eq!(heads, expected, "{:#?}", made.look_at);
        assert!(made.toml.contains("proxy_address = \"db4.example.com:6432\""), "{}", made.toml);
        assert!(!made.look_at.concat().contains("password"), "{:?}", made.look_at);
    }

    #[test]
    fn listening_everywhere_stays_so() {
        let address = |host: &str, port| HostPort { host: host.to_owned(), port };
        let (old, new) = (address("10.0.0.1", 5432), address("fd00::4", 5432));
        assert_eq!(listening("*:5432", &old, &new), "*:5432");
        assert_eq!(listening("*", &old, &new), "*");
        assert_eq!(listening("*", &old, &address("x", 5433)), "*:5433");
        assert_eq!(listening("10.0.0.1:5432", &old, &new), "[fd00::4]:5432");
        assert_eq!(listening("127.0.0.1,10.0.0.1", &old, &address("x", 5432)), "127.0.0.1,x");
    }
}
