//! `check`: is the cluster well? One line and an exit code, as Nagios and its kin want them (Monitoring Plugins
//! development guidelines): 0 well, 1 warning, 2 critical, 3 not known.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use pgvane_agent::api::cluster_body;
use pgvane_cluster::units;
use serde_json::Value;
use tokio::time::timeout;

use crate::target::Target;
use crate::{Failed, say};

/// What `check` takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct CheckArgs {
    /// Warn when fewer replicas stream.
    #[arg(long, value_name = "N", default_value_t = 1)]
    replicas: u64,
    /// Critical when fewer replicas stream.
    #[arg(long, value_name = "N", default_value_t = 0)]
    critical_replicas: u64,
    /// Warn when a replica is further behind.
    #[arg(long, value_name = "SIZE", default_value = "5MB", value_parser = size)]
    lag: u64,
    /// Critical when a replica is further behind.
    #[arg(long, value_name = "SIZE", default_value = "100MB", value_parser = size)]
    critical_lag: u64,
    /// Seconds until the store counts as away.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=300))]
    timeout: u64,
}

fn size(text: &str) -> Result<u64, String> {
    units::parse_size(text).ok_or_else(|| "allowed: bytes, or a number with kB, MB, GB or TB".to_owned())
}

/// How well something is, the worst last but for what is not known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Level {
    Ok,
    Warning,
    Critical,
    Unknown,
}

impl Level {
    fn code(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Ok => "OK",
            Level::Warning => "WARNING",
            Level::Critical => "CRITICAL",
            Level::Unknown => "UNKNOWN",
        })
    }
}

/// Checks, says what was found, and answers with the exit code.
pub(crate) async fn run(target: Result<Target, Failed>, args: CheckArgs) -> ExitCode {
    let (level, text) = match look(target, &args).await {
        Ok((body, scope, alarms)) => judge(&body, &scope, &alarms, &args),
        Err(Failed(why)) => (Level::Unknown, why.lines().collect::<Vec<_>>().join(" ")),
    };
    match say(&format!("PGVANE {level} - {text}\n")) {
        Ok(()) => ExitCode::from(level.code()),
        Err(_) => ExitCode::from(Level::Unknown.code()),
    }
}

/// The cluster, its name, and etcd's alarms.
async fn look(
    target: Result<Target, Failed>,
    args: &CheckArgs,
) -> Result<(Value, String, Vec<String>), Failed> {
    let target = target?;
    let limit = Duration::from_secs(args.timeout);
    let view = timeout(limit, target.view()).await;
    let view = view.map_err(|_| Failed(format!("the store did not answer within {} s", args.timeout)))??;
    // An etcd that keeps its state from this user says nothing of alarms.
    let health = timeout(limit, target.store.health()).await;
    let alarms = health.ok().and_then(Result::ok).map(|health| health.alarms).unwrap_or_default();
    Ok((cluster_body(&view, &target.scope), target.scope, alarms))
}

