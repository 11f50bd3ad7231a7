use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use playhouse_layout::{Share, Slice};
use playhouse_wire::Dtype;

use super::*;

/// A checkpoint in a folder of its own, and a host that holds nothing yet.
struct Rank {
    folder: PathBuf,
    host: Arc<ProcessHost>,
}

// === impl Rank ===

impl Rank {
    fn new(name: &str) -> Self {
        let name = format!("playhouse-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let reference =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference/qwen2-tied-f32");
        fs::create_dir_all(&folder).expect("the temporary folder can be written");
        for name in ["config.json", "model.safetensors"] {
            fs::copy(Path::new(reference).join(name), folder.join(name)).expect("there is room");
        }
        let head = SocketAddr::from(([127, 0, 0, 1], 1));
        Self { folder, host: Arc::new(ProcessHost::new(head, String::new(), &[])) }
    }

    /// Returns a load of the first layer, or of both layers.
    fn load(&self, layers: u64) -> Load {
        Load {
            model: Some(self.folder.display().to_string()),
            dtype: Dtype::Auto,
            share: Share { layers: Slice { first: 0, count: layers }, ..Share::whole(2) },
            groups: vec![GroupKind::Tensor],
            threads: 1,
        }
    }

    /// Returns whether a load reads weights.
    async fn reads(&self, load: &Load) -> bool {
        let read = Arc::new(AtomicBool::new(false));
        let progress = {
            let read = Arc::clone(&read);
            Box::new(move |done, _| read.store(done > 0, Ordering::Relaxed))
        };
        let loaded = Arc::clone(&self.host).load(load.clone(), progress).await;
        loaded.expect("it can be read");
        read.load(Ordering::Relaxed)
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.folder));
    }
}

#[tokio::test]
async fn weights_are_read_again_only_if_they_changed() {
    let rank = Rank::new("weights-change");
    let (part, whole) = (rank.load(1), rank.load(2));
    assert!(rank.reads(&part).await);
    for _ in 0..2 {
        assert!(!rank.reads(&part).await, "what is held is not read again");
    }
    assert!(rank.reads(&whole).await, "another part is");
    assert!(rank.reads(&part).await && !rank.reads(&part).await);
    let weights = File::options().write(true).open(rank.folder.join("model.safetensors"));
    let earlier = SystemTime::now() - Duration::from_secs(60);
    weights.and_then(|file| file.set_modified(earlier)).expect("the file is ours");
    assert!(rank.reads(&part).await && !rank.reads(&part).await, "other files are");
}

/// A load may wait for the lock for as long as it likes: its turn may come behind that of a later one.
#[tokio::test]
async fn an_earlier_load_does_not_take_the_place_of_a_later_one() {
    let rank = Rank::new("later-load");
    let load = |layers| Arc::clone(&rank.host).load(rank.load(layers), Box::new(|_, _| ()));
    let (earlier, later) = (load(1), load(2));
    let loaded = later.await.expect("it is the last");
    let why = earlier.await.expect_err("its epoch is over");
    assert!(why.contains("a later load"), "{why}");
    let held = rank.host.held.lock();
    let (kept, ..) = held.loaded.as_ref().expect("the later one");
    assert_eq!(kept.share.layers.count, 2);
    let listeners = held.listeners.as_ref().expect("the later ones");
    let listens: Vec<_> = listeners
        .iter()
        .map(|(_, listener)| listener.local_addr().expect("bound").to_string())
        .collect();
    let told: Vec<_> = loaded.members.into_iter().map(|(_, member)| member.address).collect();
    assert_eq!(listens, told, "the other ranks were told these addresses");
}
