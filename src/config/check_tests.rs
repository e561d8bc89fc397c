//! Defaults, the example file, and how wrong files are refused.

use super::super::{Cluster, Source};
use super::*;

const LEAST: &str = "[cluster.main.etcd]\nendpoints = [\"http://127.0.0.1:2379\"]\n";

fn config(text: &str) -> Config {
    parse("proxy.toml", text).unwrap_or_else(|error| panic!("{error}"))
}

/// The error of `LEAST` with `more` in front.
fn refused(more: &str) -> String {
    parse("proxy.toml", &format!("{more}\n{LEAST}")).expect_err(more).to_string()
}

#[test]
fn the_example_shows_every_default() {
    let example = include_str!("../../proxy.toml.example");
    assert_eq!(config(example), config(LEAST));
}

#[test]
fn the_least_file_serves_both_roles_on_both_families() {
    let config = config(LEAST);
    let listen: Vec<_> =
        config.listeners.iter().map(|l| (l.name.as_str(), l.listen[1].to_string())).collect();
    assert_eq!(listen, [("primary", "[::]:5432".to_owned()), ("replica", "[::]:5433".to_owned())]);
    let Source::Etcd(etcd) = &config.clusters["main"].source else { panic!("{config:?}") };
    assert_eq!(etcd.scope, "main");
}

#[test]
fn a_wrong_key_names_file_line_and_the_nearest() {
    let error = refused("[drain]\ntimout = \"3s\"");
    assert!(error.starts_with("proxy.toml:2:1: unknown key `timout` in [drain]\n"), "{error}");
    assert!(error.contains("2 | timout = \"3s\""), "{error}");
    assert!(error.contains("did you mean `timeout`?") && error.contains("notice, timeout"), "{error}");
}

#[test]
fn what_cannot_work_is_refused_where_it_stands() {
    let listener = "[[listener]]\nrole = \"primary\"\nlisten = [\"127.0.0.1:1\"]\n";
    for (text, place, part) in [
        ("[tcp]\nkeepalive_idle = \"500ms\"", "proxy.toml:2:", "whole seconds"),
        ("[tcp]\nkeepalive_count = 0", "proxy.toml:2:", "1 to 127"),
        ("[log]\nlevel = \"=loud=\"", "proxy.toml:2:", "info"),
        ("[admin]\nlisten = [\"localhost\"]", "proxy.toml:2:", "0.0.0.0:5432"),
        ("[cluster.\"a b\".etcd]\nendpoints = [\"http://x:1\"]", "proxy.toml:1:", "letters"),
        ("[cluster.x.etcd]\nendpoints = []", "proxy.toml:2:", "at least one endpoint"),
        ("[cluster.x.etcd]\nendpoints = [\"ftp://x\"]", "proxy.toml:2:", "http://10.0.0.1:2379"),
        ("[cluster.x.etcd]\nendpoints = [\"x:1\"]\nusername = \"u\"", "proxy.toml:3:", "password"),
        ("[cluster.x.etcd]\nendpoints = [\"http://x\"]", "proxy.toml:2:", "http://10.0.0.1:2379"),
        ("[cluster.x.etcd]\nendpoints = [\"http://x:y\"]", "proxy.toml:2:", "http://10.0.0.1:2379"),
        (
            "[cluster.x.etcd]\nendpoints = [\"x:1\"]\ncacert = \"/no.pem\"",
            "proxy.toml:3:",
            "/no.pem: No such",
        ),
        ("[cluster.x.etcd]\nendpoints = [\"x:1\"]\ncert = \"/dev/null\"", "proxy.toml:3:", "key"),
        ("[[listener]]\nrole = \"primary\"\nlisten = []", "proxy.toml:3:", "at least one address"),
        (
            "[[listener]]\nrole = \"master\"\nlisten = [\"x\"]",
            "proxy.toml:2:",
            "primary, replica, sync, async, any",
        ),
        (&format!("{listener}fallback = \"primary\""), "proxy.toml:4:", "replica"),
        (&format!("{listener}cluster = \"mian\""), "proxy.toml:4:", "did you mean `main`?"),
        (&format!("{listener}max_sessions = 0"), "proxy.toml:4:", "1 and more"),
        (&format!("{listener}connect_timeout = \"0s\""), "proxy.toml:4:", "longer than zero"),
        (&format!("{listener}[admin]\nlisten = [\"127.0.0.1:1\"]"), "proxy.toml:5:", "is listened on twice"),
        (
            &format!("{listener}{}", listener.replace(":1", ":2")),
            "proxy.toml:5:",
            "two listeners have the name \"primary\"",
        ),
    ] {
        let error = refused(text);
        assert!(error.starts_with(place) && error.contains(part), "{text}\n---\n{error}");
    }
}

