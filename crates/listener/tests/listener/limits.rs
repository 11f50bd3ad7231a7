//! The bounds on a client: **H2-1** to **H2-4**, and **SOC** over HTTP/2.

use std::time::Duration;

use http_body_util::BodyExt;
use playhouse_listener::{End, Limits, Stay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use crate::frames::{self, DATA, GOAWAY, PING, frame, get, hello, hello_with_window, next_of};
use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

/// **H2-1**
#[tokio::test]
async fn no_more_streams_run_than_may() {
    let routes = TestRoutes::new();
    let (client, _served) = routes.attend(Limits { streams: 2, ..limits() });
    let (mut sender, _driver) = http2(client).await;
    assert_eq!(ask(&mut sender, "/").await.expect("answered").status(), 200);
    let mut asked: Vec<_> = (0..3)
        .map(|_| {
            let mut sender = sender.clone();
            tokio::spawn(async move { text(ask(&mut sender, "/held").await?).await })
        })
        .collect();
    routes.runs(2).await;
    routes.release.send_replace(true);
    for asked in asked.drain(..) {
        assert_eq!(soon(asked).await.expect("no panic").expect("answered"), "late");
    }
}

/// **H2-1**: a head that hyper's client sends, as it has been told a larger size.
#[tokio::test]
async fn a_head_that_is_too_large_is_refused_and_the_connection_goes_on() {
    let (client, _served) = TestRoutes::new().attend(limits());
    let (mut sender, _driver) = http2(client).await;
    let long = format!("/{}", "a".repeat(17 << 10));
    for (kibibytes, path, status) in
        [(15, "/", 200), (17, "/", 431), (40, "/", 431), (0, &long, 431)]
    {
        let mut large = request(path);
        for part in 0..kibibytes {
            let name = hyper::header::HeaderName::try_from(format!("x-{part}")).expect("a name");
            large.headers_mut().insert(name, "a".repeat(980).parse().expect("a value"));
        }
        sender.ready().await.expect("open");
        let answer = soon(sender.send_request(large)).await.expect("answered");
        assert_eq!(answer.status(), status, "{kibibytes} KiB");
        if status == 431 {
            assert_eq!(answer.headers()["content-type"], "application/json");
            assert_eq!(text(answer).await.expect("whole"), "headers_too_large");
        }
    }
    assert_eq!(ask(&mut sender, "/").await.expect("answered").status(), 200);
}

/// **H2-2**
#[tokio::test]
async fn a_stream_that_is_reset_ends_its_request_only() {
    let routes = TestRoutes::new();
    let (client, served) = routes.attend(limits());
    let (sender, driver) = http2(client).await;
    for path in ["/held", "/quiet", "/endless"] {
        let mut asked = sender.clone();
        let asked = tokio::spawn(async move {
            let mut answer = ask(&mut asked, path).await.expect("answered");
            drop(answer.frame().await.expect("a frame"));
            never().await;
        });
        routes.runs(1).await;
        asked.abort();
        routes.runs(0).await;
        assert!(!served.is_finished());
    }
    assert_eq!(ask(&mut sender.clone(), "/").await.expect("answered").status(), 200);
    drop(sender);
    soon(driver).await.expect("no panic").expect("a proper end");
    assert_eq!(soon(served).await.expect("no panic"), End::Closed);
}

/// **H2-2**
#[tokio::test]
async fn a_connection_that_ends_takes_all_of_its_requests_with_it() {
    let routes = TestRoutes::new();
    let (mut client, served) = routes.attend(limits());
    let asked = [hello(), get(1, "/held"), get(3, "/quiet"), get(5, "/endless")].concat();
    client.write_all(&asked).await.expect("it reads");
    routes.runs(3).await;
    drop(client);
    soon(served).await.expect("no panic");
    assert_eq!(routes.running(), 0, "none outlives its connection");
}

/// **H2-3**: a client whose machine is gone.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_pings_is_dropped() {
    let bounds = Limits { ping_interval: SECOND, ping_timeout: 2 * SECOND, ..limits() };
    for sent in [hello().len(), usize::MAX] {
        let start = Instant::now();
        let (mut client, served) = TestRoutes::new().attend(bounds.clone());
        frames::begin(&mut client, sent).await;
        next_of(&mut client, PING).await;
        assert_eq!(start.elapsed().as_secs(), 1);
        drop(client.read_to_end(&mut Vec::new()).await);
        served.await.expect("no panic");
        assert_eq!(start.elapsed().as_secs(), 3, "{sent}");
    }
}

