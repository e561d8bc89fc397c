//! When an operator's callbacks are due (contract 8.10). Pure: from what a node was to what it is.

use pgvane_cluster::records::MemberRole;

use crate::decide::announce;
use crate::decide::world::{LocalRole, Process, Slot, World};

/// Label of a restart: what stops and starts within it is one event.
pub const RESTART: &str = "restart";

/// What is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Callback {
    /// The server accepts connections.
    OnStart,
    /// It was stopped.
    OnStop,
    /// It was restarted.
    OnRestart,
    /// Its configuration was read again.
    OnReload,
    /// It was promoted or demoted.
    OnRoleChange,
}

impl Callback {
    /// The word that a command is given.
    pub fn name(self) -> &'static str {
        match self {
            Callback::OnStart => "on_start",
            Callback::OnStop => "on_stop",
            Callback::OnRestart => "on_restart",
            Callback::OnReload => "on_reload",
            Callback::OnRoleChange => "on_role_change",
        }
    }
}

/// A callback that is due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Due {
    /// What is told.
    pub callback: Callback,
    /// The role that is told with it.
    pub role: MemberRole,
}

/// What is seen of the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// It accepts connections in this role.
    Up(MemberRole),
    /// It does not run.
    Down {
        /// Whether its starts as the primary have failed.
        start_failed: bool,
    },
    /// On its way from one to the other.
    Between,
}

impl Seen {
    /// What `world` shows.
    pub fn of(world: &World) -> Seen {
        match (world.local.process, world.local.role) {
            (Process::Running, LocalRole::Primary | LocalRole::Standby) => Seen::Up(role(world)),
            (Process::Absent, _) => Seen::Down { start_failed: world.memory.failed_starts > 0 },
            (Process::Running, LocalRole::Unknown) | (Process::Starting { .. } | Process::Stopping, _) => {
                Seen::Between
            }
        }
    }
}

/// The role as callbacks are told: one that is being promoted is a primary to them.
pub fn role(world: &World) -> MemberRole {
    match announce::role(world) {
        MemberRole::Promoted => MemberRole::Primary,
        other => other,
    }
}

/// Whether what happens to the server is a restart.
pub fn is_restarting(world: &World) -> bool {
    world.local.ongoing.get(&Slot::Postgres).is_some_and(|o| o.what == RESTART)
}

/// What was told so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Told {
    role: Option<MemberRole>,
    up: bool,
    stopping: bool,
    restarting: bool,
}

impl Told {
    /// The server is being stopped: its end is no crash.
    pub fn stopping(&mut self) {
        self.stopping = true;
    }

    /// The callback that is due now that `seen` is so. `restarting`: as one step of a restart.
    pub fn next(&mut self, seen: &Seen, restarting: bool) -> Option<Due> {
        self.restarting |= restarting;
        match seen {
            Seen::Between => None,
            Seen::Up(role) => self.is_up(role),
            Seen::Down { .. } if restarting => None,
            Seen::Down { start_failed } => self.is_down(*start_failed),
        }
    }

    fn is_up(&mut self, role: &MemberRole) -> Option<Due> {
        let before = self.role.replace(role.clone());
        let was_up = std::mem::replace(&mut self.up, true);
        let due = |callback| Some(Due { callback, role: role.clone() });
        if before.as_ref().is_some_and(|before| before != role) {
            // The start that a change of the role may need is part of it.
            self.settle();
            return due(Callback::OnRoleChange);
        }
        if std::mem::take(&mut self.restarting) && self.stopping {
            self.settle();
            return due(Callback::OnRestart);
        }
        if was_up {
            return None;
        }
        self.settle();
        due(Callback::OnStart)
    }

    fn is_down(&mut self, start_failed: bool) -> Option<Due> {
        let role = self.role.clone()?;
        let was_up = std::mem::replace(&mut self.up, false);
        let stopped = std::mem::take(&mut self.stopping);
        self.settle();
        if was_up && stopped {
            return Some(Due { callback: Callback::OnStop, role });
        }
        if start_failed && role == MemberRole::Primary {
            self.role = Some(MemberRole::Demoted);
            return Some(Due { callback: Callback::OnRoleChange, role: MemberRole::Demoted });
        }
        None
    }

