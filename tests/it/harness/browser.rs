//! A real browser, driven as a person would: Debian's Chromium without a window, through its `DevTools` protocol over a pair of pipes.

use std::collections::VecDeque;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout};

use super::{PATIENCE, pause};

/// Chromium wants its pipes as descriptors 3 and 4. Root needs no sandbox of its own here, and gets none without privileges that a container lacks.
const START: &str = "exec chromium --headless=new --remote-debugging-pipe --no-sandbox --disable-dev-shm-usage --disable-gpu --no-first-run \
    --disable-background-networking --disable-component-update --disable-sync --disable-extensions --no-default-browser-check --mute-audio \
    --lang=en-GB --user-data-dir=\"$0\" about:blank 3<&0 4>&1 </dev/null >/dev/null 2>\"$0/chromium.log\"";

/// What the browser answers to a question whose page went away meanwhile: it was loaded anew.
const GONE: [&str; 3] = ["Inspected target navigated or closed", "Execution context was destroyed", "Cannot find context with specified id"];

/// After this time a page that does not come is loaded again.
const RELOAD: Duration = Duration::from_secs(8);

/// A browser with one tab.
pub(crate) struct Browser {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    directory: TempDir,
    session: Option<String>,
    last_id: u64,
    events: VecDeque<Value>,
}

