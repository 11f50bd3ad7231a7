use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::*;

const CHAT: &str = "/v1/chat/completions";

/// A server whose timeouts are short, but long enough for tests of slow clients.
fn impatient() -> Server {
    let short = Duration::from_millis(300);
    let configure = move |config: &mut playhouse_gateway::GatewayConfig| {
        (config.limits.header_timeout, config.limits.body_timeout) = (short, short);
    };
    Server::with(configure, mute)
}

/// Returns what the server sends before it closes a connection after `sent`, and how long that takes.
fn last_words(server: &Server, sent: &[u8]) -> (Vec<u8>, Duration) {
    // Its time runs from when it is connected, which may be before we hear of that.
    let start = Instant::now();
    let mut stream = server.connect();
    // It may be too late already.
    drop(stream.write_all(sent));
    let mut words = Vec::new();
    // A reset is as good as an end.
    drop(stream.read_to_end(&mut words));
    (words, start.elapsed())
}

/// What `act` gets out of an impatient server. It gets nothing when this thread was kept from asking
/// for as long as the server waits; then it acts again.
fn in_time<T>(act: impl Fn() -> Option<T>) -> T {
    let mut attempts = (0..10).filter_map(|_| act());
    attempts.next().expect("an answer before the connection ends")
}

#[test]
fn headers_that_do_not_come_are_408() {
    let server = impatient();
    let (words, taken) = last_words(&server, b"");
    assert_eq!(words, b"", "nothing was asked, so nothing is answered");
    assert!(taken >= Duration::from_millis(250), "{taken:?}");
    assert!(taken < Duration::from_secs(5), "{taken:?}");
    for sent in [&b"GET"[..], b"GET /livez HTTP/1.1\r\nhost: localhost\r\n"] {
        let answered = || Some(last_words(&server, sent)).filter(|(words, _)| !words.is_empty());
        let (words, taken) = in_time(answered);
        assert!(taken >= Duration::from_millis(250), "{taken:?}");
        assert!(taken < Duration::from_secs(5), "{taken:?}");
        let reply = Reply::read(&mut &words[..]).expect("an answer");
        assert_eq!(reply.error().0, 408);
        assert_eq!(reply.json()["error"]["code"], "headers_timeout");
        assert_eq!(reply.header("connection"), Some("close"));
    }
    let whole = b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let words = in_time(|| Some(last_words(&server, whole).0).filter(|words| !words.is_empty()));
    assert_eq!(Reply::read(&mut &words[..]).expect("an answer").status, 200);
}

#[test]
fn trickling_headers_do_not_extend_the_deadline() {
    let server = impatient();
    let trickle = || {
        let mut stream = server.connect();
        stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let start = Instant::now();
        loop {
            // One byte of a header every 50 ms, until the server has enough. It may have been closed
            // since we looked; then the answer is there.
            drop(stream.write_all(b"x"));
            let mut head = [0; 12];
            match stream.read(&mut head) {
                Ok(count) => break Some(head[..count].to_vec()).filter(|head| !head.is_empty()),
                Err(_) => assert!(start.elapsed() < Duration::from_secs(5), "still open"),
            }
        }
    };
    assert_eq!(in_time(trickle), b"HTTP/1.1 408");
}

#[test]
fn an_idle_connection_outlives_the_header_deadline_and_ends_at_its_own() {
    let server = Server::with(
        |config| {
            config.limits.header_timeout = Duration::from_millis(300);
            config.limits.idle_timeout = Duration::from_secs(3);
        },
        mute,
    );
    let ask = |stream: &TcpStream| {
        let asked = (&*stream).write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n");
        asked.and_then(|()| Reply::read(&mut BufReader::new(stream)))
    };
    let stream = in_time(|| Some(server.connect()).filter(|stream| ask(stream).is_ok()));
    let idle = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(900))).expect("a timeout");
    assert!((&stream).read(&mut [0]).is_err(), "open and silent after three header deadlines");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert_eq!(ask(&stream).expect("answered").status, 200);
    assert_eq!((&stream).read(&mut [0]).expect("closed by the server"), 0);
    assert!(idle.elapsed() >= Duration::from_millis(3800), "{:?}", idle.elapsed());
}

#[test]
fn a_body_that_does_not_come_is_408() {
    let server =
        Server::with(|config| config.limits.body_timeout = Duration::from_millis(300), mute);
    let mut request = post(CHAT, &[b' '; 100]);
    request.truncate(request.len() - 50);
    let reply = server.raw(&request);
    assert_eq!(reply.error().0, 408);
    assert_eq!(reply.header("connection"), Some("close"));
    let chunked = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1\r\n"
    );
    assert_eq!(server.raw(chunked.as_bytes()).error().0, 408);
}

#[test]
fn a_body_that_is_too_large_is_413() {
    let server = Server::with(|config| config.limits.body_bytes = 1000, mute);
    assert_eq!(server.post_bytes(CHAT, &[b' '; 1001]).error().0, 413);
    assert_eq!(server.post_bytes(CHAT, &[b' '; 1000]).error().0, 400);
    // Announced, and not worth waiting for.
    let head =
        format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999\r\n\r\n");
    assert_eq!(server.raw(head.as_bytes()).error().0, 413);
    // No length, no end.
    let mut stream = server.connect();
    let head =
        format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("open");
    let chunk = [&b"200\r\n"[..], &[b' '; 0x200], b"\r\n"].concat();
    for _ in 0..8 {
        stream.write_all(&chunk).expect("open");
    }
    assert_eq!(Reply::read(&mut BufReader::new(stream)).expect("answered").error().0, 413);
}

