//! A collector for traces: receives OTLP over HTTP as a real one does, and keeps what it gets.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Listens until the test process ends.
pub(crate) struct Collector {
    address: SocketAddr,
    scheme: &'static str,
    received: Arc<Mutex<Received>>,
}

#[derive(Default)]
struct Received {
    spans: Vec<Span>,
    services: Vec<String>,
    /// Every message as it came.
    raw: Vec<u8>,
    /// What stood before the last one, in lower case.
    head: String,
}

// === impl Collector ===

impl Collector {
    pub(crate) fn start() -> Self {
        Self::open("http", None)
    }

    /// One that speaks TLS, with the certificate and the key in these files.
    pub(crate) fn over_tls(certificate: &str, key: &str) -> Self {
        let [certificate, key] = [certificate, key].map(|file| fs::read(file).expect("a file"));
        let certificate = CertificateDer::from_pem_slice(&certificate).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(&key).expect("a key");
        let provider = rustls::crypto::ring::default_provider();
        let tls = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key);
        Self::open("https", Some(Arc::new(tls.expect("they fit"))))
    }

    fn open(scheme: &'static str, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let received = Arc::new(Mutex::new(Received::default()));
        let keep = Arc::clone(&received);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (keep, tls) = (Arc::clone(&keep), tls.clone());
                thread::spawn(move || match tls {
                    None => answer(stream, &keep),
                    Some(tls) => {
                        let tls = ServerConnection::new(tls).expect("a server");
                        answer(StreamOwned::new(tls, stream), &keep);
                    }
                });
            }
        });
        Self { address, scheme, received }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Every span so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.received.lock().spans.clone()
    }

    /// The names of the services that sent something.
    pub(crate) fn services(&self) -> Vec<String> {
        self.received.lock().services.clone()
    }

    /// The headers of the last message, in lower case.
    pub(crate) fn head(&self) -> String {
        self.received.lock().head.clone()
    }

    /// Returns whether a text was received anywhere.
    pub(crate) fn knows(&self, text: &str) -> bool {
        let received = self.received.lock();
        received.raw.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

/// Reads one message after the other.
fn answer(stream: impl Read + Write, received: &Mutex<Received>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
        assert!(head.contains("content-type: application/x-protobuf"), "{head}");
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let mut body = vec![0; length.expect("a length").parse().expect("a number")];
        reader.read_exact(&mut body).expect("the whole message");
        let message = ExportTraceServiceRequest::decode(&*body).expect("OTLP");
        let mut received = received.lock();
        for resource in message.resource_spans {
            let attributes = resource.resource.into_iter().flat_map(|it| it.attributes);
            let names = attributes.filter(|attribute| attribute.key == "service.name");
            received.services.extend(names.map(|name| text(name.value.and_then(|it| it.value))));
            received.spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
        received.raw.extend(body);
        received.head = head;
        drop(received);
        let empty = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\n\
                     content-length: 0\r\n\r\n";
        let writer = reader.get_mut();
        drop(writer.write_all(empty.as_bytes()).and_then(|()| writer.flush()));
    }
}

/// A value as text: lists are joined by commas.
fn text(value: Option<Any>) -> String {
    match value {
        Some(Any::StringValue(text)) => text,
        Some(Any::IntValue(number)) => number.to_string(),
        Some(Any::DoubleValue(number)) => number.to_string(),
        Some(Any::BoolValue(flag)) => flag.to_string(),
        Some(Any::ArrayValue(list)) => {
            let values = list.values.into_iter().map(|value| text(value.value));
            values.collect::<Vec<_>>().join(",")
        }
        other => panic!("{other:?} is no attribute of ours"),
    }
}

/// An attribute of a span, as text.
pub(crate) fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    Some(text(found.value.clone()?.value))
}

/// An id, as headers have it.
pub(crate) fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
