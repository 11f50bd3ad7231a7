//! **W-3**: the bytes of every message of this protocol version, written down.

use std::path::PathBuf;
use std::{env, fs};

use playhouse_wire::{Kind, PROTOCOL_VERSION, PrefaceError, check_preface, preface, preface_of};

use crate::samples;

fn golden_file() -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    directory.join(format!("v{PROTOCOL_VERSION}.txt"))
}

#[test]
fn w3_the_bytes_of_a_version_never_change() {
    let lines = samples::all().into_iter().map(|sample| {
        let bytes = samples::hex(&sample.bytes);
        format!("{} {bytes}\n", sample.name)
    });
    let now: String = lines.collect();
    let file = golden_file();
    // Only a version that has no golden file yet gets one.
    if env::var_os("WRITE_GOLDEN").is_some() && !file.exists() {
        fs::write(&file, &now).expect("the folder of golden files is there");
    }
    let golden = fs::read_to_string(&file).expect("this version has golden bytes");
    for (now, golden) in now.lines().zip(golden.lines()) {
        assert_eq!(
            now, golden,
            "bytes changed: raise PROTOCOL_VERSION, and run this test with WRITE_GOLDEN=1"
        );
    }
    assert_eq!(now.lines().count(), golden.lines().count(), "a message appeared or went");
}

#[test]
fn every_kind_has_golden_bytes() {
    let samples = samples::all();
    for kind in Kind::ALL {
        assert!(samples.iter().any(|sample| sample.kind == kind), "{kind} has no sample");
    }
}

#[test]
fn w3_peers_of_different_versions_part_at_the_preface() {
    assert_eq!(samples::hex(&preface()), "504c415901000000");
    assert_eq!(check_preface(preface()), Ok(()));
    let (ours, theirs) = (PROTOCOL_VERSION, PROTOCOL_VERSION + 1);
    let other = check_preface(preface_of(theirs));
    assert_eq!(other, Err(PrefaceError::Version { ours, theirs }));
    let text = other.expect_err("another version").to_string();
    assert!(text.contains("version 2, this process 1: run the same release on both"), "{text}");
    assert_eq!(check_preface(*b"GET / HT"), Err(PrefaceError::Foreign(*b"GET ")));
}
