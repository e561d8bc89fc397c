//! `cargo xtask test`: everything a change must pass, in the order in which it fails fastest.

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
    step("tests", &args, if long { &[(LONG, "1")] } else { &[] })
}

fn step(name: &str, args: &[&str], environment: &[(&str, &str)]) -> Result<(), String> {
    eprintln!("==> {name}: cargo {}", args.join(" "));
    let started = Instant::now();
    let mut cargo = cargo();
    // What the tests say is the result of this command.
    cargo.args(args).envs(environment.iter().copied()).stdout(std::process::Stdio::inherit());
    let status = cargo.status().map_err(|e| format!("cargo: {e}"))?;
    if !status.success() {
        return Err(format!("{name} failed (in {})", root().display()));
    }
    eprintln!("==> {name}: ok, {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}