/// What is to be said of a cluster whose `/cluster` is `body`, with the figures behind a bar.
fn judge(body: &Value, scope: &str, alarms: &[String], args: &CheckArgs) -> (Level, String) {
    let members: Vec<&Value> = body["members"].as_array().into_iter().flatten().collect();
    let text = |member: &Value, field: &str| member[field].as_str().unwrap_or_default().to_owned();
    let leads = |member: &&&Value| ["leader", "standby_leader"].contains(&text(member, "role").as_str());
    let leader = members.iter().find(leads);
    let replicas: Vec<_> = members.iter().filter(|member| !leads(member)).collect();
    let streaming: Vec<_> = replicas.iter().filter(|member| text(member, "state") == "streaming").collect();
    let count = streaming.len() as u64;
    let lags = streaming.iter().map(|member| (text(member, "name"), behind(member)));
    let worst = lags.max_by_key(|(_, lag)| lag.unwrap_or(u64::MAX));

    let mut found = Vec::new();
    if !alarms.is_empty() {
        let text = format!("etcd is in trouble, and nobody may be able to take over: {}", alarms.join(", "));
        found.push((Level::Critical, text));
    }
    match leader {
        None => found.push((Level::Critical, format!("nobody leads {scope}"))),
        Some(leader) if text(leader, "state") == "running" => {}
        Some(leader) => {
            let (name, state) = (text(leader, "name"), text(leader, "state"));
            found.push((Level::Critical, format!("{name} leads, and its PostgreSQL is {state}")));
        }
    }
    let few = if count < args.critical_replicas { Level::Critical } else { Level::Warning };
    if count < args.replicas.max(args.critical_replicas) {
        let others: Vec<_> = replicas.iter().filter(|member| text(member, "state") != "streaming").collect();
        let others =
            others.iter().map(|member| format!("{} is {}", text(member, "name"), text(member, "state")));
        let others = others.map(|other| format!(", {other}")).collect::<String>();
        found.push((few, format!("{count} of {} replicas stream{others}", replicas.len())));
    }
    match &worst {
        Some((name, None)) => found.push((Level::Warning, format!("{name} does not tell where it is"))),
        Some((name, Some(lag))) if *lag > args.lag.min(args.critical_lag) => {
            let level = if *lag > args.critical_lag { Level::Critical } else { Level::Warning };
            found.push((level, format!("{name} is {} behind", megabytes(*lag))));
        }
        Some(_) | None => {}
    }
    let timeline = leader.and_then(|leader| leader["timeline"].as_u64());
    for member in &streaming {
        if timeline.is_some() && member["timeline"].as_u64() != timeline {
            found.push((Level::Warning, format!("{} is on another timeline", text(member, "name"))));
        }
    }
    if body["pause"] == true {
        found.push((Level::Warning, "pause is on: nobody takes over by itself".to_owned()));
    }

    let lag = worst.and_then(|(_, lag)| lag);
    let level = found.iter().map(|(level, _)| *level).max().unwrap_or(Level::Ok);
    found.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
    let mut said = found.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("; ");
    if said.is_empty() {
        let leader = leader.map(|leader| text(leader, "name")).unwrap_or_default();
        let lag = lag.map(|lag| format!(", at most {} behind", megabytes(lag))).unwrap_or_default();
        said = format!("{leader} leads {scope}, {count} of {} replicas stream{lag}", replicas.len());
    }
    // A lag that is not known is no figure (the guidelines' "U").
    let lag =
        lag.map_or_else(|| if count == 0 { "0".to_owned() } else { "U".to_owned() }, |lag| lag.to_string());
    let figures = format!(
        "replicas={count};{}:;{}:;0 lag={lag}B;{};{};0",
        args.replicas, args.critical_replicas, args.lag, args.critical_lag
    );
    (level, format!("{said} | {figures}"))
}

/// Bytes that a replica has not received, or not replayed.
fn behind(member: &Value) -> Option<u64> {
    Some(member["receive_lag"].as_u64()?.max(member["replay_lag"].as_u64()?))
}

