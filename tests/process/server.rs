//! A real `playhouse serve` process on a port of its own, and a plain HTTP client for it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

/// Longest wait for anything a test waits for, whole answers too; generous, because CI machines are
/// slow, and busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_playhouse");

/// A running server. Killed when dropped.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    /// Everything printed before the server was ready.
    pub(crate) banner: String,
}

/// A response, read to its end.
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Status line and headers, in lower case.
    head: String,
    pub(crate) body: String,
}

// === impl Server ===

impl Server {
    /// Starts `playhouse serve ARGS --port 0` and waits for its address.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[])
    }

    /// Starts a server as [`Server::start`] does, with more variables in its environment.
    pub(crate) fn start_with(args: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::launch(Command::new(BINARY), args, environment, Stdio::null())
    }

    /// Starts a server as [`Server::start_with`] does, with its log in a new file.
    pub(crate) fn start_logged(args: &[&str], environment: &[(&str, &str)], log: &Path) -> Self {
        let log = File::create(log).expect("the file of the log");
        Self::launch(Command::new(BINARY), args, environment, log.into())
    }

    /// Starts a server as [`Server::start_logged`] does, by a program that becomes it by `exec`.
    pub(crate) fn start_by(mut program: Command, args: &[&str], log: &Path) -> Self {
        let log = File::create(log).expect("the file of the log");
        program.arg(BINARY);
        Self::launch(program, args, &[], log.into())
    }

    /// As [`Server::start_logged`], on this port.
    pub(crate) fn start_on(port: &str, args: &[&str], log: &Path) -> Self {
        let log = File::create(log).expect("the file of the log");
        Self::launch_on(port, Command::new(BINARY), args, &[], log.into())
    }

    fn launch(program: Command, args: &[&str], environment: &[(&str, &str)], log: Stdio) -> Self {
        Self::launch_on("0", program, args, environment, log)
    }

    fn launch_on(
        port: &str,
        mut program: Command,
        args: &[&str],
        environment: &[(&str, &str)],
        log: Stdio,
    ) -> Self {
        let mut child = program
            .arg("serve")
            .args(args)
            .args(["--port", port])
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let mut banner = String::new();
        let mut address = None;
        // Behind the address stand the lines of the admin API and the state; an empty one ends them.
        let address = loop {
            let Some(Ok(line)) = lines.next() else { panic!("no address in:\n{banner}") };
            banner += &line;
            banner.push('\n');
            if let Some(address) = address.filter(|_| line.is_empty()) {
                break address;
            }
            if let Some((_, rest)) = line.split_once("http://").filter(|_| address.is_none()) {
                let authority = rest.split('/').next().expect("split yields one part");
                address = Some(authority.parse().expect("the banner names an address"));
            }
        };
        Self { child, address, banner }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.send("GET", path, "", "")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Response {
        self.send("POST", path, "content-type: application/json\r\n", &body.to_string())
    }

    /// One request on a connection of its own.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Response {
        Response::to(self.connect(), method, path, headers, body)
    }

    /// The value of a metric, summed over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            (rest.starts_with('{') || rest.starts_with(' ')).then(|| rest.rsplit(' ').next())?
        });
        values.map(|value| value.parse::<f64>().expect("a number")).sum()
    }

    /// Polls until `condition` holds: for how long it did not. That is the beginning of the last look
    /// that found so; how late the next one came depends on who else computes on the machine.
    pub(crate) fn wait_until(&self, what: &str, condition: impl Fn(&Self) -> bool) -> Duration {
        let start = std::time::SystemTime::now();
        let (mut found, mut looks) = (Duration::ZERO, Duration::ZERO);
        while !condition(self) {
            assert!(looks < PATIENCE, "waited {looks:?} until {what}");
            std::thread::yield_now();
            (found, looks) = (looks, start.elapsed().unwrap_or_default());
        }
        found
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(status.expect("kill runs").success());
    }

    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().expect("the process can be waited for")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

// === impl Response ===

impl Response {
    /// Sends a request over a new connection, and reads the whole response.
    pub(crate) fn to(
        mut stream: TcpStream,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             {headers}content-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("the request is sent");
        let mut raw = Vec::new();
        stream.read_to_end(&mut raw).expect("the response is read");
        Self::parse(&String::from_utf8(raw).expect("the response is UTF-8"))
    }

    pub(crate) fn parse(raw: &str) -> Self {
        let (head, body) = raw.split_once("\r\n\r\n").expect("a header block");
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
        let head = head.to_ascii_lowercase();
        let chunked = head.contains("transfer-encoding: chunked");
        let body = if chunked { unchunk(body) } else { body.to_owned() };
        Self { status, head, body }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|why| panic!("{why} in {}", self.body))
    }
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a chunk size");
        if size == 0 {
            break;
        }
        whole += &rest[..size];
        body = &rest[size + 2..];
    }
    whole
}
