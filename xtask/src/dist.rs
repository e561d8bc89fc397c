//! `cargo xtask dist`: packages for Debian and RPM distributions, with statically linked programs. The programs alone,
//! which `packaging/Containerfile` makes images of, are in `target/dist/bin`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use crate::programs::{cargo, root};

/// The tools that make packages of what Cargo.toml says, in versions that are known to work.
const TOOLS: [(&str, &str); 2] = [("cargo-deb", "3.8.0"), ("cargo-generate-rpm", "0.21.1")];

/// What the packages are built for.
const TARGET: &str =
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };

/// The packages' directories below the checkout, and the programs in them.
const PACKAGES: [(&str, &str, &[&str]); 2] =
    [("pgvane", ".", &["pgvane"]), ("pgvane-agent", "agent", &["pgvane-agent", "pgvanectl"])];

/// Builds everything and prints where the packages are.
pub fn run() -> Result<(), String> {
    let dist = root().join("target/dist");
    clear(&dist)?;
    clear(&root().join("target/manual"))?;
    let tools = tools()?;
    build()?;
    let alone = dist.join("bin");
    clear(&alone)?;
    for (_, _, programs) in PACKAGES {
        for name in programs {
            let program = built(name);
            is_static(&program)?;
            fs::copy(&program, alone.join(name)).map_err(|e| format!("{}: {e}", alone.display()))?;
            succeed(Command::new(&program).arg("--write-manual").arg(root().join("target/manual")))?;
        }
    }
    for (package, dir, _) in PACKAGES {
        let mut deb = Command::new(tools.join("cargo-deb"));
        deb.args(["deb", "--no-build", "--target", TARGET, "--package", package, "--output"]).arg(&dist);
        succeed(deb.current_dir(root()))?;
        let mut rpm = Command::new(tools.join("cargo-generate-rpm"));
        rpm.args(["generate-rpm", "--target", TARGET, "--package", dir, "--output"]).arg(&dist);
        succeed(rpm.current_dir(root()))?;
    }
    tell(&dist).map_err(|e| format!("{}: {e}", dist.display()))
}

fn clear(dir: &Path) -> Result<(), String> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", dir.display())),
        _ => fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display())),
    }
}

/// Installs the tools into the build directory, and answers where they are. Cargo sees to it that this is done once.
fn tools() -> Result<PathBuf, String> {
    let to = root().join("target/tools");
    for (name, version) in TOOLS {
        succeed(
            cargo().args(["install", "--locked", "--quiet", "--version", version, name, "--root"]).arg(&to),
        )?;
    }
    Ok(to.join("bin"))
}

/// Links the C library into the programs: one package then fits every distribution. Names of hosts are looked up in
/// /etc/hosts and in DNS, which glibc has had built in since 2.34.
fn build() -> Result<(), String> {
    let mut build = cargo();
    build.args(["build", "--locked", "--release", "--target", TARGET, "--bins"]);
    build.args(["--package", "pgvane", "--package", "pgvane-agent"]);
    succeed(build.env("RUSTFLAGS", "-C target-feature=+crt-static"))
}

fn built(program: &str) -> PathBuf {
    root().join("target").join(TARGET).join("release").join(program)
}

/// A program that names an interpreter needs the libraries of the machine that it is run on.
fn is_static(program: &Path) -> Result<(), String> {
    let elf = fs::read(program).map_err(|e| format!("{}: {e}", program.display()))?;
    match has_interpreter(&elf) {
        Some(false) => Ok(()),
        Some(true) => Err(format!("{} is linked dynamically", program.display())),
        None => Err(format!("{} is no 64-bit program", program.display())),
    }
}

/// Whether a program header is a PT_INTERP (ELF-64, little endian: System V ABI, chapter 5). `None`: not such a file.
fn has_interpreter(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = elf.get(at..at.checked_add(size)?)?;
        bytes.iter().rev().try_fold(0usize, |all, byte| Some((all << 8) | usize::from(*byte)))
    };
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    for header in 0..count {
        if number(table.checked_add(header * size)?, 4)? == PT_INTERP as usize {
            return Some(true);
        }
    }
    Some(false)
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().map_err(|e| format!("{name}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{name}: {status}")) }
}

fn tell(dist: &Path) -> io::Result<()> {
    let mut packages: Vec<_> = fs::read_dir(dist)?.collect::<io::Result<_>>()?;
    packages.sort_by_key(fs::DirEntry::file_name);
    for package in packages.into_iter().filter(|entry| entry.path().is_file()) {
        let size = package.metadata()?.len() / 1024;
        println!("{} ({size} KiB)", package.path().display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_this_build_names_an_interpreter() {
        let us = fs::read(std::env::current_exe().expect("a path")).expect("reads");
        assert_eq!(has_interpreter(&us), Some(true));
        assert_eq!(has_interpreter(b"#!/bin/sh\n"), None);
        assert_eq!(has_interpreter(&us[..0x30]), None);
    }
}