    fn settle(&mut self) {
        self.stopping = false;
        self.restarting = false;
    }
}

#[cfg(test)]
mod tests {
    use Callback::{OnRestart, OnRoleChange, OnStart, OnStop};
    use MemberRole::{Demoted, Primary, Replica};

    use super::*;

    const DOWN: Seen = Seen::Down { start_failed: false };

    fn up(role: MemberRole) -> Seen {
        Seen::Up(role)
    }

    /// One step: `true` in front means that the agent had told the server to stop.
    type Step = (bool, Seen);

    #[track_caller]
    fn check(steps: &[Step], expected: &[(Callback, MemberRole)]) {
        let mut told = Told::default();
        let mut all = Vec::new();
        for (stopping, seen) in steps {
            if *stopping {
                told.stopping();
            }
            for _ in 0..2 {
                all.extend(told.next(seen, false));
            }
        }
        let all: Vec<_> = all.into_iter().map(|due| (due.callback, due.role)).collect();
        assert_eq!(all, expected, "after {steps:?}");
    }

    #[test]
    fn a_first_start_a_take_over_and_a_stop() {
        check(&[(false, DOWN), (false, Seen::Between), (false, up(Replica))], &[(OnStart, Replica)]);
        check(&[(false, up(Primary))], &[(OnStart, Primary)]);
        let steps = [(false, up(Replica)), (true, Seen::Between), (false, DOWN)];
        check(&steps, &[(OnStart, Replica), (OnStop, Replica)]);
    }

    #[test]
    fn a_promotion_is_a_change_of_the_role_alone() {
        let steps = [(false, up(Replica)), (false, up(Primary))];
        check(&steps, &[(OnStart, Replica), (OnRoleChange, Primary)]);
    }

    #[test]
    fn a_demotion_is_a_stop_and_a_change_and_no_start() {
        let steps = [(false, up(Primary)), (true, Seen::Between), (false, DOWN), (false, up(Replica))];
        check(&steps, &[(OnStart, Primary), (OnStop, Primary), (OnRoleChange, Replica)]);
    }

    #[test]
    fn a_crash_is_no_stop_and_what_comes_back_has_started() {
        let steps = [(false, up(Primary)), (false, DOWN), (false, up(Primary))];
        check(&steps, &[(OnStart, Primary), (OnStart, Primary)]);
        let steps = [(false, up(Primary)), (false, DOWN), (false, up(Replica))];
        check(&steps, &[(OnStart, Primary), (OnRoleChange, Replica)]);
    }

    #[test]
    fn a_primary_that_does_not_start_is_demoted() {
        let failed = Seen::Down { start_failed: true };
        let steps = [(false, up(Primary)), (false, DOWN), (false, failed), (false, up(Replica))];
        check(&steps, &[(OnStart, Primary), (OnRoleChange, Demoted), (OnRoleChange, Replica)]);
    }

    #[test]
    fn a_hand_over_that_came_to_nothing_is_a_stop_and_a_start() {
        let steps = [(false, up(Primary)), (true, DOWN), (false, up(Primary))];
        check(&steps, &[(OnStart, Primary), (OnStop, Primary), (OnStart, Primary)]);
    }

    #[test]
    fn a_restart_is_one_event() {
        let mut told = Told::default();
        told.next(&up(Replica), false);
        assert_eq!(told.next(&up(Replica), true), None, "not stopped yet");
        told.stopping();
        assert_eq!(told.next(&DOWN, true), None);
        assert_eq!(told.next(&Seen::Between, true), None);
        assert_eq!(told.next(&up(Replica), true), Some(Due { callback: OnRestart, role: Replica }));
        assert_eq!(told.next(&up(Replica), true), None);
        assert_eq!(told.next(&up(Replica), false), None);
        // One that did not come back was a stop.
        told.stopping();
        assert_eq!(told.next(&DOWN, true), None);
        assert_eq!(told.next(&DOWN, false), Some(Due { callback: OnStop, role: Replica }));
    }

    #[test]
    fn words() {
        let all = [OnStart, OnStop, OnRestart, Callback::OnReload, OnRoleChange].map(Callback::name);
        assert_eq!(all, ["on_start", "on_stop", "on_restart", "on_reload", "on_role_change"]);
    }
}
