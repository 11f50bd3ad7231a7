//! The image of the binary under test.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::shell::{ROOT, ask, docker, skip};

/// The base image: a minimal Debian.
pub(crate) const BASE: &str = "playhouse/base:bookworm";

/// Returns the name of the image; `None` where it cannot be made, with a message.
pub(crate) fn image() -> Option<&'static str> {
    static IMAGE: OnceLock<Result<String, String>> = OnceLock::new();
    match IMAGE.get_or_init(make) {
        Ok(image) => Some(image),
        Err(why) => {
            skip(why);
            None
        }
    }
}

fn make() -> Result<String, String> {
    let refused = |why: String| format!("docker cannot be used here: {why}");
    ask("docker", &["info", "--format", "{{.ServerVersion}}"]).map_err(refused)?;
    let has_base = ask("docker", &["image", "inspect", BASE]).is_ok();
    if !has_base && ask("debootstrap", &["--version"]).is_err() {
        return Err("there is no base image, and no debootstrap to make one".to_owned());
    }
    ask(&format!("{ROOT}/docker/base-images"), &[])
        .map_err(|why| format!("no base image: {why}"))?;
    runs()?;
    let program = env!("CARGO_BIN_EXE_playhouse");
    let mut hash = DefaultHasher::new();
    program.hash(&mut hash);
    let image = format!("playhouse:test-{:x}", hash.finish());
    let before = ask("docker", &["image", "inspect", "--format", "{{.Id}}", &image]);
    let context = std::env::temp_dir().join(format!("playhouse-image-{}", std::process::id()));
    fs::create_dir_all(&context).expect("the temporary folder can be written");
    copy(program, &context.join("playhouse"));
    // From here on docker can be used, and a Dockerfile that does not build is a fault.
    let built = build(&image, context.to_str().expect("plain"));
    fs::remove_dir_all(&context).expect("made above");
    let built = built.unwrap_or_else(|why| panic!("{why}"));
    if let Some(before) = before.ok().filter(|before| before.trim() != built.trim()) {
        // Of an earlier run; a container may still have it.
        drop(ask("docker", &["rmi", before.trim()]));
    }
    Ok(image)
}

/// Makes the image of the binary in a folder by the Dockerfile. Returns its id.
fn build(image: &str, context: &str) -> Result<String, String> {
    let base = format!("{image}-base");
    let make = |file: &str, from: &str, target: &[&str], name: &str| {
        let file = format!("{ROOT}/docker/{file}");
        let from = format!("BASE_IMAGE={from}");
        let words = ["build", "-q", "-f", &file, "--build-arg", &from, "-t", name, context];
        ask("docker", &[&words[..], target].concat())
    };
    make("Dockerfile", BASE, &["--target", "base"], &base)?;
    make("Dockerfile.prebuilt", &base, &[], image)
}

/// Checks that containers run here, see our folders and can be reached, and that compose is installed.
fn runs() -> Result<(), String> {
    let compose = ask("docker", &["compose", "version"]);
    compose.or_else(|_| ask("docker-compose", &["version"]))?;
    let folder = std::env::temp_dir().join(format!("playhouse-seen-{}", std::process::id()));
    fs::create_dir_all(folder.join("seen")).expect("the temporary folder can be written");
    let volume = format!("{}:/folder:ro", folder.to_str().expect("plain"));
    let words = ["run", "--rm", "-p", "127.0.0.1::80", "-v", &volume, BASE];
    let ran = ask("docker", &[&words[..], &["test", "-d", "/folder/seen"]].concat());
    fs::remove_dir_all(&folder).expect("made above");
    ran.map(drop).map_err(|why| format!("containers do not run here: {why}"))
}

/// Copies a program without its debug symbols, as the Dockerfile does.
fn copy(program: &str, to: &Path) {
    let stripped = Command::new("strip").arg("-o").arg(to).arg(program).status();
    if !stripped.is_ok_and(|status| status.success()) {
        fs::copy(program, to).expect("the binary can be copied");
    }
}

fn inspect(image: &str) -> Value {
    let text = docker(&["image", "inspect", image]);
    let mut images: Value = serde_json::from_str(&text).expect("JSON");
    images[0].take()
}

#[test]
fn the_image_is_small_and_has_a_user_a_health_check_and_a_process_1() {
    let Some(image) = image() else { return };
    let facts = inspect(image);
    let megabytes = facts["Size"].as_u64().expect("a size") / 1_000_000;
    println!("image: {megabytes} MB");
    assert!(megabytes < 150, "{megabytes} MB");
    let config = &facts["Config"];
    assert_eq!(config["User"], "10001:10001");
    assert_eq!(config["StopSignal"], "SIGTERM");
    let words = |list: &Value| {
        let words = list.as_array().expect("a list").iter();
        words.map(|word| word.as_str().expect("a word").to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(words(&config["Entrypoint"]), "tini -- playhouse");
    assert_eq!(words(&config["Healthcheck"]["Test"]), "CMD playhouse doctor --health");
}

/// The container gets no network, no capability and no file that it can write.
#[test]
fn the_image_serves_where_nothing_is_permitted() {
    let Some(image) = image() else { return };
    let words = ["run", "--rm", "--read-only", "--cap-drop", "ALL", "--network", "none"];
    let more = ["--security-opt", "no-new-privileges", image, "doctor"];
    let said = docker(&[&words[..], &more[..]].concat());
    assert!(said.contains("ok    port"), "{said}");
    assert!(!said.contains("fail"), "{said}");
}

#[test]
fn the_builder_has_the_toolchain_that_the_sources_name() {
    let toolchain = fs::read_to_string(format!("{ROOT}/rust-toolchain.toml")).expect("it is there");
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = "));
    let channel = channel.expect("a channel").trim_matches('"');
    let file = fs::read_to_string(format!("{ROOT}/docker/Dockerfile")).expect("it is there");
    let builder = format!("\nARG BUILDER_IMAGE=rust:{channel}-slim-bookworm\n");
    assert!(file.contains(&builder), "docker/Dockerfile builds with another Rust than {channel}");
}

/// Returns the files and folders above its crate that a source names, as in `include_str!`.
fn named_above(source: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(source).expect("a source");
    let literals = text.split("\"../").skip(1).filter_map(|rest| rest.split('"').next());
    let folder = source.parent().expect("it is in one");
    literals.map(|literal| folder.join("..").join(literal)).collect()
}

/// Returns every Rust source below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut sources = Vec::new();
    for path in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("one").path()) {
        if path.is_dir() {
            sources.extend(self::sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
    sources
}

#[test]
fn the_context_of_the_image_has_what_the_sources_include() {
    let rules = fs::read_to_string(format!("{ROOT}/.dockerignore")).expect("it is there");
    let admitted: Vec<&str> = rules.lines().filter_map(|rule| rule.strip_prefix('!')).collect();
    let root = fs::canonicalize(ROOT).expect("it is there");
    let mut outside = 0;
    for package in fs::read_dir(root.join("crates")).expect("a folder").flatten() {
        for source in sources(&package.path().join("src")) {
            for named in named_above(&source) {
                let Ok(named) = fs::canonicalize(&named) else { continue };
                let path = named.strip_prefix(&root).expect("in this tree");
                let is_admitted = admitted.iter().any(|rule| path.starts_with(rule));
                assert!(is_admitted, ".dockerignore leaves {} out", path.display());
                outside += usize::from(!path.starts_with("crates"));
            }
        }
    }
    assert!(outside > 0, "the presets are outside of the crates");
}
