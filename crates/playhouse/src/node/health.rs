//! The health of a node: whether the node has its head. A socket in the node's folder answers on its
//! machine.

use std::fs;
use std::io;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tracing::warn;

const SOCKET: &str = "health";

/// The maximum length of an answer.
const ANSWER_BYTES_MAX: u64 = 1 << 10;

/// The answer of a node that has its head.
const JOINED: &str = "joined ";
const LOOKING: &str = "looking for ";

/// Answers until the runtime ends. A node also serves without the socket.
pub(super) fn tell(dir: &Path, head: &str, joined: watch::Receiver<bool>) {
    let socket = dir.join(SOCKET);
    // The socket is of an earlier start: the folder belongs to one node.
    drop(fs::remove_file(&socket));
    let listener = match UnixListener::bind(&socket) {
        Ok(listener) => listener,
        Err(why) => {
            let socket = socket.display();
            return warn!("`playhouse doctor --health` will not know this node: {socket}: {why}");
        }
    };
    let head = head.to_owned();
    tokio::spawn(async move {
        loop {
            let Ok((mut asking, _)) = listener.accept().await else { continue };
            let state = if *joined.borrow() { JOINED } else { LOOKING };
            // A line fits into the buffer of a socket, so no client can make this wait.
            drop(asking.write_all(format!("{state}{head}").as_bytes()).await);
        }
    });
}

/// Asks the node that keeps its certificate in `dir` for the head that it has, or looks for.
///
/// # Errors
/// Returns an error if no node answers.
pub(crate) async fn ask(dir: &Path) -> io::Result<Result<String, String>> {
    let mut answer = String::new();
    let stream = UnixStream::connect(dir.join(SOCKET)).await?;
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await?;
    if let Some(head) = answer.strip_prefix(JOINED) {
        return Ok(Ok(head.to_owned()));
    }
    match answer.strip_prefix(LOOKING) {
        Some(head) => Ok(Err(head.to_owned())),
        None => Err(io::Error::other("the answer is not a node's")),
    }
}