/// **H2-3**: a client that answers.
#[tokio::test(start_paused = true)]
async fn a_client_that_answers_pings_may_wait_for_long() {
    let routes = TestRoutes::new();
    let bounds = Limits { ping_interval: SECOND, ping_timeout: 2 * SECOND, ..limits() };
    let (client, _served) = routes.attend(bounds);
    let (mut sender, _driver) = http2(client).await;
    let asked = tokio::spawn(async move { text(ask(&mut sender, "/held").await?).await });
    routes.runs(1).await;
    sleep(100 * SECOND).await;
    routes.release.send_replace(true);
    assert_eq!(asked.await.expect("no panic").expect("answered"), "late");
}

/// **H2-4**: a stream whose client opens no window for it, beside a stream that runs.
#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_read_is_reset_and_others_go_on() {
    let routes = TestRoutes::new();
    let (client, _served) = routes.attend(Limits { write_timeout: 5 * SECOND, ..limits() });
    let (mut sender, _driver) = http2(client).await;
    let unread = ask(&mut sender, "/endless").await.expect("answered");
    let mut other = sender.clone();
    let other = tokio::spawn(async move { text(ask(&mut other, "/quiet").await?).await });
    routes.runs(2).await;
    let start = Instant::now();
    routes.runs(1).await;
    assert!((5..=10).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert!(text(unread).await.is_err(), "it has no end");
    routes.release.send_replace(true);
    assert_eq!(other.await.expect("no panic").expect("answered"), "early late");
}

/// **H2-4**: a client that has room for one byte of each answer, or for none, and never for more. The last piece
/// of an answer is no exception, nor is the only one.
#[tokio::test(start_paused = true)]
async fn a_stream_whose_window_stays_too_small_is_reset_in_time() {
    for window in [0, 1, 8] {
        let routes = TestRoutes::new();
        // "early late" is given whole, and then the body has ended.
        routes.release.send_replace(true);
        let (client, served) = routes.attend(Limits { write_timeout: 5 * SECOND, ..limits() });
        let (mut sender, driver) = http2_with_window(client, Some(window)).await;
        let quiet = ask(&mut sender, "/quiet").await.expect("answered");
        let endless = ask(&mut sender, "/endless").await.expect("answered");
        let whole = ask(&mut sender, "/long").await.expect("answered");
        let start = Instant::now();
        routes.runs(0).await;
        assert!(start.elapsed() <= 5 * SECOND + SECOND / 10, "{:?}", start.elapsed());
        sleep(SECOND).await;
        for unread in [quiet, endless, whole] {
            assert!(text(unread).await.is_err(), "a window of {window}");
        }
        drop(sender);
        driver.await.expect("no panic").expect("a proper end");
        served.await.expect("no panic");
    }
}

/// **H2-4**: an answer that fills the window exactly is sent whole, and its stream ends.
#[tokio::test]
async fn a_stream_whose_window_is_as_large_as_its_answer_ends() {
    let (mut client, _served) = TestRoutes::new().attend(limits());
    let window = u32::try_from("hello".len()).expect("a short answer");
    client.write_all(&hello_with_window(window)).await.expect("it reads");
    client.write_all(&get(1, "/")).await.expect("it reads");
    let mut said: Vec<u8> = Vec::new();
    loop {
        let frame = next_of(&mut client, DATA).await;
        said.extend(&frame.payload);
        if frame.ends_stream() {
            break;
        }
    }
    assert_eq!(said, b"hello");
}

