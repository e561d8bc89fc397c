//! Whether clients should be sent to this proxy: what `/readyz` answers. Pure.

use std::time::Duration;

use pgvane_cluster::clock::Tick;

use crate::topology::Topology;
use crate::topology::freshness::Standing;

/// Whether a proxy that sees `topology` should be sent clients. `writes` is whether it has a port that needs
/// a primary.
pub(super) fn readiness(topology: &Topology, writes: bool, grace: Duration, now: Tick) -> Result<(), String> {
    let (cluster, who) = (&topology.cluster, topology.origin.who());
    match topology.standing {
        Standing::NeverSeen => {
            let why = topology.store_down.as_ref().map(|(_, why)| format!(": {why}")).unwrap_or_default();
            return Err(format!("cluster {cluster}: {who} has not answered yet{why}"));
        }
        Standing::Lost => {
            let why = topology.primary.as_ref().err().map_or_else(String::new, ToString::to_string);
            let down =
                topology.store_down.as_ref().map(|(_, error)| format!("; {who} does not answer: {error}"));
            return Err(format!("cluster {cluster}: {why}{}", down.unwrap_or_default()));
        }
        Standing::Proven | Standing::Vouched | Standing::Suspended => {}
    }
    if let Some((since, why)) = &topology.store_down
        && now.since(*since) > grace
    {
        let seconds = now.since(*since).as_secs();
        return Err(format!("cluster {cluster}: {who} has not answered for {seconds} s: {why}"));
    }
    match (&topology.primary, topology.missing_since) {
        (Err(why), _) if writes && !topology.has_served => Err(format!("cluster {cluster}: {why}")),
        (Err(why), Some(since)) if writes && now.since(since) > grace => {
            Err(format!("cluster {cluster}: {why} (for {} s)", now.since(since).as_secs()))
        }
        // It leads, and the way to it is cut from here: the other proxy may have one.
        (Ok(primary), _) if writes => match primary.node.unreached_for(now, grace) {
            Some(time) if time > grace => {
                let (name, seconds) = (&primary.name, time.as_secs());
                Err(format!(
                    "cluster {cluster}: the primary {name} cannot be reached from here (for {seconds} s)"
                ))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::NoPrimary;
    use crate::topology::fixture::{primary, topology};

    const GRACE: Duration = Duration::from_secs(30);

    fn ready(change: impl FnOnce(&mut Topology, Tick)) -> Result<(), String> {
        let now = Tick::now() + Duration::from_secs(1000);
        let mut t = topology(Some(primary("pg1", 7)), vec![]);
        t.has_served = true;
        change(&mut t, now);
        readiness(&t, true, GRACE, now)
    }

    #[test]
    fn a_serving_primary_is_ready_and_a_short_absence_does_not_move_the_vip() {
        assert_eq!(ready(|_, _| {}), Ok(()));
        let missing = |t: &mut Topology, now: Tick, seconds| {
            t.primary = Err(NoPrimary::NoLeader);
            t.missing_since = Some(now - Duration::from_secs(seconds));
        };
        assert_eq!(ready(|t, now| missing(t, now, 29)), Ok(()));
        let why = ready(|t, now| missing(t, now, 31)).expect_err("too long");
        assert_eq!(why, "cluster main: nobody holds the leader key (for 31 s)");
        let why = ready(|t, now| {
            missing(t, now, 0);
            t.has_served = false;
        });
        assert!(why.is_err(), "a proxy that has never seen a primary is not ready");
    }

    #[test]
    fn a_silent_store_makes_it_unready_after_the_grace_and_a_lost_leader_at_once() {
        let down = |t: &mut Topology, now: Tick, seconds| {
            t.store_down = Some((now - Duration::from_secs(seconds), "refused".to_owned()));
        };
        assert_eq!(ready(|t, now| down(t, now, 29)), Ok(()));
        assert!(ready(|t, now| down(t, now, 31)).is_err());
        assert!(ready(|t, _| t.standing = Standing::Lost).is_err());
        assert!(ready(|t, _| t.standing = Standing::NeverSeen).is_err());
        assert_eq!(ready(|t, _| t.standing = Standing::Vouched), Ok(()));
    }

    #[test]
    fn a_primary_that_cannot_be_reached_makes_it_unready_after_the_grace() {
        let failing = |t: &mut Topology, now: Tick, since, last| {
            let node = &t.primary.as_ref().expect("a primary").node;
            node.shun(now - Duration::from_secs(since));
            node.shun(now - Duration::from_secs(last));
        };
        assert_eq!(ready(|t, now| failing(t, now, 29, 1)), Ok(()));
        let why = ready(|t, now| failing(t, now, 31, 1)).expect_err("too long");
        assert_eq!(why, "cluster main: the primary pg1 cannot be reached from here (for 31 s)");
        assert_eq!(ready(|t, now| failing(t, now, 90, 31)), Ok(()), "nobody has tried of late");
    }

    #[test]
    fn who_only_reads_needs_no_primary() {
        let now = Tick::now();
        let t = topology(None, vec![]);
        assert_eq!(readiness(&t, false, GRACE, now), Ok(()));
        assert!(readiness(&t, true, GRACE, now).is_err());
    }
}
