//! `cargo xtask test`: everything a change must pass, in the order in which it fails fastest.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::programs::{cargo, root};
use crate::{install, programs};

/// Set for tests that have a full length beside the one they are always played at.
pub const LONG: &str = "PGVANE_LONG";

/// Runs the checks; `lint` stops before the tests, `long` plays the long ones at full length, `rest` goes to
/// `cargo test`.
pub fn run(lint: bool, long: bool, rest: &[String]) -> Result<(), String> {
    step("format", &["fmt", "--all", "--check"], &[])?;
    step("clippy", &["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    step(
        "docs",
        &["doc", "--locked", "--workspace", "--no-deps", "--quiet"],
        &[("RUSTDOCFLAGS", "-D warnings")],
    )?;
    if lint {
        return Ok(());
    }
    // Once, before tests that run side by side look for them.
    install::servers().map_err(|e| e.to_string())?;
    install::etcdctl().map_err(|e| e.to_string())?;
    // The programs come with the tests: building them by themselves would build all they need once more, with other features.
    step("build", &["test", "--locked", "--workspace", "--no-run"], &[])?;
    let programs = programs::built().map_err(|e| e.to_string())?;
    install::patroni::patroni(&programs).map_err(|e| e.to_string())?;
    // All of them, so that one run tells of all that fails.
    let mut args = vec!["test", "--locked", "--workspace", "--no-fail-fast"];
    args.extend(rest.iter().map(String::as_str));
    let environment: &[(&str, &str)] = if long { &[(LONG, "1")] } else { &[] };
    if !rest.is_empty() {
        return step("tests", &args, environment);
    }
    let simulation = Beside::start(environment)?;
    args.extend(["--", "--skip", SIMULATION]);
    let tested = step("tests", &args, environment);
    simulation.end().and(tested)
}

/// The one test that keeps every core busy by itself. The others mostly wait.
const SIMULATION: &str = "many_schedules";

/// The simulation beside the other tests, with what they leave of the cores: of the idle class, so that whatever
/// else is woken runs at once.
struct Beside {
    started: Instant,
    cargo: Child,
    /// What it says, until it has ended: two at once cannot be read.
    said: File,
}

impl Beside {
    fn start(environment: &[(&str, &str)]) -> Result<Beside, String> {
        eprintln!("==> simulation: beside the tests");
        let failed = |e: io::Error| format!("the simulation does not start: {e}");
        let said = tempfile::tempfile().map_err(failed)?;
        let also_said = || said.try_clone().map_err(failed);
        let mut cargo = Command::new("chrt");
        cargo.args(["--idle", "0"]).arg(programs::cargo().get_program()).current_dir(root());
        cargo.args([
            "test",
            "--locked",
            "--workspace",
            "--test",
            "sim",
            "--",
            "--exact",
            SIMULATION,
            "--nocapture",
        ]);
        cargo.envs(environment.iter().copied());
        cargo.stdin(Stdio::null()).stdout(also_said()?).stderr(also_said()?);
        Ok(Beside { started: Instant::now(), cargo: cargo.spawn().map_err(failed)?, said })
    }

    fn end(mut self) -> Result<(), String> {
        let failed = |e: io::Error| format!("the simulation cannot be read: {e}");
        let status = self.cargo.wait().map_err(failed)?;
        let mut text = String::new();
        self.said.rewind().and_then(|()| self.said.read_to_string(&mut text)).map_err(failed)?;
        eprintln!("==> simulation: {status}, {:.0} s\n{text}", self.started.elapsed().as_secs_f64());
        // A test that was renamed would pass by not being there.
        if status.success() && text.contains("test result: ok. 1 passed") {
            return Ok(());
        }
        Err("the simulation failed".to_owned())
    }
}

fn step(name: &str, args: &[&str], environment: &[(&str, &str)]) -> Result<(), String> {
    eprintln!("==> {name}: cargo {}", args.join(" "));
    let started = Instant::now();
    let mut cargo = cargo();
    // What the tests say is the result of this command.
    cargo.args(args).envs(environment.iter().copied()).stdout(Stdio::inherit());
    let status = cargo.status().map_err(|e| format!("cargo: {e}"))?;
    if !status.success() {
        return Err(format!("{name} failed (in {})", root().display()));
    }
    eprintln!("==> {name}: ok, {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}
