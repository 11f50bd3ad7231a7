//! The manifests for Kubernetes: against its schemas where these can be had, and against the command
//! line of this version.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::shell::{ROOT, ask, finish, skip};

const PROGRAM: &str = env!("CARGO_BIN_EXE_playhouse");

const FILES: [&str; 2] = ["head.yaml", "node.yaml"];

/// The Python package that has the schemas.
const VALIDATOR: &str = "kubernetes-validate==1.37.0";

fn path(file: &str) -> String {
    format!("{ROOT}/docker/k8s/{file}")
}

/// Returns every object of every file.
fn objects() -> Vec<Value> {
    let of_file = |file: &str| {
        let text = fs::read_to_string(path(file)).expect("it is there");
        let documents = text.split("\n---\n").map(serde_saphyr::from_str);
        documents.map(|object| object.unwrap_or_else(|why| panic!("{file}: {why}"))).collect()
    };
    FILES.into_iter().flat_map(|file| -> Vec<Value> { of_file(file) }).collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Returns the name and the template of every pod.
fn pods(objects: &[Value]) -> Vec<(&str, &Value)> {
    let of = |kind| of_kind(objects, kind);
    let owners = of("Deployment").chain(of("StatefulSet"));
    let pod = |owner| {
        let owner: &Value = owner;
        (owner["metadata"]["name"].as_str().expect("a name"), &owner["spec"]["template"])
    };
    owners.map(pod).collect()
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(&pod["spec"]["initContainers"]).iter().chain(list(&pod["spec"]["containers"]))
}

fn words(value: &Value) -> Vec<&str> {
    list(value).iter().map(|word| word.as_str().expect("a text")).collect()
}

/// Returns the validator, in a Python environment that is made once for this machine.
fn validator() -> Result<PathBuf, String> {
    let folder = std::env::temp_dir().join(format!("playhouse-{VALIDATOR}"));
    let program = folder.join("bin/kubernetes-validate");
    if !program.exists() {
        let show = folder.to_str().expect("plain");
        ask("python3", &["-m", "venv", show])?;
        let pip = folder.join("bin/pip");
        let pip = pip.to_str().expect("plain");
        ask(pip, &["install", "--quiet", "--disable-pip-version-check", VALIDATOR])?;
    }
    Ok(program)
}

#[test]
fn the_manifests_are_what_kubernetes_understands() {
    let validator = match validator() {
        Ok(validator) => validator,
        Err(why) => return skip(&format!("{VALIDATOR} cannot be installed: {why}")),
    };
    let files = FILES.map(path);
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let program = validator.to_str().expect("plain");
    let check = |words: &[&str]| ask(program, &[words, &files].concat());
    check(&["--strict"]).unwrap_or_else(|why| panic!("{why}"));
    // It is no validator that lets everything pass.
    let wrong = std::env::temp_dir().join(format!("playhouse-wrong-{}.yaml", std::process::id()));
    let head = fs::read_to_string(path("head.yaml")).expect("it is there");
    fs::write(&wrong, head.replace("readinessProbe:", "readyProbe:")).expect("written");
    let refused = ask(program, &["--strict", wrong.to_str().expect("plain")]);
    fs::remove_file(&wrong).expect("written above");
    assert!(refused.is_err_and(|why| why.contains("readyProbe")));
}

/// Returns the `--help` of a subcommand.
fn help(words: &[&str]) -> String {
    let words = [words, &["--help"]].concat();
    ask(env!("CARGO_BIN_EXE_playhouse"), &words).unwrap_or_else(|why| panic!("{why}"))
}

#[test]
fn every_argument_and_variable_is_one_of_the_command_line() {
    for (name, pod) in pods(&objects()) {
        for container in containers(pod) {
            let args = words(&container["args"]);
            let command = words(&container["command"]).join(" ");
            let (subcommand, others): (Vec<&str>, _) = match (args.first(), &*command) {
                // Operators go where the head is.
                (Some(&"serve"), _) => (vec!["serve"], Some("status")),
                (Some(first), _) => (vec![first], None),
                (None, script) if script.contains("playhouse token create") => {
                    (vec!["token", "create"], None)
                }
                (None, script) if !script.contains("playhouse ") => {
                    assert!(container["env"].is_null(), "{name}: {script} reads no variable");
                    continue;
                }
                (None, script) => panic!("{name}: what is {script}?"),
            };
            // Whatever stands before --help is read first.
            help(&args);
            let known = help(&subcommand) + &others.map(|it| help(&[it])).unwrap_or_default();
            for variable in list(&container["env"]) {
                let variable = variable["name"].as_str().expect("a name");
                assert!(known.contains(variable), "{name}: {subcommand:?} reads no {variable}");
            }
        }
    }
}

/// A machine in place of the pods: the program, and a folder for the volumes.
struct Machine {
    folder: PathBuf,
    /// The port of the head's admin API.
    admin: String,
    head: Option<Child>,
}

impl Machine {
    fn here(&self, text: &str) -> String {
        let folder = self.folder.to_str().expect("plain");
        let admin = format!("https://127.0.0.1:{}", self.admin);
        text.replace("/run/secrets/authority", &format!("{folder}/secret/cluster"))
            .replace("/run/secrets/playhouse", &format!("{folder}/secret"))
            .replace("/var/lib/playhouse", folder)
            .replace("0.0.0.0:7100", "127.0.0.1:0")
            .replace("https://playhouse-head:8001", &admin)
            .replace("https://127.0.0.1:8001", &admin)
    }

    /// Returns a command with the variables of a container.
    fn command(&self, container: &Value, words: &[&str]) -> Command {
        let [program, words @ ..] = words else { panic!("no command") };
        let mut command = Command::new(program);
        command.args(words).current_dir(&self.folder).stdin(Stdio::null());
        for variable in list(&container["env"]) {
            let [name, value] = ["name", "value"].map(|key| variable[key].as_str().expect(key));
            command.env(name, self.here(value));
        }
        let bin = Path::new(PROGRAM).parent().expect("a folder").display();
        command.env("PATH", format!("{bin}:{}", std::env::var("PATH").expect("a path")));
        command
    }

    /// Runs a script of a container and returns its output.
    fn run(&self, container: &Value, script: &str) -> String {
        let output = self.command(container, &["sh", "-ec", &self.here(script)]).output();
        finish("sh", &[script], output).unwrap_or_else(|why| panic!("{why}"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(head) = &mut self.head {
            drop(head.kill().and_then(|()| head.wait()));
        }
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// The scripts of the pods, one after the other, with the variables of the pods.
#[test]
fn a_node_gets_its_token_from_the_head_of_the_authority_in_the_secret() {
    let objects = objects();
    let pods = pods(&objects);
    let pod = |name| &pods.iter().find(|pod| pod.0 == name).expect("it is there").1["spec"];
    let (head, node) = (pod("playhouse-head"), pod("playhouse-node"));
    let folder = std::env::temp_dir().join(format!("playhouse-pods-{}", std::process::id()));
    for volume in ["kept", "join", "secret"] {
        fs::create_dir_all(folder.join(volume)).expect("the temporary folder can be written");
    }
    for secret in ["admin-token", "api-key"] {
        fs::write(folder.join("secret").join(secret), "of-the-operators").expect("written");
    }
    let mut machine = Machine { folder, admin: "0".to_owned(), head: None };
    machine.run(&Value::Null, "playhouse cluster init --dir secret/cluster");
    let script = |container: &Value| words(&container["command"])[2].to_owned();
    let authority = &head["initContainers"][0];
    // The second time, it is left as it is.
    (0..2).for_each(|_| drop(machine.run(authority, &script(authority))));

    let head = &head["containers"][0];
    let ports = ["--port", "0", "--admin-port", "0"];
    let serve = [&[PROGRAM][..], &words(&head["args"]), &ports].concat();
    let mut started = machine.command(head, &serve).stdout(Stdio::piped()).spawn().expect("starts");
    let mut said = BufReader::new(started.stdout.take().expect("piped")).lines();
    machine.head = Some(started);
    let line = said.find_map(|line| {
        line.expect("UTF-8").split_once("  admin     https://0.0.0.0:").map(|it| it.1.to_owned())
    });
    machine.admin = line.expect("it listens").split('/').next().expect("a port").to_owned();

    let token = &node["initContainers"][0];
    machine.run(token, &script(token));
    let token = fs::read_to_string(machine.folder.join("join/token")).expect("written");
    assert!(token.trim().split('-').count() > 2, "{token} is a token");
    // In the head's pod, without a flag.
    machine.run(head, "playhouse operations");
}

#[test]
fn nothing_runs_with_rights_and_what_is_mounted_and_selected_is_there() {
    let objects = objects();
    for (name, pod) in pods(&objects) {
        assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(pod["spec"]["securityContext"]["runAsUser"], 10001, "{name}");
        let claims = of_kind(&objects, "StatefulSet").flat_map(|set| {
            list(&set["spec"]["volumeClaimTemplates"]).iter().map(|claim| &claim["metadata"])
        });
        let volumes: BTreeSet<_> = list(&pod["spec"]["volumes"])
            .iter()
            .chain(claims)
            .map(|volume| volume["name"].to_string())
            .collect();
        for container in containers(pod) {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(words(&context["capabilities"]["drop"]), ["ALL"], "{name}");
            for mount in list(&container["volumeMounts"]) {
                assert!(volumes.contains(&mount["name"].to_string()), "{name}: {mount}");
            }
        }
    }
    let labels: Vec<&Value> =
        pods(&objects).into_iter().map(|(_, pod)| &pod["metadata"]["labels"]).collect();
    let selects = |selector: &Value| {
        assert!(labels.contains(&selector), "{selector} selects nothing");
    };
    of_kind(&objects, "Service").for_each(|it| selects(&it["spec"]["selector"]));
    for kind in ["PodDisruptionBudget", "Deployment", "StatefulSet"] {
        of_kind(&objects, kind).for_each(|it| selects(&it["spec"]["selector"]["matchLabels"]));
    }
}

/// The probes of the head and the ports of the services are those of the container.
#[test]
fn what_is_called_by_name_is_a_port_of_the_head() {
    let objects = objects();
    let pods = pods(&objects);
    let (_, head) = pods.iter().find(|(name, _)| *name == "playhouse-head").expect("a head");
    let head = &head["spec"]["containers"][0];
    let ports: BTreeSet<String> =
        list(&head["ports"]).iter().map(|port| port["name"].to_string()).collect();
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        assert!(ports.contains(&head[probe]["httpGet"]["port"].to_string()), "{probe}");
    }
    let services = of_kind(&objects, "Service").flat_map(|it| list(&it["spec"]["ports"]));
    for port in services {
        assert!(ports.contains(&port["targetPort"].to_string()), "{port}");
    }
}
