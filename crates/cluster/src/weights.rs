//! The weights check: every rank has the weights that the head knows.
//!
//! - **WT-1** a rank whose checkpoint has another digest than the head's never serves: its replica fails
//!   to start, and the reason names the node, the folder and the difference.
//!
//! The head reads its digest once, when it starts. So all replicas have the same weights for as long as
//! the head lives, whatever becomes of the files meanwhile.

use playhouse_types::CheckpointDigest;

/// The checkpoint that every rank has to load.
#[derive(Clone, Debug)]
pub struct ExpectedWeights {
    /// The folder of the checkpoint, the same on every machine; `None` is the embedded one.
    pub folder: Option<String>,
    /// The digest of the head's checkpoint.
    pub digest: CheckpointDigest,
}

// === impl ExpectedWeights ===

impl ExpectedWeights {
    /// Compares the weights that a rank has loaded on a node with the head's (**WT-1**).
    ///
    /// # Errors
    /// When the weights differ: how, for a person.
    pub(crate) fn check(&self, node: &str, loaded: &CheckpointDigest) -> Result<(), String> {
        let Self { folder, digest } = self;
        let what = match (loaded.config == digest.config, loaded.weights == digest.weights) {
            (true, true) => return Ok(()),
            (true, false) => "other weights",
            (false, true) => "another config.json",
            (false, false) => "another config.json and other weights",
        };
        Err(match folder {
            Some(folder) => format!(
                "node {node} has {what} at {folder} than the head had there when it started: sync the \
                 folder, or restart the head if its own is the old one"
            ),
            None => format!(
                "node {node} has {what} in its binary than the head: run the same release on both"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wt1_what_differs_is_named_with_its_node_and_folder() {
        let digest = CheckpointDigest { config: [1; 32], weights: [2; 32] };
        let expected =
            |folder: Option<&str>| ExpectedWeights { folder: folder.map(str::to_owned), digest };
        let other =
            |config, weights| CheckpointDigest { config: [config; 32], weights: [weights; 32] };
        let models = expected(Some("/models/x"));
        assert_eq!(models.check("b", &digest), Ok(()));
        for (loaded, text) in [
            (other(1, 3), "node b has other weights at /models/x than the head"),
            (other(3, 2), "node b has another config.json at /models/x than the head"),
            (other(3, 3), "node b has another config.json and other weights at /models/x than"),
        ] {
            let why = models.check("b", &loaded).expect_err("it differs");
            assert!(why.starts_with(text) && why.contains("sync the folder"), "{why}");
        }
        let why = expected(None).check("b", &other(1, 3)).expect_err("it differs");
        assert!(why.contains("in its binary") && why.contains("same release"), "{why}");
    }
}
