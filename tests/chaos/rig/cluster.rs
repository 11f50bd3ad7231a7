//! A cluster of real processes, which knows every process that ever ran in it.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::{Mutex, MutexGuard};
use rustix::process::Signal;
use serde_json::Value;

use super::checkpoint::Checkpoint;
use super::fault::Fault;
use super::http;
use super::load::Model;
use super::patience::wait_until;
use super::ports::ports;
use super::process::{Process, family, is_ours, lives, renders, resident_kib, signal};
use super::throttle::Throttled;

/// A lock that admits one cluster at a time: faults are timed, and the machine may have two cores.
static ALONE: Mutex<()> = Mutex::new(());

/// A running cluster. Everything in it is killed when it is dropped.
pub(crate) struct Cluster {
    head: Process,
    /// The arguments of the head.
    words: Vec<String>,
    pub(crate) api: SocketAddr,
    admin: SocketAddr,
    /// The address at which nodes join.
    join: String,
    nodes: Vec<Node>,
    /// Processes that a fault has stopped, until it is made good.
    frozen: Vec<(Fault, Vec<u32>)>,
    /// Processes that a fault slows down, until it is made good.
    throttled: Vec<(Fault, Throttled)>,
    /// The checkpoint, which a fault can take away.
    checkpoint: Option<Checkpoint>,
    /// Every process that was ever seen in it.
    seen: Mutex<BTreeSet<u32>>,
    folder: Folder,
    /// Shared memory that was there before, of others.
    others: BTreeSet<String>,
    _alone: MutexGuard<'static, ()>,
}

struct Node {
    name: String,
    namespace: Option<String>,
    /// While it runs.
    process: Option<Process>,
}

/// A rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) replica: usize,
    pub(crate) stage: usize,
    pub(crate) tensor: usize,
}

/// A folder of its own for each cluster; removed when dropped, unless a test fails.
struct Folder(PathBuf);

// === impl Cluster ===

impl Cluster {
    /// A head that runs its ranks itself.
    pub(crate) fn local(model: &Model, layout: &[&str]) -> Self {
        Self::open(model, layout, "127.0.0.1", &[], None)
    }

    /// Starts a cluster as [`local`](Self::local) does; the head is started by a program that becomes it by `exec`.
    pub(crate) fn local_by(program: Command, model: &Model, layout: &[&str]) -> Self {
        Self::open(model, layout, "127.0.0.1", &[], Some(program))
    }

    /// A head and so many nodes, which have two devices each.
    pub(crate) fn of_nodes(model: &Model, layout: &[&str], nodes: usize) -> Self {
        Self::open(model, layout, "127.0.0.1", &vec![None; nodes], None)
    }

    /// A head that listens on `host` and nodes in network namespaces of their own.
    pub(crate) fn of_spaces(model: &Model, layout: &[&str], host: &str, spaces: &[String]) -> Self {
        let spaces: Vec<_> = spaces.iter().map(|space| Some(space.clone())).collect();
        Self::open(model, layout, host, &spaces, None)
    }

    fn open(
        model: &Model,
        layout: &[&str],
        host: &str,
        spaces: &[Option<String>],
        program: Option<Command>,
    ) -> Self {
        let alone = ALONE.lock();
        let folder = Folder::new();
        let (dir, state) = (folder.join("authority"), folder.join("state"));
        // They stay free while the head is dead.
        let [api, admin, listen] = ports().map(|port: u16| port.to_string());
        let listen = format!("{host}:{listen}");
        let mut words = vec!["serve"];
        words.extend(model.folder);
        words.extend(["--host", host, "--max-num-seqs", "64"]);
        words.extend(["--port", &api, "--admin-port", &admin]);
        words.extend(layout);
        if !spaces.is_empty() {
            Process::start(None, &["cluster", "init", "--dir", &dir], &folder.log("init")).end();
            words.extend(["--cluster-dir", &dir, "--state-dir", &state]);
            words.extend(["--cluster-listen", &listen]);
        }
        let log = folder.log("head");
        let mut head = match program {
            Some(program) => Process::start_by(program, &words, &log),
            None => Process::start(None, &words, &log),
        };
        let mut join = String::new();
        let mut admin = None;
        if !spaces.is_empty() {
            let heard = head.hear("admin     http://");
            join = after(&heard, "nodes that join at ").to_owned();
            admin = Some(heard);
        }
        let nodes = (0..).zip(spaces).map(|(index, space)| Node {
            name: format!("node-{index}"),
            namespace: space.clone(),
            process: None,
        });
        let nobody = "0.0.0.0:0".parse().expect("an address");
        let mut cluster = Self {
            head,
            words: words.into_iter().map(str::to_owned).collect(),
            api: nobody,
            admin: admin.as_deref().map_or(nobody, |heard| address(heard, "admin     http://")),
            join,
            nodes: nodes.collect(),
            frozen: Vec::new(),
            throttled: Vec::new(),
            checkpoint: None,
            seen: Mutex::default(),
            folder,
            others: shared_memory(),
            _alone: alone,
        };
        (0..spaces.len()).for_each(|index| cluster.start_node(index));
        let heard = cluster.head.hear("metrics ");
        cluster.api = address(&heard, "API       http://");
        cluster.admin = address(&heard, "admin     http://");
        // It may serve before the last has come.
        let all_here = || (0..spaces.len()).all(|index| cluster.is_connected(index));
        wait_until("all nodes are connected", all_here);
        cluster
    }

