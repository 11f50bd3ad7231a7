//! A head and nodes as real processes, on loopback or in network namespaces of their own.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_playhouse");
pub(crate) const ADMIN_TOKEN: &str = "admin-token-of-a-test";

/// A folder of its own for each cluster; removed when dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

/// A running process with everything it says. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    said: BufReader<ChildStdout>,
    errors: Option<ChildStderr>,
}

/// A head that waits for nodes, or has them.
pub(crate) struct Head {
    pub(crate) process: Process,
    /// Where nodes join.
    pub(crate) join: String,
    /// URL of the admin API.
    pub(crate) admin: String,
    folder: Folder,
    namespace: Option<String>,
}

// === impl Folder ===

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("playhouse-cluster-{}-{next}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("the temporary folder can be written");
        Self(path)
    }

    pub(crate) fn join(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("plain").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

// === impl Process ===

impl Process {
    /// Starts the binary, in a network namespace if one is named.
    pub(crate) fn start(namespace: Option<&str>, args: &[&str]) -> Self {
        let mut command = match namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, BINARY]);
                command
            }
            None => Command::new(BINARY),
        };
        command.args(args).env("PLAYHOUSE_ADMIN_TOKEN", ADMIN_TOKEN);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let said = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let errors = child.stderr.take();
        Self { child, said, errors }
    }

    /// The rest of the first line of standard output that has `mark`.
    pub(crate) fn after(&mut self, mark: &str) -> String {
        let mut heard = String::new();
        loop {
            let mut line = String::new();
            let read = self.said.read_line(&mut line).expect("UTF-8");
            if read == 0 {
                let mut errors = String::new();
                drop(self.errors.take().map(|mut it| it.read_to_string(&mut errors)));
                panic!("no `{mark}` in:\n{heard}\n{errors}");
            }
            if let Some((_, rest)) = line.split_once(mark) {
                return rest.trim().to_owned();
            }
            heard += &line;
        }
    }

    /// Waits for the process to end by itself: its status and what it said on standard error.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let mut errors = String::new();
        let mut stream = self.errors.take().expect("stderr is piped");
        stream.read_to_string(&mut errors).expect("UTF-8");
        (self.child.wait().expect("ours"), errors)
    }

    /// Asks the process to stop, and waits until it has.
    pub(crate) fn stop(&mut self) {
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-s", "TERM", &pid]).status();
        assert!(asked.expect("kill runs").success());
        assert_eq!(self.child.wait().expect("ours").code(), Some(0));
    }

    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

// === impl Head ===

impl Head {
    /// Starts `playhouse serve ARGS` that waits for nodes on `address`.
    pub(crate) fn start(namespace: Option<&str>, address: &str, args: &[&str]) -> Self {
        let folder = Folder::new();
        let dir = folder.join("authority");
        let made = Command::new(BINARY).args(["cluster", "init", "--dir", &dir]).output();
        let made = made.expect("the binary starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let listen = format!("{address}:0");
        let own = [
            "serve",
            "--port",
            "0",
            "--host",
            address,
            "--admin-host",
            address,
            "--cluster-listen",
            &listen,
            "--cluster-dir",
            &dir,
        ];
        let mut process = Process::start(namespace, &[&own, args].concat());
        let join = process.after("nodes that join at ");
        let admin = process.after("admin     ");
        let admin = admin.split("/admin").next().expect("a URL").to_owned();
        Self { process, join, admin, folder, namespace: namespace.map(str::to_owned) }
    }

    /// Runs a client command against the admin API.
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        let words = [words, &["--admin", &self.admin]].concat();
        let mut client = Process::start(self.namespace.as_deref(), &words);
        let mut said = String::new();
        client.said.read_to_string(&mut said).expect("UTF-8");
        said.trim().to_owned()
    }

    pub(crate) fn token(&self) -> String {
        self.ask(&["token", "create"])
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.ask(&["status", "--json"])).expect("JSON")
    }

    /// Starts a node with a token, or with what it kept of an earlier start.
    pub(crate) fn node(&self, namespace: Option<&str>, name: &str, token: Option<&str>) -> Process {
        let dir = self.folder.join(name);
        let mut words =
            vec!["node", "--join", &self.join, "--name", name, "--dir", &dir, "--devices", "cpu:2"];
        words.extend(token.iter().flat_map(|token| ["--token", *token]));
        Process::start(namespace, &words)
    }

    /// Where the OpenAI API is, once every rank has a node.
    pub(crate) fn api(&mut self) -> String {
        let url = self.process.after("API       http://");
        url.split('/').next().expect("a URL").to_owned()
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder.0
    }
}

/// Polls until `condition` holds.
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = SystemTime::now();
    while !condition() {
        let waited = start.elapsed().unwrap_or_default();
        assert!(waited < Duration::from_secs(60), "waited {waited:?} until {what}");
        std::thread::yield_now();
    }
}

/// A POST of JSON on a connection of its own, from this process's network namespace.
pub(crate) fn post(address: &str, body: &Value) -> Value {
    use std::io::Write;
    let mut stream = TcpStream::connect(address).expect("the head listens");
    let body = body.to_string();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: playhouse\r\nconnection: close\r\n";
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).expect("sent");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("UTF-8");
    let (head, body) = reply.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200"), "{reply}");
    serde_json::from_str(body).expect("JSON")
}
