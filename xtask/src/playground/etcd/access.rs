//! How a client reaches etcd, and as whom.

use std::net::SocketAddr;
use std::path::PathBuf;

/// What a client is told of etcd: the section `etcd` of agents and proxies.
#[derive(Clone, Debug, Default)]
pub struct EtcdAccess {
    /// Where it listens.
    pub endpoints: Vec<SocketAddr>,
    /// TLS; plain unless given.
    pub tls: Option<ClientTls>,
    /// User and password, where a password says who the client is.
    pub login: Option<(String, String)>,
}

/// Files of a client, PEM.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// Who signs etcd's certificates.
    pub cacert: PathBuf,
    /// The client's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl From<SocketAddr> for EtcdAccess {
    /// One member without TLS.
    fn from(endpoint: SocketAddr) -> EtcdAccess {
        EtcdAccess { endpoints: vec![endpoint], ..EtcdAccess::default() }
    }
}

impl EtcdAccess {
    /// The URLs.
    pub fn urls(&self) -> Vec<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        self.endpoints.iter().map(|endpoint| format!("{scheme}://{endpoint}")).collect()
    }

    /// The keys of the section, in TOML.
    pub(crate) fn toml(&self) -> String {
        let mut keys = format!("endpoints = {:?}\n", self.urls());
        for (key, value) in self.keys() {
            keys.push_str(&format!("{key} = {value:?}\n"));
        }
        keys
    }

    /// The same as Patroni's `etcd3` has it.
    pub fn yaml(&self) -> String {
        let hosts: Vec<_> = self.endpoints.iter().map(ToString::to_string).collect();
        let mut keys = format!("  hosts: {}\n", hosts.join(","));
        if self.tls.is_some() {
            keys.push_str("  protocol: https\n");
        }
        for (key, value) in self.keys() {
            keys.push_str(&format!("  {key}: {value}\n"));
        }
        keys
    }

    /// Everything but the endpoints, by the names that all programs have for it.
    fn keys(&self) -> Vec<(&'static str, String)> {
        let mut keys = Vec::new();
        if let Some(ClientTls { cacert, cert, key }) = &self.tls {
            let files = [("cacert", cacert), ("cert", cert), ("key", key)];
            keys.extend(files.map(|(name, path)| (name, path.display().to_string())));
        }
        if let Some((username, password)) = &self.login {
            keys.extend([("username", username.clone()), ("password", password.clone())]);
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_is_told_the_same() {
        let mut access = EtcdAccess::from(SocketAddr::from(([127, 0, 0, 1], 2379)));
        assert_eq!(access.toml(), "endpoints = [\"http://127.0.0.1:2379\"]\n");
        assert_eq!(access.yaml(), "  hosts: 127.0.0.1:2379\n");
        access.tls = Some(ClientTls { cacert: "/ca".into(), cert: "/c".into(), key: "/k".into() });
        access.login = Some(("u".to_owned(), "p".to_owned()));
        assert_eq!(
            access.toml(),
            "endpoints = [\"https://127.0.0.1:2379\"]\ncacert = \"/ca\"\ncert = \"/c\"\nkey = \"/k\"\n\
             username = \"u\"\npassword = \"p\"\n"
        );
        assert!(access.yaml().contains("\n  protocol: https\n  cacert: /ca\n"));
    }
}
