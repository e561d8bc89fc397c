//! Which members a command is for.

use clap::{Args, ValueEnum};
use pgvane_agent::api::shown_role;
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::view::ClusterView;

use crate::{Failed, fail};

/// Members by what they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Role {
    /// The leader of the cluster.
    Leader,
    /// The same, unless the cluster is a standby cluster.
    #[value(alias = "master")]
    Primary,
    /// The leader of a standby cluster.
    #[value(alias = "standby_leader")]
    StandbyLeader,
    /// All others.
    Replica,
    /// Everybody.
    Any,
}

impl Role {
    fn is_role_of(self, view: &ClusterView, name: &NodeName) -> bool {
        let Some(member) = view.members.get(name) else { return false };
        match (self, shown_role(view, name, member)) {
            (Role::Any, _) | (Role::Leader, "leader" | "standby_leader") => true,
            (Role::Primary, role) => role == "leader",
            (Role::StandbyLeader, role) => role == "standby_leader",
            (Role::Replica, role) => role != "leader" && role != "standby_leader",
            (Role::Leader, _) => false,
        }
    }
}

/// Members by name and role; all of the cluster where neither is given.
#[derive(Args, Debug, Default)]
pub(crate) struct MembersArgs {
    /// Names of members; all of them unless given.
    #[arg(value_name = "MEMBER")]
    pub(crate) members: Vec<String>,
    /// Only members of this role.
    #[arg(short, long, value_enum)]
    pub(crate) role: Option<Role>,
}

impl MembersArgs {
    /// The members that are meant: replicas first, the leader last, so that what goes wrong goes wrong on a replica.
    pub(crate) fn choose(&self, view: &ClusterView) -> Result<Vec<NodeName>, Failed> {
        for name in &self.members {
            if !view.members.contains_key(&NodeName::from(name.as_str())) {
                return fail(format!("{name:?} is not a member; members are {}", names(view.members.keys())));
            }
        }
        let role = self.role.unwrap_or(Role::Any);
        let meant = |name: &&NodeName| {
            self.members.is_empty() || self.members.iter().any(|m| m.as_str() == name.as_str())
        };
        let mut chosen: Vec<NodeName> =
            view.members.keys().filter(meant).filter(|name| role.is_role_of(view, name)).cloned().collect();
        chosen.sort_by_key(|name| (Role::Leader.is_role_of(view, name), name.clone()));
        if chosen.is_empty() {
            return fail("no member is of that role");
        }
        Ok(chosen)
    }
}

/// Names for a sentence.
pub(crate) fn names<'a>(members: impl IntoIterator<Item = &'a NodeName>) -> String {
    members.into_iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::tests::{PAIR, view};

    #[tokio::test]
    async fn members_are_chosen_by_name_and_role_with_the_leader_last() {
        let view = view(PAIR).await;
        let choose = |names: &[&str], role| {
            let members = names.iter().map(|n| (*n).to_owned()).collect();
            let chosen = MembersArgs { members, role }.choose(&view);
            chosen.map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let chosen = |names, role| choose(names, role).map_err(|Failed(why)| why);
        assert_eq!(chosen(&[], None), Ok("pg2 pg3 pg1".to_owned()));
        assert_eq!(chosen(&["pg1", "pg2"], None), Ok("pg2 pg1".to_owned()));
        assert_eq!(chosen(&[], Some(Role::Replica)), Ok("pg2 pg3".to_owned()));
        assert_eq!(chosen(&[], Some(Role::Primary)), Ok("pg1".to_owned()));
        assert!(chosen(&["pg2"], Some(Role::Leader)).expect_err("none").contains("role"));
        assert_eq!(
            chosen(&["pg9"], None),
            Err("\"pg9\" is not a member; members are pg1, pg2, pg3".to_owned())
        );
    }
}
