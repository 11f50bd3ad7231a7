//! Capabilities of devices, by their makers' figures.

use serde::Serialize;

/// A type of device. Rates are peaks of dense arithmetic, per second; the roofline derates them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DeviceType {
    /// Name, as in `8xH100`.
    pub name: &'static str,
    /// Memory that the driver reports, bytes.
    pub memory_bytes: u64,
    /// Bytes read per second.
    pub memory_bandwidth: f64,
    /// bf16 operations per second; a multiplication and an addition are two.
    pub bf16_flops: f64,
    /// fp8 operations per second; equals `bf16_flops` where the device has no fp8.
    pub fp8_flops: f64,
    /// Bytes per second, one way, to the devices of the same domain.
    pub link_bandwidth: f64,
    /// Seconds of one hop over the link of the domain, with the launch of the collective.
    pub link_latency: f64,
    /// Bytes per second, one way, to other domains: a common network for such nodes.
    pub network_bandwidth: f64,
    /// Seconds that the network between domains adds to a collective per doubling of the domains.
    pub network_latency: f64,
    /// Devices of a domain that spans nodes; `None`: a domain is a node.
    pub domain_devices: Option<u32>,
    /// Source of the numbers.
    pub source: &'static str,
}

/// Latency of a small collective of two nodes over InfiniBand or RoCE with GPUDirect, and over Ethernet
/// through the hosts: assumed. With the links of both nodes, the first value makes 45 µs for an all-reduce of
/// 2 × 8 H100; NCCL's own model for two such nodes says 25 µs, a user measured 62 µs (NVIDIA/nccl issue 1453,
/// 128 bytes).
const RDMA: f64 = 30e-6;
const ETHERNET: f64 = 100e-6;

/// Latency of a hop between devices with a switched fabric of their own, and over PCIe through the host:
/// assumed.
const FABRIC: f64 = 2.5e-6;
const PCIE: f64 = 8e-6;

const MIB: u64 = 1 << 20;

const H100: DeviceType = DeviceType {
    name: "H100",
    memory_bytes: 81_559 * MIB,
    memory_bandwidth: 3.35e12,
    bf16_flops: 989e12,
    fp8_flops: 1979e12,
    link_bandwidth: 450e9,
    link_latency: FABRIC,
    network_bandwidth: 50e9,
    network_latency: RDMA,
    domain_devices: None,
    source: "NVIDIA H100 SXM5 data sheet; DGX H100 user guide (400 Gb/s per GPU)",
};
const A100: DeviceType = DeviceType {
    name: "A100",
    memory_bytes: 81_920 * MIB,
    memory_bandwidth: 2.039e12,
    bf16_flops: 312e12,
    fp8_flops: 312e12,
    link_bandwidth: 300e9,
    link_latency: FABRIC,
    network_bandwidth: 25e9,
    network_latency: RDMA,
    domain_devices: None,
    source: "NVIDIA A100 80GB SXM data sheet; DGX A100 user guide (200 Gb/s per GPU)",
};
const B200: DeviceType = DeviceType {
    name: "B200",
    memory_bytes: 183_359 * MIB,
    memory_bandwidth: 7.7e12,
    bf16_flops: 2250e12,
    fp8_flops: 4500e12,
    link_bandwidth: 900e9,
    source: "NVIDIA HGX B200 data sheet (1,000 W); 400 Gb/s per GPU",
    ..H100
};
const MI300X: DeviceType = DeviceType {
    name: "MI300X",
    memory_bytes: 196_592 * MIB,
    memory_bandwidth: 5.3e12,
    bf16_flops: 1307e12,
    fp8_flops: 2614e12,
    link_bandwidth: 448e9,
    link_latency: FABRIC,
    network_bandwidth: 50e9,
    network_latency: RDMA,
    domain_devices: None,
    source: "AMD Instinct MI300X data sheet (7 links of 64 GB/s each way); 400 Gb/s assumed",
};

