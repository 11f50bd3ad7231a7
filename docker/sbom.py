#!/usr/bin/env python3
"""A software bill of materials of the binary: CycloneDX 1.5, JSON, on standard output.

    docker/sbom.py [TARGET] > sbom.json

It has what the release build links for TARGET (this machine by default), with version, licence, purl and
the SHA-256 of the archive that crates.io has; no build script, macro or dependency of tests. The crates of
the workspace are the application. Needs cargo and Python 3.11. The same sources give the same bytes.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"


def linked(target):
    """Lines of `cargo tree`: how deep, name, version, licence. Unlike `cargo metadata` it knows which
    features this build has, and so leaves out what only those of tests would add."""
    command = ["cargo", "tree", "--locked", "--package", "playhouse", "--prefix", "depth"]
    command += ["--edges", "normal,no-proc-macro", "--format", " {p}\t{l}"]
    command += ["--target", target] if target else []
    tree = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if tree.returncode:
        sys.exit("error: `cargo tree` failed, so nothing is known of what is linked")
    for line in tree.stdout.splitlines():
        found = re.fullmatch(r"(\d+) (\S+) v(\S+)(?: \(.*\))?\t(.*?)(?: \(\*\))?", line)
        if not found:
            sys.exit(f"error: `cargo tree` says {line!r}, which is no package")
        depth, name, version, licence = found.groups()
        yield int(depth), (name, version), licence


def archives():
    """The SHA-256 of every package in Cargo.lock that comes from crates.io."""
    packages = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    strange = [package["name"] for package in packages if package.get("source", REGISTRY) != REGISTRY]
    if strange:
        sys.exit(f"error: {', '.join(strange)} in Cargo.lock: only crates.io is known here")
    return {(it["name"], it["version"]): it["checksum"] for it in packages if "checksum" in it}


def purl(package):
    """The address of a package of crates.io."""
    name, version = package
    return f"pkg:cargo/{name}@{version.replace('+', '%2B')}"


def component(package, licence, sha256):
    """A library in the words of CycloneDX."""
    name, version = package
    if not licence:
        sys.exit(f"error: {name} {version} names no licence in its Cargo.toml")
    return {
        "type": "library",
        "bom-ref": purl(package),
        "name": name,
        "version": version,
        "scope": "required",
        "hashes": [{"alg": "SHA-256", "content": sha256}],
        # Before there were expressions, alternatives had a slash between them.
        "licenses": [{"expression": licence.replace("/", " OR ")}],
        "purl": purl(package),
    }


def main():
    hashes = archives()
    licences, uses, above = {}, {}, []
    for depth, package, licence in linked(sys.argv[1] if len(sys.argv) > 1 else None):
        own = package not in hashes
        licences.setdefault(package, licence)
        # The crates of the workspace are all the application, which is what the tree begins with.
        reference = purl(package) if not own else "playhouse"
        uses.setdefault(reference, set())
        del above[depth:]
        if above and above[-1] != reference:
            uses[above[-1]].add(reference)
        above.append(reference)
    own = [package for package in licences if package not in hashes]
    name, version = own[0]
    libraries = sorted(package for package in licences if package in hashes)
    bill = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "playhouse",
                "name": name,
                "version": version,
                "licenses": [{"expression": licences[own[0]]}],
            }
        },
        "components": [component(it, licences[it], hashes[it]) for it in libraries],
        "dependencies": [{"ref": it, "dependsOn": sorted(uses[it])} for it in sorted(uses)],
    }
    json.dump(bill, sys.stdout, indent=2)
    print()


main()
