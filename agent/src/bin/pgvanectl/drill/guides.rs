//! The guides. Their figures are those of docs/operations.md: medians on one machine with two cores, at a ttl of 3 s.

use std::time::Duration;

use super::facts::{Facts, Node};
use super::{Drill, name_of};

/// What is done, what comes of it, and how it is undone.
#[derive(Debug, Default)]
pub(super) struct Guide {
    title: String,
    steps: Vec<String>,
    expect: Vec<String>,
    check: Vec<String>,
    undo: Vec<String>,
}

impl Guide {
    /// For people.
    pub(super) fn text(&self) -> String {
        let part = |name: &str, lines: &[String]| {
            let lines: String = lines.iter().map(|line| format!("  {line}\n")).collect();
            if lines.is_empty() { lines } else { format!("{name}:\n{lines}") }
        };
        format!(
            "{}\n{}{}{}{}",
            self.title,
            part("Do", &self.steps),
            part("Expect", &self.expect),
            part("Check", &self.check),
            part("Undo", &self.undo)
        )
    }
}

/// How this drill goes on this cluster.
pub(super) fn guide(drill: Drill, facts: &Facts) -> Guide {
    let name = name_of(drill);
    let Guide { title, steps, expect, mut check, undo } = match drill {
        Drill::Switchover => switchover(facts),
        Drill::StopAgent => stop_agent(facts),
        Drill::KillPostgres => kill_postgres(facts),
        Drill::KillNode => kill_node(facts),
        Drill::FreezeAgent => freeze_agent(facts),
        Drill::CutOff => cut_off(facts),
        Drill::Rejoin => rejoin(facts),
        Drill::EtcdMember => etcd_member(facts),
        Drill::Proxy => proxy(facts),
    };
    check.push(
        "pgvanectl check; pgvanectl history: why the leader went, and for how long nobody served".to_owned(),
    );
    let title = format!("{name}, on {}: {title}", facts.scope);
    let first = format!(
        "In another terminal: pgvanectl drill {name} --watch, and a client that writes through the proxy"
    );
    let steps = [vec![first], steps].concat();
    Guide { title, steps, expect, check, undo }
}

fn at(node: &Node, command: &str) -> String {
    format!("On {} ({}): {command}", node.name, node.host)
}

fn to_replicas(facts: &Facts) -> String {
    let names: Vec<_> = facts.replicas.iter().map(|node| node.name.as_str()).collect();
    if names.is_empty() { "nobody: there is no other member".to_owned() } else { names.join(" or ") }
}

/// What was measured with synchronous mode off, and on.
fn outage(facts: &Facts, asynchronous: &str, synchronous: &str) -> String {
    let seconds = if facts.synchronous { synchronous } else { asynchronous };
    format!("An outage of writes of about {seconds} s; whoever comes meanwhile waits at the proxy.")
}

/// Seconds without the zeroes.
fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

fn lost(facts: &Facts) -> String {
    if facts.synchronous {
        "No acknowledged commit is lost.".to_owned()
    } else {
        "A commit that no replica had received yet can be lost: replication is asynchronous.".to_owned()
    }
}

fn comes_back(facts: &Facts) -> String {
    format!(
        "pgvanectl list: one leader on a higher timeline; {} streams again, rewound where needed",
        facts.leader.name
    )
}

fn start_agent(facts: &Facts) -> String {
    at(&facts.leader, "sudo systemctl start pgvane-agent")
}

fn switchover(facts: &Facts) -> Guide {
    Guide {
        title: "a planned change of the primary".to_owned(),
        steps: vec![
            "pgvanectl switchover --dry-run".to_owned(),
            "pgvanectl drill switchover --perform --watch asks, does it and measures it".to_owned(),
        ],
        expect: vec![
            format!("{} hands over to {}.", facts.leader.name, to_replicas(facts)),
            outage(facts, "0.19", "0.19"),
            "No acknowledged commit is lost.".to_owned(),
        ],
        check: vec![comes_back(facts)],
        undo: vec![format!("pgvanectl switchover --candidate {}", facts.leader.name)],
    }
}

fn stop_agent(facts: &Facts) -> Guide {
    Guide {
        title: "the primary's agent is told to stop".to_owned(),
        steps: vec![at(&facts.leader, "sudo systemctl stop pgvane-agent")],
        expect: vec![
            format!("It hands over to {}, then stops PostgreSQL.", to_replicas(facts)),
            outage(facts, "0.19", "0.21"),
            "No acknowledged commit is lost.".to_owned(),
        ],
        check: vec![comes_back(facts)],
        undo: vec![start_agent(facts)],
    }
}

