//! The kernel's watchdog: resets the machine when nobody tells it that all is well (contract 8.11).

use std::path::PathBuf;
use std::time::Duration;

use super::default;

/// The watchdog device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watchdog {
    /// Whether it is used.
    pub mode: WatchdogMode,
    /// The device.
    pub device: PathBuf,
    /// How long before the end of the lease it fires; `None`: half of the lease time.
    pub safety_margin: Option<Duration>,
    /// Whether the device is a named pipe that stands for one, as Patroni's tests use it.
    pub testing: bool,
}

/// Whether the watchdog is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WatchdogMode {
    /// No.
    #[default]
    Off,
    /// Where it can be.
    Automatic,
    /// A node whose watchdog cannot be used does not lead.
    Required,
}

impl Default for Watchdog {
    fn default() -> Watchdog {
        Watchdog {
            mode: WatchdogMode::Off,
            device: default::WATCHDOG_DEVICE.into(),
            safety_margin: Some(default::WATCHDOG_MARGIN),
            testing: false,
        }
    }
}
