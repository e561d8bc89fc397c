//! This host: its clock, its limits, its watchdog, the files that hold secrets.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use pgvane_agent::config::{Config, WatchdogMode};
use pgvane_agent::postgres::process::Postmaster;
use pgvane_agent::timing::DEFAULT_CLOCK_DRIFT_PPM;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::finding::Finding;

/// Where the kernel says what it reads the time from.
const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// How long the rate of the clock is watched.
const CLOCK_WATCHED_FOR: Duration = Duration::from_secs(1);

/// PostgreSQL opens up to `max_files_per_process` (1000) in every process, and the limit is each one's.
const FILES_WANTED: u64 = 4096;

/// What the kernel reads the time from.
pub(super) fn clock_source() -> Finding {
    judge_clock_source(fs::read_to_string(CLOCK_SOURCE).ok().as_deref().map(str::trim))
}

fn judge_clock_source(source: Option<&str>) -> Finding {
    const WHAT: &str = "clock source";
    match source {
        Some(source @ ("hpet" | "acpi_pm" | "jiffies" | "pit" | "refined-jiffies")) => Finding::warning(
            WHAT,
            format!("{source}, which is slow to read"),
            "find out why the kernel left the processor's own counter (dmesg: \"clocksource\")",
        ),
        Some(source) => Finding::good(WHAT, source),
        None => Finding::good(WHAT, "the kernel does not tell"),
    }
}

/// How far the rate of the clock that leases are counted by is off from the hardware's, in parts per million.
pub(super) async fn clock_rate(config: &Config) -> Finding {
    // Neither clock is ever negative.
    let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    let (slewed, raw) = (read(ClockId::Monotonic), read(ClockId::MonotonicRaw));
    tokio::time::sleep(CLOCK_WATCHED_FOR).await;
    let slewed = read(ClockId::Monotonic).saturating_sub(slewed);
    let ratio = slewed.as_secs_f64() / read(ClockId::MonotonicRaw).saturating_sub(raw).as_secs_f64();
    let bound = config.timing.clock_drift_ppm.unwrap_or(DEFAULT_CLOCK_DRIFT_PPM);
    judge_clock_rate((ratio - 1.0).abs() * 1e6, bound)
}

fn judge_clock_rate(ppm: f64, bound: u32) -> Finding {
    const WHAT: &str = "clock rate";
    let found = format!("{ppm:.0} ppm off the hardware's; clock_drift_ppm allows {bound} between two hosts");
    // Two hosts may be off in opposite directions.
    if ppm * 2.0 > f64::from(bound) {
        return Finding::critical(
            WHAT,
            found,
            "let the time daemon slew more slowly, or raise clock_drift_ppm and ttl",
        );
    }
    if ppm > 1000.0 {
        return Finding::warning(WHAT, found, "the time daemon is correcting a large error; ask again later");
    }
    Finding::good(WHAT, found)
}

/// How many files a process of PostgreSQL may open: as it runs, else what this session could give it. Not what this
/// session has itself: logins and sudo begin with 1024 nearly everywhere.
pub(super) fn files(config: &Config) -> Finding {
    let running = Postmaster::find(&config.postgresql.data_dir).ok().flatten();
    let limits = running.and_then(|p| fs::read_to_string(format!("/proc/{}/limits", p.pid())).ok());
    match limits.as_deref().and_then(open_files) {
        Some(limit) => judge_files(limit, "by PostgreSQL as it runs"),
        None => judge_files(
            getrlimit(Resource::Nofile).maximum.unwrap_or(UNLIMITED),
            "that this session could give PostgreSQL",
        ),
    }
}

const UNLIMITED: u64 = u64::MAX;

/// The limit in force in a process's `limits` (proc(5)).
fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    if soft == "unlimited" { Some(UNLIMITED) } else { soft.parse().ok() }
}

fn judge_files(limit: u64, whose: &str) -> Finding {
    const WHAT: &str = "open files";
    match limit {
        UNLIMITED => Finding::good(WHAT, "no limit"),
        limit if limit < FILES_WANTED => Finding::warning(
            WHAT,
            format!("at most {limit} {whose}"),
            format!(
                "see that the agent's service has LimitNOFILE of {FILES_WANTED} or more, and restart PostgreSQL"
            ),
        ),
        limit => Finding::good(WHAT, format!("at most {limit} {whose}")),
    }
}

/// Whether the device is there that resets a machine on which everything hangs.
pub(super) fn watchdog(config: &Config) -> Finding {
    let device = &config.watchdog.device;
    let what = "kernel watchdog";
    if config.watchdog.mode == WatchdogMode::Off {
        return Finding::good(what, "not used (watchdog.mode)");
    }
    // To open it would start it.
    let opens = rustix::fs::access(device, rustix::fs::Access::WRITE_OK);
    match (opens, config.watchdog.mode) {
        (Ok(()), _) => Finding::good(what, format!("{} may be opened", device.display())),
        (Err(error), WatchdogMode::Required) => Finding::critical(
            what,
            format!("{}: {error}", device.display()),
            "watchdog.mode is \"required\": this member will not lead. Load softdog, and let the agent's user write it",
        ),
        (Err(error), _) => Finding::warning(
            what,
            format!("{}: {error}", device.display()),
            "load softdog and let the agent's user write the device, or set watchdog.mode to \"off\"",
        ),
    }
}

