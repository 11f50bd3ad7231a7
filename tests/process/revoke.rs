//! A node that is no longer trusted.

use serde_json::json;

use crate::cluster::{Head, Process, post, wait_until};
use crate::load::under_load;
use crate::server::Server;

#[test]
fn a_revoked_node_is_cut_off_and_comes_back_with_a_new_token_only() {
    let request = json!({
        "prompt": "Tell me about the sea", "max_tokens": 200, "ignore_eos": true,
        "temperature": 0.8, "seed": 1, "return_token_ids": true,
    });
    let layout = ["-pp", "2"];
    let expected = Server::start(&layout).post("/v1/completions", &request).json();
    let mut head = Head::start(None, "127.0.0.1", &layout);
    let evil = head.node(None, "evil", Some(&head.token()));
    let api = head.api();
    let _good = head.node(None, "good", Some(&head.token()));
    wait_until("the spare node is there", || {
        head.status()["nodes"].as_array().is_some_and(|nodes| nodes.len() == 2)
    });

    let tokens = |reply: &serde_json::Value| reply["choices"][0]["token_ids"].clone();
    // The other node goes on behind the last token.
    under_load(
        &[tokens(&expected)],
        |_| tokens(&post(&api, &request)),
        || {
            wait_until("tokens come", || {
                head.status()["replicas"][0]["generated_tokens"].as_u64() > Some(10)
            });
            let said = head.ask(&["revoke", "node", "evil"]);
            let cut = "revoked the certificate of node evil: it was connected and has been cut off";
            assert_eq!(said, cut);
            let nodes = head.status()["nodes"].clone();
            assert!(!nodes.to_string().contains("evil"), "{nodes}");
            wait_until("its ranks are on the other node", || {
                let replica = &head.status()["replicas"][0];
                let node = &replica["stages"][0]["shards"][0]["whereabouts"]["node"];
                replica["state"] == "serving" && node == "good"
            });
        },
    );

    // The agent looks for the head again, and is told; so is one that is started anew.
    for evil in [evil, head.node(None, "evil", None)] {
        let (status, said) = evil.end();
        assert!(!status.success() && said.contains("was revoked"), "{said}");
    }
    let again = head.ask(&["revoke", "node", "evil"]);
    assert!(again.ends_with("it was not connected"), "{again}");
    // The name is nobody's.
    let (token, dir) = (head.token(), head.folder().join("renewed"));
    let dir = dir.to_str().expect("plain");
    let words = ["node", "--join", &head.join, "--name", "evil", "--dir", dir];
    let _renewed = Process::start(None, &[&words[..], &["--token", &token]].concat());
    wait_until("it is back with a new certificate", || {
        head.status()["nodes"].to_string().contains("evil")
    });

    // A head that was started anew remembers.
    head.process.kill();
    let authority = head.folder().join("authority");
    let authority = authority.to_str().expect("plain");
    let words = ["serve", "--port", "0", "--admin-port", "0", "--cluster-listen", &head.join];
    let words = [&words[..], &["--cluster-dir", authority], &layout].concat();
    let mut next = Process::start(None, &words);
    next.after("nodes that join at ");
    let (status, said) = head.node(None, "evil", None).end();
    assert!(!status.success() && said.contains("was revoked"), "{said}");
}
