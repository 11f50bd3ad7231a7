//! A server to ask, an engine to answer, and a client that can misbehave.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use playhouse_cluster::FrontDoor;
use playhouse_gateway::{ChatTemplate, Drained, Gateway, GatewayConfig, Tokenizer, serve};
use playhouse_telemetry::Metrics;
use playhouse_types::{Emission, FinishReason, GenerateRequest, Sampled, TokenId, TokenLogprobs};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

pub(crate) const MODEL: &str = "org/tiny";
pub(crate) const VOCAB: u32 = 288;
pub(crate) const CONTEXT: usize = 256;
/// `<|im_end|>` of the reference tokenizer.
pub(crate) const EOS: TokenId = 286;

const TEMPLATE: &str = "{% for m in messages %}{% if m.role == 'tool' %}\
    {{ raise_exception('No tools, please') }}{% endif %}[{{ m.role }}|{{ m.content }}]{% endfor %}\
    {{ '[assistant|' if add_generation_prompt }}{{ mood }}";

/// The maximum wait for an event that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) type Emissions = UnboundedSender<Emission>;

/// A running server; stopped when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) door: FrontDoor,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Drained>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

// === impl Server ===

impl Server {
    pub(crate) fn start(
        script: impl Fn(GenerateRequest, Emissions) + Send + Sync + 'static,
    ) -> Self {
        Self::with(|_| (), script)
    }

    pub(crate) fn with(
        configure: impl FnOnce(&mut GatewayConfig),
        script: impl Fn(GenerateRequest, Emissions) + Send + Sync + 'static,
    ) -> Self {
        Self::over(FrontDoor::scripted(CONTEXT, VOCAB, 8, script), configure)
    }

    pub(crate) fn over(door: FrontDoor, configure: impl FnOnce(&mut GatewayConfig)) -> Self {
        Self::templated(door, TEMPLATE, configure)
    }

