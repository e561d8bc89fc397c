//! What lies in `packaging/` fits the programs: the check script's exit codes, and the units' commands.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

fn packaging(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(file)
}

/// What a server does with one request.
#[derive(Clone, Copy)]
enum Server {
    Answers(u16),
    /// Takes the connection and ends it without a word.
    Ends,
    /// Takes the connection and says nothing.
    Hangs,
}

/// A server that does these one after the other, for requests of /readyz.
fn serve(deeds: &'static [Server]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for deed in deeds {
            let (mut client, _) = listener.accept().expect("a client");
            let mut request = [0; 1024];
            let asked = client.read(&mut request).expect("a request");
            assert!(request[..asked].starts_with(b"GET /readyz"), "not what /readyz is asked with");
            match deed {
                Server::Answers(status) => {
                    let answer =
                        format!("HTTP/1.1 {status} -\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                    client.write_all(answer.as_bytes()).expect("answers");
                }
                Server::Ends => {}
                // Ends when the client has given up.
                Server::Hangs => drop(client.read(&mut request)),
            }
        }
    });
    address
}

/// The exit code of the check script, with the programs in `path`.
fn check(address: SocketAddr, path: &str) -> Option<i32> {
    let mut script = Command::new("/bin/sh");
    script.arg(packaging("keepalived/check-pgvane.sh")).arg("readyz").arg(format!("http://{address}"));
    // A proxy for the web must not be asked.
    script.env("PATH", path).env("http_proxy", "http://127.0.0.1:1");
    script.output().expect("runs").status.code()
}

#[test]
fn the_check_script_tells_ready_from_everything_else() {
    let path = std::env::var("PATH").expect("a PATH");
    assert_eq!(check(serve(&[Server::Answers(200)]), &path), Some(0));
    for bad in [
        &[Server::Answers(503); 2],
        &[Server::Answers(404); 2],
        &[Server::Answers(302); 2],
        &[Server::Answers(204); 2],
        &[Server::Ends; 2],
    ] {
        assert_eq!(check(serve(bad), &path), Some(1));
    }
    // The answer ends with the version that gave it; the next one has another.
    assert_eq!(check(serve(&[Server::Ends, Server::Answers(200)]), &path), Some(0));
    let began = Instant::now();
    assert_eq!(check(serve(&[Server::Hangs; 2]), &path), Some(1));
    assert!(began.elapsed() < Duration::from_secs(4), "keepalived would have had to kill it");
    let gone = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    assert_eq!(check(gone, &path), Some(1));
    assert_eq!(check(gone, "/nowhere"), Some(1), "without curl and wget nobody is ready");
}

#[test]
fn the_check_script_may_be_run() {
    use std::os::unix::fs::PermissionsExt;
    let script = packaging("keepalived/check-pgvane.sh");
    let mode = fs::metadata(&script).expect("is there").permissions().mode();
    assert_eq!(mode & 0o111, 0o111, "{mode:o}");
    let keepalived = fs::read_to_string(packaging("keepalived/keepalived.conf")).expect("reads");
    for what in ["livez", "readyz"] {
        assert!(keepalived.contains(&format!("script \"/etc/keepalived/check-pgvane.sh {what}\"")), "{what}");
    }
}

/// The lines of a unit that begin with `key`.
fn values<'u>(unit: &'u str, key: &str) -> Vec<&'u str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