/// Bodies that are being read have a bound together: one that finds no room waits for it.
#[test]
fn bodies_share_their_room() {
    let server = Server::with(
        |config| (config.limits.body_bytes, config.limits.bodies_bytes) = (256 << 10, 256 << 10),
        mute,
    );
    let length = 250 << 10;
    let head =
        format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
    let (first, last) = (vec![b' '; length - 1], [b' ']);
    let begin = || {
        let mut stream = server.connect();
        stream.write_all(head.as_bytes()).expect("open");
        stream.write_all(&first).expect("open");
        stream
    };
    let mut held = begin();
    let mut waits = begin();
    waits.write_all(&last).expect("open");
    waits.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket");
    let mut reader = BufReader::new(waits);
    let mut line = String::new();
    reader.read_line(&mut line).expect_err("there is room for one of them");
    held.write_all(&last).expect("open");
    assert_eq!(Reply::read(&mut BufReader::new(held)).expect("answered").error().0, 400);
    reader.get_ref().set_read_timeout(Some(PATIENCE)).expect("a socket");
    assert_eq!(Reply::read(&mut reader).expect("answered").error().0, 400);
}

#[test]
fn requests_hyper_cannot_parse_are_answered_in_the_same_shape() {
    let server = Server::start(mute);
    let large = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(300 << 10));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(66_000));
    for (request, statuses) in [
        (&b"nonsense\r\n\r\n"[..], &[400][..]),
        (b"GET / HTTP/9.9\r\n\r\n", &[400]),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", &[400]),
        (many.as_bytes(), &[431]),
        (large.as_bytes(), &[431]),
        (long.as_bytes(), &[414, 431]),
    ] {
        let mut stream = server.connect();
        // The server may have enough before it has everything.
        drop(stream.write_all(request));
        let reply = Reply::read(&mut BufReader::new(stream));
        // Unread bytes may reset the connection before the answer is seen; small ones cannot.
        match reply {
            Ok(reply) => assert!(statuses.contains(&reply.error().0), "{reply:?}"),
            Err(error) => assert!(request.len() > 64 << 10, "{error}"),
        }
    }
}

#[test]
fn a_client_that_leaves_cancels_its_generations() {
    let server = Server::start(mute);
    for more in
        [json!({}), json!({"stream": true}), json!({"n": 3}), json!({"n": 3, "stream": true})]
    {
        let body = with(hello(), more.clone()).to_string();
        let mut stream = server.connect();
        stream.write_all(&post(CHAT, body.as_bytes())).expect("open");
        let n = more["n"].as_u64().unwrap_or(1) as u32;
        until("the generations run", || server.door.in_flight() == n);
        stream.shutdown(Shutdown::Both).expect("open");
        drop(stream);
        until("the generations are cancelled", || server.door.in_flight() == 0);
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_stream_cancels_it() {
    let server = Server::start(|request, emissions| {
        let speech = speech(&request, &tokens_of(&"a".repeat(200)));
        tokio::spawn(async move {
            // One token, then silence until the client is gone.
            drop(emissions.send(speech[0].clone()));
            emissions.closed().await;
        });
    });
    let body = with(hello(), json!({"stream": true})).to_string();
    let mut stream = server.connect();
    stream.write_all(&post(CHAT, body.as_bytes())).expect("open");
    let mut some = [0; 64];
    stream.read_exact(&mut some).expect("the stream begins");
    assert_eq!(server.door.in_flight(), 1);
    drop(stream);
    until("the generation is cancelled", || server.door.in_flight() == 0);
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains("finished_reason=\"abort\"} 1"), "{metrics}");
}

#[test]
fn a_client_that_does_not_read_is_dropped() {
    let server = Server::with(
        |config| {
            // It is looked at once in a header deadline.
            config.limits.header_timeout = Duration::from_millis(300);
            config.limits.write_timeout = Duration::from_millis(400);
        },
        |request, emissions| {
            let forever = speech(&request, &tokens_of("a")).swap_remove(0);
            tokio::spawn(async move {
                // Faster than any buffer of the kernel, until the client is gone.
                while emissions.send(forever.clone()).is_ok() {
                    tokio::task::yield_now().await;
                }
            });
        },
    );
    let body = with(hello(), json!({"stream": true})).to_string();
    let request = post(CHAT, body.as_bytes());
    // Whether it began is known by its beginning; whether it runs may be asked too late.
    let stream = in_time(|| {
        let mut stream = server.connect();
        let begun = stream.write_all(&request).and_then(|()| stream.read_exact(&mut [0; 12]));
        begun.is_ok().then_some(stream)
    });
    until("the generation is cancelled", || server.door.in_flight() == 0);
    drop(stream);
}

#[test]
fn silence_is_broken_by_comments() {
    let server =
        Server::with(|config| config.limits.ping_interval = Duration::from_millis(50), mute);
    let body = with(hello(), json!({"stream": true})).to_string();
    let mut stream = server.connect();
    stream.write_all(&post(CHAT, body.as_bytes())).expect("open");
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).expect("headers");
    }
    for _ in 0..3 {
        let chunk = read_chunk(&mut reader).expect("open").expect("a chunk");
        assert_eq!(chunk, b": ping\n\n");
    }
}

#[test]
fn connections_beyond_the_cap_wait_for_their_turn() {
    let one = std::num::NonZeroUsize::new(1).expect("not zero");
    let server = Server::with(move |config| config.limits.connections = one, mute);
    let holder = server.connect();
    let mut waiting = server.connect();
    waiting
        .write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .expect("queued by the kernel");
    waiting.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    assert!(waiting.read(&mut [0]).is_err(), "not yet");
    drop(holder);
    waiting.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    assert_eq!(Reply::read(&mut BufReader::new(waiting)).expect("answered").status, 200);
}