/// **H2-4**: a client that is slow, but not too slow.
#[tokio::test(start_paused = true)]
async fn a_stream_that_is_read_slowly_goes_on() {
    let routes = TestRoutes::new();
    let (client, _served) = routes.attend(Limits { write_timeout: 5 * SECOND, ..limits() });
    let (mut sender, _driver) = http2(client).await;
    let mut slow = ask(&mut sender, "/endless").await.expect("answered").into_body();
    let mut read = 0;
    // Every window of it lasts longer than a client may do nothing.
    while read < 32 << 20 {
        read += slow
            .frame()
            .await
            .expect("it goes on")
            .expect("open")
            .into_data()
            .map_or(0, |d| d.len());
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(routes.running(), 1);
}

/// **SOC-2**
#[tokio::test(start_paused = true)]
async fn a_connection_that_is_idle_is_to_be_left() {
    let bounds = Limits { idle_timeout: 30 * SECOND, header_timeout: 5 * SECOND, ..limits() };
    let (client, served) = TestRoutes::new().attend(bounds);
    let (mut sender, driver) = http2(client).await;
    for _ in 0..4 {
        sleep(20 * SECOND).await;
        assert_eq!(ask(&mut sender, "/").await.expect("answered").status(), 200);
    }
    let idle = Instant::now();
    driver.await.expect("no panic").expect("told, not cut off");
    served.await.expect("no panic");
    assert!((30..=36).contains(&idle.elapsed().as_secs()), "{:?}", idle.elapsed());
}

/// **SOC-2**: a client that does not leave is disconnected.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_leave_is_cut_off() {
    let bounds = Limits { idle_timeout: 30 * SECOND, header_timeout: 5 * SECOND, ..limits() };
    let (mut client, served) = TestRoutes::new().attend(bounds);
    let start = Instant::now();
    frames::begin(&mut client, hello().len()).await;
    while frames::next(&mut client).await.expect("open").kind != GOAWAY {}
    assert!((30..=35).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    drop(client.read_to_end(&mut Vec::new()).await);
    served.await.expect("no panic");
    assert!((35..=41).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

/// **SOC-1**
#[tokio::test(start_paused = true)]
async fn a_preface_that_does_not_come_whole_is_too_slow() {
    for sent in [1, 3, 10, 23] {
        let (mut client, served) =
            TestRoutes::new().attend(Limits { header_timeout: 5 * SECOND, ..limits() });
        let start = Instant::now();
        frames::begin(&mut client, sent).await;
        let mut said = Vec::new();
        drop(client.read_to_end(&mut said).await);
        served.await.expect("no panic");
        assert_eq!(start.elapsed().as_secs(), 5);
        assert!(said.starts_with(b"HTTP/1.1 408"), "{said:?}");
    }
}

/// Frames that belong to no request do not count as the beginning of one.
#[tokio::test(start_paused = true)]
async fn pings_of_a_client_do_not_keep_its_connection() {
    let bounds = Limits { idle_timeout: 30 * SECOND, header_timeout: 5 * SECOND, ..limits() };
    let (mut client, served) = TestRoutes::new().attend(bounds);
    let start = Instant::now();
    frames::begin(&mut client, hello().len()).await;
    let (mut reader, mut writer) = tokio::io::split(&mut client);
    let pings = async {
        while writer.write_all(&frame(PING, 0, 0, &[0; 8])).await.is_ok() {
            sleep(SECOND).await;
        }
    };
    tokio::join!(pings, async { drop(reader.read_to_end(&mut Vec::new()).await) });
    served.await.expect("no panic");
    assert!(start.elapsed() <= 42 * SECOND, "{:?}", start.elapsed());
}

/// [`Stay::OneRequest`]: requests that are concurrent with the first one are answered, and then the
/// connection ends.
#[tokio::test]
async fn a_connection_for_one_request_is_to_be_left_after_it() {
    let routes = TestRoutes::new();
    let stay = Stay::OneRequest { connection: PATIENCE, stream: PATIENCE };
    let (client, served) = routes.attend(Limits { stay, ..limits() });
    let (mut sender, driver) = http2(client).await;
    let mut along = sender.clone();
    let (first, second) = tokio::join!(ask(&mut sender, "/"), ask(&mut along, "/"));
    assert_eq!([first, second].map(|answer| answer.expect("answered").status()), [200, 200]);
    soon(driver).await.expect("no panic").expect("told, not cut off");
    assert_eq!(soon(served).await.expect("no panic"), End::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_connection_for_one_request_has_its_time() {
    let stay = Stay::OneRequest { connection: 3 * SECOND, stream: 60 * SECOND };
    for (path, seconds) in [("/held", 3), ("/stay", 63)] {
        let routes = TestRoutes::new();
        let (client, served) = routes.attend(Limits { stay, ..limits() });
        let (mut sender, _driver) = http2(client).await;
        let start = Instant::now();
        assert!(ask(&mut sender, path).await.is_err());
        served.await.expect("no panic");
        assert_eq!(start.elapsed().as_secs(), seconds, "{path}");
        routes.runs(0).await;
    }
}
