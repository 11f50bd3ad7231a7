//! The banner of `playhouse serve` when it is ready: one screen, every line a fact.

use std::net::SocketAddr;

use playhouse_gateway::GatewayConfig;
use playhouse_layout::Inventory;
use playhouse_scheduler::Limits;

use crate::error::CliError;
use crate::isolation::Venue;
use crate::layout::ServedLayout;
use crate::loading::Loaded;
use crate::output;
use crate::sizing::{Bytes, CacheSize};

pub(crate) struct Banner(String);

/// The addresses of the head, and the folder of its state.
pub(crate) struct Reached<'a> {
    /// The address of the OpenAI API.
    pub(crate) address: SocketAddr,
    /// The address of the admin API, as text.
    pub(crate) admin: &'a str,
    /// The state folder, as text.
    pub(crate) state: &'a str,
}

// === impl Banner ===

impl Banner {
    pub(crate) fn new(
        config: &GatewayConfig,
        loaded: &Loaded,
        served: &ServedLayout,
        venue: &Venue,
        (limits, cache): (&Limits, CacheSize),
        reached: Reached<'_>,
    ) -> Self {
        let Reached { address, admin, state } = reached;
        let block = served.bytes_per_block;
        let kv_cache = |blocks: u32| {
            let tokens = blocks as usize * limits.block_size.tokens();
            format!(
                "{} for {tokens} tokens: {} of full length",
                Bytes(block * u64::from(blocks)),
                plural(tokens / limits.max_model_len, "sequence"),
            )
        };
        // On nodes the KV cache is as large as their memory allows.
        let kv_cache = match cache.most == limits.kv_blocks {
            true => kv_cache(cache.most),
            false => format!("up to {}, as devices allow", kv_cache(cache.most)),
        };
        let key = match config.api_keys.len() {
            0 => "no API key".to_owned(),
            1 => "API key required".to_owned(),
            keys => format!("one of {keys} API keys required"),
        };
        let (sampling, http) = (&config.sampling, scheme(config.tls.is_some()));
        let lines = [
            ("model", format!("{} ({})", config.served_model_names.join(", "), loaded.source)),
            (
                "",
                format!(
                    "{}, {} parameters, {}",
                    loaded.shape.architecture,
                    count(Inventory::of(&loaded.shape).parameters()),
                    served.dtype_name
                ),
            ),
            (
                "layout",
                format!(
                    "{} of {} of {}",
                    plural(served.replicas.get() as usize, "replica"),
                    plural(served.map.stages().len(), "stage"),
                    plural(served.map.stage_ranks(), "shard")
                ),
            ),
            ("device", venue.text.clone()),
            ("context", format!("{} tokens", limits.max_model_len)),
            ("KV cache", kv_cache),
            (
                "batch",
                format!(
                    "{}, {} tokens per step",
                    plural(limits.max_num_seqs, "sequence"),
                    limits.max_num_batched_tokens
                ),
            ),
            (
                "sampling",
                format!(
                    "temperature {}, top_p {}, top_k {} unless a request says otherwise",
                    sampling.temperature, sampling.top_p, sampling.top_k
                ),
            ),
            ("API", format!("{http}://{address}/v1 ({key})")),
            ("admin", admin.to_owned()),
            ("state", state.to_owned()),
            ("metrics", format!("{http}://{address}/metrics")),
            (
                "ready",
                format!(
                    "Ctrl-C lets requests run on for {:?} at most, a second one ends at once",
                    config.limits.drain_timeout
                ),
            ),
        ];
        let mut text = format!("playhouse {}\n\n", env!("CARGO_PKG_VERSION"));
        for (label, fact) in lines {
            text += &format!("  {label:<10}{fact}\n");
        }
        Self(text + "\n")
    }

    /// Returns the banner of a head that waits for nodes, and answers at the URL `api` meanwhile; `admin` is the
    /// address of the admin API, as text.
    pub(crate) fn waiting(join_at: SocketAddr, devices: usize, admin: &str, api: &str) -> Self {
        Self(format!(
            "playhouse {}\n\n  waiting   for {} of nodes that join at {join_at}\n  admin     {admin}\n  \
             requests  wait at {api}/v1 until then\n\n",
            env!("CARGO_PKG_VERSION"),
            plural(devices, "device"),
        ))
    }

    /// Prints the banner on standard output.
    ///
    /// # Errors
    /// Returns an error when standard output cannot be written.
    pub(crate) fn print(&self) -> Result<(), CliError> {
        output::print(&self.0)
    }
}

/// Returns the scheme of a listener's URLs.
pub(crate) fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

fn count(parameters: u64) -> String {
    match parameters as f64 {
        n if n < 1e6 => format!("{:.0} thousand", n / 1e3),
        n if n < 1e9 => format!("{:.1} million", n / 1e6),
        n => format!("{:.1} billion", n / 1e9),
    }
}

fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
