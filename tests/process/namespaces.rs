//! Machines as far as the network goes, where this is permitted.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Two machines as far as the network goes: their own addresses, and no shared memory between them.
pub(crate) struct Namespaces(pub(crate) Vec<String>);

impl Namespaces {
    /// `None` where this is not permitted.
    pub(crate) fn new(count: u32) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut made = Self(Vec::new());
        // Tests run side by side, each in machines of its own.
        let bridge = format!("ph{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let ip = |words: &str| {
            let words = words.split(' ');
            let ran = Command::new("ip").args(words).stderr(Stdio::null()).status();
            ran.is_ok_and(|status| status.success()).then_some(())
        };
        // The first holds the bridge.
        for index in 0..count {
            let name = format!("{bridge}-{index}");
            ip(&format!("netns add {name}"))?;
            made.0.push(name);
            ip(&format!("-n {} link set lo up", made.0[index as usize]))?;
        }
        let first = &made.0[0];
        ip(&format!("-n {first} link add br0 type bridge"))?;
        ip(&format!("-n {first} addr add 10.77.0.1/24 dev br0"))?;
        ip(&format!("-n {first} link set br0 up"))?;
        for (index, name) in made.0.iter().enumerate().skip(1) {
            let pair = format!("type veth peer name eth0 netns {name}");
            ip(&format!("-n {first} link add v{index} {pair}"))?;
            ip(&format!("-n {first} link set v{index} master br0 up"))?;
            ip(&format!("-n {name} addr add 10.77.0.{}/24 dev eth0", index + 1))?;
            ip(&format!("-n {name} link set eth0 up"))?;
        }
        Some(made)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            drop(Command::new("ip").args(["netns", "del", name]).status());
        }
    }
}
