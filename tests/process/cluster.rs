//! A head and nodes as real processes, on loopback or in network namespaces of their own.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::SystemTime;

use serde_json::Value;

use crate::ports::ports;
use crate::server::PATIENCE;

const BINARY: &str = env!("CARGO_BIN_EXE_playhouse");
/// Lines of standard error that are kept until they are asked for: more than any test has.
const LINES_MAX: usize = 8192;
pub(crate) const ADMIN_TOKEN: &str = "admin-token-of-a-test";

/// A folder of its own for each cluster; removed when dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

/// A running process with everything it says. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    said: BufReader<ChildStdout>,
    /// The lines of the standard error of the process.
    errors: Receiver<String>,
}

/// A head that waits for nodes, or has them.
pub(crate) struct Head {
    pub(crate) process: Process,
    /// The address at which nodes join.
    pub(crate) join: String,
    /// URL of the admin API.
    pub(crate) admin: String,
    folder: Folder,
    namespace: Option<String>,
    /// The arguments of the head.
    words: Vec<String>,
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
        let command = match namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, BINARY]);
                command
            }
            None => Command::new(BINARY),
        };
        Self::run(command, args)
    }

    /// Starts the binary by a shell that ends with `exec \"$@\"`, in a mount namespace of its own.
    pub(crate) fn start_by(script: &str, args: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh", BINARY]);
        Self::run(command, args)
    }

    fn run(mut command: Command, args: &[&str]) -> Self {
        command.args(args).env("PLAYHOUSE_ADMIN_TOKEN", ADMIN_TOKEN);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let said = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let errors = lines(child.stderr.take().expect("stderr is piped"));
        Self { child, said, errors }
    }

    /// The rest of the first line of standard output that has `mark`.
    pub(crate) fn after(&mut self, mark: &str) -> String {
        let mut heard = String::new();
        loop {
            let mut line = String::new();
            let read = self.said.read_line(&mut line).expect("UTF-8");
            if read == 0 {
                let errors: String = self.errors.iter().collect();
                panic!("no `{mark}` in:\n{heard}\n{errors}");
            }
            if let Some((_, rest)) = line.split_once(mark) {
                return rest.trim().to_owned();
            }
            heard += &line;
        }
    }

    /// The first line of standard error that has `mark`.
    pub(crate) fn complains(&self, mark: &str) -> String {
        let mut lines = self.errors.iter();
        let found = lines.find(|line| line.contains(mark));
        found.unwrap_or_else(|| panic!("nothing says `{mark}`"))
    }

    /// Waits for the process to end by itself: its status and what it said on standard error.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let errors = self.errors.iter().collect();
        (self.child.wait().expect("ours"), errors)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns whether the process has ended, without waiting for it.
    pub(crate) fn has_ended(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit(')').next().is_none_or(|rest| rest.starts_with(" Z"))
    }

    /// Asks the process to stop, and waits until it has.
    pub(crate) fn stop(&mut self) {
        self.signal("TERM");
        assert_eq!(self.child.wait().expect("ours").code(), Some(0));
    }

    /// Sends the process a signal.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.expect("kill runs").success());
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

