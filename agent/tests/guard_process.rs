//! The guard as a process, with a real PostgreSQL to stop and a real agent process to lose.

mod guard_support;

use std::path::Path;
use std::time::Duration;

use guard_support::{Agent, Etcd, Plan, Postgres, gone_within, options};
use pgvane_agent::guard::client::{Doing, GuardClient, GuardEvent};
use pgvane_agent::postgres::process::processes_of;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{LeaseId, Revision};
use pgvane_cluster::store::{KeyEvent, Lease, Store, Txn, WatchMessage, WatchStream};
use rustix::process::{Signal, kill_process};

/// Wide, so that a busy test machine is not mistaken for a late guard.
const BUDGET: Duration = Duration::from_millis(900);

/// Run by the other tests as a process of its own: an agent that arms its guard and extends it until it dies.
#[test]
#[ignore = "not a test by itself: the role of an agent process"]
fn role_agent() {
    guard_support::play_agent();
}

fn plan(postgres: &Postgres, deadline_in: Duration) -> Plan {
    Plan {
        data_dir: postgres.data_dir.clone(),
        postmaster: postgres.postmaster().as_raw_nonzero().get(),
        lease: 77,
        ttl: Duration::from_secs(10),
        deadline_nanos: (Tick::now() + deadline_in).as_nanos(),
        budget: BUDGET,
        etcd: None,
    }
}

fn assert_no_process(data_dir: &Path) {
    assert_eq!(processes_of(data_dir).expect("reads /proc"), vec![]);
}

#[test]
fn a_frozen_agent_loses_postgres_at_the_deadline() {
    let postgres = Postgres::start();
    let plan = plan(&postgres, Duration::from_secs(2));
    let agent = Agent::start(&plan);
    kill_process(agent.pid(), Signal::STOP).expect("freezes the agent");

    let postmaster = postgres.postmaster_fd();
    let died = gone_within(&postmaster, Duration::from_secs(10)).expect("the postmaster ends");
    assert!(died >= plan.deadline(), "stopped at {died:?}, before the deadline {:?}", plan.deadline());
    assert!(died <= plan.deadline() + BUDGET, "stopped at {died:?}, deadline {:?}", plan.deadline());
    agent.end_guard();
    assert_no_process(&postgres.data_dir);
}

#[test]
fn a_frozen_postmaster_is_killed_with_all_its_processes() {
    let postgres = Postgres::start();
    let plan = plan(&postgres, Duration::from_secs(2));
    let agent = Agent::start(&plan);
    kill_process(agent.pid(), Signal::STOP).expect("freezes the agent");
    kill_process(postgres.postmaster(), Signal::STOP).expect("freezes the postmaster");

    let fds = postgres.process_fds();
    assert!(fds.len() > 3, "PostgreSQL should have several processes, not {}", fds.len());
    for fd in &fds {
        let died = gone_within(fd, Duration::from_secs(10)).expect("the process ends");
        assert!(died <= plan.deadline() + BUDGET, "ended at {died:?}, deadline {:?}", plan.deadline());
    }
    agent.end_guard();
}

// Two threads: the connection must close while the test waits for a process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_leaves_postgres_to_the_next_agent() {
    let postgres = Postgres::start();
    let plan = plan(&postgres, Duration::from_secs(3));
    let agent = Agent::start(&plan);
    let guard = agent.guard;
    agent.kill();

    let found = GuardClient::start(&options(&plan.data_dir)).await.expect("adopts the guard");
    assert_eq!(found.report.pid, guard.as_raw_nonzero().get().unsigned_abs(), "another guard was started");
    assert_eq!((found.report.doing, found.report.lease), (Doing::Armed, Some(77)));
    assert_eq!(found.report.deadline, Some(plan.deadline_nanos));
    found.client.extend(LeaseId(77), plan.deadline() + Duration::from_secs(4)).await.expect("extends");

    // Past the old deadline and its budget the server still runs.
    let postmaster = postgres.postmaster_fd();
    let past = plan.deadline() + BUDGET + Duration::from_millis(200);
    assert_eq!(gone_within(&postmaster, Tick::now().until(past)), None, "PostgreSQL was stopped");

    found.client.disarm().await.expect("disarms");
    drop(found);
    let guard = guard_support::pidfd(guard);
    gone_within(&guard, Duration::from_secs(5)).expect("an idle guard leaves with its agent");
    assert_eq!(gone_within(&postmaster, Duration::ZERO), None, "PostgreSQL was stopped");
}

/// A member key under a lease that somebody renews no more; returns the lease and a watch on the key.
async fn leased_key(etcd: &Etcd) -> (Lease, impl WatchStream + use<>) {
    let store = etcd.store();
    let lease = store.grant(Duration::from_mins(1)).await.expect("grants");
    let put = Txn::put("/service/t/leader".to_owned(), b"a".to_vec(), Some(lease.id));
    let put = store.txn(put).await.expect("puts");
    let from = Revision(put.revision.0 + 1);
    let watch = store.watch("/service/t/", from).await.expect("watches");
    (lease, watch)
}