/// Who may read a file with secrets.
pub(super) fn secret_file(path: &Path) -> Finding {
    let what = format!("permissions of {}", path.display());
    match fs::metadata(path) {
        Ok(metadata) => judge_mode(what, metadata.permissions().mode() & 0o777, 0o077),
        Err(error) => Finding::critical(what, error.to_string(), "name the agent's settings with -c"),
    }
}

/// Who may look into the data directory; PostgreSQL does not start where others may.
pub(super) fn data_dir(config: &Config) -> Finding {
    let dir = &config.postgresql.data_dir;
    let what = format!("permissions of {}", dir.display());
    match fs::metadata(dir) {
        Ok(metadata) if metadata.uid() == 0 => Finding::critical(
            what,
            "it belongs to root",
            "give it to the user that the agent runs as; PostgreSQL refuses to run as root",
        ),
        // Group access is what initdb --allow-group-access gives.
        Ok(metadata) => judge_mode(what, metadata.permissions().mode() & 0o777, 0o027),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Finding::good(what, "not there yet; the agent makes it")
        }
        Err(error) => {
            Finding::warning(what, error.to_string(), "run this as the user that the agent runs as")
        }
    }
}

pub(super) fn judge_mode(what: String, mode: u32, forbidden: u32) -> Finding {
    if mode & forbidden == 0 {
        return Finding::good(what, format!("{mode:o}"));
    }
    let advice = format!("chmod {:o}", mode & !forbidden);
    Finding::critical(what, format!("{mode:o}: others may read it"), advice)
}

/// Whether PostgreSQL's programs are where the settings say, and run.
pub(super) fn programs(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for program in ["postgres", "pg_controldata", "pg_rewind", "pg_basebackup", "initdb"] {
        let path = config.postgresql.bin_dir.join(program);
        if rustix::fs::access(&path, rustix::fs::Access::EXEC_OK).is_err() {
            let advice = "set postgresql.bin_dir, and install PostgreSQL's server package";
            findings.push(Finding::critical(program, format!("{} cannot be run", path.display()), advice));
        }
    }
    if findings.is_empty() {
        findings
            .push(Finding::good("PostgreSQL's programs", config.postgresql.bin_dir.display().to_string()));
    }
    findings
}

/// Whether the agent may write what it keeps beside PostgreSQL's data.
pub(super) fn pgpass(config: &Config) -> Option<Finding> {
    let path = &config.postgresql.pgpass;
    let metadata = fs::metadata(path).ok()?;
    let writable = OpenOptions::new().append(true).open(path).is_ok();
    let what = format!("permissions of {}", path.display());
    Some(if writable {
        judge_mode(what, metadata.permissions().mode() & 0o777, 0o077)
    } else {
        Finding::warning(what, "cannot be written", "run this as the user that the agent runs as")
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn clocks_that_are_slow_or_run_away_are_told() {
        assert_eq!(judge_clock_source(Some("tsc")).level, Level::Good);
        assert_eq!(judge_clock_source(Some("hpet")).level, Level::Warning);
        assert_eq!(judge_clock_source(None).level, Level::Good);
        assert_eq!(judge_clock_rate(40.0, 10_000).level, Level::Good);
        assert_eq!(judge_clock_rate(1500.0, 10_000).level, Level::Warning);
        assert_eq!(judge_clock_rate(5001.0, 10_000).level, Level::Critical, "two hosts add up");
    }

    #[test]
    fn who_may_read_secrets_is_told_with_the_command_that_mends_it() {
        let good = judge_mode("x".to_owned(), 0o600, 0o077);
        assert_eq!((good.level, good.advice.as_str()), (Level::Good, ""));
        let bad = judge_mode("x".to_owned(), 0o644, 0o077);
        assert_eq!((bad.level, bad.advice.as_str()), (Level::Critical, "chmod 600"));
        assert_eq!(judge_mode("data".to_owned(), 0o750, 0o027).level, Level::Good);
    }

    #[test]
    fn few_files_are_a_warning() {
        assert_eq!(judge_files(1024, "").level, Level::Warning);
        assert_eq!(judge_files(65536, "").level, Level::Good);
        assert_eq!(judge_files(UNLIMITED, "").found, "no limit");
    }

    #[test]
    fn the_limit_in_force_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             95977                95977                processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(
            open_files("Max open files            unlimited            unlimited            files"),
            Some(UNLIMITED)
        );
        assert_eq!(open_files(""), None);
        let own = fs::read_to_string("/proc/self/limits").expect("proc is mounted");
        assert_eq!(open_files(&own), getrlimit(Resource::Nofile).current.or(Some(UNLIMITED)));
    }
}