impl Browser {
    /// Starts one and opens a tab of the size of a desk.
    pub(crate) async fn start() -> Self {
        let directory = TempDir::with_prefix("rc-browser-").expect("a directory");
        let mut child = Command::new("sh")
            .args(["-c", START])
            .arg(directory.path())
            .env("HOME", directory.path())
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("sh");
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().expect("a pipe")));
        let mut browser = Self { child, input, output, directory, session: None, last_id: 0, events: VecDeque::new() };
        let tab = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attached = browser.call("Target.attachToTarget", json!({ "targetId": tab["targetId"], "flatten": true })).await;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser.size(1280, 900).await;
        browser
    }

    /// One command and its result.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        self.try_call(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    async fn try_call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.last_id += 1;
        let mut message = json!({ "id": self.last_id, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut text = message.to_string().into_bytes();
        text.push(0);
        let input = self.input.as_mut().expect("it runs");
        input.write_all(&text).await.expect("the browser listens");
        loop {
            let message = self.read(method).await;
            if message["id"] == json!(self.last_id) {
                return if message["error"].is_null() { Ok(message["result"].clone()) } else { Err(message["error"].clone()) };
            }
            self.events.push_back(message);
        }
    }

    async fn read(&mut self, waits_for: &str) -> Value {
        let mut bytes = Vec::new();
        let read = timeout(PATIENCE, self.output.read_until(0, &mut bytes)).await;
        let log = || std::fs::read_to_string(self.directory.path().join("chromium.log")).unwrap_or_default();
        let read = read.unwrap_or_else(|_| panic!("no answer to {waits_for}:\n{}", log())).expect("a pipe");
        assert!(read > 0, "the browser ended before it answered {waits_for}:\n{}", log());
        bytes.pop();
        serde_json::from_slice(&bytes).expect("JSON")
    }

    /// The value of an expression in the page; a promise is waited for.
    pub(crate) async fn eval(&mut self, expression: &str) -> Value {
        self.peek(expression).await.unwrap_or_else(|| panic!("the page went away during {expression}"))
    }

    /// The same for who asks until something is so: nothing when the page is loaded anew meanwhile.
    async fn peek(&mut self, expression: &str) -> Option<Value> {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        match self.try_call("Runtime.evaluate", params).await {
            Ok(result) => {
                assert!(result["exceptionDetails"].is_null(), "{expression}: {}", result["exceptionDetails"]);
                Some(result["result"]["value"].clone())
            }
            Err(error) if GONE.iter().any(|gone| error["message"].as_str().is_some_and(|message| message.contains(gone))) => None,
            Err(error) => panic!("{expression}: {error}"),
        }
    }

    /// Waits until an expression is true in the page.
    pub(crate) async fn until(&mut self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.peek(&format!("Boolean({expression})")).await != Some(json!(true)) {
            if Instant::now() >= deadline {
                let page = self.peek("document.body.innerText").await.unwrap_or_default();
                panic!("not so in the page: {expression}\n{}\n{:?}", page.as_str().unwrap_or_default(), self.complaints());
            }
            pause().await;
        }
    }

    /// Waits until a text is to be read in what the selector finds; below the window's edge counts too.
    pub(crate) async fn reads(&mut self, selector: &str, text: &str) {
        let (selector, text) = (json!(selector), json!(text));
        self.until(&format!(
            "[...document.querySelectorAll({selector})].some((one) => one.textContent.includes({text}) || one.innerText.includes({text}))"
        ))
        .await;
    }

    /// Opens an address and waits until its scripts have run. The engine's interfaces come and go beside the browser, which breaks off what
    /// it is loading then (`ERR_NETWORK_CHANGED`); it is loaded again as a person would.
    pub(crate) async fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url })).await;
        let deadline = Instant::now() + PATIENCE;
        let mut again = Instant::now() + RELOAD;
        while self.peek("document.readyState === 'complete' && document.querySelector('main')?.childElementCount > 0").await != Some(json!(true)) {
            assert!(Instant::now() < deadline, "{url} does not open: {:?}", self.complaints());
            if Instant::now() >= again {
                self.call("Page.reload", json!({})).await;
                again = Instant::now() + RELOAD;
            }
            pause().await;
        }
    }

    /// Loads the page anew and waits until it is the new one that is there.
    pub(crate) async fn reload(&mut self) {
        self.eval("window.beforeReload = true").await;
        self.call("Page.reload", json!({})).await;
        self.until("!window.beforeReload && document.readyState === 'complete'").await;
    }

    /// Clicks with the mouse in the middle of the first element that a selector finds and that can be hit there.
    pub(crate) async fn click(&mut self, selector: &str) {
        let find = format!(
            "(() => {{ const one = [...document.querySelectorAll({})].find((one) => one.offsetParent && !one.disabled); if (!one) return null; \
             one.scrollIntoView({{ block: 'center' }}); const box = one.getBoundingClientRect(); const [x, y] = [box.x + box.width / 2, box.y + box.height / 2]; \
             return one.contains(document.elementFromPoint(x, y)) ? {{ x, y }} : null; }})()",
            json!(selector)
        );
        let deadline = Instant::now() + PATIENCE;
        let place = loop {
            if let Some(place) = self.peek(&find).await.filter(|place| !place.is_null()) {
                break place;
            }
            assert!(Instant::now() < deadline, "nothing to click at {selector}: {}", self.eval("document.body.innerText").await);
            pause().await;
        };
        for kind in ["mousePressed", "mouseReleased"] {
            let params = json!({ "type": kind, "x": place["x"], "y": place["y"], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", params).await;
        }
    }

    /// Types a text where the focus is.
    pub(crate) async fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    /// Presses a key, such as `Enter`, `Escape` or `Tab`.
    pub(crate) async fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            "Tab" => (9, ""),
            other => panic!("no such key: {other}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut params = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            if kind == "keyDown" && !text.is_empty() {
                params["text"] = json!(text);
            }
            self.call("Input.dispatchKeyEvent", params).await;
        }
    }

    /// Makes the window so wide and high; below 500 it is a phone.
    pub(crate) async fn size(&mut self, width: u32, height: u32) {
        let params = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.call("Emulation.setDeviceMetricsOverride", params).await;
    }

    /// `light` or `dark`.
    pub(crate) async fn colours(&mut self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// What is to be seen, as a PNG.
    pub(crate) async fn screenshot(&mut self) -> Vec<u8> {
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png", "optimizeForSpeed": false })).await;
        base64::engine::general_purpose::STANDARD.decode(shot["data"].as_str().expect("data")).expect("base64")
    }

    /// Where the browser's own files lie; downloads may go there too.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// What the browser complained of: exceptions, and breaches of the page's policy. A daemon that is down is no complaint.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let told = |event: &Value| match event["method"].as_str()? {
            "Runtime.exceptionThrown" => Some(event["params"]["exceptionDetails"].to_string()),
            "Log.entryAdded" if event["params"]["entry"]["level"] == "error" && event["params"]["entry"]["source"] != "network" => {
                Some(event["params"]["entry"]["text"].to_string())
            }
            _ => None,
        };
        self.events.iter().filter_map(told).collect()
    }

    /// Addresses that were asked for and are not below `base`.
    pub(crate) fn foreign_requests(&self, base: &str) -> Vec<String> {
        let sent = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        let urls = sent.filter_map(|event| event["params"]["request"]["url"].as_str().map(str::to_owned));
        urls.filter(|url| !url.starts_with(base) && !url.starts_with("blob:") && url != "about:blank").collect()
    }

    /// All that was sent, as text: for what must not be in any address.
    pub(crate) fn requested_urls(&self) -> Vec<String> {
        let sent = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        sent.filter_map(|event| event["params"]["request"]["url"].as_str().map(str::to_owned)).collect()
    }

    /// Ends it and fails if it had anything to complain of.
    pub(crate) async fn finish(mut self) {
        let _ = self.eval("1").await;
        let complaints = self.complaints();
        self.session = None;
        self.call("Browser.close", json!({})).await;
        drop(self.input.take());
        let ended = timeout(Duration::from_secs(10), self.child.wait()).await;
        if ended.is_err() {
            self.child.kill().await.expect("killed");
        }
        assert_eq!(complaints, Vec::<String>::new());
    }
}
