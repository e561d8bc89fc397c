//! An agent.toml means what the patroni.yml did that it was made from, and every setting is accounted for.

use std::path::Path;

use super::*;

const SEED: &str = include_str!("../../../tests/fixtures/patroni.yml");

const RICH: &str = include_str!("../../../tests/fixtures/patroni_rich.yml");

fn import(text: &str) -> Translated {
    translate(text, "patroni.yml", Path::new("/etc/patroni"), &Environment::default())
        .unwrap_or_else(|e| panic!("{e}"))
}

/// What became of a setting.
fn fate<'a>(translated: &'a Translated, name: &str) -> &'a Fate {
    let found = translated.settings.iter().find(|setting| setting.name == name);
    &found.unwrap_or_else(|| panic!("{name} is not in the report: {:#?}", translated.settings)).fate
}

fn why(fate: &Fate) -> &str {
    match fate {
        Fate::Carried(_) => "",
        Fate::Changed { why, .. } | Fate::Left { why } => why,
    }
}

/// Names of what does not mean the same, beside the password file, whose place is another unless it is said.
fn not_the_same(text: &str) -> Vec<String> {
    let mut sources = Sources::default();
    let source = Source::new("patroni.yml", text, Syntax::Yaml);
    let document = yaml::read(vec![source], &Environment::default(), &mut sources);
    let (raw, _) = document.and_then(yaml::Document::agent).expect("reads");
    let mut cx = Check::new(Dialect::Patroni, Path::new("/etc/patroni"), anywhere).elsewhere();
    let meant = check::check(raw, &mut cx).expect("is right");
    let mut names = still_different(&meant, &import(text).config);
    names.retain(|name| name != "postgresql.pgpass");
    names
}

#[test]
fn what_people_run_today_means_the_same_as_agent_toml() {
    for text in [SEED, RICH] {
        assert_eq!(not_the_same(text), Vec::<String>::new());
    }
}

#[test]
fn small_files_mean_the_same_whatever_they_leave_out() {
    let small = "scope: demo\nname: pg1\netcd3: {hosts: '10.0.0.1:2379'}\nrestapi: {listen: '10.0.0.1:8008'}\n\
                 postgresql: {listen: '10.0.0.1:5432', data_dir: /nowhere/data}\n";
    for more in [
        "",
        "bootstrap: {}\n",
        "bootstrap: {dcs: {ttl: 20, synchronous_mode: quorum, slots: {a: {type: physical}}}}\n",
        "bootstrap: {dcs: {postgresql: {parameters: {max_connections: 500, wal_level: }}}}\n",
        "log: {level: WARNING, loggers: {patroni: DEBUG}, mode: 0640}\n",
        "watchdog: {mode: 'off'}\n",
        "watchdog: {mode: auto, safety_margin: -1}\n",
        "tags: {nofailover: 'yes', site: a, deep: {er: 1}}\n",
    ] {
        let text = format!("{small}{more}");
        let names = not_the_same(&text);
        // A tag that is no single value is published by a patroni.yml alone.
        let names: Vec<_> =
            names.iter().filter(|name| !(more.contains("deep") && *name == "tags.deep")).collect();
        assert!(names.is_empty(), "{more}: {names:?}");
    }
}

#[test]
fn every_setting_has_its_line_and_no_secret_is_told() {
    let seed = import(SEED);
    let is = |name: &str, to: &str| assert_eq!(fate(&seed, name), &Fate::Carried(to.to_owned()), "{name}");
    is("scope", "scope");
    is("postgresql.authentication.superuser.password", "postgresql.superuser.password");
    is("postgresql.pgpass", "postgresql.pgpass");
    is("postgresql.parameters.work_mem", "postgresql.parameters.work_mem");
    is("etcd.hosts", "etcd.endpoints");
    is("restapi.listen", "restapi.listen");
    is("bootstrap.dcs.ttl", "bootstrap.dcs.ttl");
    is("bootstrap.pg_hba", "bootstrap.pg_hba");
    is("bootstrap.users.app_user.password", "bootstrap.users.app_user.password");
    is("tags.clonefrom", "tags.clonefrom");
    assert!(why(fate(&seed, "ttl")).contains("dynamic configuration"));
    assert!(why(fate(&seed, "postgresql.parameters.max_connections")).contains("dynamic configuration"));
    assert!(why(fate(&seed, "postgresql.rewind.password")).contains("no option"));
    assert!(why(fate(&seed, "restapi.metrics")).contains("/metrics"));
    assert!(why(fate(&seed, "etcd")).contains("API v2"));
    assert!(matches!(fate(&seed, "watchdog.mode"), Fate::Changed { .. }));
    assert!(why(fate(&seed, "name")).contains("this host's name"));
    let told = format!("{:?}", seed.settings);
    for secret in ["rep-pass-2025", "postgres-pass-2025", "rewind-pass-2025", "app-pass-2025"] {
        assert!(seed.toml.contains(secret), "{secret} is needed");
        assert!(!told.contains(secret), "{secret} is told");
    }
}

#[test]
fn unknown_keys_are_named_and_left() {
    let text = format!("{SEED}\nkubernetes: {{namespace: x}}\nwhatever: 1\n");
    let made = import(&text);
    assert!(matches!(fate(&made, "kubernetes"), Fate::Left { .. }));
    assert!(why(fate(&made, "whatever")).starts_with("unknown"));
}

#[test]
fn what_is_no_patroni_yml_is_refused_with_its_place() {
    let refused = |text: &str| {
        let read = translate(text, "patroni.yml", Path::new("/"), &Environment::default());
        read.map(|made| made.toml).expect_err(text).to_string()
    };
    assert!(refused("scope: [").starts_with("patroni.yml:1:"));
    let broken = refused(
        "scope: a\nname: b\netcd3: {hosts: a}\npostgresql:\n  data_dir: /x\n  pg_ctl_timeout: soon\n",
    );
    assert!(broken.starts_with("patroni.yml:6:") && broken.contains("5min"), "{broken}");
}