/// The units' commands are run as they stand, with programs and settings of this checkout in place of the
/// installed ones: flags that do not exist end with 2, settings that are wrong with 64.
#[test]
fn the_units_call_the_programs_as_they_are() {
    let built = xtask::programs::built().expect("built");
    let dir = tempfile::tempdir().expect("a directory");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // bin_dir is looked at; it need not be PostgreSQL's here.
    fs::write(dir.path().join("postgres"), "").expect("writes");
    let agent = fs::read_to_string(root.join("agent/agent.toml.example")).expect("reads");
    let agent =
        agent.replace("#bin_dir = \"/usr/lib/postgresql/15/bin\"", &format!("bin_dir = {:?}", dir.path()));
    let cases = [
        (
            "pgvane",
            &built.proxy,
            "proxy.toml",
            fs::read_to_string(root.join("proxy.toml.example")).expect("reads"),
        ),
        ("pgvane-agent", &built.agent, "agent.toml", agent),
    ];
    for (name, program, file, settings) in cases {
        let unit = fs::read_to_string(packaging(&format!("systemd/{name}.service"))).expect("reads");
        let settings_file = dir.path().join(file);
        fs::write(&settings_file, settings).expect("writes");
        let installed = format!("/usr/bin/{name} ");
        assert_eq!(values(&unit, "ExecStart"), [format!("{installed}/etc/pgvane/{file}")]);
        let mut checks = 0;
        for command in [values(&unit, "ExecStartPre"), values(&unit, "ExecReload")].concat() {
            let Some(arguments) = command.strip_prefix(&installed) else { continue };
            assert!(arguments.contains("--check"), "{command} would start a second {name}");
            let given = settings_file.display().to_string();
            let arguments = arguments.replace(&format!("/etc/pgvane/{file}"), &given);
            let run = |arguments: &str| {
                let output = Command::new(program).args(arguments.split(' ')).output().expect("runs");
                (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
            };
            let (code, said) = run(&arguments);
            assert_eq!(code, Some(0), "{command}: {said}");
            let (code, said) = run(&arguments.replace(&given, "/nowhere"));
            assert_eq!(code, Some(64), "{command}: {said}");
            checks += 1;
        }
        assert!(checks > 0, "{name} checks its settings before it relies on them");
        let hopeless = values(&unit, "RestartPreventExitStatus").concat();
        assert!(hopeless.split(' ').any(|code| code == "64"), "{hopeless}");
        assert_eq!(values(&unit, "Type"), ["notify"]);
    }
    let users = fs::read_to_string(packaging("systemd/pgvane.sysusers")).expect("reads");
    let unit = fs::read_to_string(packaging("systemd/pgvane.service")).expect("reads");
    let user = values(&unit, "User");
    assert!(users.lines().any(|line| line.split(' ').take(2).eq(["u", user[0]])), "{user:?} is not made");
}

/// What a package would ship is there, its settings are among what it must not overwrite, and both kinds of package
/// ship the same.
#[test]
fn packages_ship_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (dir, settings) in [(".", "/etc/pgvane/proxy.toml"), ("agent", "/etc/pgvane/agent.toml")] {
        let manifest = fs::read_to_string(root.join(dir).join("Cargo.toml")).expect("reads");
        let manifest: toml::Table = manifest.parse().expect("TOML");
        let metadata = &manifest["package"]["metadata"];
        let text = |value: &toml::Value| value.as_str().expect("text").to_owned();
        let deb: Vec<[String; 3]> = metadata["deb"]["assets"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|asset| {
                let asset = asset.as_array().expect("a list");
                [text(&asset[0]), format!("/{}", text(&asset[1])), text(&asset[2])]
            })
            .collect();
        let rpm: Vec<[String; 3]> = metadata["generate-rpm"]["assets"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|asset| [text(&asset["source"]), text(&asset["dest"]), text(&asset["mode"])])
            .collect();
        // zsh's own directory for what packages bring; Debian has one of its own.
        let of_zsh = |to: &str| to.replace("/zsh/vendor-completions/", "/zsh/site-functions/");
        let zsh = |all: &[[String; 3]], dir: &str| {
            all.iter().filter(|[source, ..]| source.contains("/zsh/")).all(|[_, to, _]| to == dir)
        };
        assert!(
            zsh(&deb, "/usr/share/zsh/vendor-completions/") && zsh(&rpm, "/usr/share/zsh/site-functions/")
        );
        let base = |all: &[[String; 3]]| -> Vec<[String; 3]> {
            all.iter()
                .map(|[s, d, m]| [s.trim_start_matches("../").to_owned(), of_zsh(d), m.clone()])
                .collect()
        };
        assert_eq!(base(&deb), base(&rpm));
        for [source, ..] in base(&deb).iter().filter(|[source, ..]| !source.starts_with("target/")) {
            let (parent, pattern) = source.rsplit_once('/').unwrap_or((".", source));
            let start = pattern.trim_end_matches('*');
            let mut files = fs::read_dir(root.join(parent)).unwrap_or_else(|e| panic!("{parent}: {e}"));
            let found = files.any(|file| {
                let name = file.expect("an entry").file_name().to_string_lossy().into_owned();
                name == *pattern || (start != pattern && name.starts_with(start))
            });
            assert!(found, "{source} is not there");
        }
        assert_eq!(metadata["deb"]["conf-files"].as_array().expect("a list"), &[settings.into()]);
        let kept = metadata["generate-rpm"]["assets"].as_array().expect("a list").iter();
        let kept: Vec<_> =
            kept.filter(|asset| asset.get("config").is_some()).map(|a| text(&a["dest"])).collect();
        assert_eq!(kept, [settings]);
        // RPM asks for owners in the list of files; a package for Debian has them set by its script.
        let owners = metadata["generate-rpm"]["assets"].as_array().expect("a list").iter();
        let owners: Vec<_> = owners
            .flat_map(|asset| {
                ["user", "group"].map(|key| Some((key, text(asset.get(key)?), text(&asset["dest"]))))
            })
            .flatten()
            .collect();
        let owner = if dir == "agent" { ("user", "postgres") } else { ("group", "pgvane") };
        assert_eq!(owners, [(owner.0, owner.1.to_owned(), settings.to_owned())]);
        let [.., mode] = deb.iter().find(|[_, to, _]| to == settings).expect("ships its settings");
        assert!(["600", "640"].contains(&mode.as_str()), "they hold passwords: {mode}");
    }
}

