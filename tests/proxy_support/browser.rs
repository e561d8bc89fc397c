//! Chromium without a window, told what to do over a pair of pipes (Chrome DevTools Protocol).

use std::path::Path;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::geteuid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::soon;

/// It reads commands from descriptor 3 and answers on 4; this gives it our two under those numbers.
const WITH_PIPES: &str = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#;

/// A browser with one page. It ends when this is dropped; [`Browser::close`] leaves no file behind either.
pub(crate) struct Browser {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    sent: u64,
    page: Option<String>,
    /// What went wrong in the page: exceptions, and what its policy forbade.
    pub(crate) complaints: Vec<String>,
    profile: TempDir,
}

impl Browser {
    /// Starts `program` and opens `url`.
    pub(crate) async fn open(program: &Path, url: &str) -> Browser {
        let profile = tempfile::tempdir().expect("a directory");
        let log = std::fs::File::create(profile.path().join("log")).expect("a file");
        let mut command = Command::new("sh");
        command.args(["-c", WITH_PIPES]).arg(program);
        command.args(["--headless", "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage"]);
        command.args(["--no-first-run", "--hide-scrollbars"]);
        if geteuid().is_root() {
            command.arg("--no-sandbox");
        }
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.env("TMPDIR", profile.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().expect("a shell");
        let commands = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let (page, complaints) = (None, vec![]);
        let mut browser = Browser { child, commands, answers, sent: 0, page, complaints, profile };
        let target = browser.tell("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.tell("Target.attachToTarget", attach).await;
        browser.page = Some(attached["sessionId"].as_str().expect("a session").to_owned());
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            browser.tell(domain, json!({})).await;
        }
        browser.tell("Page.navigate", json!({"url": url})).await;
        browser.until("document.readyState === 'complete'").await;
        browser
    }

    /// Ends it in order.
    pub(crate) async fn close(mut self) {
        self.page = None;
        self.tell("Browser.close", json!({})).await;
        soon("the browser's end", self.child.wait()).await.expect("waited");
        self.profile.close().expect("its files go");
    }

    /// Gives one command and waits for its result.
    pub(crate) async fn tell(&mut self, method: &str, params: Value) -> Value {
        self.sent += 1;
        let mut command = json!({"id": self.sent, "method": method, "params": params});
        if let Some(page) = &self.page {
            command["sessionId"] = page.as_str().into();
        }
        let bytes = [command.to_string().as_bytes(), b"\0"].concat();
        self.commands.write_all(&bytes).await.expect("the browser listens");
        let what = format!("the browser's answer to {command}");
        soon(&what, async {
            loop {
                let answer = self.heard().await;
                if answer["id"] == self.sent {
                    assert!(answer["error"].is_null(), "{command}: {}", answer["error"]);
                    return answer["result"].clone();
                }
            }
        })
        .await
    }

    async fn heard(&mut self) -> Value {
        let mut bytes = vec![];
        self.answers.read_until(0, &mut bytes).await.expect("read");
        if bytes.pop().is_none() {
            let log = std::fs::read_to_string(self.profile.path().join("log")).unwrap_or_default();
            panic!("the browser has ended:\n{log}");
        }
        let message: Value = serde_json::from_slice(&bytes).expect("JSON");
        let params = &message["params"];
        let is_complaint = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            // An answer like 401 is logged by the network.
            Some("Log.entryAdded") => params["entry"]["source"] != "network",
            _ => false,
        };
        if is_complaint {
            self.complaints.push(params.to_string());
        }
        message
    }

    /// The value of an expression in the page; promises are awaited.
    pub(crate) async fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let result = self.tell("Runtime.evaluate", params).await;
        assert!(result["exceptionDetails"].is_null(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// Waits until an expression holds, looking whenever the page changes.
    pub(crate) async fn until(&mut self, holds: &str) {
        let wait = format!(
            "new Promise((done) => {{
                const look = () => {{ if ({holds}) {{ seen.disconnect(); done(true); }} }};
                const seen = new MutationObserver(look);
                seen.observe(document, {{ subtree: true, childList: true, attributes: true, characterData: true }});
                document.addEventListener('readystatechange', look);
                look();
                setTimeout(() => {{ seen.disconnect(); done(document.body.innerText); }}, 15000);
            }})"
        );
        let seen = self.eval(&wait).await;
        assert!(seen == true, "waited in vain for {holds}; the page says:\n{}\n{:?}", seen, self.complaints);
    }

    /// Presses the left button in the middle of the first element that `selector` finds.
    pub(crate) async fn click(&mut self, selector: &str) {
        let find = format!(
            "(() => {{
                const found = document.querySelector({selector:?});
                found.scrollIntoView({{ block: 'center' }});
                const box = found.getBoundingClientRect();
                return {{ x: box.x + box.width / 2, y: box.y + box.height / 2 }};
            }})()"
        );
        let place = self.eval(&find).await;
        for kind in ["mousePressed", "mouseReleased"] {
            let event =
                json!({"type": kind, "x": place["x"], "y": place["y"], "button": "left", "clickCount": 1});
            self.tell("Input.dispatchMouseEvent", event).await;
        }
    }

    /// Types into what has the focus.
    pub(crate) async fn type_in(&mut self, text: &str) {
        self.tell("Input.insertText", json!({"text": text})).await;
    }

    /// Makes the window `width` by `height`, dark or light.
    pub(crate) async fn resize(&mut self, width: u32, height: u32, scheme: &str) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.tell("Emulation.setDeviceMetricsOverride", metrics).await;
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.tell("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    /// Puts a picture of the page into the directory that `PGVANE_SCREENSHOTS` names, if it does.
    pub(crate) async fn picture(&mut self, name: &str) {
        let Some(dir) = std::env::var_os("PGVANE_SCREENSHOTS") else { return };
        let shot = self.tell("Page.captureScreenshot", json!({"format": "png"})).await;
        let png = STANDARD.decode(shot["data"].as_str().expect("a picture")).expect("base64");
        std::fs::write(Path::new(&dir).join(format!("{name}.png")), png).expect("write");
    }
}
