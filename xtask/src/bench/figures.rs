//! What is measured, and how many values of it become one.

use serde::Serialize;

/// Something measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    /// Whether a larger value is the better one.
    pub(super) more_is_better: bool,
}

const fn more(name: &'static str, unit: &'static str) -> Figure {
    Figure { name, unit, more_is_better: true }
}

const fn less(name: &'static str, unit: &'static str) -> Figure {
    Figure { name, unit, more_is_better: false }
}

pub(super) const TRANSACTIONS: Figure = more("tps", "tx/s");
pub(super) const MEAN: Figure = less("mean", "ms");
pub(super) const P99_MS: Figure = less("p99", "ms");
pub(super) const PROXY_PER_TRANSACTION: Figure = less("proxy_cpu", "us/tx");
pub(super) const MACHINE_PER_TRANSACTION: Figure = less("machine_cpu", "us/tx");
pub(super) const CONNECTIONS: Figure = more("connections", "1/s");
pub(super) const PROXY_PER_CONNECTION: Figure = less("proxy_cpu", "us/conn");
pub(super) const MACHINE_PER_CONNECTION: Figure = less("machine_cpu", "us/conn");
pub(super) const THROUGHPUT: Figure = more("throughput", "GB/s");
pub(super) const PROXY_PER_GB: Figure = less("proxy_cpu", "s/GB");
pub(super) const MACHINE_PER_GB: Figure = less("machine_cpu", "s/GB");
pub(super) const ROUND_TRIPS: Figure = more("round_trips", "1/s");
pub(super) const P50: Figure = less("p50", "us");
pub(super) const P99: Figure = less("p99", "us");
pub(super) const P999: Figure = less("p99.9", "us");
pub(super) const PROXY_PER_ROUND_TRIP: Figure = less("proxy_cpu", "us/trip");
pub(super) const MACHINE_PER_ROUND_TRIP: Figure = less("machine_cpu", "us/trip");
pub(super) const PSS_FEW: Figure = less("memory_1000", "B/session");
pub(super) const PSS_MANY: Figure = less("memory_5000", "B/session");
pub(super) const KERNEL_FEW: Figure = less("tcp_1000", "B/session");
pub(super) const KERNEL_MANY: Figure = less("tcp_5000", "B/session");
pub(super) const LAST_CUT: Figure = less("last_cut", "ms");
pub(super) const FIRST_NEW: Figure = less("first_new", "ms");

/// The figures of one run, in the order of the table.
pub(super) type Sample = Vec<(Figure, f64)>;

/// Several values of one figure.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) values: Vec<f64>,
}

impl Summary {
    /// `None` without values. The median of two is the mean of both.
    pub(super) fn of(values: Vec<f64>) -> Option<Summary> {
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Summary { median: f64::midpoint(low, high), min, max, values })
    }
}

/// The value that `share` of `sorted` do not exceed; 0 for nothing.
pub(super) fn quantile(sorted: &[u32], share: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index within the slice"
    )]
    let index = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(index.clamp(1, sorted.len().max(1)) - 1).copied().map_or(0.0, f64::from)
}

/// A count as a number to reckon with.
#[expect(clippy::cast_precision_loss, reason = "counts here stay far below 2^53")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_the_middle_and_the_ends() {
        let of = |values: &[f64]| Summary::of(values.to_vec()).map(|s| (s.median, s.min, s.max));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0]), Some((3.0, 3.0, 3.0)));
        assert_eq!(of(&[4.0, 1.0]), Some((2.5, 1.0, 4.0)));
        assert_eq!(of(&[9.0, 1.0, 2.0]), Some((2.0, 1.0, 9.0)));
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let hundred: Vec<u32> = (1..=100).collect();
        for (share, expected) in [(0.5, 50.0), (0.99, 99.0), (0.999, 100.0), (1.0, 100.0)] {
            assert!((quantile(&hundred, share) - expected).abs() < 1e-9, "{share}");
        }
        assert!(quantile(&[], 0.99).abs() < 1e-9);
        assert!((quantile(&[7], 0.01) - 7.0).abs() < 1e-9);
    }
}
