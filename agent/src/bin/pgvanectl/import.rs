//! `import`: Patroni's and HAProxy's settings become those of the agent and of the proxy.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use pgvane_agent::config::{Environment, Fate, Setting};
use pgvane_agent::import::{Input, Surroundings, import};
use pgvane_cluster::settings_file;
use serde_json::{Value, json};

use crate::output::{self, Format};
use crate::{Failed, fail, say};

/// Which files, and where to.
#[derive(Args)]
pub(crate) struct ImportArgs {
    /// Settings of a Patroni daemon: they become agent.toml. PATRONI_* variables count, as for the agent.
    #[arg(long, value_name = "FILE", required_unless_present = "haproxy")]
    patroni: Option<PathBuf>,
    /// Settings of HAProxy: they become proxy.toml, which asks etcd where --patroni says where it is.
    #[arg(long, value_name = "FILE")]
    haproxy: Option<PathBuf>,
    /// The directory to write to.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// Replace files that are there.
    #[arg(long)]
    force: bool,
    /// How to show what became of each setting.
    #[arg(short, long, value_enum, default_value = "pretty")]
    format: Format,
}

/// Writes the files and says what became of each setting.
pub(crate) fn run(args: &ImportArgs) -> Result<(), Failed> {
    let (patroni, haproxy) = (read(args.patroni.as_deref())?, read(args.haproxy.as_deref())?);
    let base = match args.patroni.as_deref().map(std::path::absolute) {
        Some(path) => path?.parent().unwrap_or(Path::new("/")).to_owned(),
        None => PathBuf::from("/"),
    };
    let surroundings = Surroundings {
        base: &base,
        environment: &Environment::of_process(),
        variable: &|name| std::env::var(name).ok(),
        resolve: &resolve,
    };
    let imported = import(
        patroni.as_ref().map(|(file, text)| Input { file, text }),
        haproxy.as_ref().map(|(file, text)| Input { file, text }),
        &surroundings,
    )
    .map_err(|e| Failed(e.to_string()))?;
    let agent = imported.agent.as_ref().map(|text| (args.output.join("agent.toml"), text, "pgvane-agent"));
    let proxy = imported.proxy.as_ref().map(|text| (args.output.join("proxy.toml"), text, "pgvane"));
    let files: Vec<_> = agent.into_iter().chain(proxy).collect();
    if !args.force {
        // Before the first is written, so that it is both or none.
        for (path, ..) in &files {
            if path.symlink_metadata().is_ok() {
                return fail(format!("{} is there already; --force replaces it", path.display()));
            }
        }
    }
    fs::create_dir_all(&args.output).map_err(|e| Failed(format!("{}: {e}", args.output.display())))?;
    for (path, text, _) in &files {
        write(path, text, args.force).map_err(|e| Failed(format!("{}: {e}", path.display())))?;
    }
    say(&output::document(&report(&imported.settings), args.format, |_| pretty(&imported.settings)))?;
    for (path, _, program) in &files {
        eprintln!(
            "Written: {path}; check it where it will be used: {program} --check {path}",
            path = path.display()
        );
    }
    Ok(())
}

/// A file's name and its text.
fn read(path: Option<&Path>) -> Result<Option<(String, String)>, Failed> {
    let Some(path) = path else { return Ok(None) };
    let text = settings_file::read(path).map_err(|e| Failed(e.to_string()))?;
    Ok(Some((path.display().to_string(), text)))
}

fn resolve(host: &str) -> Vec<IpAddr> {
    let found = (host, 0).to_socket_addrs().into_iter().flatten();
    let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    addresses.dedup();
    addresses
}

/// In one step, and never to be read by others, not for a moment.
pub(crate) fn write(path: &Path, text: &str, replace: bool) -> std::io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = Path::new(&fresh);
    match fs::remove_file(fresh) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    let mut file = File::options().create_new(true).write(true).mode(0o600).open(fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    if replace {
        return fs::rename(fresh, path);
    }
    // A link fails where somebody has put a file there in the meantime.
    let linked = fs::hard_link(fresh, path);
    fs::remove_file(fresh)?;
    linked
}

