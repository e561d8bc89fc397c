//! PostgreSQL's own client programs, as operators and applications call them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use xtask::playground::CLIENT_ROLE;
use xtask::{install, programs};

use super::SOON;

/// One call of a program; nothing of our own environment reaches it.
pub(crate) fn tool(name: &str, args: &[&str]) -> Command {
    let program = install::servers().expect("PostgreSQL and etcd").postgres.join(name);
    let mut command = Command::new(program);
    command.args(args).env_clear().env("LC_ALL", "C.UTF-8").env("HOME", "/nonexistent");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// How libpq reaches this port as the role of clients.
pub(crate) fn libpq(port: SocketAddr) -> String {
    format!("host=localhost hostaddr={} port={} user={CLIENT_ROLE} dbname=postgres", port.ip(), port.port())
}

/// Has `pgvanectl proxy` do this to the proxy of an admin socket; answers what it says, or complains of.
pub(crate) async fn operate(socket: &Path, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(programs::built().expect("the programs are built").ctl);
    command.args(["proxy", "--socket"]).arg(socket).args(args);
    let output = timeout(SOON, command.output()).await.expect("ends").expect("starts");
    let said = if output.status.success() { output.stdout } else { output.stderr };
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() { Ok(said) } else { Err(said) }
}

/// `psql`, without anybody's settings file, in the form that programs read. Errors show their SQLSTATE.
pub(crate) fn psql(connection: &str, args: &[&str]) -> Command {
    tool("psql", &[&["-X", "-A", "-t", "-q", "-v", "VERBOSITY=verbose", "-d", connection], args].concat())
}

/// Waits for its end.
pub(crate) async fn ended(mut command: Command) -> Output {
    let child = command.spawn().expect("starts");
    timeout(SOON, child.wait_with_output()).await.expect("ends").expect("can be waited for")
}

/// What it printed; it must have succeeded.
pub(crate) async fn printed(command: Command) -> String {
    let shown = format!("{:?}", command.as_std());
    let output = ended(command).await;
    assert!(output.status.success(), "{shown}: {}\n{}", output.status, errors(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What it complained of; it must have failed.
pub(crate) async fn complained(command: Command) -> String {
    let output = ended(command).await;
    assert!(!output.status.success(), "it succeeded: {output:?}");
    errors(&output)
}

/// What it printed when it is given this to read; it must have succeeded.
pub(crate) async fn fed(mut command: Command, input: &[u8]) -> String {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    let write = async move { stdin.write_all(input).await };
    let (fed, output) = tokio::join!(write, timeout(SOON, child.wait_with_output()));
    let output = output.expect("ends").expect("can be waited for");
    assert!(output.status.success() && fed.is_ok(), "{fed:?}, {}\n{}", output.status, errors(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A `psql` that somebody types into.
pub(crate) struct Dialogue {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Dialogue {
    /// One whose session is open.
    pub(crate) async fn open(connection: &str) -> Dialogue {
        let mut child = psql(connection, &[]).stdin(Stdio::piped()).spawn().expect("starts");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut dialogue = Dialogue { child, stdin, stdout };
        dialogue.say("SELECT 'open';").await;
        assert_eq!(dialogue.line().await, "open\n");
        dialogue
    }

    /// Types a line.
    pub(crate) async fn say(&mut self, line: &str) {
        self.stdin.write_all(format!("{line}\n").as_bytes()).await.expect("psql reads");
    }

    /// Reads a line of results.
    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(SOON, self.stdout.read_line(&mut line)).await.expect("a line").expect("UTF-8");
        line
    }

    /// Types one last line; answers what it complained of before it ended.
    pub(crate) async fn last(mut self, line: &str) -> String {
        self.say(line).await;
        self.complaint().await
    }

    /// Presses Ctrl-C.
    pub(crate) fn interrupt(&self) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).expect("psql runs");
        kill_process(pid, Signal::INT).expect("psql runs");
    }

    /// Types no more; answers what it complained of before it ended.
    pub(crate) async fn complaint(mut self) -> String {
        drop(self.stdin);
        let mut complaint = String::new();
        let mut stderr = self.child.stderr.take().expect("piped");
        timeout(SOON, stderr.read_to_string(&mut complaint)).await.expect("ends").expect("UTF-8");
        complaint
    }
}
