//! What is shipped for monitoring holds on a real cluster: Prometheus takes the alerts and every expression of the
//! dashboard, and finds what they name.

mod cluster_support;
mod monitoring_support;

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::LazyLock;

use cluster_support::{SOON, add_proxy, cluster, healthy, switchover, until};
use hyper::Method;
use monitoring_support::files::{
    dashboard, documented, each, exported, file, our_series, panel_expressions, sent, text,
};
use monitoring_support::prometheus::Prometheus;
use serde_json::Value;
use tokio_postgres::NoTls;
use xtask::install::{self, InstallError};
use xtask::playground::{Playground, SCOPE, http};

/// Its programs, installed once for all tests; `None` where nothing may be installed.
fn programs() -> Option<&'static install::Prometheus> {
    static FOUND: LazyLock<Option<install::Prometheus>> = LazyLock::new(|| match install::prometheus() {
        Ok(programs) => Some(programs),
        Err(why @ (InstallError::NotAllowed { .. } | InstallError::Failed { .. })) => {
            eprintln!("not looked at with Prometheus: {why}");
            None
        }
        Err(error) => panic!("{error}"),
    });
    FOUND.as_ref()
}

#[test]
fn promtool_takes_the_rules_and_their_tests_pass() {
    let Some(programs) = programs() else { return };
    for (what, path) in
        [("check", "packaging/prometheus/alerts.yml"), ("test", "packaging/prometheus/alerts.test.yml")]
    {
        let output =
            Command::new(&programs.promtool).args([what, "rules"]).arg(file(path)).output().expect("runs");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn every_alert_has_a_test() {
    let (rules, tests) =
        (text("packaging/prometheus/alerts.yml"), text("packaging/prometheus/alerts.test.yml"));
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 20, "{alerts:?}");
    let different: BTreeSet<_> = alerts.iter().collect();
    assert_eq!(different.len(), alerts.len(), "two of one name");
    for alert in alerts {
        let test = tests.split("\n  - name: ").find(|test| test.lines().next() == Some(alert));
        let test = test.unwrap_or_else(|| panic!("{alert} has no test"));
        let looks: Vec<_> = test.split("- expr: ").skip(1).collect();
        assert!(
            looks.iter().all(|look| look.contains(&format!("alertname=\"{alert}\""))),
            "{alert}: another's"
        );
        let fires = looks.iter().filter(|look| look.contains("exp_samples")).count();
        assert!(fires > 0 && fires < looks.len(), "{alert} must fire once, and once not");
    }
}

/// Grafana would show panels that overlap, and ask nobody's data source, without a word.
#[test]
fn the_dashboard_is_whole() {
    let dashboard = dashboard();
    let mut cells = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in each(&dashboard["panels"]) {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("a number")), "{title}: the number is another's");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().expect("a number"));
        assert!(x + w <= 24, "{title} is too wide");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{title} lies on another panel");
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
    let names: Vec<_> = each(&dashboard["templating"]["list"]).map(|variable| &variable["name"]).collect();
    assert_eq!(names, ["datasource", "cluster", "scope"]);
}

