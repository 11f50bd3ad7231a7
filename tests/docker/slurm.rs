//! The script for Slurm, with stubs of `srun` and `scontrol` that start its real processes here.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use parking_lot::MutexGuard;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cluster::alone;
use crate::rig::http;
use crate::rig::patience::wait_until;
use crate::rig::ports::ports;
use crate::rig::process::{ADMIN_TOKEN, family, lives, signal};
use crate::shell::ROOT;

const PROGRAM: &str = env!("CARGO_BIN_EXE_playhouse");

/// A job that runs. All of it is killed when dropped.
struct Job {
    script: Child,
    folder: PathBuf,
    api: SocketAddr,
    _alone: MutexGuard<'static, ()>,
}

// === impl Job ===

impl Job {
    fn start() -> Self {
        let alone = alone();
        let folder = std::env::temp_dir().join(format!("playhouse-slurm-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the temporary folder can be written");
        // The key that the clients of the rig send; a secret that is there is kept.
        fs::write(folder.join("api-key"), ADMIN_TOKEN).expect("a file can be written");
        let stubs = format!("{ROOT}/tests/docker/slurm");
        let path = std::env::var("PATH").expect("there is one");
        // The admin API is next to the other one.
        let [api, _, cluster] = ports();
        let api = SocketAddr::from(([127, 0, 0, 1], api));
        let log = File::create(folder.join("job.log")).expect("a file can be written");
        let script = Command::new("bash")
            .arg(format!("{ROOT}/docker/slurm/playhouse.sbatch"))
            .env("PATH", format!("{stubs}:{path}"))
            .env("SLURM_JOB_ID", "42")
            .env("SLURM_JOB_NODELIST", "127.0.0.[1-2]")
            .env("SLURM_SUBMIT_DIR", "/nowhere")
            .env("PLAYHOUSE_BINARY", PROGRAM)
            .env("PLAYHOUSE_RUN", &folder)
            .env("PLAYHOUSE_LAYOUT", "-tp 2")
            .env("PLAYHOUSE_OFFER", "cpu:1")
            .env("PLAYHOUSE_PORT", api.port().to_string())
            .env("PLAYHOUSE_CLUSTER_PORT", cluster.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("bash starts");
        Self { script, folder, api, _alone: alone }
    }

    /// Returns the logs of all processes.
    fn logs(&self) -> String {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let logs = files.map(|file| file.path()).filter(|file| is_log(file));
        let show = |file: PathBuf| {
            format!("--- {}\n{}", file.display(), fs::read_to_string(&file).unwrap_or_default())
        };
        logs.map(show).collect()
    }

    fn answers(&self) -> bool {
        let ask = json!({ "prompt": "The sea", "max_tokens": 4 }).to_string();
        let answer = http::send(self.api, "POST", "/v1/completions", &ask);
        answer.is_ok_and(|answer| answer.status == 200 && answer.text().is_ok())
    }

    /// Names of the nodes that are connected.
    fn nodes(&self) -> Vec<String> {
        let admin = format!("http://127.0.0.1:{}", self.api.port() + 1);
        let token = self.folder.join("admin-token");
        let token = token.to_str().expect("plain");
        let words = ["status", "--json", "--admin", &admin, "--admin-token-file", token];
        let output = Command::new(PROGRAM).args(words).output().expect("the binary starts");
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let nodes = status["nodes"].as_array().into_iter().flatten();
        let nodes = nodes.filter(|node| node["connected"] == true);
        nodes.filter_map(|node| Some(node["name"].as_str()?.to_owned())).collect()
    }

    /// The processes of the job that are agents of nodes.
    fn agents(&self) -> Vec<u32> {
        let is_agent = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).take(2).collect();
            words == [PROGRAM.as_bytes(), b"node"]
        };
        family(self.script.id()).into_iter().filter(is_agent).collect()
    }
}

fn is_log(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "log")
}

impl Drop for Job {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.logs());
        }
        for pid in family(self.script.id()) {
            signal(pid, Signal::KILL);
        }
        drop(self.script.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

#[test]
fn the_job_is_a_cluster_that_survives_its_nodes_and_ends_in_order() {
    let mut job = Job::start();
    wait_until("the job answers", || job.answers());
    assert_eq!(job.nodes(), ["host-0", "host-1"]);
    for secret in ["admin-token", "cluster/authority.key", "token"] {
        let secret = fs::metadata(job.folder.join(secret)).expect("it is there");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(secret.permissions().mode() & 0o077, 0, "others can read it");
    }

    let agents = job.agents();
    assert_eq!(agents.len(), 2, "{}", job.logs());
    signal(agents[0], Signal::KILL);
    wait_until("another agent is in its place", || {
        let now = job.agents();
        now.len() == 2 && !now.contains(&agents[0])
    });
    wait_until("its node is back", || job.nodes().len() == 2 && job.answers());

    let all = family(job.script.id());
    signal(job.script.id(), Signal::TERM);
    let mut status = None;
    wait_until("the job has ended", || {
        status = job.script.try_wait().expect("ours");
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(0), "{}", job.logs());
    wait_until("nothing is left of it", || !all.iter().any(|&pid| lives(pid)));
}
