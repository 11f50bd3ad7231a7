//! A plain HTTP client, one connection for each request.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::patience::PATIENCE;
use super::process::ADMIN_TOKEN;

/// An answer that has begun.
pub(crate) struct Response {
    pub(crate) status: u16,
    body: BufReader<TcpStream>,
    chunked: bool,
}

// === impl Response ===

impl Response {
    /// The next piece of the body as it came; `None` after the last.
    ///
    /// # Errors
    /// When the connection ends before the body does, or is silent for too long.
    pub(crate) fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        if !self.chunked {
            let mut rest = Vec::new();
            self.body.read_to_end(&mut rest)?;
            return Ok(Some(rest).filter(|rest| !rest.is_empty()));
        }
        let mut size = String::new();
        self.body.read_line(&mut size)?;
        let size = usize::from_str_radix(size.trim(), 16).map_err(|_| {
            io::Error::other(format!("the body is cut off: {size:?} begins a chunk"))
        })?;
        let mut chunk = vec![0; size + 2];
        self.body.read_exact(&mut chunk)?;
        chunk.truncate(size);
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }

    /// The whole body.
    pub(crate) fn text(mut self) -> io::Result<String> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece()? {
            body.extend_from_slice(&piece);
        }
        String::from_utf8(body).map_err(io::Error::other)
    }
}

/// Sends a request and reads the head of the answer.
pub(crate) fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<Response> {
    send_in_session(None, address, method, path, body)
}

/// Sends a request that belongs to a session, if it does.
pub(crate) fn send_in_session(
    session: Option<&str>,
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<Response> {
    let session = session.map(|id| format!("x-session-id: {id}\r\n")).unwrap_or_default();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    // One write: the rest of a request must not wait for an acknowledgement of its beginning.
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         authorization: Bearer {ADMIN_TOKEN}\r\ncontent-type: application/json\r\n\
         {session}content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut body = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if body.read_line(&mut head)? == 0 {
            return Err(io::Error::other(format!("the head is cut off: {head:?}")));
        }
    }
    let head = head.to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no status in {head:?}")))?;
    Ok(Response { status, body, chunked: head.contains("transfer-encoding: chunked") })
}

/// A GET: the status and the body.
pub(crate) fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let response = send(address, "GET", path, "")?;
    Ok((response.status, response.text()?))
}

/// A GET of JSON that cannot fail.
pub(crate) fn get_json(address: SocketAddr, path: &str) -> Value {
    let (status, body) = get(address, path).unwrap_or_else(|why| panic!("{path}: {why}"));
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|why| panic!("{path}: {why} in {body}"))
}
