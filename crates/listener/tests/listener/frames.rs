//! HTTP/2 frames written by hand: input that no well-behaved client would send.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::support::{TestRoutes, limits, soon};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;

const END_STREAM: u8 = 1;

/// END_STREAM and END_HEADERS.
const WHOLE: u8 = 5;

/// The identifier of the setting for the first window of every stream.
const INITIAL_WINDOW_SIZE: u8 = 4;

/// The head of `GET http://x/`, from the static table of HPACK.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'x'];

/// `GET` on a stream, of a path that is shorter than 127 bytes.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).expect("a short path");
    let head = [&[0x82, 0x86, 0x04, length], path.as_bytes(), &[0x01, 1, b'x']].concat();
    frame(HEADERS, WHOLE, stream, &head)
}

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    flags: u8,
    pub(crate) payload: Vec<u8>,
}

// === impl Frame ===

impl Frame {
    /// Returns whether a frame is the last of its stream.
    pub(crate) fn ends_stream(&self) -> bool {
        self.flags & END_STREAM != 0
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The beginning of a connection, with nothing to set.
pub(crate) fn hello() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// Returns the beginning of a connection whose client has room for `window` bytes on every stream.
pub(crate) fn hello_with_window(window: u32) -> Vec<u8> {
    let setting = [&[0, INITIAL_WINDOW_SIZE][..], &window.to_be_bytes()].concat();
    [PREFACE, &frame(SETTINGS, 0, 0, &setting)].concat()
}

pub(crate) async fn next(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).await?;
    Ok(Frame { kind: head[3], flags: head[4], payload })
}

/// Returns the next frame of a kind.
pub(crate) async fn next_of(stream: &mut (impl AsyncRead + Unpin), kind: u8) -> Frame {
    let found = async {
        loop {
            let frame = next(stream).await.expect("the connection goes on");
            if frame.kind == kind {
                return frame;
            }
        }
    };
    soon(found).await
}

/// Returns the value of a setting in a SETTINGS frame.
fn setting(settings: &Frame, id: u16) -> Option<u32> {
    settings.payload.chunks_exact(6).find_map(|setting| {
        let [a, b, value @ ..] = setting else { return None };
        let value = <[u8; 4]>::try_from(value).ok()?;
        (u16::from_be_bytes([*a, *b]) == id).then(|| u32::from_be_bytes(value))
    })
}

/// Returns the error code with which the server ends the connection.
fn reason(goaway: &Frame) -> u8 {
    goaway.payload[7]
}

/// **H2-1**
#[tokio::test]
async fn clients_are_told_their_limits() {
    let (mut client, _served) = TestRoutes::new().attend(limits());
    client.write_all(&hello()).await.expect("it reads");
    let settings = next_of(&mut client, SETTINGS).await;
    let (streams, head_bytes, window) =
        (setting(&settings, 3), setting(&settings, 6), setting(&settings, 4));
    // A larger head than the limit is read, so that it can be refused with an explanation.
    assert_eq!((streams, head_bytes, window), (Some(32), Some(4 * (16 << 10)), Some(1 << 16)));
}

/// **H2-1**: a flood of streams that are reset at once (a rapid reset).
#[tokio::test]
async fn a_flood_of_resets_ends_the_connection() {
    const ENHANCE_YOUR_CALM: u8 = 11;
    let routes = TestRoutes::new();
    let (mut client, served) = routes.attend(limits());
    let mut flood = hello();
    for stream in (1..2000).step_by(2) {
        flood.extend(frame(HEADERS, WHOLE, stream, GET));
        flood.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    let (mut reader, mut writer) = tokio::io::split(&mut client);
    let told = async {
        let goaway = next_of(&mut reader, GOAWAY).await;
        assert_eq!(reason(&goaway), ENHANCE_YOUR_CALM);
        soon(served).await.expect("no panic");
    };
    // It may have enough before it has everything.
    tokio::join!(told, async { drop(writer.write_all(&flood).await) });
    assert_eq!(routes.running(), 0);
}

/// No byte sequence costs more than its connection.
#[tokio::test]
async fn garbage_behind_the_preface_ends_the_connection_only() {
    const STREAM_1: u32 = 1;
    let routes = TestRoutes::new();
    let server = routes.listen(limits(), None).await;
    let large = frame(HEADERS, WHOLE, STREAM_1, &[0x82; (16 << 10) + 1]);
    for garbage in [
        b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        frame(HEADERS, WHOLE, 0, GET),
        frame(HEADERS, WHOLE, 2, GET),
        frame(HEADERS, WHOLE, STREAM_1, &[0xff; 100]),
        // A part of a head, and then something else.
        [frame(HEADERS, 1, STREAM_1, GET), frame(PING, 0, 0, &[0; 8])].concat(),
        frame(PING, 0, 0, &[0; 7]),
        frame(SETTINGS, 0, 0, &[0; 5]),
        large,
    ] {
        let mut client = server.connect().await;
        client.write_all(&hello()).await.expect("it reads");
        drop(client.write_all(&garbage).await);
        // A reset is as good as an end.
        drop(soon(client.read_to_end(&mut Vec::new())).await);
    }
    let (mut sender, _driver) = crate::support::http2(server.connect().await).await;
    let answer = crate::support::ask(&mut sender, "/").await.expect("it serves");
    assert_eq!(answer.status(), 200);
}

/// Sends `GET /` on the stream 1 behind a beginning, as far as `bytes` of it.
pub(crate) async fn begin(stream: &mut (impl AsyncWrite + Unpin), bytes: usize) {
    let whole = [hello(), frame(HEADERS, WHOLE, 1, GET)].concat();
    stream.write_all(&whole[..whole.len().min(bytes)]).await.expect("it reads");
}