fn megabytes(bytes: u64) -> String {
    if bytes < 1024 * 1024 { format!("{} kB", bytes / 1024) } else { format!("{} MB", bytes / (1024 * 1024)) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        check: CheckArgs,
    }

    fn args(given: &[&str]) -> CheckArgs {
        Cli::try_parse_from([&["check"], given].concat()).expect("good arguments").check
    }

    fn leader(state: &str) -> Value {
        json!({"name": "pg1", "role": "leader", "state": state, "timeline": 2})
    }

    fn replica(name: &str, state: &str, lag: u64) -> Value {
        json!({"name": name, "role": "replica", "state": state, "timeline": 2,
               "receive_lag": lag, "replay_lag": lag + 1})
    }

    fn judged(members: &[Value], given: &[&str]) -> (Level, String) {
        judge(&json!({"members": members}), "main", &[], &args(given))
    }

    #[test]
    fn an_alarm_of_etcd_is_critical_however_well_the_cluster_is() {
        let body = json!({"members": [leader("running"), replica("pg2", "streaming", 0)]});
        let (level, text) = judge(&body, "main", &["memberID:1 alarm:NOSPACE".to_owned()], &args(&[]));
        assert!(level == Level::Critical && text.starts_with("etcd is in trouble"), "{text}");
        assert!(text.contains("alarm:NOSPACE | replicas=1"), "{text}");
    }

    #[test]
    fn a_healthy_cluster_is_well_and_says_so_in_one_line() {
        let members = [leader("running"), replica("pg2", "streaming", 0), replica("pg3", "streaming", 4095)];
        let (level, text) = judged(&members, &["--replicas", "2"]);
        assert_eq!(level, Level::Ok);
        assert_eq!(
            text,
            "pg1 leads main, 2 of 2 replicas stream, at most 4 kB behind | \
             replicas=2;2:;0:;0 lag=4096B;5242880;104857600;0"
        );
    }

    #[test]
    fn without_a_leader_that_runs_it_is_critical() {
        let (level, text) = judged(&[replica("pg2", "streaming", 0)], &[]);
        assert!(level == Level::Critical && text.starts_with("nobody leads main"), "{text}");
        let (level, text) = judged(&[leader("starting"), replica("pg2", "streaming", 0)], &[]);
        assert!(
            level == Level::Critical && text.contains("pg1 leads, and its PostgreSQL is starting"),
            "{text}"
        );
    }

    #[test]
    fn replicas_count_while_they_stream() {
        let members = [leader("running"), replica("pg2", "streaming", 0), replica("pg3", "stopped", 0)];
        assert_eq!(judged(&members, &[]).0, Level::Ok);
        let (level, text) = judged(&members, &["--replicas", "2"]);
        assert!(
            level == Level::Warning && text.starts_with("1 of 2 replicas stream, pg3 is stopped"),
            "{text}"
        );
        assert_eq!(judged(&members, &["--replicas", "3", "--critical-replicas", "2"]).0, Level::Critical);
        // The stricter of the two alone is enough.
        assert_eq!(judged(&members, &["--critical-replicas", "2"]).0, Level::Critical);
    }

    #[test]
    fn the_furthest_replica_counts_and_one_that_does_not_tell_is_the_furthest() {
        let behind =
            |lag| [leader("running"), replica("pg2", "streaming", 0), replica("pg3", "streaming", lag)];
        let mb = 1024 * 1024;
        assert_eq!(judged(&behind(5 * mb - 1), &[]).0, Level::Ok);
        assert_eq!(judged(&behind(5 * mb), &[]).0, Level::Warning);
        assert_eq!(judged(&behind(100 * mb), &[]).0, Level::Critical);
        assert_eq!(judged(&behind(2 * mb), &["--lag", "1MB"]).0, Level::Warning);
        let mut members = behind(0);
        members[1]["replay_lag"] = "unknown".into();
        let (level, text) = judged(&members, &[]);
        assert!(
            level == Level::Warning && text.contains("pg2 does not tell") && text.contains("lag=UB"),
            "{text}"
        );
    }

    #[test]
    fn pause_and_another_timeline_are_warnings_after_what_is_worse() {
        let mut members = [leader("stopping"), replica("pg2", "streaming", 0)];
        members[1]["timeline"] = 1.into();
        let (level, text) = judge(&json!({"members": members, "pause": true}), "main", &[], &args(&[]));
        assert_eq!(level, Level::Critical);
        let parts: Vec<_> = text.split("; ").collect();
        assert!(parts[0].starts_with("pg1 leads, and") && parts[1].contains("another timeline"), "{text}");
        assert!(parts[2].starts_with("pause is on"), "{text}");
    }

    #[test]
    fn sizes_are_written_as_in_the_rest_api() {
        let error = Cli::try_parse_from(["check", "--lag", "much"]).err().expect("refused").to_string();
        assert!(error.contains("--lag") && error.contains("kB, MB"), "{error}");
    }
}
