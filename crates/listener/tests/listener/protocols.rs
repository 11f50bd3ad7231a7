//! The choice of a connection's protocol, and the service of both.

use std::sync::Arc;

use hyper::Version;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::*;

/// A certificate, and a client that trusts it and offers `protocols`.
fn tls() -> (Arc<ServerConfig>, impl Fn(&[&[u8]]) -> TlsConnector) {
    let made = rcgen::generate_simple_self_signed(["routes".to_owned()]).expect("randomness");
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let certificate = made.cert.der().clone();
    let server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("TLS")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .expect("a pair");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let connector = move |protocols: &[&[u8]]| {
        let mut client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])
            .expect("TLS")
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        client.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        TlsConnector::from(Arc::new(client))
    };
    (Arc::new(server), connector)
}

async fn secure(connector: TlsConnector, stream: TcpStream) -> TlsStream<TcpStream> {
    let name = ServerName::try_from("routes").expect("a name");
    connector.connect(name, stream).await.expect("a handshake")
}

/// The answer to a client that speaks HTTP/1.1.
async fn ask_http1<S>(stream: S) -> (Version, String)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("open");
    tokio::spawn(connection);
    let answer = sender.send_request(request("/")).await.expect("it answers");
    let version = answer.version();
    (version, text(answer).await.expect("whole"))
}

async fn ask_http2<S>(stream: S) -> (Version, String)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, _driver) = http2(stream).await;
    let answer = ask(&mut sender, "/").await.expect("it answers");
    let version = answer.version();
    (version, text(answer).await.expect("whole"))
}

#[tokio::test]
async fn a_cleartext_client_speaks_either_protocol() {
    let server = TestRoutes::new().listen(limits(), None).await;
    let answer = ask_http1(server.connect().await).await;
    assert_eq!(answer, (Version::HTTP_11, "hello".to_owned()));
    let answer = ask_http2(server.connect().await).await;
    assert_eq!(answer, (Version::HTTP_2, "hello".to_owned()));
}

#[tokio::test]
async fn a_client_behind_tls_chooses_by_alpn() {
    let (certificate, connector) = tls();
    let server = TestRoutes::new().listen(limits(), Some(certificate)).await;
    let offers: [(&[&[u8]], _); 4] = [
        (&[b"h2", b"http/1.1"], Some(&b"h2"[..])),
        (&[b"http/1.1", b"h2"], Some(b"h2")),
        (&[b"http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ];
    for (offered, chosen) in offers {
        let stream = secure(connector(offered), server.connect().await).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen, "{offered:?}");
        let (version, said) = match chosen {
            Some(b"h2") => ask_http2(stream).await,
            _ => ask_http1(stream).await,
        };
        assert_eq!(version == Version::HTTP_2, chosen == Some(b"h2"));
        assert_eq!(said, "hello");
    }
}

/// The listener sets its ALPN protocols in a copy of the given configuration.
#[tokio::test]
async fn the_certificate_of_the_caller_stays_as_it_was() {
    let (certificate, _) = tls();
    let _server = TestRoutes::new().listen(limits(), Some(Arc::clone(&certificate))).await;
    assert!(certificate.alpn_protocols.is_empty());
    drop(TlsAcceptor::from(certificate));
}

#[tokio::test]
async fn many_requests_share_a_connection() {
    let routes = TestRoutes::new();
    let server = routes.listen(limits(), None).await;
    let (sender, _driver) = http2(server.connect().await).await;
    let held: Vec<_> = (0..32)
        .map(|_| {
            let mut sender = sender.clone();
            tokio::spawn(async move { text(ask(&mut sender, "/held").await?).await })
        })
        .collect();
    routes.runs(32).await;
    routes.release.send_replace(true);
    for answer in held {
        assert_eq!(answer.await.expect("no panic").expect("answered"), "late");
    }
}
