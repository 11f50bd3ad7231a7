//! TLS at the doors for clients and operators, and a certificate that changes while it serves.

use std::fs;
use std::process::Command;

use crate::cluster::{ADMIN_TOKEN, Folder, Head, Process, get, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_playhouse");

/// A new key and a certificate of its own for this machine, as PEM files.
pub(crate) fn certify(certificate: &str, key: &str) {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("randomness");
    fs::write(certificate, made.cert.pem()).expect("written");
    fs::write(key, made.signing_key.serialize_pem()).expect("written");
}

/// What a client command that trusts a file of certificates says, and whether it was content.
fn trusting(trusted: &str, words: &[&str]) -> (bool, String) {
    let client = Command::new(BINARY).args(words).env("SSL_CERT_FILE", trusted).output();
    let client = client.expect("the binary starts");
    let said = [client.stdout, client.stderr].concat();
    (client.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn both_apis_speak_tls_with_a_certificate_that_is_read_anew() {
    let folder = Folder::new();
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    certify(&certificate, &key);
    let ports = ["serve", "--port", "0", "--admin-port", "0", "--admin-host", "0.0.0.0"];
    let files = ["--ssl-certfile", &certificate, "--ssl-keyfile", &key];
    let mut server = Process::start(None, &[&ports[..], &files].concat());
    let api = server.after("API       https://");
    let api = api.split('/').next().expect("an address").to_owned();
    let admin = server.after("admin     https://0.0.0.0:");
    let admin = format!("https://127.0.0.1:{}", admin.split('/').next().expect("a port"));

    let url = format!("https://{api}");
    let ask = ["chat", "--url", &url, "--quick", "What is the capital of France?"];
    let token = ["--admin-token", ADMIN_TOKEN];
    let status = [&["status", "--admin", &admin][..], &token].concat();
    let (good, said) = trusting(&certificate, &ask);
    assert!(good && said.contains("Paris"), "{said}");
    let (good, said) = trusting(&certificate, &status);
    assert!(good && said.contains("replica 0"), "{said}");

    // The health check of the image knows neither flags nor names (**D-4**).
    let port = api.rsplit(':').next().expect("a port");
    let (good, said) = trusting("/dev/null", &["doctor", "--health", "--port", port]);
    assert!(good && said.contains("requests are taken"), "{said}");

    // Whoever is not trusted gets no request, and plain HTTP no answer.
    let (other, other_key) = (folder.join("other.pem"), folder.join("other-key.pem"));
    certify(&other, &other_key);
    let (good, said) = trusting(&other, &status);
    assert!(!good && said.contains("certificate"), "{said}");
    assert!(!get(&api, "/v1/models", "").starts_with("HTTP/1.1 200"));

    let hang_up = || {
        let pid = server.pid().to_string();
        assert!(Command::new("kill").args(["-s", "HUP", &pid]).status().expect("kill").success());
    };
    // Half of a change, as a signal between two writes sees it.
    fs::copy(&other, &certificate).expect("copied");
    hang_up();
    let said = server.complains("the TLS certificate stays as it was");
    assert!(said.contains("--ssl-keyfile"), "{said}");
    fs::copy(&other_key, &key).expect("copied");
    let pid = server.pid().to_string();
    assert!(Command::new("kill").args(["-s", "HUP", &pid]).status().expect("kill").success());
    wait_until("the new certificate is shown", || trusting(&other, &status).0);
    let (good, said) = trusting(&other, &ask);
    assert!(good && said.contains("Paris"), "{said}");
}

#[test]
fn without_a_certificate_of_its_own_a_head_shows_operators_one_of_its_authority() {
    let mut head = Head::start(None, "127.0.0.1", &["-tp", "2", "--admin-host", "0.0.0.0"]);
    assert!(head.admin.starts_with("https://0.0.0.0:"), "{}", head.admin);
    let _node = head.node(None, "a", Some(&head.token()));
    head.api();
    assert_eq!(head.status()["replicas"][0]["state"], "serving");

    // By any name of the machine, because a head may have many.
    let port = head.admin.rsplit(':').next().expect("a port");
    let (by_name, by_address) = (format!("https://localhost:{port}"), format!("127.0.0.1:{port}"));
    let authority = head.authority();
    let (plain, other) = (format!("http://{by_address}"), head.folder().join("other"));
    let other = other.to_str().expect("plain");
    assert!(trusting("/dev/null", &["cluster", "init", "--dir", other]).0);
    let [stranger, key] = ["stranger.pem", "key.pem"].map(|file| head.folder().join(file));
    let [stranger, key] = [&stranger, &key].map(|file| file.to_str().expect("plain"));
    certify(stranger, key);
    let ask = |url: &str, more: &[&str]| {
        let words = ["status", "--admin-token", ADMIN_TOKEN, "--admin", url];
        trusting(stranger, &[&words[..], more].concat())
    };
    let (good, said) = ask(&by_name, &["--admin-ca", &authority]);
    assert!(good && said.contains("replica 0"), "{said}");
    let mut lines = include_str!("../../docs/security.md").lines();
    let command = lines.find(|line| line.contains("--admin-ca authority.der")).expect("a command");
    let token = head.folder().join("token-of-operators");
    fs::write(&token, ADMIN_TOKEN).expect("written");
    let command = command
        .replace("https://head.example:8001", &by_name)
        .replace("authority.der", &authority)
        .replace("-file admin-token", &format!("-file {}", token.display()));
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    let (good, said) = trusting("/dev/null", &words);
    assert!(good && said.contains("replica 0"), "{said}");
    let other = format!("{other}/authority.der");
    for (url, more, why) in [
        (&by_name, &[][..], "invalid peer certificate"),
        (&by_name, &["--admin-ca", &other], "invalid peer certificate"),
        (&plain, &["--admin-ca", &authority], "plain HTTP proves nobody"),
        (&by_name, &["--admin-ca", "/dev/null"], "--admin-ca /dev/null: "),
    ] {
        let (good, said) = ask(url, more);
        assert!(!good && said.contains(why) && said.contains("hint: "), "{said}");
    }
    assert!(!get(&by_address, "/admin/v1/livez", "").starts_with("HTTP/1.1 200"));
}
