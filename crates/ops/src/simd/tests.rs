use super::*;
use crate::isa::{Isa, Kernel};

/// Runs a test on every set of this machine.
struct OnEach<T>(T);

trait Check: Copy {
    fn check<S: Simd>(self, simd: S);
}

impl<T: Check> Kernel for OnEach<T> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.0.check(simd);
    }
}

fn on_each(check: impl Check) {
    for isa in Isa::available() {
        isa.dispatch(OnEach(check));
    }
}

fn lanes<S: Simd>(simd: S, value: S::F) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    // SAFETY: the array is one vector.
    unsafe { simd.store_f32(value, lanes.as_mut_ptr()) };
    lanes
}

fn vector<S: Simd>(simd: S, lanes: [f32; LANES]) -> S::F {
    // SAFETY: the array is one vector.
    unsafe { simd.load_f32(lanes.as_ptr()) }
}

/// Numbers of every exponent and both signs, with the special ones.
fn spread() -> impl Iterator<Item = [f32; LANES]> {
    let mut bits = 1u32;
    let mut next = move || {
        bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from_bits(bits)
    };
    let special = [
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        f32::MIN,
        1e-45,
        -1e-45,
        65504.0,
        65520.0,
        6e-8,
        2.9e-8,
        1.0,
        -1.0,
        3.4e38,
    ];
    std::iter::once(special)
        .chain(std::iter::repeat_with(move || std::array::from_fn(|_| next())).take(20_000))
}

#[derive(Clone, Copy)]
struct Exponential;

impl Check for Exponential {
    fn check<S: Simd>(self, simd: S) {
        for step in 0..11_000 {
            let x: [f32; LANES] =
                std::array::from_fn(|lane| -87.3 + (step * LANES + lane) as f32 * 0.001);
            let found = lanes(simd, simd.exp(vector(simd, x)));
            for (x, found) in x.into_iter().zip(found).filter(|(x, _)| *x < 88.3) {
                let expected = f64::from(x).exp();
                let error = (f64::from(found) / expected - 1.0).abs();
                assert!(error < 2e-7, "e^{x} is {expected}, found {found}");
            }
        }
        let edge = |x: f32| lanes(simd, simd.exp(simd.splat(x)))[5];
        assert_eq!(edge(0.0), 1.0);
        assert_eq!(edge(f32::NEG_INFINITY), 0.0);
        assert_eq!(edge(-88.0), 0.0);
        assert_eq!(edge(89.0), f32::INFINITY);
        assert_eq!(edge(f32::INFINITY), f32::INFINITY);
        assert!(edge(f32::NAN).is_nan());
    }
}

#[test]
fn the_exponential_is_exact_to_2e_7() {
    on_each(Exponential);
}

#[derive(Clone, Copy)]
struct Conversions;

impl Check for Conversions {
    fn check<S: Simd>(self, simd: S) {
        for x in spread() {
            let value = vector(simd, x);
            let (mut short, mut half) = ([bf16::ZERO; LANES], [f16::ZERO; LANES]);
            // SAFETY: each array is one vector.
            unsafe {
                simd.store_bf16(value, short.as_mut_ptr());
                simd.store_f16(value, half.as_mut_ptr());
            }
            let rounded = [lanes(simd, simd.round_bf16(value)), lanes(simd, simd.round_f16(value))];
            for lane in 0..LANES {
                let (a, b) = (bf16::from_f32(x[lane]), f16::from_f32(x[lane]));
                same(short[lane].to_f32(), a.to_f32());
                same(half[lane].to_f32(), b.to_f32());
                same(rounded[0][lane], a.to_f32());
                same(rounded[1][lane], b.to_f32());
            }
        }
        for start in (0..=u16::MAX).step_by(2 * LANES) {
            let raw: [u16; 2 * LANES] = std::array::from_fn(|i| start + i as u16);
            let (short, half) = (raw.map(bf16::from_bits), raw.map(f16::from_bits));
            // SAFETY: each array has 32 elements.
            let (wide_bf16, wide_f16, pairs) = unsafe {
                (
                    simd.load_bf16(short.as_ptr()),
                    simd.load_f16(half.as_ptr()),
                    simd.load_bf16_pairs(short.as_ptr()),
                )
            };
            let (wide_bf16, wide_f16) = (lanes(simd, wide_bf16), lanes(simd, wide_f16));
            let pairs = pairs.map(|pair| lanes(simd, pair));
            for lane in 0..LANES {
                same(wide_bf16[lane], short[lane].to_f32());
                same(wide_f16[lane], half[lane].to_f32());
                if !S::BF16_PAIRS {
                    same(pairs[0][lane], short[2 * lane + 1].to_f32());
                    same(pairs[1][lane], short[2 * lane].to_f32());
                }
            }
        }
    }
}