fn kill_postgres(facts: &Facts) -> Guide {
    Guide {
        title: "the primary's postmaster dies, its agent lives".to_owned(),
        steps: vec![at(
            &facts.leader,
            "sudo kill -9 $(sudo head -1 DATA_DIR/postmaster.pid), with postgresql.data_dir for DATA_DIR",
        )],
        expect: vec![
            format!(
                "{} starts it again in place and stays the leader; the timeline stays.",
                facts.leader.name
            ),
            outage(facts, "0.25", "0.20"),
            "No acknowledged commit is lost.".to_owned(),
        ],
        check: vec![format!("pgvanectl list: {} leads, on the same timeline", facts.leader.name)],
        undo: vec![],
    }
}

fn kill_node(facts: &Facts) -> Guide {
    Guide {
        title: "the primary's agent and PostgreSQL die".to_owned(),
        steps: vec![
            // systemd must not start it again before anybody has seen what happens.
            at(&facts.leader, "sudo systemctl mask --runtime pgvane-agent"),
            at(
                &facts.leader,
                "sudo systemctl kill --kill-whom=main --signal=KILL pgvane-agent; \
                 sudo kill -9 $(sudo head -1 DATA_DIR/postmaster.pid), with postgresql.data_dir for DATA_DIR",
            ),
        ],
        expect: vec![
            format!(
                "The guard proves that both are dead and gives the lease back; {} takes over.",
                to_replicas(facts)
            ),
            outage(facts, "0.20", "0.20"),
            format!(
                "A machine that dies as a whole costs its lease: {} and about half a second.",
                seconds(facts.ttl)
            ),
            lost(facts),
        ],
        check: vec![comes_back(facts)],
        undo: vec![at(&facts.leader, "sudo systemctl unmask --runtime pgvane-agent"), start_agent(facts)],
    }
}

fn freeze_agent(facts: &Facts) -> Guide {
    let signal = |signal: &str| {
        at(&facts.leader, &format!("sudo systemctl kill --kill-whom=main --signal={signal} pgvane-agent"))
    };
    Guide {
        title: "the primary's agent hangs".to_owned(),
        steps: vec![signal("STOP")],
        expect: vec![
            format!(
                "The guard stops PostgreSQL before the lease of {} can end, and gives it back; {} takes over.",
                seconds(facts.ttl),
                to_replicas(facts)
            ),
            "At no time do two members take writes.".to_owned(),
            format!("Writes fail for less than {}; with a ttl of 3 s it was 0.7 s.", seconds(facts.ttl)),
            lost(facts),
        ],
        check: vec![comes_back(facts)],
        undo: vec![signal("CONT")],
    }
}

fn cut_off(facts: &Facts) -> Guide {
    let rule = |(host, port): &(String, u16)| {
        let family = if host.parse::<std::net::Ipv6Addr>().is_ok() { "ip6" } else { "ip" };
        format!("add rule inet pgvane_drill out {family} daddr {host} tcp dport {port} drop; ")
    };
    let rules: String = facts.etcd.iter().map(rule).collect();
    let rules = rules.trim_end_matches("; ");
    let table = "add table inet pgvane_drill; add chain inet pgvane_drill out { type filter hook output priority 0; }";
    let end = "sudo nft delete table inet pgvane_drill";
    Guide {
        title: "the primary is cut off from etcd, and from nothing else".to_owned(),
        steps: vec![
            at(&facts.leader, "let it end by itself, whatever happens:"),
            "  sudo systemd-run --on-active=120 nft delete table inet pgvane_drill".to_owned(),
            "then cut it off:".to_owned(),
            format!("  sudo nft '{table}; {rules}'"),
        ],
        expect: if facts.failsafe {
            vec![
                format!(
                    "{} asks the others to vouch; they answer that etcd is there, so it stops.",
                    facts.leader.name
                ),
                format!("{} takes over when the lease is given back or ends.", to_replicas(facts)),
                format!(
                    "Writes fail for {} and about half a second at most; with a ttl of 3 s it was 1.2 s.",
                    seconds(facts.ttl)
                ),
                lost(facts),
            ]
        } else {
            vec![
                format!(
                    "{} stops before its lease ends; {} takes over then.",
                    facts.leader.name,
                    to_replicas(facts)
                ),
                format!("Writes fail for {} and about half a second.", seconds(facts.ttl)),
                lost(facts),
            ]
        },
        check: vec![format!(
            "pgvanectl list, on another node: one leader, and it is not {}",
            facts.leader.name
        )],
        undo: vec![at(&facts.leader, end), comes_back(facts)],
    }
}

