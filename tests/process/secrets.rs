//! Secrets that are planted by every way there is, and looked for wherever something is shown.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use crate::cluster::{Folder, get, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_playhouse");

/// What must be nowhere. Each begins in its own way, so that a part of it is found as well.
struct Secrets {
    planted: Vec<(&'static str, String)>,
}

/// A process whose whole output is in one file. Killed when dropped.
struct Logged {
    child: Child,
    log: String,
}

// === impl Secrets ===

impl Secrets {
    fn look_into(&self, place: &str, text: &str) {
        for (name, secret) in &self.planted {
            // A part is enough for whoever tries the rest.
            let part = &secret[secret.len() / 2..];
            assert!(!text.contains(part), "{place} shows the {name}:\n{text}");
        }
    }
}

// === impl Logged ===

impl Logged {
    fn start(folder: &Folder, name: &str, words: &[&str], environment: &[(&str, &str)]) -> Self {
        let log = folder.join(name);
        let file = File::create(&log).expect("writable");
        let child = Command::new(BINARY)
            .args(words)
            .current_dir(&folder.0)
            .envs(environment.iter().copied())
            .env("RUST_LOG", "trace")
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file"))
            .stderr(file)
            .spawn()
            .expect("the binary starts");
        Self { child, log }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).expect("readable")).into_owned()
    }

    fn after(&self, mark: &str) -> String {
        wait_until(mark, || self.said().split_once(mark).is_some_and(|(_, it)| it.contains('\n')));
        let said = self.said();
        let (_, rest) = said.split_once(mark).expect("it was there");
        rest.lines().next().expect("a line").trim().to_owned()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Command line and environment of a process.
fn shown_by_the_system(pid: &str) -> String {
    let read = |file| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    String::from_utf8_lossy(&[read("cmdline"), read("environ")].concat()).replace('\0', "\n")
}

/// Everything below these processes.
fn descendants(pid: u32) -> Vec<String> {
    let children = format!("/proc/{pid}/task/{pid}/children");
    // A process may have been started by any of its threads.
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let all = tasks.map(|task| fs::read_to_string(task.path().join("children")));
    let text: String = all.map(Result::unwrap_or_default).collect();
    assert!(fs::exists(&children).expect("readable"), "the kernel lists children");
    text.split_whitespace().map(str::to_owned).collect()
}

fn output(words: &[&str], environment: &[(&str, &str)]) -> String {
    let output = Command::new(BINARY).args(words).envs(environment.iter().copied()).output();
    let output = output.expect("the binary starts");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn planted_secrets_are_nowhere_to_be_found() {
    let folder = Folder::new();
    let (admin, api) = ("adm-7d1f0c9b52e84a63", "api-39c2e6a1f05d4b87");
    let (file_key, wrong) = ("key-c08e5b71d94f2a36", "bad-5a6f1e3d8c7b9024");
    let keys = folder.join("keys.toml");
    fs::write(&keys, format!("[[key]]\nname = 'tenant'\nkey = '{file_key}'\n")).expect("written");
    let (admin_file, api_file) = (folder.join("admin"), folder.join("api"));
    fs::write(&admin_file, admin).expect("written");
    fs::write(&api_file, api).expect("written");
    let (authority, audit) = (folder.join("authority"), folder.join("audit"));
    output(&["cluster", "init", "--dir", &authority], &[]);
    let cluster = ["--cluster-listen", "127.0.0.1:0", "--cluster-dir", &authority, "-pp", "2"];
    let ports = ["serve", "--port", "0", "--admin-port", "0", "--audit-log", &audit];

    // A file and a variable for the head, a variable for the node.
    let words = [&ports[..], &cluster, &["--api-keys-file", &keys]].concat();
    let head = Logged::start(&folder, "head", &words, &[("PLAYHOUSE_ADMIN_TOKEN", admin)]);
    let join = head.after("nodes that join at ");
    let at = head.after("admin     http://");
    let at = at.split('/').next().expect("an address").to_owned();
    let url = format!("http://{at}");
    let make = ["token", "create", "--admin", &url, "--admin-token-file", &admin_file];
    let token = Command::new(BINARY).args(make).output().expect("the binary starts").stdout;
    let token = String::from_utf8(token).expect("UTF-8").trim().to_owned();
    let secret = token.split('-').nth(2).expect("the second group").to_owned();
    let dir = folder.join("node");
    let words = ["node", "--join", &join, "--name", "a", "--dir", &dir, "--devices", "cpu:2"];
    let node = Logged::start(&folder, "node-log", &words, &[("PLAYHOUSE_TOKEN", &token)]);
    let openai = head.after("API       http://");
    let openai = openai.split('/').next().expect("an address").to_owned();

    // A file and a flag for a head with ranks of its own.
    let words = ["--admin-token", admin, "--api-key-file", &api_file, "-tp", "2"];
    let local = Logged::start(&folder, "local", &[&ports[..], &words].concat(), &[]);
    let second = local.after("API       http://");
    let second = second.split('/').next().expect("an address").to_owned();

    let planted = [
        ("admin token", admin),
        ("API key", api),
        ("key of the file", file_key),
        ("join token", &*secret),
        ("wrong key", wrong),
    ];
    let planted = planted.map(|(name, secret)| (name, secret.to_owned())).to_vec();
    let secrets = Secrets { planted };

    // Requests that succeed and requests that fail, with right and wrong secrets in every place.
    let bearer = |key: &str| format!("authorization: Bearer {key}\r\nx-api-key: {key}\r\n");
    for (address, key) in [(&openai, file_key), (&second, api)] {
        for key in [key, wrong, ""] {
            for path in ["/v1/models", "/metrics", "/nowhere", "/v1/completions", "/readyz?verbose"]
            {
                let reply = get(address, path, &bearer(key));
                assert!(reply.starts_with("HTTP/1.1 "), "{reply}");
                secrets.look_into(path, &reply);
            }
        }
        assert!(get(address, "/metrics", &bearer(key)).contains("playhouse_"));
    }
    for key in [admin, wrong] {
        for path in ["cluster", "deployment", "operations", "nowhere", "tokens"] {
            let path = format!("/admin/v1/{path}");
            secrets.look_into(&path, &get(&at, &path, &bearer(key)));
        }
    }
    let told = |token: &str| {
        let as_admin = [("PLAYHOUSE_ADMIN_TOKEN", token)];
        let status = output(&["status", "--admin", &url], &as_admin);
        let refused = output(&["drain", "node", "nobody", "--admin", &url], &as_admin);
        status + &refused
    };
    let good = told(admin);
    assert!(good.contains("replica 0"), "{good}");
    secrets.look_into("status", &(good + &told(wrong)));
    // A used token, a token that is none, and a file that is not the one that was meant.
    let again = folder.join("again");
    for given in [["--token", &token], ["--token", wrong], ["--token-file", &keys]] {
        let words = ["node", "--join", &join, "--name", "b", "--dir", &again];
        let said = output(&[&words[..], &given].concat(), &[]);
        assert!(said.contains("error: "), "{said}");
        secrets.look_into("a refused node", &said);
    }
    let bad_file = folder.join("bad.toml");
    fs::write(&bad_file, format!("[[key]]\nname = 'a'\nkey = '{api}\n")).expect("written");
    let said = output(&["serve", "--port", "0", "--api-keys-file", &bad_file], &[]);
    assert!(said.contains("bad.toml:"), "{said}");
    secrets.look_into("an error in the file of keys", &said);

    let everything = [
        ("PLAYHOUSE_ADMIN_TOKEN", admin),
        ("PLAYHOUSE_API_KEY", api),
        ("PLAYHOUSE_TOKEN", &*token),
    ];
    for command in ["serve", "node", "status", "token", "chat", "bench", "scale", "top", "revoke"] {
        let help = output(&[command, "--help"], &everything);
        assert!(help.contains("Usage"), "{help}");
        secrets.look_into(&format!("{command} --help"), &help);
    }

    let ranks: Vec<String> =
        [&node, &local].iter().flat_map(|parent| descendants(parent.child.id())).collect();
    assert!(ranks.len() >= 4, "two ranks of each: {ranks:?}");
    for rank in &ranks {
        let shown = shown_by_the_system(rank);
        assert!(shown.contains("shard"), "{shown}");
        secrets.look_into("a rank process", &shown);
    }
    let audited = fs::read_to_string(&audit).expect("written");
    assert!(audited.contains("/admin/v1/tokens"), "{audited}");
    secrets.look_into("the audit log", &audited);
    for log in [&head, &node, &local] {
        let said = log.said();
        assert!(said.len() > 500, "everything is logged: {said}");
        secrets.look_into(&log.log, &said);
    }
}

/// The page's own commands, in one folder, with free ports and this machine for all others.
#[test]
fn the_commands_of_the_security_page_make_a_cluster_that_is_locked() {
    let page = include_str!("../../docs/security.md");
    let blocks = page.split("```sh\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines());
    let commands: Vec<&str> = lines.collect();
    // `https` and `sbom` run the others.
    let [_, random, key, init, serve, token, node, second, reload, curl, revoke, _] = commands[..]
    else {
        panic!("{commands:?}")
    };
    let folder = Folder::new();
    let sh = |command: &str| {
        let command = command.replace("playhouse ", &format!("{BINARY} "));
        let run = Command::new("sh").args(["-c", &command]).current_dir(&folder.0).output();
        let run = run.expect("a shell");
        let errors = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{command}: {errors}");
        String::from_utf8(run.stdout).expect("UTF-8")
    };
    [random, key, init].iter().for_each(|command| drop(sh(command)));
    let serve = serve.replace("0.0.0.0:7100", "127.0.0.1:0 --port 0 --admin-port 0 -pp 2");
    let words: Vec<&str> = serve.split(' ').skip(1).collect();
    let head = Logged::start(&folder, "head.log", &words, &[]);
    let join = head.after("nodes that join at ");
    let admin = head.after("admin     ");
    let admin = format!("--admin {}", admin.split("/admin").next().expect("a URL"));
    sh(&token.replace("--admin-token-file", &format!("{admin} --admin-token-file")));
    let node = node.replace("head.example:7100", &join) + " --devices cpu:2";
    let words: Vec<&str> = node.split(' ').skip(1).collect();
    let node = Logged::start(&folder, "node.log", &words, &[]);
    let api = head.after("API       http://");
    let api = api.split('/').next().expect("an address").to_owned();
    sh(second);
    sh(&reload.replace("$PID", &head.child.id().to_string()));
    head.after("2 API keys were read anew");
    if Command::new("curl").arg("--version").output().is_ok() {
        let listed = sh(&curl.replace("127.0.0.1:8000", &api));
        assert!(listed.contains("\"data\""), "{listed}");
    } else {
        eprintln!("SKIPPED: curl is not installed, so the page's curl line was not run");
    }
    assert!(get(&api, "/v1/models", "").starts_with("HTTP/1.1 401"), "nobody without a key");
    let said = sh(&revoke.replace("--admin-token-file", &format!("{admin} --admin-token-file")));
    assert!(said.contains("has been cut off"), "{said}");
    node.after("was revoked");
}

#[test]
fn what_others_reach_needs_a_token_and_tls() {
    let folder = Folder::new();
    let (none, token) = (folder.join("none"), ("PLAYHOUSE_ADMIN_TOKEN", "a-token-of-its-own"));
    let cluster = ["--cluster-listen", "0.0.0.0:0", "--cluster-dir", &none];
    let outside = ["--admin-host", "0.0.0.0"];
    for (flags, environment, named, wanted) in [
        (&outside[..], &[][..], "--admin-host 0.0.0.0", "--admin-token-file"),
        (&outside, &[token], "--admin-host 0.0.0.0", "--ssl-certfile"),
        (&["--admin-host", "::"], &[token], "--admin-host ::", "--ssl-certfile"),
        // With nodes, the certificates of their authority will do; it has to be there.
        (&[&outside[..], &cluster].concat(), &[token], "none/authority.der", "cluster init"),
        (&cluster, &[token], "none/authority.der", "cluster init"),
    ] {
        let words = [&["serve", "--port", "0", "--admin-port", "0"], flags].concat();
        let refused = Command::new(BINARY).args(&words).envs(environment.iter().copied()).output();
        let refused = refused.expect("the binary starts");
        assert!(matches!(refused.status.code(), Some(1 | 2)), "{words:?}: {}", refused.status);
        let said = String::from_utf8(refused.stderr).expect("UTF-8");
        let errors: Vec<_> = said.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(matches!(errors[..], [error] if error.contains(named)), "{said}");
        assert!(said.contains(wanted), "{said}");
        assert!(refused.stdout.is_empty(), "nothing was served");
    }
}
