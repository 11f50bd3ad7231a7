//! Sums over ranks.
//!
//! - **SU-1** a sum is `((x0 + x1) + x2) + …` in rank order, in `f32`, rounded once. Its bits depend neither
//!   on how a tensor is cut into pieces, nor on the instruction set, nor on the rank that sums.

use crate::element::{Summand, TILE};

/// The contribution of one rank to a sum: its elements, in one or two parts.
pub(super) type Part<'a, T> = [&'a [T]; 2];

/// Sums parts of equal length, in their order. There is at least one part.
pub(super) fn sum_into<T: Summand>(parts: &[Part<'_, T>], output: &mut [T]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
        // SAFETY: the processor has both.
        return unsafe { sum_into_avx2(parts, output) };
    }
    sum_into_any(parts, output);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn sum_into_avx2<T: Summand>(parts: &[Part<'_, T>], output: &mut [T]) {
    sum_into_any(parts, output);
}

#[inline(always)]
fn sum_into_any<T: Summand>(parts: &[Part<'_, T>], output: &mut [T]) {
    let mut sums = [0.0; TILE];
    let len = output.len();
    for start in (0..len).step_by(TILE) {
        let end = len.min(start + TILE);
        let sums = &mut sums[..end - start];
        for (index, part) in parts.iter().enumerate() {
            let [first, second] = cut(part, start, end);
            let (head, tail) = sums.split_at_mut(first.len());
            if index == 0 {
                T::widen(first, head);
                T::widen(second, tail);
            } else {
                T::add(first, head);
                T::add(second, tail);
            }
        }
        T::round(sums, &mut output[start..end]);
    }
}

/// Returns elements `start..end` of a part.
#[inline(always)]
fn cut<'a, T>([first, second]: &Part<'a, T>, start: usize, end: usize) -> Part<'a, T> {
    let split = first.len();
    let head = &first[start.min(split)..end.min(split)];
    let tail = &second[start.max(split) - split..end.max(split) - split];
    [head, tail]
}