fn rejoin(facts: &Facts) -> Guide {
    let name = &facts.leader.name;
    Guide {
        title: "a former primary comes back with a history of its own".to_owned(),
        steps: vec![
            format!(
                "pgvanectl drill kill-node, while a client writes: it leaves {name} with WAL that nobody else has"
            ),
            start_agent(facts),
        ],
        expect: vec![
            format!(
                "{name} finds that its history has parted from the leader's, and rewinds it with pg_rewind."
            ),
            "Where that cannot be done it copies the data anew. The leader is not disturbed.".to_owned(),
        ],
        check: vec![
            format!("pgvanectl list: {name} streams, on the leader's timeline"),
            format!("journalctl -u pgvane-agent on {}: what was rewound", facts.leader.host),
        ],
        undo: vec![
            format!(
                "pgvanectl rewind {name} says why it does not follow; pgvanectl reinit {name} copies it anew"
            ),
            format!("pgvanectl switchover --candidate {name}"),
        ],
    }
}

fn etcd_member(facts: &Facts) -> Guide {
    let members: Vec<_> = facts.etcd.iter().map(|(host, port)| format!("{host}:{port}")).collect();
    let one = facts.etcd.first().map_or("HOST", |(host, _)| host.as_str());
    let alone = members.len() < 2;
    let goes_on = if facts.failsafe {
        "With no majority left, every member vouches for the primary (failsafe_mode): nothing stops while all answer."
    } else {
        "With no majority left the primary stops before its lease ends: failsafe_mode is off."
    };
    Guide {
        title: format!("a member of etcd is lost; this cluster is told of {}", members.join(", ")),
        steps: vec![format!("On {one}: sudo systemctl stop etcd")],
        expect: if alone {
            vec![
                "It is the only one that is named here; maybe there are others.".to_owned(),
                goes_on.to_owned(),
            ]
        } else {
            vec![
                "While a majority is left: no outage; agents and proxies ask another.".to_owned(),
                goes_on.to_owned(),
            ]
        },
        check: vec![format!("etcdctl --endpoints={} endpoint status -w table", members.join(","))],
        undo: vec![format!("On {one}: sudo systemctl start etcd")],
    }
}

fn proxy(_: &Facts) -> Guide {
    Guide {
        title: "a proxy is lost, and the virtual address moves".to_owned(),
        steps: vec![
            "On the proxy that has the address (ip -brief address): sudo systemctl kill --signal=KILL pgvane; systemd \
             starts it again"
                .to_owned(),
            "The whole host: sudo systemctl stop keepalived".to_owned(),
        ],
        expect: vec![
            "Sessions through it end; clients connect again.".to_owned(),
            "The other proxy has the address when Keepalived has missed its check or its word: with the settings of \
             packaging/keepalived within a few seconds."
                .to_owned(),
            "The cluster does not notice: no leader changes.".to_owned(),
        ],
        check: vec![
            "ip -brief address, on both: one has it".to_owned(),
            "curl -s http://PROXY:8009/readyz, on both".to_owned(),
        ],
        undo: vec!["sudo systemctl start keepalived".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::list::tests::{PAIR, view};

    async fn text(drill: Drill, config: &str) -> String {
        let mut keys = PAIR.to_vec();
        keys.push(("config", config));
        let endpoints = ["http://10.0.0.7:2379".to_owned(), "https://[fd00::8]:2379".to_owned()];
        guide(drill, &Facts::of(&view(&keys).await, "demo", &endpoints)).text()
    }

    #[tokio::test]
    async fn each_names_the_leader_of_now_and_has_something_to_do_expect_and_check() {
        for drill in Drill::value_variants() {
            let text = text(*drill, r#"{"ttl":30}"#).await;
            for part in ["\nDo:\n", "\nExpect:\n", "\nCheck:\n"] {
                assert!(text.contains(part), "{drill:?}: {text}");
            }
            assert!(text.starts_with(&format!("{}, on demo: ", name_of(*drill))), "{text}");
            let is_about_the_leader = ![Drill::EtcdMember, Drill::Proxy].contains(drill);
            assert!(text.contains("pg1") == is_about_the_leader, "{text}");
        }
    }

    #[tokio::test]
    async fn figures_follow_the_settings() {
        let dead = text(Drill::KillNode, r#"{"ttl":30}"#).await;
        assert!(dead.contains("costs its lease: 30 s and about half a second"), "{dead}");
        assert!(dead.contains("can be lost"), "{dead}");
        let synchronous = text(Drill::KillPostgres, r#"{"ttl":10,"synchronous_mode":true}"#).await;
        assert!(synchronous.contains("about 0.20 s"), "{synchronous}");
        let cut = text(Drill::CutOff, r#"{"ttl":10,"failsafe_mode":true}"#).await;
        assert!(cut.contains(
            "ip daddr 10.0.0.7 tcp dport 2379 drop; add rule inet pgvane_drill out ip6 daddr fd00::8"
        ));
        assert!(cut.contains("asks the others to vouch"), "{cut}");
        assert!(text(Drill::CutOff, r#"{"ttl":10}"#).await.contains("stops before its lease ends"));
    }
}
