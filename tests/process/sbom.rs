//! The software bill of materials, held against what the compiler is given for the binary.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Names and versions of packages.
type Packages = BTreeSet<(String, String)>;

/// What the command of the page writes; `None` where it cannot run.
fn bill() -> Option<Value> {
    let able = Command::new("python3").args(["-c", "import tomllib"]).output();
    if !able.is_ok_and(|able| able.status.success()) {
        return None;
    }
    let page = fs::read_to_string(format!("{ROOT}/docs/security.md")).expect("the page");
    let (_, command) = page.split_once("\n```sh\ndocker/sbom.py").expect("the page has it");
    let command = format!("docker/sbom.py{}", command.lines().next().expect("a line"));
    let folder = env!("CARGO_TARGET_TMPDIR");
    let command = command.replace("> ", &format!("> {folder}/"));
    let ran = Command::new("sh").args(["-c", &command]).current_dir(ROOT).output();
    let ran = ran.expect("a shell");
    assert!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
    let text = fs::read(format!("{folder}/sbom.json")).expect("the page calls it so");
    Some(serde_json::from_slice(&text).expect("JSON"))
}

/// What cargo has the compiler make for the release build of the binary, but for macros and build
/// scripts, which are not in it. No stable command prints the graph.
fn compiled() -> Packages {
    let words = "build --release --package playhouse --bin playhouse --locked --unit-graph";
    let graph = Command::new(env!("CARGO"))
        .args(words.split(' '))
        .args(["-Z", "unstable-options"])
        .env("RUSTC_BOOTSTRAP", "1")
        .current_dir(ROOT)
        .output();
    let graph = graph.expect("cargo runs");
    let graph: Value = serde_json::from_slice(&graph.stdout)
        .unwrap_or_else(|why| panic!("{why}: {}", String::from_utf8_lossy(&graph.stderr)));
    let numbers = |list: &Value| -> Vec<u64> {
        list.as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
    };
    let (mut open, mut seen) = (numbers(&graph["roots"]), BTreeSet::new());
    let mut packages = Packages::new();
    while let Some(index) = open.pop() {
        let unit = &graph["units"][usize::try_from(index).expect("an index")];
        let kinds = unit["target"]["kind"].as_array().expect("kinds");
        let is_linked = !kinds.iter().any(|kind| kind == "proc-macro" || kind == "custom-build");
        if !seen.insert(index) || !is_linked {
            continue;
        }
        let id = unit["pkg_id"].as_str().expect("an id");
        // The workspace itself is the application.
        if let Some((name, version)) =
            id.strip_prefix("registry+").and_then(|id| id.rsplit_once('#')?.1.split_once('@'))
        {
            packages.insert((name.to_owned(), version.to_owned()));
        }
        let next = unit["dependencies"].as_array().into_iter().flatten();
        open.extend(next.filter_map(|next| next["index"].as_u64()));
    }
    packages
}

/// The hash of every package's archive.
fn locked() -> BTreeMap<(String, String), String> {
    let lock = fs::read_to_string(format!("{ROOT}/Cargo.lock")).expect("the lock file");
    let lock: toml::Table = lock.parse().expect("TOML");
    let packages = lock["package"].as_array().expect("packages").iter();
    let text = |package: &toml::Value, key| package.get(key)?.as_str().map(str::to_owned);
    let entry = |package| {
        let (name, version) = (text(package, "name")?, text(package, "version")?);
        Some(((name, version), text(package, "checksum")?))
    };
    packages.filter_map(entry).collect()
}

#[test]
fn the_bill_of_materials_has_what_the_binary_links_and_nothing_else() {
    let Some(bill) = bill() else {
        eprintln!(
            "SKIPPED: there is no python3 of 3.11 or newer, so docker/sbom.py was not tested"
        );
        return;
    };
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let application = &bill["metadata"]["component"];
    assert_eq!(application["version"], env!("CARGO_PKG_VERSION"));

    let locked = locked();
    let mut listed = Packages::new();
    for component in bill["components"].as_array().expect("components") {
        let text = |pointer| component.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let package = (text("/name").to_owned(), text("/version").to_owned());
        let (name, version) = &package;
        assert_eq!(text("/hashes/0/alg"), "SHA-256", "{name}");
        assert_eq!(Some(text("/hashes/0/content")), locked.get(&package).map(String::as_str));
        let purl = format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"));
        assert_eq!((text("/purl"), text("/bom-ref")), (&*purl, &*purl));
        let licence = text("/licenses/0/expression");
        let is_expression =
            |letter: char| letter.is_ascii_alphanumeric() || "-. ()".contains(letter);
        assert!(!licence.is_empty() && licence.chars().all(is_expression), "{name}: {licence:?}");
        assert!(listed.insert(package.clone()), "{package:?} is there twice");
    }
    assert_eq!(listed, compiled());

    // Everything is there for a reason, and the application is where reasons begin.
    let references = bill["dependencies"].as_array().expect("dependencies").iter();
    let edges: BTreeMap<_, _> =
        references.map(|it| (it["ref"].as_str(), &it["dependsOn"])).collect();
    let (mut open, mut reached) = (vec![application["bom-ref"].as_str()], BTreeSet::new());
    while let Some(reference) = open.pop() {
        if reached.insert(reference) {
            let next = edges[&reference].as_array().expect("a list");
            open.extend(next.iter().map(Value::as_str));
        }
    }
    assert_eq!(reached.len(), listed.len() + 1);
}
