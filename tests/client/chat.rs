use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::json;
use tokio::sync::Notify;

use crate::ports::port;
use crate::server::{Received, Reply, Server, chat_event};
use crate::{Finished, playhouse, run};

/// Runs `playhouse chat` with `input` on a pipe.
fn chat(server: &Server, args: &[&str], input: &str) -> Finished {
    let url = server.url();
    let mut child = playhouse(&[&["chat", "--url", &url], args].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("the child reads");
    drop(stdin);
    child.wait_with_output().expect("the child ends").into()
}

/// Answers with the number of messages in the request.
fn counting(request: &Received) -> Reply {
    let count = request.body["messages"].as_array().expect("messages").len();
    Reply::chat(&["got ", &count.to_string()])
}

fn messages(request: &Received) -> Vec<(&str, &str)> {
    let messages = request.body["messages"].as_array().expect("messages");
    messages
        .iter()
        .map(|message| {
            let part = |key: &str| message[key].as_str().expect("a string");
            (part("role"), part("content"))
        })
        .collect()
}

/// CH-1
#[test]
fn a_piped_conversation_prints_answers_only() {
    let server = Server::start(|request| counting(&request));
    let finished = chat(&server, &["--system", "Be brief."], "first\n\nsecond\n");
    assert_eq!((finished.code, finished.stdout.as_str()), (0, "got 2\ngot 4\n"));
    let lines: Vec<&str> = finished.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in lines {
        assert!(line.starts_with("2 tokens, ") && line.ends_with(" ms"), "{line}");
        assert!(line.contains(", first token "), "{line}");
    }
    let requests = server.requests();
    assert_eq!(
        messages(&requests[1]),
        [("system", "Be brief."), ("user", "first"), ("assistant", "got 2"), ("user", "second")]
    );
    assert_eq!(requests[0].body["model"], "demo");
}

#[test]
fn a_quick_question_is_one_answer() {
    let server = Server::start(|_| {
        Reply::crumbs({
            let opening = json!({"choices": [{"delta": {"role": "assistant", "content": ""}}]});
            let tokens = [chat_event("Par"), chat_event("is \u{1f5fc}\n")].concat();
            format!("data: {opening}\r\n\r\n: ping\n\n{tokens}data: [DONE]\n\n")
        })
    });
    let url = server.url();
    let sampling = ["--temperature", "0.5", "--top-p", "0.9", "--max-tokens", "7", "--seed", "3"];
    let question = ["--quick", "Capital of France?", "--model", "m", "--api-key", "k"];
    let finished = run(&[&["chat", "--url", &url][..], &sampling, &question].concat());
    assert_eq!((finished.code, finished.stdout.as_str()), (0, "Paris \u{1f5fc}\n"));
    assert!(finished.stderr.starts_with("2 tokens, "), "counted by events: {}", finished.stderr);
    let request = &server.requests()[0];
    assert_eq!(request.authorization.as_deref(), Some("Bearer k"));
    assert_eq!(
        request.body,
        json!({
            "model": "m", "messages": [{"role": "user", "content": "Capital of France?"}],
            "temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "seed": 3,
            "stream": true, "stream_options": {"include_usage": true},
        })
    );
}

#[test]
fn commands_change_the_conversation() {
    let server = Server::start(|request| counting(&request));
    let input =
        "one\n/reset\ntwo\n/system You are a pirate.\nthree\n/system\nfour\n/stats\n/quit\nfive\n";
    let finished = chat(&server, &[], input);
    assert_eq!((finished.code, finished.stdout.as_str()), (0, "got 1\ngot 1\ngot 4\ngot 5\n"));
    assert!(finished.stderr.contains("answers: 4, 8 tokens, "), "{}", finished.stderr);
    let requests = server.requests();
    assert_eq!(requests.len(), 4, "/quit leaves");
    assert_eq!(messages(&requests[2])[0], ("system", "You are a pirate."));
    assert_eq!(messages(&requests[3])[0], ("user", "two"));
}

/// CH-3
#[test]
fn off_a_terminal_an_error_ends_the_program() {
    let server = Server::start(|_| {
        Reply::Whole(
            400,
            json!({"error": {"message": "the prompt has 9000 tokens, at most 4096 fit"}}),
        )
    });
    let refused = chat(&server, &[], "hello\nagain\n");
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    let expected = "error: 400 Bad Request: the prompt has 9000 tokens, at most 4096 fit\n";
    assert_eq!(refused.stderr, expected);
    assert_eq!(server.requests().len(), 1);

    let unknown = chat(&server, &[], "/sytem x\n");
    assert_eq!(unknown.code, 1);
    assert!(unknown.stderr.starts_with("error: there is no command /sytem\nhint: /help"));
}

#[test]
fn an_answer_that_breaks_off_is_an_error_after_its_beginning() {
    let server = Server::start(|_| {
        Reply::stream(|answer| async move {
            answer.send(chat_event("half an").as_bytes()).await;
            answer.send(b"data: {\"error\":{\"message\":\"the engine died\"}}\n\n").await;
        })
    });
    let finished = chat(&server, &[], "hello\n");
    assert_eq!((finished.code, finished.stdout.as_str()), (1, "half an\n"));
    assert_eq!(finished.stderr, "error: the server broke off: the engine died\n");
}

/// CH-2
#[test]
fn an_interrupt_ends_the_answer_and_nothing_else() {
    let abandoned = Arc::new(Notify::new());
    let noticed = Arc::clone(&abandoned);
    let server = Server::start(move |request| {
        let abandoned = Arc::clone(&noticed);
        if request.number > 0 {
            return counting(&request);
        }
        Reply::stream(|answer| async move {
            answer.send(chat_event("endless\n").as_bytes()).await;
            answer.abandoned().await;
            abandoned.notify_one();
        })
    });
    let url = server.url();
    let mut child = playhouse(&["chat", "--url", &url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();

    stdin.write_all(b"hello\n").expect("the child reads");
    stdout.read_line(&mut line).expect("the child writes");
    assert_eq!(line, "endless\n");
    interrupt(child.id());
    server.wait(abandoned.notified());

    stdin.write_all(b"again\n").expect("the child lives");
    drop(stdin);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("the child writes");
    assert_eq!(rest, "got 3\n", "what was said stays part of the conversation");
    let finished: Finished = child.wait_with_output().expect("the child ends").into();
    assert_eq!(finished.code, 0);
    assert!(finished.stderr.contains("ms, cancelled\n"), "{}", finished.stderr);
}

fn interrupt(process: u32) {
    let kill = Command::new("sh").args(["-c", &format!("kill -INT {process}")]).status();
    assert!(kill.expect("sh runs").success());
}

#[test]
fn nobody_at_the_address_is_told_with_a_hint() {
    let address = format!("127.0.0.1:{}", port());
    let refused = run(&["chat", "--url", &address, "--quick", "hello"]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.starts_with(&format!("error: cannot connect to {address}: ")));
    assert!(refused.stderr.contains("hint: is a server running there? `playhouse serve`"));
}

#[test]
fn an_unusable_address_is_a_usage_error() {
    let refused = run(&["chat", "--url", "ftp://api.example.com", "--quick", "hello"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("only http:// and https://"), "{}", refused.stderr);
}