    /// SIGKILL of the head.
    pub(crate) fn kill_head(&mut self) {
        self.look_round();
        signal(self.head.pid(), Signal::KILL);
        self.head.end();
    }

    /// Starts the head again where it was, and waits until it serves.
    pub(crate) fn start_head(&mut self) {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        self.head = Process::start(None, &words, &self.folder.log("head"));
        self.head.hear("metrics ");
    }

    /// Cuts off the end of the journal of a head that is dead, as a disk that was full or a machine that lost
    /// power does.
    pub(crate) fn tear_journal(&self) {
        let path = self.folder.0.join("state").join("journal");
        let length = fs::metadata(&path).expect("a journal").len();
        let file = fs::OpenOptions::new().write(true).open(&path).expect("a journal");
        file.set_len(length - 3).expect("it is cut");
    }

    /// Asks the head to stop, and waits until it has: its exit code.
    pub(crate) fn stop_head(&mut self) -> Option<i32> {
        self.look_round();
        signal(self.head.pid(), Signal::TERM);
        self.head.end().code()
    }

    /// Starts a second agent with the folder of one that runs, and waits until it has ended: its exit code.
    /// `None` if the node does not run.
    pub(crate) fn start_twin(&self, index: usize) -> Option<i32> {
        self.nodes[index].process.as_ref()?;
        let name = &self.nodes[index].name;
        let dir = self.folder.join(name);
        let words = ["node", "--join", &self.join, "--name", name, "--dir", &dir];
        let words = [&words[..], &["--devices", "cpu:2"]].concat();
        Process::start(None, &words, &self.folder.log("twin")).end().code()
    }

    /// Starts a node: with a token at first, later with what it has kept.
    pub(crate) fn start_node(&mut self, index: usize) {
        let node = &self.nodes[index];
        let dir = self.folder.join(&node.name);
        let mut words = vec!["node", "--join", &self.join, "--name", &node.name];
        words.extend(["--dir", &dir, "--devices", "cpu:2"]);
        let token = if Path::new(&dir).exists() { String::new() } else { self.token() };
        if !token.is_empty() {
            words.extend(["--token", &token]);
        }
        let log = self.folder.log(&node.name);
        let process = Process::start(node.namespace.as_deref(), &words, &log);
        self.nodes[index].process = Some(process);
    }

    fn token(&self) -> String {
        let asked = http::send(self.admin, "POST", "/admin/v1/tokens", "{\"ttl_seconds\":900}");
        let text = asked.and_then(http::Response::text).expect("the admin API answers");
        let reply: Value = serde_json::from_str(&text).expect("JSON");
        reply["token"].as_str().unwrap_or_else(|| panic!("no token in {text}")).to_owned()
    }

    /// The cluster as the admin API shows it.
    pub(crate) fn status(&self) -> Value {
        let status = http::get_json(self.admin, "/admin/v1/cluster");
        let mut seen = self.seen.lock();
        seen.extend(shards(&status).filter_map(pid));
        status
    }

    /// Starts a command of operators.
    pub(crate) fn operate(&self, words: &[&str]) -> Process {
        let url = format!("http://{}", self.admin);
        let words = [words, &["--admin", &url]].concat();
        Process::start(None, &words, &self.folder.log("operator"))
    }

    /// Records every process that runs in the cluster now.
    fn look_round(&self) {
        let all: Vec<u32> = self.parents().flat_map(family).collect();
        self.seen.lock().extend(all);
    }

    /// Returns how often each replica has started.
    pub(crate) fn epochs(&self) -> Vec<u64> {
        let status = self.status();
        replicas(&status).map(|replica| replica["epoch"].as_u64().expect("an epoch")).collect()
    }

