//! The parts of the gateway, built once and shared by every connection.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;

use playhouse_cluster::FrontDoor;
use playhouse_telemetry::{Metrics, Refusal, RefusalLabels};
use playhouse_types::TokenId;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Semaphore;
use tokio_rustls::rustls::ServerConfig;

use crate::auth::{ApiKey, KeyRing};
use crate::cors::Cors;
use crate::gateway_error::GatewayError;
use crate::known_fields::UnknownFields;
use crate::sampling_defaults::SamplingDefaults;
use crate::shutdown::Shutdown;
use crate::template::{RenderChat, TemplateError, unix_now};
use crate::tokenizer::Tokenizer;

/// The settings of a gateway. [`GatewayConfig::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// The names by which clients may call the model; the first one is used for requests that name none.
    pub served_model_names: Vec<String>,
    /// The accepted API keys. With any, all requests but those to the health probes and `/version`
    /// require a key; without, no request does.
    pub api_keys: Vec<ApiKey>,
    /// The TLS configuration with the certificate for clients; without one, the API is plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// The sampling parameters of requests that do not set them.
    pub sampling: SamplingDefaults,
    /// The tokens that end a text, from the model's configuration.
    pub eos_tokens: Vec<TokenId>,
    /// A seed that makes the seeds of requests without one a fixed sequence.
    pub seed: Option<u64>,
    /// Whether each request is logged when its response has ended.
    pub access_log: bool,
    /// The web pages that may use the API.
    pub cors: Cors,
    /// The bounds on the resources that clients may use.
    pub limits: Limits,
}

/// Bounds on the time and memory that a client may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The time from the first byte of a request (for a new connection: from its start) to the end of its
    /// headers. After that, the connection is closed.
    pub header_timeout: Duration,
    /// How long a connection may wait between two requests. Longer than the pools of common clients keep
    /// one (Go's for 90 s): a client loses the request that it sends while its connection is closed.
    pub idle_timeout: Duration,
    /// The time from the end of the headers to the end of the body. After that, the answer is 408.
    pub body_timeout: Duration,
    /// How long a client may not read its answer. After that, the connection is closed.
    pub write_timeout: Duration,
    /// The maximum size of a body. A larger one is answered with 413.
    pub body_bytes: usize,
    /// The bytes that the bodies over 64 KiB of all requests may occupy while they are read and parsed. A
    /// body that finds no room waits, within `body_timeout`. At least `body_bytes`.
    pub bodies_bytes: usize,
    /// How many large bodies may be parsed and tokenized at a time, and conversations rendered by a template in
    /// a process of its own; others wait for their turn. By default one for each core.
    pub intakes: NonZeroUsize,
    /// The number of concurrent connections; more wait in the kernel's queue.
    pub connections: NonZeroUsize,
    /// The longest silence in a stream; after that, an SSE comment tells proxies that the stream is
    /// alive.
    pub ping_interval: Duration,
    /// How long running requests may go on after the shutdown signal.
    pub drain_timeout: Duration,
    /// How long clients may take after `drain_timeout` to read that their requests have ended.
    pub farewell_timeout: Duration,
}

/// The OpenAI API over one [`FrontDoor`]; see [`serve`](crate::serve).
pub struct Gateway {
    config: GatewayConfig,
    keys: KeyRing,
    front_door: FrontDoor,
    tokenizer: Tokenizer,
    template: Result<Box<dyn RenderChat>, TemplateError>,
    metrics: Arc<Metrics>,
    /// When the model was first offered, as shown in `/v1/models`.
    created: u64,
    ids: Sequence,
    seeds: Sequence,
    shutdown: Shutdown,
    /// KiB that bodies may still occupy.
    body_room: Arc<Semaphore>,
    /// The turns of large bodies.
    intakes: Arc<Semaphore>,
    unknown_fields: UnknownFields,
}

/// A sequence of numbers that do not repeat and cannot be told from random numbers without its key.
struct Sequence {
    key: u64,
    next: AtomicU64,
}

// === impl GatewayConfig ===

impl GatewayConfig {
    /// Returns the settings for a model of this name, everything else at its default.
    #[must_use]
    pub fn new(model_name: impl Into<String>) -> Self {
        Self {
            served_model_names: vec![model_name.into()],
            api_keys: Vec::new(),
            tls: None,
            sampling: SamplingDefaults::default(),
            eos_tokens: Vec::new(),
            seed: None,
            access_log: false,
            cors: Cors::default(),
            limits: Limits::default(),
        }
    }
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(120),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            body_bytes: 32 << 20,
            bodies_bytes: 1 << 30,
            intakes: available_parallelism().unwrap_or(NonZeroUsize::MIN),
            connections: NonZeroUsize::new(8192).expect("not zero"),
            ping_interval: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(120),
            farewell_timeout: Duration::from_secs(1),
        }
    }
}