/// Every known type with its other names.
const DEVICES: [(DeviceType, &[&str]); 16] = [
    (H100, &["h100sxm", "h100sxm5", "h10080gb"]),
    (
        DeviceType {
            name: "H200",
            memory_bytes: 143_771 * MIB,
            memory_bandwidth: 4.8e12,
            source: "NVIDIA H200 SXM data sheet; DGX H200 user guide (400 Gb/s per GPU)",
            ..H100
        },
        &["h200sxm", "h200141gb"],
    ),
    (
        DeviceType {
            name: "H800",
            link_bandwidth: 200e9,
            source: "NVIDIA H800 SXM data sheet: an H100 with NVLink of 400 GB/s; 400 Gb/s assumed",
            ..H100
        },
        &["h800sxm", "h80080gb"],
    ),
    (
        DeviceType {
            name: "H20",
            memory_bytes: 97_871 * MIB,
            memory_bandwidth: 4e12,
            bf16_flops: 148e12,
            fp8_flops: 296e12,
            source: "NVIDIA H20 data sheet (96 GB, NVLink of 900 GB/s); 400 Gb/s assumed",
            ..H100
        },
        &["h20sxm", "h2096gb"],
    ),
    (A100, &["a10080g", "a10080gb", "a100sxm"]),
    (
        DeviceType {
            name: "A100-40G",
            memory_bytes: 40_960 * MIB,
            memory_bandwidth: 1.555e12,
            source: "NVIDIA A100 40GB SXM data sheet; DGX A100 user guide (200 Gb/s per GPU)",
            ..A100
        },
        &["a10040gb"],
    ),
    (
        DeviceType {
            name: "L40S",
            memory_bytes: 46_068 * MIB,
            memory_bandwidth: 864e9,
            bf16_flops: 362e12,
            fp8_flops: 733e12,
            link_bandwidth: 32e9,
            link_latency: PCIE,
            network_bandwidth: 12.5e9,
            network_latency: ETHERNET,
            domain_devices: None,
            source: "NVIDIA L40S data sheet (PCIe 4.0 x16, no NVLink); 100 Gb/s per GPU assumed",
        },
        &[],
    ),
    (
        DeviceType {
            name: "L4",
            memory_bytes: 23_034 * MIB,
            memory_bandwidth: 300e9,
            bf16_flops: 121e12,
            fp8_flops: 242e12,
            link_bandwidth: 32e9,
            link_latency: PCIE,
            network_bandwidth: 3.125e9,
            network_latency: ETHERNET,
            domain_devices: None,
            source: "NVIDIA L4 data sheet, half of the figures with sparsity; 25 Gb/s assumed",
        },
        &[],
    ),
    (B200, &["b200sxm"]),
    (
        DeviceType {
            name: "B300",
            memory_bytes: 275_040 * MIB,
            memory_bandwidth: 7.75e12,
            network_bandwidth: 100e9,
            source: "NVIDIA Blackwell Ultra data sheet, HGX B300: 62 TB/s and 36 PFLOPS of bf16 with \
                     sparsity over 8 GPUs; 800 Gb/s per GPU",
            ..B200
        },
        &["b300sxm"],
    ),
    (
        DeviceType {
            name: "GB200",
            memory_bytes: 189_471 * MIB,
            memory_bandwidth: 8e12,
            bf16_flops: 2500e12,
            fp8_flops: 5000e12,
            domain_devices: Some(72),
            source: "NVIDIA GB200 NVL72 data sheet, per GPU; nodes of 4 share an NVLink domain of 72",
            ..B200
        },
        &["gb200nvl72"],
    ),
    (
        DeviceType {
            name: "GB300",
            memory_bytes: 284_208 * MIB,
            memory_bandwidth: 8e12,
            bf16_flops: 2500e12,
            fp8_flops: 5000e12,
            network_bandwidth: 100e9,
            domain_devices: Some(72),
            source: "NVIDIA Blackwell Ultra data sheet, GB300 NVL72 per GPU; nodes of 4 share an NVLink \
                     domain of 72; 800 Gb/s per GPU",
            ..B200
        },
        &["gb300nvl72"],
    ),
    (MI300X, &[]),
    (
        DeviceType {
            name: "MI355X",
            memory_bytes: 294_896 * MIB,
            memory_bandwidth: 8e12,
            bf16_flops: 2517e12,
            fp8_flops: 5033e12,
            link_bandwidth: 537.6e9,
            source: "AMD Instinct MI355X data sheet (7 links of 76.8 GB/s each way); 400 Gb/s assumed",
            ..MI300X
        },
        &[],
    ),
    (
        DeviceType {
            name: "RTX4090",
            memory_bytes: 24_564 * MIB,
            memory_bandwidth: 1.008e12,
            bf16_flops: 165e12,
            fp8_flops: 330e12,
            link_bandwidth: 32e9,
            link_latency: PCIE,
            network_bandwidth: 1.25e9,
            network_latency: ETHERNET,
            domain_devices: None,
            source: "NVIDIA Ada GPU architecture white paper (fp32 accumulation); 10 Gb/s assumed",
        },
        &["4090"],
    ),
    (
        DeviceType {
            name: "CPU",
            memory_bytes: 64 << 30,
            memory_bandwidth: 100e9,
            bf16_flops: 2e12,
            fp8_flops: 2e12,
            link_bandwidth: 20e9,
            link_latency: 5e-6,
            network_bandwidth: 1.25e9,
            network_latency: ETHERNET,
            domain_devices: None,
            source: "assumed: a server socket with 64 GiB at 100 GB/s; give your own in the TOML form",
        },
        &[],
    ),
];

// === impl DeviceType ===

impl DeviceType {
    /// Returns the device type called `name`; case, dashes, underscores and spaces do not matter.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        let plain = |name: &str| -> String {
            name.chars()
                .filter(|letter| !matches!(letter, '-' | '_' | ' '))
                .map(|letter| letter.to_ascii_lowercase())
                .collect()
        };
        let wanted = plain(name);
        DEVICES
            .iter()
            .find(|(device, aliases)| plain(device.name) == wanted || aliases.contains(&&*wanted))
            .map(|(device, _)| *device)
    }

    /// Returns the names of all known types.
    pub fn names() -> impl Iterator<Item = &'static str> {
        DEVICES.iter().map(|(device, _)| device.name)
    }

    /// Returns the smaller of two values in each quantity.
    #[must_use]
    pub(crate) fn least(self, other: Self) -> Self {
        let slower = if other.memory_bandwidth < self.memory_bandwidth { other } else { self };
        Self {
            memory_bytes: self.memory_bytes.min(other.memory_bytes),
            memory_bandwidth: self.memory_bandwidth.min(other.memory_bandwidth),
            bf16_flops: self.bf16_flops.min(other.bf16_flops),
            fp8_flops: self.fp8_flops.min(other.fp8_flops),
            link_bandwidth: self.link_bandwidth.min(other.link_bandwidth),
            link_latency: self.link_latency.max(other.link_latency),
            network_bandwidth: self.network_bandwidth.min(other.network_bandwidth),
            network_latency: self.network_latency.max(other.network_latency),
            ..slower
        }
    }
}
