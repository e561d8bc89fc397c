//! What tests of monitoring need: Prometheus on a cluster, and what our files for it and for Grafana say.

pub(crate) mod files;
pub(crate) mod prometheus;