/// What the scripts of a package do where no systemd runs: they say nothing and fail nowhere.
#[test]
fn scripts_of_packages_are_sound_shell() {
    let read =
        Command::new("/bin/sh").arg("-n").arg(packaging("scripts/pgvane-rpm/pre")).output().expect("runs");
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    for package in ["pgvane", "pgvane-agent"] {
        for script in ["postinst", "prerm", "postrm"] {
            let script = packaging(&format!("scripts/{package}/{script}"));
            let read = Command::new("/bin/sh").arg("-n").arg(&script).output().expect("runs");
            assert!(read.status.success(), "{}: {}", script.display(), String::from_utf8_lossy(&read.stderr));
            // Neither Debian's nor RPM's word for something to do.
            let run = Command::new("/bin/sh").arg(&script).arg("failed-upgrade").output().expect("runs");
            assert!(run.status.success() && run.stdout.is_empty(), "{run:?}");
        }
    }
}

#[test]
fn every_program_writes_its_manual() {
    let built = xtask::programs::built().expect("built");
    let dir = tempfile::tempdir().expect("a directory");
    for (name, program) in
        [("pgvane", &built.proxy), ("pgvane-agent", &built.agent), ("pgvanectl", &built.ctl)]
    {
        let run = Command::new(program).arg("--write-manual").arg(dir.path()).output().expect("runs");
        assert!(run.status.success(), "{run:?}");
        let page = fs::read_to_string(dir.path().join(format!("man1/{name}.1"))).expect("a page");
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
        for completion in [format!("bash/{name}.bash"), format!("zsh/_{name}"), format!("fish/{name}.fish")] {
            assert!(dir.path().join(&completion).is_file(), "{completion}");
        }
    }
    assert!(dir.path().join("man1/pgvanectl-switchover.1").is_file(), "each command has a page");
}
