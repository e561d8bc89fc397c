//! Named sets of deadlines for a new cluster.

use serde_json::{Value, json};

/// A named set of deadlines for a new cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preset {
    /// ttl 3 s: for a steady network and fast disks.
    Fast,
    /// ttl 10 s.
    Normal,
    /// ttl 30 s: Patroni's default.
    Safe,
    /// ttl 60 s: for sites far apart.
    Wide,
}

impl Preset {
    /// All of them, by name.
    pub const ALL: [(&'static str, Preset); 4] =
        [("fast", Preset::Fast), ("normal", Preset::Normal), ("safe", Preset::Safe), ("wide", Preset::Wide)];

    /// The dynamic configuration it stands for. `loop_wait` and `retry_timeout` are what Patroni members and
    /// tools read; pgvane's own deadlines derive from `ttl` alone.
    pub fn document(self) -> Value {
        let (ttl, loop_wait, retry_timeout) = match self {
            Preset::Fast => (3, 1, 1),
            Preset::Normal => (10, 2, 4),
            Preset::Safe => (30, 10, 10),
            Preset::Wide => (60, 20, 20),
        };
        json!({
            "ttl": ttl,
            "loop_wait": loop_wait,
            "retry_timeout": retry_timeout,
            "maximum_lag_on_failover": 1_048_576,
            "failsafe_mode": true,
            "postgresql": {
                "use_pg_rewind": true,
                "use_slots": true,
                "remove_data_directory_on_rewind_failure": true,
                "remove_data_directory_on_diverged_timelines": true,
            },
        })
    }
}