async fn deleted(watch: &mut impl WatchStream) -> Tick {
    let deletion = async {
        loop {
            if let WatchMessage::Events(events) = watch.next().await.expect("the watch lives")
                && events.iter().any(|e| matches!(e, KeyEvent::Delete { .. }))
            {
                return Tick::now();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), deletion).await.expect("the lease is revoked")
}

#[tokio::test]
async fn with_agent_and_postgres_dead_the_lease_is_given_back() {
    let etcd = Etcd::start();
    let postgres = Postgres::start();
    let (lease, mut watch) = leased_key(&etcd).await;
    let mut plan = plan(&postgres, Duration::from_secs(30));
    (plan.lease, plan.ttl, plan.etcd) = (lease.id.0, Duration::from_mins(1), Some(etcd.url.clone()));
    let agent = Agent::start(&plan);

    let before = Tick::now();
    for pid in processes_of(&postgres.data_dir).expect("reads /proc") {
        // Some end by themselves once the first are gone.
        let _ = kill_process(pid, Signal::KILL);
    }
    agent.kill();
    let took = deleted(&mut watch).await.since(before);
    assert_no_process(&postgres.data_dir);
    // 200 ms is what failover is promised; ten times that tells a busy machine from a lease that ran out.
    assert!(took < Duration::from_secs(2), "the lease was given back after {took:?}");
    eprintln!("lease given back {took:?} after both were killed");
}

#[tokio::test]
async fn orphans_of_a_dead_postmaster_die_before_the_lease_is_given_back() {
    let etcd = Etcd::start();
    let postgres = Postgres::start();
    let (lease, mut watch) = leased_key(&etcd).await;
    let mut plan = plan(&postgres, Duration::from_secs(30));
    (plan.lease, plan.ttl, plan.etcd) = (lease.id.0, Duration::from_mins(1), Some(etcd.url.clone()));
    let agent = Agent::start(&plan);
    // A backend that computes does not notice that its postmaster died.
    let busy = postgres.busy_backend();

    let postmaster = postgres.postmaster_fd();
    kill_process(postgres.postmaster(), Signal::KILL).expect("kills the postmaster");
    gone_within(&postmaster, Duration::from_secs(5)).expect("the postmaster ends");
    assert_eq!(
        gone_within(&busy, Duration::from_millis(300)),
        None,
        "the backend should outlive its postmaster"
    );
    agent.kill();
    deleted(&mut watch).await;
    assert!(gone_within(&busy, Duration::ZERO).is_some(), "the lease was given back while a backend lived");
    assert_no_process(&postgres.data_dir);
}

#[tokio::test]
async fn a_killed_guard_is_noticed_and_replaced() {
    let postgres = Postgres::start();
    let options = options(&postgres.data_dir);
    let mut found = GuardClient::start(&options).await.expect("starts a guard");
    assert_eq!(found.report.doing, Doing::Idle);
    let first = found.report.pid;
    found.client.arm(guard_support::arming(&plan(&postgres, Duration::from_mins(1)))).await.expect("arms");

    let pid = i32::try_from(first).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::KILL).expect("kills the guard");
    let event = tokio::time::timeout(Duration::from_secs(5), found.events.recv()).await.expect("in time");
    assert!(matches!(event, Some(GuardEvent::Gone(_))), "{event:?}");
    assert!(found.client.report().await.is_err());

    let again = GuardClient::start(&options).await.expect("starts another");
    assert_ne!(again.report.pid, first);
    again.client.arm(guard_support::arming(&plan(&postgres, Duration::from_mins(1)))).await.expect("arms");
    assert_eq!(again.client.report().await.expect("answers").doing, Doing::Armed);
    again.client.disarm().await.expect("disarms");
}

#[tokio::test]
async fn two_guards_never_share_a_data_directory() {
    let postgres = Postgres::start();
    let first = GuardClient::start(&options(&postgres.data_dir)).await.expect("starts a guard");
    first.client.arm(guard_support::arming(&plan(&postgres, Duration::from_mins(1)))).await.expect("arms");

    let mut elsewhere = options(&postgres.data_dir);
    elsewhere.socket = postgres.data_dir.with_file_name("other.sock");
    let second = GuardClient::start(&elsewhere).await.expect("starts");
    let plan = plan(&postgres, Duration::from_mins(1));
    let refused = second.client.arm(guard_support::arming(&plan)).await.expect_err("must be refused");
    assert!(refused.to_string().contains("another guard watches over"), "{refused}");
    first.client.disarm().await.expect("disarms");
}

#[tokio::test]
async fn a_fence_falls_only_at_the_agents_word() {
    let postgres = Postgres::start();
    let mut found = GuardClient::start(&options(&postgres.data_dir)).await.expect("starts a guard");
    let plan = plan(&postgres, Duration::from_millis(300));
    found.client.arm(guard_support::arming(&plan)).await.expect("arms");
    let mut done = vec![];
    while done.last() != Some(&Doing::Fenced) {
        match tokio::time::timeout(Duration::from_secs(5), found.events.recv()).await.expect("in time") {
            Some(GuardEvent::Acted(report)) => done.push(report.doing),
            other => panic!("{other:?} after {done:?}"),
        }
    }
    assert_no_process(&postgres.data_dir);

    // An old plan of the agent's: the server is started, and dies again.
    let started = postgres.spawn_again();
    gone_within(&started, Duration::from_secs(5)).expect("the fence holds");
    let refused = found.client.extend(LeaseId(77), Tick::now() + Duration::from_secs(5)).await;
    assert!(refused.is_err(), "{refused:?}");

    found.client.disarm().await.expect("disarms");
    let started = postgres.spawn_again();
    assert_eq!(gone_within(&started, Duration::from_secs(1)), None, "the fence should be down");
}