#[test]
fn a_file_without_a_cluster_says_what_to_write() {
    let error = parse("proxy.toml", "").expect_err("nothing to serve").to_string();
    assert!(error.contains("[cluster.main.etcd]"), "{error}");
}

/// The settings of a section that is commented out in the example.
fn shown(section: &str) -> String {
    let example = include_str!("../../proxy.toml.example");
    let lines = example.lines().skip_while(|line| *line != format!("# [{section}]"));
    let lines = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("# "));
    let is_key = |line: &&str| {
        line.starts_with('[')
            || line.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase()))
    };
    lines.filter(is_key).collect::<Vec<_>>().join("\n")
}

/// The cluster `x` with the section of this name.
fn cluster(section: &str, keys: &str) -> Cluster {
    let text = format!("[cluster.x.{section}]\n{keys}\n");
    config(&text).clusters.remove("x").expect("it is there")
}

#[test]
fn the_example_shows_the_defaults_of_members_that_are_asked() {
    let rest = config(&shown("cluster.other.patroni_rest")).clusters.remove("other");
    let members = "members = [\"http://10.0.0.1:8008\", \"10.0.0.2:8008/\"]";
    assert_eq!(rest, Some(cluster("patroni_rest", members)));
    let probe = config(&shown("cluster.third.probe")).clusters.remove("third");
    let servers =
        "servers = [\"10.0.0.1:5432\", \"10.0.0.2:5432\"]\nuser = \"pgvane\"\npassword = \"secret\"";
    assert_eq!(probe, Some(cluster("probe", servers)));
    let Some(Source::Probe(probe)) = probe.map(|cluster| cluster.source) else { panic!("no probe") };
    assert_eq!(probe.rhythm.proof(), Duration::from_millis(4500), "as the example says");
}

#[test]
fn a_cluster_has_exactly_one_source() {
    let etcd = "[cluster.x.etcd]\nendpoints = [\"a:1\"]";
    let rest = "[cluster.x.patroni_rest]\nmembers = [\"a:1\"]";
    let probe = "[cluster.x.probe]\nservers = [\"a:1\"]\nuser = \"u\"";
    for (text, place, part) in [
        ("[cluster.x]\nscope = \"y\"".to_owned(), "proxy.toml:1:", "[cluster.x.etcd]"),
        (format!("{etcd}\n{rest}"), "proxy.toml:3:", "patroni_rest is one too many"),
        (format!("{etcd}\n{probe}"), "proxy.toml:3:", "probe is one too many"),
        (format!("{rest}\n{probe}"), "proxy.toml:3:", "probe is one too many"),
        (
            format!("[cluster.x]\nscope = \"y\"\n{rest}"),
            "proxy.toml:2:",
            "scope is for clusters with an etcd",
        ),
        (format!("[cluster.x]\nnamespace = \"y\"\n{rest}"), "proxy.toml:2:", "namespace is for"),
        (format!("[cluster.x]\nreread_interval = 1\n{probe}"), "proxy.toml:2:", "reread_interval is for"),
        (format!("[cluster.x]\non_store_loss = \"hold\"\n{probe}"), "proxy.toml:2:", "on_store_loss is for"),
    ] {
        let error = refused(&text);
        assert!(error.starts_with(place) && error.contains(part), "{text}\n---\n{error}");
    }
}

