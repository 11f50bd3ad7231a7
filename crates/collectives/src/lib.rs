//! How tensors move between the ranks of a group.
//!
//! - **CO-1** what a collective returns is the same on every rank, bit for bit.
//!
//! Not here: which ranks form a group. There is one kind of group so far, of a single rank, where
//! every reduction is the identity.
#![forbid(unsafe_code)]

use candle_core::{Result, Tensor};

/// One rank's end of a group.
#[derive(Clone, Debug)]
pub struct Communicator {
    rank: usize,
    size: usize,
}

// === impl Communicator ===

impl Communicator {
    /// A group of one.
    #[must_use]
    pub fn solo() -> Self {
        Self { rank: 0, size: 1 }
    }

    /// This rank, counted from 0.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Ranks in the group.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The sum over all ranks of `tensor`, which has the same shape and type on each.
    ///
    /// # Errors
    /// When a rank is lost; a group of one loses none.
    pub fn all_reduce(&self, tensor: Tensor) -> Result<Tensor> {
        Ok(tensor)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_sum_over_one_rank_is_the_tensor_itself() -> Result<()> {
        let group = Communicator::solo();
        assert_eq!((group.rank(), group.size()), (0, 1));
        let tensor = Tensor::new(&[1f32, -2.5], &Device::Cpu)?;
        assert_eq!(group.all_reduce(tensor)?.to_vec1::<f32>()?, [1.0, -2.5]);
        Ok(())
    }
}
