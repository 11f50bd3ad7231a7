//! **ACC-2**, **ACC-3**, **H2-5**: how a listener ends, over HTTP/2; **SOC-4**: how a client leaves.

use playhouse_listener::{Limits, Phase};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;

#[tokio::test]
async fn a_stream_that_runs_ends_and_no_other_begins() {
    let routes = TestRoutes::new();
    let server = routes.listen(limits(), None).await;
    let address = server.address;
    let (mut sender, driver) = http2(server.connect().await).await;
    let running = ask(&mut sender, "/quiet").await.expect("it begins");
    let phases = server.phases.clone();
    let stopping = server.stop();
    soon(phases.reached(Phase::Draining)).await;
    told_to_leave(&mut sender).await;
    assert!(!phases.is(Phase::Closing), "it accepts while something runs");
    // Who could not know is answered.
    let (mut late, late_driver) = http2(TcpStream::connect(address).await.expect("open")).await;
    assert_eq!(ask(&mut late, "/").await.expect("answered").status(), 200);
    soon(late_driver).await.expect("no panic").expect("told to leave");
    routes.release.send_replace(true);
    assert_eq!(text(running).await.expect("whole"), "early late");
    soon(driver).await.expect("no panic").expect("a proper end");
    assert_eq!(stopping.await.expect("no panic"), (true, 0));
    assert!(TcpStream::connect(address).await.is_err(), "the listener is closed");
}

#[tokio::test]
async fn connections_that_wait_for_nothing_do_not_keep_it() {
    let server = TestRoutes::new().listen(limits(), None).await;
    let silent = server.connect().await;
    let (mut idle, idle_driver) = http2(server.connect().await).await;
    assert_eq!(ask(&mut idle, "/").await.expect("answered").status(), 200);
    let (_fresh, fresh_driver) = http2(server.connect().await).await;
    assert_eq!(server.stop().await.expect("no panic"), (true, 0));
    for driver in [idle_driver, fresh_driver] {
        soon(driver).await.expect("no panic").expect("told to leave");
    }
    drop(silent);
}

#[tokio::test]
async fn what_is_not_read_at_the_end_is_cut_off_and_counted() {
    let routes = TestRoutes::new();
    let server = routes.listen(limits(), None).await;
    let (mut sender, _driver) = http2(server.connect().await).await;
    let unread = ask(&mut sender, "/endless").await.expect("it begins");
    routes.runs(1).await;
    assert_eq!(server.stop().await.expect("no panic"), (false, 1));
    assert_eq!(routes.running(), 0);
    assert!(text(unread).await.is_err());
}

/// **H2-4**: the answer is given to its stream whole, and the client has room for one byte of it.
#[tokio::test]
async fn an_answer_that_its_stream_still_holds_at_the_end_is_cut_off_and_counted() {
    let server = TestRoutes::new().listen(limits(), None).await;
    let (mut sender, _driver) = http2_with_window(server.connect().await, Some(1)).await;
    let unread = ask(&mut sender, "/").await.expect("it begins");
    assert_eq!(server.stop().await.expect("no panic"), (false, 1));
    assert!(text(unread).await.is_err());
}

/// **ACC-2**
#[tokio::test]
async fn strangers_give_way_when_they_are_to() {
    let bounds = Limits { connections: 2, strangers_give_way: true, ..limits() };
    let server = TestRoutes::new().listen(bounds, None).await;
    let mut connected = Vec::new();
    for _ in 0..4 {
        let (mut sender, driver) = http2(server.connect().await).await;
        assert_eq!(soon(ask(&mut sender, "/")).await.expect("answered").status(), 200);
        connected.push((sender, driver));
    }
    for (_, driver) in connected.drain(..2) {
        drop(soon(driver).await.expect("no panic"));
    }
    for (sender, _) in &mut connected {
        assert_eq!(ask(sender, "/").await.expect("it was the latest").status(), 200);
    }
}

/// **SOC-4**: hyper has bytes of its own to look at, and does not look for the end behind them.
#[tokio::test]
async fn a_client_that_leaves_after_more_than_its_request_is_noticed() {
    let request = "GET /held HTTP/1.1\r\nhost: routes\r\n\r\n";
    let body = "GET /held HTTP/1.1\r\nhost: routes\r\ncontent-length: 2\r\n\r\n{}";
    let long = format!("{request}{}", "x".repeat(10 << 10));
    for sent in [
        vec![request],
        vec![request, "\r\n"],
        vec![body, "\r\n"],
        vec![request, request],
        vec![request, "\r\n", "\r\n", "GET"],
        vec![&long],
    ] {
        let routes = TestRoutes::new();
        let (mut client, served) = routes.attend(limits());
        for piece in &sent {
            client.write_all(piece.as_bytes()).await.expect("it reads");
            routes.runs(1).await;
        }
        drop(client);
        soon(served).await.expect("no panic");
        assert_eq!(routes.running(), 0, "{sent:?}");
    }
}

/// **SOC-4**: what was read ahead is not lost.
#[tokio::test]
async fn requests_that_come_ahead_are_answered_in_their_turn() {
    let routes = TestRoutes::new();
    let (mut client, _served) = routes.attend(limits());
    let first = "GET /held HTTP/1.1\r\nhost: routes\r\n\r\n";
    client.write_all(first.as_bytes()).await.expect("it reads");
    routes.runs(1).await;
    // In pieces, of which hyper reads the first one.
    let rest =
        "\r\nGET / HTTP/1.1\r\nhost: routes\r\n\r\nGET / HTTP/1.1\r\nconnection: close\r\n\r\n";
    for piece in rest.as_bytes().chunks(7) {
        client.write_all(piece).await.expect("it reads");
        tokio::task::yield_now().await;
    }
    routes.release.send_replace(true);
    let mut answers = String::new();
    soon(client.read_to_string(&mut answers)).await.expect("UTF-8");
    let bodies = ["late", "hello", "hello"].map(|body| answers.matches(body).count());
    assert_eq!(bodies, [1, 2, 2], "{answers}");
}
