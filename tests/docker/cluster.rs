//! A cluster of containers, made by `docker/docker-compose.yml`.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::image::image;
use crate::rig::http;
use crate::rig::patience::await_for;
use crate::rig::ports::port;
use crate::rig::process::ADMIN_TOKEN;
use crate::shell::{ROOT, ask, docker, finish};

/// Locks the machine for one cluster: tests measure times, and the machine may have two cores.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock()
}

/// The maximum wait for an event; generous, because CI machines are slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// The registry in the names of the overlay's images, which are made here and not pulled.
pub(crate) const REGISTRY: &str = "playhouse-test";

/// A running cluster. It is taken down when dropped.
pub(crate) struct Cluster {
    project: String,
    compose: Vec<&'static str>,
    image: &'static str,
    /// The folder of the secrets.
    folder: PathBuf,
    layout: &'static str,
    /// The files that compose reads, as `COMPOSE_FILE`.
    file: &'static str,
    pub(crate) api: SocketAddr,
    _alone: MutexGuard<'static, ()>,
}

// === impl Cluster ===

impl Cluster {
    /// Returns a cluster that can be started; `None` where docker cannot be used, with a message.
    pub(crate) fn new(layout: &'static str) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let alone = alone();
        let image = image()?;
        let compose = match ask("docker", &["compose", "version"]) {
            Ok(_) => vec!["docker", "compose"],
            Err(_) => vec!["docker-compose"],
        };
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let project = format!("playhouse-test-{}-{next}", std::process::id());
        let folder = std::env::temp_dir().join(&project);
        // The API key is the one that the clients of the rig send.
        for (name, secret) in [("admin-token", "of-the-operators"), ("api-key", ADMIN_TOKEN)] {
            fs::create_dir_all(&folder).expect("the temporary folder can be written");
            fs::write(folder.join(name), secret).expect("a file can be written");
        }
        let api = SocketAddr::from(([127, 0, 0, 1], port()));
        let file = "docker/docker-compose.yml";
        Some(Self { project, compose, image, folder, layout, file, api, _alone: alone })
    }

    /// Returns a cluster with the overlay. The ports of the overlay are fixed, so the cluster has an address of
    /// its own.
    pub(crate) fn watched(layout: &'static str) -> Option<Self> {
        let mut cluster = Self::new(layout)?;
        cluster.file = "docker/docker-compose.yml:docker/docker-compose.observability.yml";
        let [.., high, low] = std::process::id().to_be_bytes();
        cluster.api.set_ip([127, 107, high, low].into());
        Some(cluster)
    }

    /// Starts the cluster and waits for its first answer. Returns how long both took.
    pub(crate) fn up(&self) -> Duration {
        let start = Instant::now();
        self.compose(&["up", "--detach", "--no-build"]);
        self.first_answer();
        start.elapsed()
    }

    /// Runs compose, which must succeed, and returns its output.
    pub(crate) fn compose(&self, words: &[&str]) -> String {
        self.try_compose(words).unwrap_or_else(|why| panic!("{why}\n{}", self.logs()))
    }

    /// Runs compose and returns its output, or its errors if it fails.
    pub(crate) fn try_compose(&self, words: &[&str]) -> Result<String, String> {
        let [program, first @ ..] = &self.compose[..] else { unreachable!("never empty") };
        let mut command = Command::new(program);
        command.args(first).args(words);
        finish("compose", words, self.ours(&mut command).output())
    }

    /// Runs a command of a page with the names of this cluster in it, and returns its output. The command must
    /// succeed.
    pub(crate) fn run(&self, line: &str) -> String {
        let folder = self.folder.to_str().expect("plain");
        let line = line
            .replace("docker compose", &self.compose.join(" "))
            .replace("exec head", "exec -T head")
            .replace("http://127.0.0.1:8000", &format!("http://{}", self.api))
            .replace("docker/make-secrets", &format!("docker/make-secrets {folder}"))
            .replace("docker/secrets/", &format!("{folder}/"));
        let output = self.ours(Command::new("sh").args(["-ec", &line])).output();
        finish("sh", &[&line], output).unwrap_or_else(|why| panic!("{why}\n{}", self.logs()))
    }

