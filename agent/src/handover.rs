//! Keeps `PATRONI_*` variables, passwords among them, from whatever the agent starts and from `ps`: the program starts
//! itself anew without them (same process, same arguments) and is told their values through its standard input.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::config::Environment;

/// The option by which the second start knows that it is one.
pub const OPTION: &str = "environment-on-stdin";

/// Starts this program anew without the variables; comes back only with an error.
pub fn start_without(environment: &Environment) -> io::Error {
    attempt(environment).err().unwrap_or_else(|| io::Error::other("the program did not start anew"))
}

fn attempt(environment: &Environment) -> io::Result<()> {
    let mut memory = File::from(memfd_create("pgvane-environment", MemfdFlags::CLOEXEC)?);
    memory.write_all(&environment.written())?;
    memory.seek(SeekFrom::Start(0))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).arg(format!("--{OPTION}")).stdin(memory);
    for (name, _) in std::env::vars_os() {
        if name.as_bytes().starts_with(b"PATRONI_") {
            command.env_remove(name);
        }
    }
    Err(command.exec())
}

/// The variables that were handed over. They are in no file afterwards.
pub fn taken() -> io::Result<Environment> {
    let mut written = Vec::new();
    io::stdin().read_to_end(&mut written)?;
    // Whoever inherits our standard input finds it empty.
    OpenOptions::new().write(true).open("/proc/self/fd/0")?.set_len(0)?;
    Ok(Environment::read(&written))
}