/// The lines of a stream, read as they come: a process stops at a pipe that nobody reads.
fn lines(stream: ChildStderr) -> Receiver<String> {
    let (sender, lines) = mpsc::sync_channel(LINES_MAX);
    thread::spawn(move || {
        let read = BufReader::new(stream).split(b'\n').map_while(Result::ok);
        // Nobody may want them any more.
        read.for_each(|line| drop(sender.send(String::from_utf8_lossy(&line).into_owned() + "\n")));
    });
    lines
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
        let mut own = vec!["serve", "--host", address, "--cluster-dir", &dir];
        if namespace.is_some() {
            own.extend(["--admin-host", address]);
        }
        // They stay free while it is dead.
        let [api, admin, join] = ports().map(|port: u16| port.to_string());
        let listen = format!("{address}:{join}");
        let at = ["--port", &api, "--admin-port", &admin, "--cluster-listen", &listen];
        let words = own.iter().chain(&at).chain(args);
        let words: Vec<String> = words.map(|&word| word.to_owned()).collect();
        let namespace = namespace.map(str::to_owned);
        let (process, join, admin) = Self::open(namespace.as_deref(), &words);
        Self { process, join, admin, folder, namespace, words }
    }

    fn open(namespace: Option<&str>, words: &[String]) -> (Process, String, String) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut process = Process::start(namespace, &words);
        let join = process.after("nodes that join at ");
        let admin = process.after("admin     ");
        let admin = admin.split("/admin").next().expect("a URL").to_owned();
        (process, join, admin)
    }

    /// Starts it again where it was, after its death.
    pub(crate) fn start_again(&mut self) {
        (self.process, ..) = Self::open(self.namespace.as_deref(), &self.words);
    }

    /// Starts it again, after its death, under another address of its machine.
    pub(crate) fn move_to(&mut self, address: &str) {
        let (old, _) = self.join.rsplit_once(':').expect("an address and a port");
        let old = old.to_owned();
        for place in [&mut self.join, &mut self.admin].into_iter().chain(&mut self.words) {
            *place = place.replace(&old, address);
        }
        self.start_again();
    }

    /// Runs a client command against the admin API.
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        let mut words = [words, &["--admin", &self.admin]].concat();
        let authority = self.authority();
        if self.admin.starts_with("https:") {
            words.extend(["--admin-ca", &authority]);
        }
        let mut client = Process::start(self.namespace.as_deref(), &words);
        let mut said = String::new();
        client.said.read_to_string(&mut said).expect("UTF-8");
        said.trim().to_owned()
    }

    /// The certificate of its authority.
    pub(crate) fn authority(&self) -> String {
        self.folder.join("authority/authority.der")
    }

    pub(crate) fn token(&self) -> String {
        self.ask(&["token", "create"])
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.ask(&["status", "--json"])).expect("JSON")
    }

    /// Starts a node with a token, or with what it kept of an earlier start.
    pub(crate) fn node(&self, namespace: Option<&str>, name: &str, token: Option<&str>) -> Process {
        let words = self.node_words(name, token, "cpu:2");
        Process::start(namespace, &words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The words that start a node.
    pub(crate) fn node_words(&self, name: &str, token: Option<&str>, devices: &str) -> Vec<String> {
        let dir = self.folder.join(name);
        let words = ["node", "--join", &self.join, "--name", name, "--dir", &dir];
        let words = words.into_iter().chain(["--devices", devices]);
        let words = words.chain(token.iter().flat_map(|token| ["--token", *token]));
        words.map(str::to_owned).collect()
    }

    /// Returns the address of the OpenAI API while the head waits for nodes.
    pub(crate) fn early_api(&mut self) -> String {
        let url = self.process.after("wait at http://");
        url.split('/').next().expect("a URL").to_owned()
    }

    /// Returns the address of the OpenAI API, once every rank has a node.
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
        assert!(waited < PATIENCE, "waited {waited:?} until {what}");
        thread::yield_now();
    }
}

/// A GET with these header lines on a connection of its own: everything that is answered.
pub(crate) fn get(address: &str, path: &str, headers: &str) -> String {
    use std::io::Write;
    let mut stream = TcpStream::connect(address).expect("the head listens");
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    write!(stream, "{head}{headers}\r\n").expect("sent");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("UTF-8");
    reply
}

/// A POST of JSON on a connection of its own, from this process's network namespace.
pub(crate) fn post(address: &str, body: &Value) -> Value {
    use std::io::Write;
    let mut stream = TcpStream::connect(address).expect("the head listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let body = body.to_string();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).expect("sent");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("UTF-8");
    let (head, body) = reply.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200"), "{reply}");
    serde_json::from_str(body).expect("JSON")
}