    /// Sets the variables of a command so that it affects this cluster and no other.
    fn ours<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.current_dir(ROOT).stdin(Stdio::null());
        command.env("COMPOSE_PROJECT_NAME", &self.project);
        command.env("COMPOSE_FILE", self.file).env("PLAYHOUSE_REGISTRY", REGISTRY);
        command.env("PLAYHOUSE_IMAGE", self.image).env("PLAYHOUSE_LAYOUT", self.layout);
        command.env("PLAYHOUSE_SECRETS", &self.folder);
        command.env("PLAYHOUSE_BIND", self.api.ip().to_string());
        command.env("PLAYHOUSE_PORT", self.api.port().to_string())
    }

    /// Sends requests until one is answered. Returns how long that took.
    pub(crate) fn first_answer(&self) -> Duration {
        let ask = json!({ "prompt": "The capital of France is", "max_tokens": 4 }).to_string();
        let answered = await_for(PATIENCE, || {
            let answer = http::send(self.api, "POST", "/v1/completions", &ask);
            answer.is_ok_and(|answer| answer.status == 200 && answer.text().is_ok())
        });
        answered.unwrap_or_else(|limit| panic!("no answer in {limit:?}\n{}", self.logs()))
    }

    /// Returns the status of the cluster, by the command line in the head's container.
    pub(crate) fn status(&self) -> Value {
        let head = self.head();
        // It fails while not all replicas serve, and prints all the same.
        let words = ["exec", &head, "playhouse", "status", "--json"];
        let output = Command::new("docker").args(words).stdin(Stdio::null()).output();
        let output = output.expect("docker runs");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Returns the names of the nodes that are connected.
    pub(crate) fn connected(&self) -> BTreeSet<String> {
        let status = self.status();
        let nodes = status["nodes"].as_array().into_iter().flatten();
        let connected = nodes.filter(|node| node["connected"] == true);
        connected.filter_map(|node| node["name"].as_str().map(str::to_owned)).collect()
    }

    /// Returns the number of nodes that are connected.
    pub(crate) fn nodes(&self) -> usize {
        self.connected().len()
    }

    /// Returns the names of the nodes that have ranks.
    pub(crate) fn hosts(&self) -> BTreeSet<String> {
        let status = self.status();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let stages = list(&status["replicas"]).into_iter().flat_map(move |it| list(&it["stages"]));
        let shards = stages.flat_map(move |stage| list(&stage["shards"]));
        let node = |shard: Value| shard["whereabouts"]["node"].as_str().map(str::to_owned);
        shards.filter_map(node).collect()
    }

    /// Returns whether there are exactly `count` replicas and all of them serve.
    pub(crate) fn serve(&self, count: usize) -> bool {
        let status = self.status();
        let replicas = status["replicas"].as_array().map_or(&[][..], Vec::as_slice);
        replicas.len() == count && replicas.iter().all(|replica| replica["state"] == "serving")
    }

    /// Waits until `condition` holds. Returns how long that took.
    pub(crate) fn wait_until(&self, what: &str, condition: impl FnMut() -> bool) -> Duration {
        let waited = await_for(PATIENCE, condition);
        waited.unwrap_or_else(|limit| panic!("waited {limit:?} until {what}\n{}", self.logs()))
    }

    /// Returns the folder of the secrets.
    pub(crate) fn secrets(&self) -> &Path {
        &self.folder
    }

    /// Returns the container of the head.
    pub(crate) fn head(&self) -> String {
        let mut heads = self.containers("head");
        heads.pop().unwrap_or_else(|| panic!("there is no head\n{}", self.logs()))
    }

    /// Returns the containers of a service, including those that have ended.
    pub(crate) fn containers(&self, service: &str) -> Vec<String> {
        let project = format!("label=com.docker.compose.project={}", self.project);
        let service = format!("label=com.docker.compose.service={service}");
        let words = ["ps", "--all", "--quiet", "--filter", &project, "--filter", &service];
        docker(&words).lines().map(str::to_owned).collect()
    }

    /// Returns the name of the volume that holds the key of a node, which is mounted in its container.
    pub(crate) fn key_volume(node: &str) -> String {
        let mounted = r#"{{range .Mounts}}{{if eq .Destination "/var/lib/playhouse/node"}}{{.Name}}{{end}}{{end}}"#;
        docker(&["inspect", "--format", mounted, node])
    }

    /// Returns the name in docker of a volume of the compose file.
    pub(crate) fn volume(&self, name: &str) -> String {
        format!("{}_{name}", self.project)
    }

    /// Returns the name of the network between the nodes and the head.
    pub(crate) fn network(&self) -> String {
        format!("{}_cluster", self.project)
    }

    /// Returns the health of a container.
    pub(crate) fn health(&self, container: &str) -> String {
        docker(&["inspect", "--format", "{{.State.Health.Status}}", container])
    }

    /// Returns the logs of all containers.
    pub(crate) fn logs(&self) -> String {
        self.try_compose(&["logs", "--no-color", "--timestamps"]).unwrap_or_else(|why| why)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let down = self.try_compose(&["down", "--volumes", "--timeout", "1"]);
        drop(fs::remove_dir_all(&self.folder));
        if let Err(why) = down.map(drop) {
            println!("{why}");
        }
    }
}