fn report(settings: &[Setting]) -> Value {
    settings
        .iter()
        .map(|Setting { place, name, fate }| {
            let (what, to, why) = parts(fate);
            json!({"place": place, "setting": name, "fate": what, "to": to, "why": why})
        })
        .collect()
}

fn parts(fate: &Fate) -> (&'static str, Option<&str>, Option<&str>) {
    match fate {
        Fate::Carried(to) => ("carried", Some(to), None),
        Fate::Changed { to, why } => ("changed", Some(to), Some(why)),
        Fate::Left { why } => ("left", None, Some(why)),
    }
}

/// A line for each, and how many there are of which kind.
fn pretty(settings: &[Setting]) -> String {
    let line = |Setting { place, name, fate }: &Setting| match fate {
        Fate::Carried(to) => format!("{place}: {name}: carried to {to}\n"),
        Fate::Changed { to, why } => format!("{place}: {name}: changed, now {to}: {why}\n"),
        Fate::Left { why } => format!("{place}: {name}: left: {why}\n"),
    };
    let count = |what: &str| settings.iter().filter(|setting| parts(&setting.fate).0 == what).count();
    let lines: String = settings.iter().map(line).collect();
    format!("{lines}{} carried, {} changed, {} left\n", count("carried"), count("changed"), count("left"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn args(dir: &Path, force: bool) -> ImportArgs {
        let haproxy = dir.join("haproxy.cfg");
        let text = "listen pg\n bind *:5000\n option httpchk GET /primary\n server a 10.0.0.1:5432 check port 8008\n";
        fs::write(&haproxy, text).expect("writes");
        ImportArgs {
            patroni: None,
            haproxy: Some(haproxy),
            output: dir.join("new/etc"),
            force,
            format: Format::Json,
        }
    }

    #[test]
    fn files_are_for_nobody_else_and_never_replaced_unasked() {
        let dir = tempfile::tempdir().expect("a directory");
        run(&args(dir.path(), false)).expect("imports");
        let file = dir.path().join("new/etc/proxy.toml");
        let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o600);
        assert!(!dir.path().join("new/etc/agent.toml").exists());
        fs::write(&file, "mine").expect("writes");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("changes");
        let Err(Failed(why)) = run(&args(dir.path(), false)) else { panic!("it was replaced") };
        assert!(why.contains("--force"), "{why}");
        assert_eq!(fs::read_to_string(&file).expect("reads"), "mine");
        run(&args(dir.path(), true)).expect("replaces");
        assert_eq!(mode(&file), 0o600);
        assert!(fs::read_to_string(&file).expect("reads").contains("patroni_rest"));
        assert_eq!(
            fs::read_dir(dir.path().join("new/etc")).expect("lists").count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn one_of_the_two_files_is_needed() {
        use clap::Parser;

        let parses =
            |args: &[&str]| crate::Cli::try_parse_from([&["pgvanectl", "import"], args].concat()).is_ok();
        assert!(!parses(&[]) && !parses(&["--force"]));
        assert!(parses(&["--patroni", "a"]) && parses(&["--haproxy", "b"]));
        assert!(parses(&["--patroni", "a", "--haproxy", "b", "--output", "c", "--format", "json"]));
    }

    #[test]
    fn a_report_is_a_line_for_each_and_a_count() {
        let setting =
            |name: &str, fate: Fate| Setting { place: "a:1".to_owned(), name: name.to_owned(), fate };
        let settings = [
            setting("x", Fate::Carried("y".to_owned())),
            setting("z", Fate::Changed { to: "w".to_owned(), why: "so".to_owned() }),
            setting("v", Fate::Left { why: "no".to_owned() }),
        ];
        assert_eq!(
            pretty(&settings),
            "a:1: x: carried to y\na:1: z: changed, now w: so\na:1: v: left: no\n1 carried, 1 changed, 1 left\n"
        );
        assert_eq!(
            report(&settings)[2],
            json!({"place": "a:1", "setting": "v", "fate": "left", "to": null, "why": "no"})
        );
    }
}