/// Two nodes and a pair of proxies, with a session that a switchover cut: now everything has happened that panels show.
async fn eventful(prometheus: impl AsyncFn(&Playground) -> Prometheus) -> (Playground, Prometheus) {
    let mut playground = cluster(2, 30, vec![]).await;
    for _ in 0..2 {
        let etcd = playground.etcd.client();
        add_proxy(&mut playground, etcd, "", "");
    }
    healthy(&mut playground).await;
    let prometheus = prometheus(&playground).await;
    let port = playground.proxies[0].options().primary;
    let (client, connection) =
        cluster_support::writer::config(port).connect(NoTls).await.expect("the primary's port");
    let session = tokio::spawn(connection);
    client.batch_execute("SELECT 1").await.expect("an answer");
    let leader = playground.look().await.leader().expect("one leads");
    switchover(&playground, &leader).await;
    drop(session.await.expect("no panic"));
    healthy(&mut playground).await;
    (playground, prometheus)
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_takes_every_expression_and_finds_what_it_names() {
    let Some(programs) = programs() else { return };
    let (playground, prometheus) = eventful(async |playground| {
        let prometheus = Prometheus::start(playground, &programs.server);
        // Before anything happens nobody is to be woken up, though everything is looked at.
        until(playground, "all rules are good and none fires", async || {
            let rules = prometheus.rules().await;
            let looked = !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok");
            looked
                && count(&prometheus, "up{job=~\"pgvane.*\"} == 1").await == 4
                && prometheus.firing().await.is_empty()
        })
        .await;
        prometheus
    })
    .await;

    let rules = prometheus.rules().await;
    rules.iter().for_each(says_what_to_do);
    for alert in ["PostgresRoleChanged", "FailedOver"] {
        let what = format!("{alert} fires after the switchover");
        until(&playground, &what, async || prometheus.firing().await.iter().any(|name| name == alert)).await;
    }

    // Alerts have no series while all is well: what they are made of must be there instead. Series of other exporters
    // are left out, for nobody runs these here.
    let alerts: Vec<_> =
        rules.iter().map(|rule| rule["query"].as_str().expect("a query").to_owned()).collect();
    let panels = panel_expressions();
    let all = alerts.iter().chain(panels.iter().map(|(_, expression)| expression));
    let series: BTreeSet<_> = all.flat_map(|expression| our_series(expression)).collect();
    assert!(series.len() > 40, "{series:?}");
    for one in series {
        some(&playground, &prometheus, one).await;
    }
    for (title, expression) in &panels {
        some(&playground, &prometheus, expression).await;
        eprintln!("  {title}: ok");
    }
    // What an event leaves for a minute may be over on a slow machine.
    for annotation in each(&dashboard()["annotations"]["list"]) {
        let expression = sent(annotation["expr"].as_str().expect("an expression"));
        prometheus.query(&expression).await.unwrap_or_else(|error| panic!("{expression}: {error}"));
    }
    variables_find_the_cluster(&prometheus).await;
    the_reference_lists_what_is_exported(&playground).await;
}

/// How many series an expression has now.
async fn count(prometheus: &Prometheus, expression: &str) -> usize {
    prometheus.query(expression).await.unwrap_or_default().len()
}

/// Waits until an expression has a series; it must be accepted at once.
async fn some(playground: &Playground, prometheus: &Prometheus, expression: &str) {
    let what = format!("there is something of {expression}");
    until(playground, &what, async || {
        let found = prometheus.query(expression).await;
        !found.unwrap_or_else(|error| panic!("{expression}: {error}")).is_empty()
    })
    .await;
}

/// Whoever is woken up by an alert learns how bad it is and what to do.
fn says_what_to_do(rule: &Value) {
    let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
    assert!(["critical", "warning", "info"].contains(&severity), "{rule}");
    assert!(rule["duration"].is_number(), "{rule}");
    let said = ["summary", "description"].map(|key| rule["annotations"][key].as_str().unwrap_or_default());
    assert!(said[0].len() > 10 && said[1].len() > 30, "{rule}");
}

/// A variable offers what `label_values` finds: here that is the one cluster.
async fn variables_find_the_cluster(prometheus: &Prometheus) {
    let dashboard = dashboard();
    let queries = each(&dashboard["templating"]["list"]).filter(|variable| variable["type"] == "query");
    for query in queries.map(|variable| variable["query"]["query"].as_str().expect("a query")) {
        let values = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (series, label) = values.and_then(|values| values.rsplit_once(", ")).expect("label_values");
        let found =
            prometheus.query(&format!("count by ({label}) ({})", sent(series))).await.expect("accepted");
        let values: Vec<_> = found.iter().map(|one| &one["metric"][label]).collect();
        assert_eq!(values, [SCOPE], "{query}");
    }
}

/// `docs/metrics.md` has what running programs export, and nothing else.
async fn the_reference_lists_what_is_exported(playground: &Playground) {
    let pages = [("Proxies", playground.proxies[0].options().admin), ("Agents", playground.nodes[0].rest())];
    for (section, address) in pages {
        let answer =
            http::request(Method::GET, address, "/metrics", String::new(), SOON).await.expect("metrics");
        let page = exported(&String::from_utf8_lossy(&answer.1));
        assert!(page.len() > 30, "{page:?}");
        assert_eq!(page, documented(section), "{section}");
    }
}