impl Limits {
    /// Returns the KiB that bodies may occupy together.
    fn body_room(&self) -> usize {
        self.bodies_bytes.max(self.body_bytes).div_ceil(1024).min(Semaphore::MAX_PERMITS)
    }
}

/// Returns an unpredictable number.
fn random() -> Result<u64, GatewayError> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| GatewayError::NoRandomness)?;
    Ok(u64::from_le_bytes(bytes))
}

// === impl Gateway ===

impl Gateway {
    /// Builds a gateway. Without a template there is no chat, only completions; requests for chat get the
    /// error that is in its place.
    ///
    /// # Errors
    /// Returns a [`GatewayError`] when the configuration contradicts itself or the model.
    pub fn new(
        config: GatewayConfig,
        front_door: FrontDoor,
        tokenizer: Tokenizer,
        template: Result<Box<dyn RenderChat>, TemplateError>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, GatewayError> {
        if config.served_model_names.is_empty()
            || config.served_model_names.iter().any(String::is_empty)
        {
            return Err(GatewayError::NoModelName);
        }
        let vocab = front_door.vocab();
        config.sampling.params().check(vocab).map_err(GatewayError::Defaults)?;
        if let Some(&token) = config.eos_tokens.iter().find(|&&token| token >= vocab) {
            return Err(GatewayError::EosToken { token, vocab });
        }
        let secret = [random()?, random()?];
        Ok(Self {
            keys: KeyRing::new(&config.api_keys, front_door.clone(), secret)?,
            front_door,
            tokenizer,
            template,
            metrics,
            created: unix_now(),
            ids: Sequence::new(random()?),
            seeds: Sequence::new(config.seed.map_or_else(random, Ok)?),
            shutdown: Shutdown::default(),
            body_room: Arc::new(Semaphore::new(config.limits.body_room())),
            intakes: Arc::new(Semaphore::new(config.limits.intakes.get())),
            unknown_fields: UnknownFields::default(),
            config,
        })
    }

    /// Returns the room for bodies, in KiB.
    pub(crate) fn body_room(&self) -> &Arc<Semaphore> {
        &self.body_room
    }

    /// Returns the turns of large bodies.
    pub(crate) fn intakes(&self) -> &Arc<Semaphore> {
        &self.intakes
    }

    pub(crate) fn unknown_fields(&self) -> &UnknownFields {
        &self.unknown_fields
    }

    pub(crate) fn model_names(&self) -> &[String] {
        &self.config.served_model_names
    }

    pub(crate) fn defaults(&self) -> &SamplingDefaults {
        &self.config.sampling
    }

    pub(crate) fn eos_tokens(&self) -> &[TokenId] {
        &self.config.eos_tokens
    }

    pub(crate) fn cors(&self) -> &Cors {
        &self.config.cors
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// Returns the API keys of the gateway.
    #[must_use]
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    pub(crate) fn logs_access(&self) -> bool {
        self.config.access_log
    }

    pub(crate) fn tls(&self) -> Option<&Arc<ServerConfig>> {
        self.config.tls.as_ref()
    }

    pub(crate) fn front_door(&self) -> &FrontDoor {
        &self.front_door
    }

    pub(crate) fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    pub(crate) fn template(&self) -> Result<&dyn RenderChat, TemplateError> {
        self.template.as_deref().map_err(Clone::clone)
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Counts a request of the holder of `key` that is refused, or that ends before its computation is
    /// complete.
    pub(crate) fn refused(&self, reason: Refusal, key: &str) {
        let labels = RefusalLabels { reason, key: key.to_owned() };
        self.metrics.requests_refused.get_or_create(&labels).inc();
    }

    pub(crate) fn created(&self) -> u64 {
        self.created
    }

    /// Returns a seed for a request that brought none.
    pub(crate) fn draw(&self) -> u64 {
        self.seeds.draw()
    }

    /// Returns a new id: `prefix` and 32 hexadecimal digits.
    pub(crate) fn new_id(&self, prefix: &str) -> String {
        format!("{prefix}{:016x}{:016x}", self.ids.draw(), self.ids.draw())
    }
}

// === impl Sequence ===

impl Sequence {
    fn new(key: u64) -> Self {
        Self { key, next: AtomicU64::new(1) }
    }

    /// Returns the next number: `SplitMix64` (Steele, Lea, Flood 2014), a counter through a mixing
    /// bijection.
    fn draw(&self) -> u64 {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let z = self.key.wrapping_add(count.wrapping_mul(GOLDEN));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