    /// A server whose model has this chat template.
    pub(crate) fn templated(
        door: FrontDoor,
        template: &str,
        configure: impl FnOnce(&mut GatewayConfig),
    ) -> Self {
        let mut config = GatewayConfig::new(MODEL);
        config.eos_tokens = vec![EOS];
        // Tests of other things must not meet these timeouts: the machine of a test may be busy with
        // others.
        config.limits.header_timeout = PATIENCE;
        config.limits.body_timeout = PATIENCE;
        config.limits.drain_timeout = Duration::from_millis(300);
        configure(&mut config);
        let template = ChatTemplate::new(template.into()).expect("compiles");
        let metrics = Arc::new(Metrics::new(MODEL));
        let template = Ok(Box::new(template) as _);
        let gateway = Gateway::new(config, door.clone(), tokenizer(), template, metrics)
            .expect("a valid configuration");
        let (stop, stopped) = oneshot::channel::<()>();
        let (bound, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
                bound.send(listener.local_addr().expect("bound")).expect("someone waits");
                serve(listener, gateway, async { drop(stopped.await) }).await
            })
        });
        let address = address.recv().expect("the server binds");
        Self { address, door, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    /// Sends raw bytes and reads one answer.
    pub(crate) fn raw(&self, request: &[u8]) -> Reply {
        let mut stream = self.connect();
        stream.write_all(request).expect("the server reads");
        Reply::read(&mut BufReader::new(stream)).expect("the server answers")
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.raw(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes())
    }

    pub(crate) fn post_bytes(&self, path: &str, body: &[u8]) -> Reply {
        self.raw(&post(path, body))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    /// The `data:` of every event of a stream.
    pub(crate) fn events(&self, path: &str, body: &Value) -> Vec<String> {
        let reply = self.post(path, body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
        events_of(&reply.text())
    }

    /// Stops the server and waits for its end.
    pub(crate) fn stop(mut self) -> Drained {
        drop(self.stop.take());
        self.thread.take().expect("stopped once").join().expect("the server does not panic")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the server panicked");
        }
    }
}

// === impl Reply ===

impl Reply {
    pub(crate) fn read(stream: &mut impl BufRead) -> std::io::Result<Self> {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let status = line.get(9..12).and_then(|status| status.parse().ok());
        let status =
            status.ok_or_else(|| std::io::Error::other(format!("no status in {line:?}")))?;
        let mut headers = Vec::new();
        loop {
            line.clear();
            stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        let mut reply = Self { status, headers, body: Vec::new() };
        if let Some(length) = reply.header("content-length") {
            let length = length.parse().expect("a length is a number");
            reply.body.resize(length, 0);
            stream.read_exact(&mut reply.body)?;
        } else {
            while let Some(chunk) = read_chunk(stream)? {
                reply.body.extend(chunk);
            }
        }
        Ok(reply)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("answers are UTF-8")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The JSON of a successful answer.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// Returns the status, `param` and message of an error, after checking its form.
    pub(crate) fn error(&self) -> (u16, Option<String>, String) {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        let body = self.json();
        let error = body["error"].as_object().expect("an error object");
        let keys: Vec<&str> = error.keys().map(String::as_str).collect();
        assert_eq!(keys, ["message", "type", "param", "code"]);
        assert!(error["type"].is_string());
        let message = error["message"].as_str().expect("a message").to_owned();
        assert!(!message.is_empty());
        (self.status, error["param"].as_str().map(ToOwned::to_owned), message)
    }
}

/// The next chunk of a chunked body; `None` at its end.
pub(crate) fn read_chunk(stream: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let length = usize::from_str_radix(line.trim_end(), 16)
        .map_err(|_| std::io::Error::other(format!("no chunk length in {line:?}")))?;
    let mut chunk = vec![0; length + 2];
    stream.read_exact(&mut chunk)?;
    chunk.truncate(length);
    Ok((length > 0).then_some(chunk))
}

pub(crate) fn events_of(text: &str) -> Vec<String> {
    text.split_terminator("\n\n")
        .map(|event| event.strip_prefix("data: ").expect("an event is data").to_owned())
        .collect()
}

pub(crate) fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// Waits for an event that must happen.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::yield_now();
    }
}

pub(crate) fn tokenizer() -> Tokenizer {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/reference/tokenizer/tokenizer.json");
    let bytes = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    Tokenizer::from_bytes(&bytes).expect("the reference loads")
}

pub(crate) fn tokens_of(text: &str) -> Vec<TokenId> {
    tokenizer().encode(text, false).expect("encodes")
}

pub(crate) fn hello() -> Value {
    json!({"messages": [{"role": "user", "content": "Hi"}]})
}

/// `base` with the fields of `more`.
pub(crate) fn with(mut base: Value, more: Value) -> Value {
    let (Value::Object(base_fields), Value::Object(more)) = (&mut base, more) else {
        panic!("objects")
    };
    base_fields.extend(more);
    base
}

// Engines

pub(crate) fn silent(request: &GenerateRequest) -> Emission {
    Emission {
        id: request.id,
        cached_tokens: 3,
        prompt_logprobs: Vec::new(),
        token: None,
        finish: None,
    }
}

/// The made-up log-probability of any token.
pub(crate) fn logprob(token: TokenId, top: u32) -> TokenLogprobs {
    let of = |token: TokenId| -0.25 * (1 + token % 7) as f32;
    let top = (0..top).map(|rank| (token + 7 * rank) % VOCAB).map(|t| (t, of(t))).collect();
    TokenLogprobs { token, logprob: of(token), top }
}

/// Returns the emissions of an engine that generates `tokens`, then ends the text.
pub(crate) fn speech(request: &GenerateRequest, tokens: &[TokenId]) -> Vec<Emission> {
    let sampling = &request.sampling;
    let mut emissions = Vec::new();
    if let Some(top) = sampling.prompt_logprobs {
        // In two parts, as chunked prefill does; the second comes with the first token.
        let all: Vec<_> = request.prompt[1..].iter().map(|&token| logprob(token, top)).collect();
        let (first, _) = all.split_at(all.len() / 2);
        emissions.push(Emission { prompt_logprobs: first.to_vec(), ..silent(request) });
    }
    let most = sampling.max_tokens as usize;
    for (index, &token) in tokens.iter().chain([&EOS]).take(most).enumerate() {
        let mut emission = silent(request);
        if let (0, Some(top)) = (index, sampling.prompt_logprobs) {
            let half = (request.prompt.len() - 1) / 2;
            emission.prompt_logprobs =
                request.prompt[1 + half..].iter().map(|&token| logprob(token, top)).collect();
        }
        let logprobs = sampling.logprobs.map(|top| logprob(token, top));
        emission.token = Some(Sampled { token, logprobs });
        let stops = sampling.stop_tokens.contains(&token) && index as u32 >= sampling.min_tokens;
        if stops {
            emission.finish = Some(FinishReason::Stop(token));
        } else if index + 1 == most || index == tokens.len() {
            emission.finish = Some(FinishReason::Length);
        }
        emissions.push(emission);
        if stops {
            break;
        }
    }
    emissions
}

/// An engine that says `text` at once.
pub(crate) fn saying(text: &str) -> impl Fn(GenerateRequest, Emissions) + Send + Sync + use<> {
    let tokens = tokens_of(text);
    move |request, emissions| {
        for emission in speech(&request, &tokens) {
            drop(emissions.send(emission));
        }
    }
}

/// An engine that says `text` token by token, each in its own wake-up.
pub(crate) fn murmuring(text: &str) -> impl Fn(GenerateRequest, Emissions) + Send + Sync + use<> {
    let tokens = tokens_of(text);
    move |request, emissions| {
        let speech = speech(&request, &tokens);
        tokio::spawn(async move {
            for emission in speech {
                if emissions.send(emission).is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
    }
}

/// An engine that emits nothing, and never ends.
pub(crate) fn mute(_: GenerateRequest, emissions: Emissions) {
    tokio::spawn(async move { emissions.closed().await });
}