#[test]
fn members_that_cannot_be_asked_are_refused_where_they_stand() {
    let rest = |keys: &str| format!("[cluster.x.patroni_rest]\n{keys}");
    let agents = |keys: &str| {
        format!("[cluster.x.agents]\n{keys}\n[cluster.x.etcd]\nendpoints = [\"http://127.0.0.1:2379\"]\n")
    };
    let probe = |keys: &str| format!("[cluster.x.probe]\nuser = \"u\"\n{keys}");
    for (text, place, part) in [
        (rest("members = []"), "proxy.toml:2:11:", "at least one member"),
        (rest("members = [\"http://a\"]"), "proxy.toml:2:12:", "http://10.0.0.1:8008"),
        (rest("members = [\"https://a:8008\"]"), "proxy.toml:2:12:", "whom to trust"),
        (
            probe("servers = [\"a:1\"]\n[cluster.x.agents]\nverify = \"none\""),
            "proxy.toml:4:",
            "no agent is asked",
        ),
        (agents(""), "proxy.toml:1:", "whom to trust"),
        (agents("verify = \"none\"\ncacert = \"/a\""), "proxy.toml:3:", "of no use"),
        (agents("verify = \"none\"\nkey = \"/a\""), "proxy.toml:3:", "belong together"),
        (agents("cacert = \"/nowhere/ca.crt\""), "proxy.toml:2:", "/nowhere/ca.crt"),
        (rest("members = [\"a:1\", \"http://a:1/\"]"), "proxy.toml:2:19:", "is listed twice"),
        (rest("members = [\"a:1\"]\ninterval = 0"), "proxy.toml:3:", "longer than zero"),
        (rest("members = [\"a:1\"]\nfall = 0"), "proxy.toml:3:", "1 to 100"),
        (rest("member = [\"a:1\"]"), "proxy.toml:2:", "did you mean `members`?"),
        (probe("servers = []"), "proxy.toml:3:", "at least one server"),
        (probe("servers = [\"a\"]"), "proxy.toml:3:", "10.0.0.1:5432"),
        (probe("servers = [\"fd00::1:5432\"]"), "proxy.toml:3:", "is not a host and a port"),
        (probe("servers = [\"postgres://a:5432\"]"), "proxy.toml:3:", "is not a host and a port"),
        (probe("servers = [\"a:1\"]\ntimeout = \"0s\""), "proxy.toml:4:", "longer than zero"),
        (probe("servers = [\"a:1\"]\nrise = 101"), "proxy.toml:4:", "1 to 100"),
        ("[cluster.x.probe]\nservers = [\"a:1\"]".to_owned(), "proxy.toml:1:", "`user` is missing"),
        ("[cluster.x.probe]\nuser = \"\"\nservers = [\"a:1\"]".to_owned(), "proxy.toml:2:", "no name"),
    ] {
        let error = refused(&text);
        assert!(error.starts_with(place) && error.contains(part), "{text}\n---\n{error}");
    }
    let v6 = cluster("probe", "user = \"u\"\nservers = [\"[fd00::1]:5432\"]");
    let Source::Probe(probe) = v6.source else { panic!("{v6:?}") };
    assert_eq!(probe.servers, [("fd00::1".to_owned(), 5432)]);
}

#[test]
fn several_clusters_need_listeners_that_name_one() {
    let two = "[cluster.other.etcd]\nendpoints = [\"x:1\"]\n";
    assert!(refused(two).contains("[[listener]]"));
    let listener = "[[listener]]\nrole = \"primary\"\nlisten = [\"127.0.0.1:1\"]\n";
    assert!(refused(&format!("{two}{listener}")).contains("`cluster` names one"));
    let config = config(&format!("{two}{listener}cluster = \"other\"\n{LEAST}"));
    assert_eq!(config.listeners[0].cluster, "other");
}

#[test]
fn passwords_are_not_shown() {
    let text = "[cluster.x.etcd]\nendpoints = [\"x:1\"]\nusername = \"u\"\npassword = \"hunter2\"";
    let probe = "[cluster.y.probe]\nservers = [\"x:1\"]\nuser = \"u\"\npassword = \"hunter2\"";
    let listener = "[[listener]]\nrole = \"primary\"\nlisten = [\"127.0.0.1:0\"]\ncluster = \"y\"";
    let shown = format!("{:?}", config(&format!("{text}\n{probe}\n{listener}")));
    assert!(shown.contains("***") && !shown.contains("hunter2"), "{shown}");
}