    /// Returns the state of each replica.
    pub(crate) fn states(&self) -> Vec<String> {
        let status = self.status();
        let state = |replica: &Value| replica["state"].as_str().expect("a state").to_owned();
        replicas(&status).map(state).collect()
    }

    /// Returns whether every replica serves.
    pub(crate) fn all_serve(&self) -> bool {
        self.states().iter().all(|state| state == "serving")
    }

    /// Returns the process of a rank, if it has one now.
    pub(crate) fn shard(&self, At { replica, stage, tensor }: At) -> Option<u32> {
        pid(&self.status()["replicas"][replica]["stages"][stage]["shards"][tensor])
    }

    /// The processes of a replica.
    pub(crate) fn shards_of(&self, replica: usize) -> Vec<u32> {
        let status = self.status();
        let stages = status["replicas"][replica]["stages"].as_array().into_iter().flatten();
        let shards = stages.flat_map(|stage| stage["shards"].as_array().into_iter().flatten());
        shards.filter_map(pid).collect()
    }

    /// The head, with all its ranks.
    pub(crate) fn head_family(&self) -> Vec<u32> {
        self.look_round();
        family(self.head.pid())
    }

    /// A node that runs, with all its ranks.
    pub(crate) fn node_family(&self, index: usize) -> Vec<u32> {
        self.look_round();
        self.nodes[index].process.as_ref().map(|node| family(node.pid())).unwrap_or_default()
    }

    /// The process of a node, which is now nobody's; `None` if it does not run.
    pub(crate) fn take_node(&mut self, index: usize) -> Option<Process> {
        self.look_round();
        self.nodes[index].process.take()
    }

    /// Stops processes until that is made good.
    pub(crate) fn freeze(&mut self, fault: &Fault, processes: Vec<u32>) {
        processes.iter().for_each(|&pid| signal(pid, Signal::STOP));
        self.frozen.push((fault.clone(), processes));
    }

    /// Lets the processes go on that a fault has stopped, as far as they are still there.
    pub(crate) fn thaw(&mut self, fault: &Fault) {
        let thawed = self.frozen.extract_if(.., |(other, _)| other == fault);
        thawed.flat_map(|(_, pids)| pids).for_each(|pid| signal(pid, Signal::CONT));
    }

    /// Slows a process down until that is made good.
    pub(crate) fn throttle(&mut self, fault: &Fault, process: u32) {
        self.throttled.push((fault.clone(), Throttled::begin(process)));
    }

    /// Lets the processes have their cores again that a fault slows down.
    pub(crate) fn release(&mut self, fault: &Fault) {
        self.throttled.retain(|(other, _)| other != fault);
    }

