//! The certificates that the settings name, and what an operator should know of their time.

use std::path::{Path, PathBuf};

use pgvane_cluster::certificate::{Certificate, RENEW_WITHIN, chain};
use rustls::pki_types::UnixTime;

use crate::config::{Config, Source};
use crate::tls::{Originate, Verify};

/// What expires within 30 days, has expired or does not count yet at `now`: a line for each certificate, which names its
/// section, file and day. Files were read when the settings were; one that has gone since is passed over.
pub fn concerns(config: &Config, now: UnixTime) -> Vec<String> {
    let named = files(config);
    named.iter().flat_map(|(section, file)| of_file(section, file, now)).collect()
}

fn of_file(section: &str, file: &Path, now: UnixTime) -> Vec<String> {
    let read = chain(file).unwrap_or_default();
    let read = read.iter().filter_map(|der| Certificate::of(der).ok());
    let worth = read.filter(|certificate| certificate.concern(now, RENEW_WITHIN).is_some());
    let line = |certificate: Certificate| {
        let whose = match certificate.subject.as_str() {
            "" => String::new(),
            subject => format!(" ({subject})"),
        };
        format!("{section}: the certificate in {}{whose} {}", file.display(), certificate.told(now))
    };
    worth.map(line).collect()
}

/// Each file with the section that names it.
fn files(config: &Config) -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    for listener in &config.listeners {
        let section = format!("listener {}", listener.name);
        let clients = listener.tls.iter().flat_map(|tls| {
            let of_sni = tls.sni.iter().map(|named| &named.identity.cert);
            std::iter::once(&tls.identity.cert).chain(of_sni).chain(&tls.client_ca)
        });
        let servers = listener.server_tls.iter().flat_map(of_originate);
        files.extend(clients.chain(servers).map(|file| (section.clone(), file.clone())));
    }
    for (name, cluster) in &config.clusters {
        let agents = cluster.agents.iter().flat_map(of_originate);
        files.extend(agents.map(|file| (format!("cluster {name}, agents"), file.clone())));
        if let Source::Etcd(etcd) = &cluster.source {
            let own = etcd.identity.iter().map(|(cert, _)| cert);
            files.extend(
                etcd.cacert.iter().chain(own).map(|file| (format!("cluster {name}, etcd"), file.clone())),
            );
        }
    }
    files.sort();
    files.dedup();
    files
}

fn of_originate(settings: &Originate) -> impl Iterator<Item = &PathBuf> {
    let authorities = match &settings.verify {
        Verify::Full(file) | Verify::Ca(file) => Some(file),
        Verify::Nothing => None,
    };
    authorities.into_iter().chain(settings.identity.iter().map(|identity| &identity.cert))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    /// Writes a pair that counts from 2026-03-01 to 2026-05-30; answers the paths of certificate and key.
    fn pair(dir: &Path, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2026, 3, 1);
        params.not_after = date_time_ymd(2026, 5, 30);
        let [cert, private] =
            ["crt", "key"].map(|end| dir.join(format!("{name}.{end}")).display().to_string());
        std::fs::write(&cert, params.self_signed(&key).expect("signs").pem()).expect("writes");
        std::fs::write(&private, key.serialize_pem()).expect("writes");
        (cert, private)
    }

    #[test]
    fn every_file_that_the_settings_name_is_told_of_in_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let [clients, sni, servers, etcd] =
            ["clients", "sni", "servers", "etcd"].map(|name| pair(dir.path(), name));
        let text = format!(
            "[cluster.main.etcd]\nendpoints = [\"https://127.0.0.1:2379\"]\n\
             cacert = {0:?}\ncert = {0:?}\nkey = {1:?}\n\
             [[listener]]\nname = \"primary\"\ncluster = \"main\"\nrole = \"primary\"\nlisten = [\"127.0.0.1:0\"]\n\
             [listener.tls]\nmode = \"reencrypt\"\ncert = {2:?}\nkey = {3:?}\nserver_ca = {4:?}\n\
             sni = [{{ names = [\"b.example.com\"], cert = {5:?}, key = {6:?} }}]\n",
            etcd.0, etcd.1, clients.0, clients.1, servers.0, sni.0, sni.1
        );
        let config = crate::config::parse("proxy.toml", &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let at = |seconds| concerns(&config, UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
        // 2026-04-01, 2026-05-20, 2026-06-01.
        assert_eq!(at(1_775_001_600), Vec::<String>::new());
        let line = |section: &str, file: &str, name: &str, time: &str| {
            format!("{section}: the certificate in {file} (CN={name}) {time}, on 2026-05-30")
        };
        for (now, time) in [(1_779_235_200, "expires in 10 days"), (1_780_272_000, "expired 2 days ago")] {
            let wanted = [
                line("cluster main, etcd", &etcd.0, "etcd", time),
                line("listener primary", &clients.0, "clients", time),
                line("listener primary", &servers.0, "servers", time),
                line("listener primary", &sni.0, "sni", time),
            ];
            assert_eq!(at(now), wanted);
        }
    }
}