/// Files that go together, or do not.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Files {
        let files = Files { dir: tempfile::tempdir().expect("a directory") };
        for name in ["one", "other"] {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
            std::fs::write(files.path(&format!("{name}.crt")), made.cert.pem()).expect("write");
            std::fs::write(files.path(&format!("{name}.key")), made.signing_key.serialize_pem())
                .expect("write");
        }
        std::fs::write(files.path("empty"), "").expect("write");
        files
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// A file whose listener has a TLS section of these lines; `@x` stands for the path of x.
    fn settings(&self, tls: &str) -> String {
        let tls = tls.replace('@', &format!("{}/", self.dir.path().display()));
        format!("[[listener]]\nrole = \"primary\"\nlisten = [\"127.0.0.1:0\"]\n[listener.tls]\n{tls}")
    }
}

#[test]
fn tls_files_that_go_together_are_taken() {
    let files = Files::new();
    let all = "mode = \"terminate\"\ncert = \"@one.crt\"\nkey = \"@one.key\"\nclient_ca = \"@other.crt\"\n\
               min_version = \"1.3\"\nrequired = true";
    let tls =
        config(&format!("{}\n{LEAST}", files.settings(all))).listeners.remove(0).tls.expect("terminates");
    assert!(tls.required && tls.min_version == crate::tls::MinVersion::Tls13);
    assert_eq!(tls.client_ca, Some(files.path("other.crt")));
    assert_eq!(
        config(&format!("{}\n{LEAST}", files.settings("mode = \"passthrough\""))).listeners[0].tls,
        None
    );
}

#[test]
fn tls_files_that_do_not_go_together_are_refused_by_line() {
    let files = Files::new();
    let cases = [
        ("mode = \"terminate\"", 5, "needs `cert`"),
        ("mode = \"terminate\"\ncert = \"@one.crt\"", 5, "needs `key`"),
        ("mode = \"terminate\"\ncert = \"@gone\"\nkey = \"@one.key\"", 6, "No such file"),
        ("mode = \"terminate\"\ncert = \"@empty\"\nkey = \"@one.key\"", 6, "there is no certificate in it"),
        ("mode = \"terminate\"\ncert = \"@one.crt\"\nkey = \"@one.crt\"", 7, "there is no private key in it"),
        ("mode = \"terminate\"\ncert = \"@one.crt\"\nkey = \"@other.key\"", 7, "this is not the key of"),
        ("mode = \"passthrough\"\nkey = \"@one.key\"", 6, "of no use with"),
    ];
    for (tls, line, text) in cases {
        let error = refused(&files.settings(tls));
        assert!(error.contains(text) && error.starts_with(&format!("proxy.toml:{line}:")), "{tls}\n{error}");
    }
}

#[test]
fn balance_is_for_ports_with_a_choice() {
    let listener = |role: &str| {
        format!(
            "[[listener]]\nrole = \"{role}\"\nlisten = [\"127.0.0.1:0\"]\nbalance = \"lag_weighted\"\n{LEAST}"
        )
    };
    let rules = config(&listener("any")).listeners[0].rules;
    assert_eq!(rules.balance, crate::route::Balance::LagWeighted);
    let error = refused(&listener("primary").replace(LEAST, ""));
    assert!(error.starts_with("proxy.toml:4:") && error.contains("nothing to balance"), "{error}");
}

#[test]
fn networks_are_read_with_and_without_their_length() {
    let listener = |keys: &str| format!("[[listener]]\nrole = \"any\"\nlisten = [\"127.0.0.1:0\"]\n{keys}\n");
    let text = listener("allow = [\"10.0.0.0/8\", \"::1\"]\nmax_sessions_per_address = 7");
    let read = config(&format!("{text}{LEAST}")).listeners.remove(0);
    assert_eq!(
        read.networks.allow.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.0.0/8", "::1/128"]
    );
    assert_eq!(read.max_sessions_per_address, Some(7));
    let error = refused(&listener("deny = [\"10.0.0.0/33\"]"));
    assert!(error.starts_with("proxy.toml:4:9: \"10.0.0.0/33\" is not a network"), "{error}");
}