    /// Serves from a checkpoint that can be taken away.
    pub(crate) fn with_checkpoint(mut self, checkpoint: Checkpoint) -> Self {
        self.checkpoint = Some(checkpoint);
        self
    }

    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        self.checkpoint.as_ref().expect("the cluster was opened with one")
    }

    /// Which replicas have a rank on a node.
    pub(crate) fn replicas_on(&self, index: usize) -> Vec<usize> {
        let status = self.status();
        let sits = |replica: &Value| {
            let shards = replica["stages"].as_array().into_iter().flatten();
            let mut shards = shards.flat_map(|it| it["shards"].as_array().into_iter().flatten());
            shards.any(|shard| shard["whereabouts"]["node"] == *self.nodes[index].name)
        };
        let sitting = replicas(&status).enumerate().filter(|(_, replica)| sits(replica));
        sitting.map(|(index, _)| index).collect()
    }

    /// Returns whether the head is connected with a node.
    pub(crate) fn is_connected(&self, index: usize) -> bool {
        let status = self.status();
        let nodes = status["nodes"].as_array().into_iter().flatten();
        let mut own = nodes.filter(|node| node["name"] == *self.nodes[index].name);
        own.any(|node| node["connected"] == true)
    }

    /// Returns the memory of the head in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        resident_kib(self.head.pid())
    }

    /// Returns the value of a metric, summed over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (_, text) = http::get(self.api, "/metrics").expect("the API answers");
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            (rest.starts_with('{') || rest.starts_with(' ')).then(|| rest.rsplit(' ').next())?
        });
        values.map(|value| value.parse::<f64>().expect("a number")).sum()
    }

    /// Ranks that run and belong to no replica any more.
    pub(crate) fn strays(&self) -> Vec<u32> {
        let status = self.status();
        let mut known: Vec<u32> = shards(&status).filter_map(pid).collect();
        known.extend(self.parents());
        self.look_round();
        let seen = self.seen.lock();
        let strays = seen.iter().filter(|pid| !known.contains(pid));
        strays.copied().filter(|&pid| lives(pid) && is_ours(pid) && !renders(pid)).collect()
    }

    /// Shared memory with a name, which it has only while ranks join.
    pub(crate) fn shared_memory(&self) -> Vec<String> {
        shared_memory().difference(&self.others).cloned().collect()
    }

    /// Returns the processes of the head and the nodes that run.
    fn parents(&self) -> impl Iterator<Item = u32> {
        let nodes = self.nodes.iter().filter_map(|node| node.process.as_ref());
        nodes.chain([&self.head]).map(Process::pid)
    }

    /// Returns whether no permit and no block is held (**G5**), as must be when no request runs.
    pub(crate) fn is_empty(&self) -> bool {
        let status = self.status();
        let idle = |replica: &Value| {
            ["running", "waiting", "kv_blocks_held"].iter().all(|key| replica[*key] == 0)
        };
        status["in_flight"] == 0
            && replicas(&status).all(idle)
            && self.metric("playhouse_kv_blocks_held") == 0.0
    }

    /// Stops the cluster as an operator does, and asserts that no process is left and none has panicked.
    pub(crate) fn close(mut self) {
        self.look_round();
        let Self { head, nodes, seen, folder, .. } = &mut self;
        let nodes: Vec<_> = nodes.iter_mut().filter_map(|node| node.process.take()).collect();
        let head_pid = head.pid();
        signal(head_pid, Signal::TERM);
        assert_eq!(head.end().code(), Some(0), "the head stops well\n{}", folder.logs());
        for node in nodes {
            assert_eq!(node.stop().code(), Some(0), "a node stops well\n{}", folder.logs());
        }
        let seen = seen.get_mut();
        wait_until("no process is left", || !seen.iter().any(|&pid| lives(pid) && is_ours(pid)));
        let logs = folder.logs();
        assert!(!logs.contains("panicked"), "something panicked\n{logs}");
        wait_until("no shared memory is left", || self.shared_memory().is_empty());
    }

    /// Returns the logs of all processes.
    pub(crate) fn logs(&self) -> String {
        self.folder.logs()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.look_round();
        let seen = self.seen.get_mut();
        for &pid in seen.iter().filter(|&&pid| is_ours(pid)) {
            signal(pid, Signal::KILL);
        }
        if std::thread::panicking() {
            // Past the capture of the test harness, which keeps no order between threads.
            drop(fs::write(self.folder.0.with_extension("log"), self.folder.logs()));
        }
    }
}

fn shared_memory() -> BTreeSet<String> {
    let files = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("playhouse-")).collect()
}

fn replicas(status: &Value) -> impl Iterator<Item = &Value> {
    status["replicas"].as_array().into_iter().flatten()
}

fn shards(status: &Value) -> impl Iterator<Item = &Value> {
    let stages = replicas(status).flat_map(|it| it["stages"].as_array().into_iter().flatten());
    stages.flat_map(|stage| stage["shards"].as_array().into_iter().flatten())
}

fn pid(shard: &Value) -> Option<u32> {
    shard["whereabouts"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
}

/// Returns the text behind `mark` on its line.
fn after<'a>(text: &'a str, mark: &str) -> &'a str {
    let rest = text.split_once(mark).unwrap_or_else(|| panic!("no `{mark}` in:\n{text}")).1;
    rest.lines().next().unwrap_or_default().trim()
}

fn address(text: &str, mark: &str) -> SocketAddr {
    let authority = after(text, mark).split('/').next().unwrap_or_default();
    authority.parse().unwrap_or_else(|why| panic!("{why}: {authority} in:\n{text}"))
}

// === impl Folder ===

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("playhouse-chaos-{}-{next}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("the temporary folder can be written");
        Self(path)
    }

    fn join(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("plain").to_owned()
    }

    fn log(&self, name: &str) -> PathBuf {
        self.0.join(name).with_extension("log")
    }

    /// Everything that was logged, process by process.
    fn logs(&self) -> String {
        let files = fs::read_dir(&self.0).into_iter().flatten().flatten().map(|file| file.path());
        let mut files: Vec<_> = files.filter(|it| it.extension() == Some("log".as_ref())).collect();
        files.sort();
        let show = |path: &PathBuf| {
            let log = fs::read(path).unwrap_or_default();
            format!("--- {}\n{}", path.display(), String::from_utf8_lossy(&log))
        };
        files.iter().map(show).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