fn same(found: f32, expected: f32) {
    let both_nan = found.is_nan() && expected.is_nan();
    assert!(both_nan || found.to_bits() == expected.to_bits(), "{found:e} is not {expected:e}");
}

#[test]
fn conversions_agree_with_half_for_every_kind_of_number() {
    on_each(Conversions);
}

#[derive(Clone, Copy)]
struct Lanewise;

impl Check for Lanewise {
    fn check<S: Simd>(self, simd: S) {
        let a: [f32; LANES] = std::array::from_fn(|i| (i as f32 - 7.3) * 1.7);
        let b: [f32; LANES] = std::array::from_fn(|i| 5.1 - (i * i) as f32 * 0.3);
        let (va, vb) = (vector(simd, a), vector(simd, b));
        let sum = simd.sum(va);
        let mut tree = a;
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                tree[i] += tree[i + half];
            }
        }
        assert_eq!(sum, tree[0]);
        assert_eq!(simd.sum4([va, vb, simd.splat(1.0), va]), [sum, simd.sum(vb), 16.0, sum]);
        assert_eq!(simd.max_lane(vb), 5.1);
        for from in 0..=LANES {
            for to in from..=LANES {
                let kept = lanes(simd, simd.keep_lanes(va, from, to, vb));
                let expected: [f32; LANES] =
                    std::array::from_fn(|i| if (from..to).contains(&i) { a[i] } else { b[i] });
                assert_eq!(kept, expected);
            }
        }
        let rows: [[f32; LANES]; LANES] =
            std::array::from_fn(|i| std::array::from_fn(|j| (i * LANES + j) as f32));
        let mut vectors = [va; LANES];
        for i in 0..LANES {
            vectors[i] = vector(simd, rows[i]);
        }
        for (j, column) in simd.transpose(vectors).into_iter().enumerate() {
            assert_eq!(lanes(simd, column), std::array::from_fn(|i| rows[i][j]));
        }
        let nan = simd.splat(f32::NAN);
        assert_eq!(lanes(simd, simd.max(nan, va)), a);
        assert_eq!(lanes(simd, simd.min(nan, va)), a);
        assert!(lanes(simd, simd.max(va, nan)).iter().all(|lane| lane.is_nan()));
        assert_eq!(lanes(simd, simd.select_less(nan, va, va, vb)), b);
        let less: [f32; LANES] = std::array::from_fn(|i| if a[i] < b[i] { 1.0 } else { 2.0 });
        let found = simd.select_less(va, vb, simd.splat(1.0), simd.splat(2.0));
        assert_eq!(lanes(simd, found), less);
    }
}

/// SIMD-1.
#[test]
fn lanes_and_trees_are_the_same_everywhere() {
    on_each(Lanewise);
}

#[derive(Clone, Copy)]
struct PairProducts;

impl Check for PairProducts {
    fn check<S: Simd>(self, simd: S) {
        if !S::BF16_PAIRS {
            return;
        }
        let mut all = spread();
        while let (Some(sum), Some(a), Some(b)) = (all.next(), all.next(), all.next()) {
            let found = simd.bf16_dot(vector(simd, sum), vector(simd, a), vector(simd, b));
            let found = lanes(simd, found);
            for lane in 0..LANES {
                same(found[lane], bf16_dot_lane(sum[lane], a[lane].to_bits(), b[lane].to_bits()));
            }
        }
    }
}

/// Prints past the capture of test output, so that a green run says what it did not run.
pub(crate) fn say_untested(isa: Isa) {
    use std::io::Write as _;
    let text = format!("\n*** NOT TESTED: this CPU has no {isa} ***\n");
    std::io::stderr().write_all(text.as_bytes()).expect("stderr is open");
}

#[test]
fn the_bf16_instruction_does_what_its_model_says() {
    if !Isa::Avx512Bf16.is_available() {
        say_untested(Isa::Avx512Bf16);
    }
    on_each(PairProducts);
}

#[test]
fn the_model_of_a_pair_product_flushes_and_adds_the_odd_product_first() {
    let pair = |odd: f32, even: f32| odd.to_bits() & 0xffff_0000 | even.to_bits() >> 16;
    assert_eq!(bf16_dot_lane(0.5, pair(2.0, 3.0), pair(4.0, 5.0)), 23.5);
    let subnormal = f32::from_bits(0x0001_0000);
    assert_eq!(bf16_dot_lane(1e-40, pair(subnormal, 0.0), pair(1e38, 0.0)), 0.0);
    // The odd product meets the sum first and cancels it; the other order would lose the even one.
    assert_eq!(bf16_dot_lane(-1e30, pair(1.0, 1.0), pair(1.0, 1.0)), -1e30);
    let big = bf16::from_f32(1e30).to_f32();
    assert_eq!(bf16_dot_lane(-big, pair(big, 1.0), pair(1.0, 1.0)), 1.0);
}
