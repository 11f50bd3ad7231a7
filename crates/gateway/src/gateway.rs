//! The gateway's parts, put together once and shared by every connection.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use playhouse_cluster::FrontDoor;
use playhouse_telemetry::{Metrics, Refusal, RefusalLabels};
use playhouse_types::TokenId;
use ring::rand::{SecureRandom, SystemRandom};
use tokio_rustls::rustls::ServerConfig;

use crate::auth::{ApiKey, KeyRing};
use crate::gateway_error::GatewayError;
use crate::sampling_defaults::SamplingDefaults;
use crate::shutdown::Shutdown;
use crate::template::{ChatTemplate, unix_now};
use crate::tokenizer::Tokenizer;

/// What an operator decides. [`GatewayConfig::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Names clients may call the model by; the first is the one they get when they name none.
    pub served_model_names: Vec<String>,
    /// One of them is asked of every request but those to the health probes and `/version`. Without
    /// any, nothing is asked.
    pub api_keys: Vec<ApiKey>,
    /// The certificate that is shown to clients; without one, HTTP is plain.
    pub tls: Option<Arc<ServerConfig>>,
    /// Sampling parameters of requests that do not say.
    pub sampling: SamplingDefaults,
    /// Tokens that end a text, from the model's configuration.
    pub eos_tokens: Vec<TokenId>,
    /// Makes the seeds of requests without one a fixed sequence.
    pub seed: Option<u64>,
    /// Bounds on what a client may cost.
    pub limits: Limits,
}

/// Bounds on time and space per client.
#[derive(Clone, Debug)]
pub struct Limits {
    /// From the first byte of a request (for a new connection: from its start) to the end of its
    /// headers. Then the connection is closed.
    pub header_timeout: Duration,
    /// How long a connection may wait between two requests.
    pub idle_timeout: Duration,
    /// From the end of the headers to the end of the body. Then 408.
    pub body_timeout: Duration,
    /// How long a client may refuse to read an answer. Then the connection is closed.
    pub write_timeout: Duration,
    /// Largest body. Then 413.
    pub body_bytes: usize,
    /// Connections at once; more wait in the kernel's queue.
    pub connections: NonZeroUsize,
    /// Longest silence in a stream: then an SSE comment tells proxies that somebody is there.
    pub ping_interval: Duration,
    /// How long running requests may go on after the shutdown signal.
    pub drain_timeout: Duration,
    /// How long clients may take after that to read that their requests have ended.
    pub farewell_timeout: Duration,
}

/// The OpenAI API over one [`FrontDoor`]; see [`serve`](crate::serve).
pub struct Gateway {
    config: GatewayConfig,
    keys: KeyRing,
    front_door: FrontDoor,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    metrics: Arc<Metrics>,
    /// When the model was first offered; clients see it in `/v1/models`.
    created: u64,
    ids: Sequence,
    seeds: Sequence,
    shutdown: Shutdown,
}

/// Numbers that do not repeat and cannot be told from random ones without the key.
struct Sequence {
    key: u64,
    next: AtomicU64,
}

// === impl GatewayConfig ===

impl GatewayConfig {
    /// A model by this name, everything else at its default.
    #[must_use]
    pub fn new(model_name: impl Into<String>) -> Self {
        Self {
            served_model_names: vec![model_name.into()],
            api_keys: Vec::new(),
            tls: None,
            sampling: SamplingDefaults::default(),
            eos_tokens: Vec::new(),
            seed: None,
            limits: Limits::default(),
        }
    }
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            body_bytes: 32 << 20,
            connections: NonZeroUsize::new(8192).expect("not zero"),
            ping_interval: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(120),
            farewell_timeout: Duration::from_secs(1),
        }
    }
}

/// A number that nobody can guess.
fn random() -> Result<u64, GatewayError> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| GatewayError::NoRandomness)?;
    Ok(u64::from_le_bytes(bytes))
}

// === impl Gateway ===

impl Gateway {
    /// Puts the parts together. Without a template there is no chat, only completions.
    ///
    /// # Errors
    /// [`GatewayError`] when the configuration contradicts itself or the model.
    pub fn new(
        config: GatewayConfig,
        front_door: FrontDoor,
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
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
            config,
        })
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

    pub(crate) fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// The keys that let clients in.
    #[must_use]
    pub fn keys(&self) -> &KeyRing {
        &self.keys
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

    pub(crate) fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Counts a request of the holder of `key` that is not computed, or not to its end.
    pub(crate) fn refused(&self, reason: Refusal, key: &str) {
        let labels = RefusalLabels { reason, key: key.to_owned() };
        self.metrics.requests_refused.get_or_create(&labels).inc();
    }

    pub(crate) fn created(&self) -> u64 {
        self.created
    }

    /// A seed for a request that brought none.
    pub(crate) fn draw(&self) -> u64 {
        self.seeds.draw()
    }

    /// A new id: `prefix` and 32 hexadecimal digits.
    pub(crate) fn new_id(&self, prefix: &str) -> String {
        format!("{prefix}{:016x}{:016x}", self.ids.draw(), self.ids.draw())
    }
}

// === impl Sequence ===

impl Sequence {
    fn new(key: u64) -> Self {
        Self { key, next: AtomicU64::new(1) }
    }

    /// `SplitMix64` (Steele, Lea, Flood 2014): a counter through a mixing bijection.
    fn draw(&self) -> u64 {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let z = self.key.wrapping_add(count.wrapping_mul(GOLDEN));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
