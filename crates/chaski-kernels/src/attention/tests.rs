//! Compares attention with plain sums: for any order of cells, large values and slopes. Also measures the cost of
//! exactness.

use std::time::Instant;

use super::*;

/// A team of one thread.
const ALONE: Team = Team { index: 0, size: 1, pool: std::ptr::null_mut() };

/// Deterministic numbers between -1 and 1.
fn numbers(n: usize, mut state: u64) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn tensor<T>(data: &[T], ty: i32, ne: [usize; 3]) -> Tensor {
    let size = size_of::<T>();
    let nb = [size, size * ne[0], size * ne[0] * ne[1], size * ne[0] * ne[1] * ne[2]].map(|n| n as i64);
    Tensor { data: data.as_ptr().cast_mut().cast(), ne: [ne[0] as i64, ne[1] as i64, ne[2] as i64, 1], nb, ty }
}

/// `out[row][channel]` for F32 values `v[channel][cell]` and probabilities `p[row][cell]`.
fn values_of(isa: Isa, v: &[f32], p: &[f32], cells: usize, channels: usize) -> Vec<f32> {
    let rows = p.len() / cells;
    let mut out = vec![0f32; rows * channels];
    let (v, p) = (tensor(v, code::F32, [cells, channels, 1]), tensor(p, code::F32, [cells, rows, 1]));
    let o = tensor(&out, code::F32, [channels, rows, 1]);
    let mut work = vec![0u8; values_work_size(&v, &p, 1)];
    // SAFETY: the tensors have the sizes they claim, `out` is local, and the caller chose an ISA of this CPU.
    unsafe { run_values(isa, &v, &p, &o, ALONE, work.as_mut_ptr()) };
    std::mem::take(&mut out)
}

fn isas() -> Vec<Isa> {
    [Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.is_supported()).collect()
}

#[test]
fn values_do_not_depend_on_the_order_of_cells() {
    const CELLS: usize = 1536;
    const CHANNELS: usize = 8;
    for isa in isas() {
        // Sizes on both sides of `SMALL`, so that some blocks are split and others are not.
        for largest in [0.5f32, 90.0, 50_000.0] {
            let size = numbers(CELLS * CHANNELS, 3);
            let v: Vec<f32> = numbers(CELLS * CHANNELS, 1)
                .iter()
                .zip(&size)
                .map(|(x, s)| x * largest.powf(*s) * if *s > 0.9 { largest.sqrt() } else { 1.0 })
                .map(|x| x.clamp(-65_000.0, 65_000.0))
                .collect();
            let grid = (1 << 22) as f32;
            let p: Vec<f32> =
                numbers(CELLS, 2).iter().map(|x| (x.abs() * grid / CELLS as f32).round() / grid).collect();
            let sum = values_of(isa, &v, &p, CELLS, CHANNELS);
            // The same cells in reverse order, with unused cells among them.
            let turned = |row: &[f32], unused: f32| row.iter().rev().flat_map(|&x| [x, unused]).collect::<Vec<f32>>();
            let v2: Vec<f32> = v.chunks(CELLS).flat_map(|row| turned(row, 7.0)).collect();
            let again = values_of(isa, &v2, &turned(&p, 0.0), 2 * CELLS, CHANNELS);
            assert_eq!(
                sum.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
                again.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            );
            for (channel, got) in v.chunks(CELLS).zip(&sum) {
                let want: f64 = channel.iter().zip(&p).map(|(v, p)| f64::from(*v) * f64::from(*p)).sum();
                assert!((want - f64::from(*got)).abs() <= 1e-6 * f64::from(largest.max(1.0)), "{want} {got}");
            }
        }
    }
}

#[test]
fn slopes_are_alibis() {
    let (cells, heads) = (16, 12);
    let x = numbers(cells * heads, 5);
    let mask: Vec<f32> = (0..cells).map(|i| if i < 12 { i as f32 - 11.0 } else { f32::NEG_INFINITY }).collect();
    let out = vec![0f32; cells * heads];
    let (xt, mt) = (tensor(&x, code::F32, [cells, 1, heads]), tensor(&mask, code::F32, [cells, 1, 1]));
    let ot = tensor(&out, code::F32, [cells, 1, heads]);
    for isa in isas() {
        let softmax = Softmax { x: &xt, mask: Some(&mt), sinks: None, scale: 0.5, max_bias: 8.0, out: &ot };
        // SAFETY: the tensors have the sizes they claim.
        unsafe { run_softmax(isa, &softmax, ALONE) };
        for head in 0..heads {
            // Of 12 heads, the first 8 have powers of 1/2, the other 4 the powers in between.
            let slope = if head < 8 { 0.5f64.powi(head as i32 + 1) } else { 0.5f64.powf((head - 8) as f64 + 0.5) };
            let e: Vec<f64> =
                (0..cells).map(|i| (f64::from(x[head * cells + i]) * 0.5 + slope * f64::from(mask[i])).exp()).collect();
            let sum: f64 = e.iter().sum();
            for (i, e) in e.iter().enumerate() {
                // SAFETY: within `out`, which `run_softmax` wrote through a pointer.
                let got = unsafe { out.as_ptr().add(head * cells + i).read_volatile() };
                assert!((f64::from(got) - e / sum).abs() < 1e-6, "head {head}, cell {i}: {got} {}", e / sum);
            }
        }
    }
}

/// Softmax and values with plain sums of floats, whose result depends on the order of the cells.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn plain(
    x: &[f32],
    mask: &[u16],
    v: &[u16],
    [cells, channels, rows]: [usize; 3],
    p: &mut [f32],
    out: &mut [f32],
) {
    unsafe {
        for r in 0..rows {
            let (x, p) = (x.as_ptr().add(r * cells), p.as_mut_ptr().add(r * cells));
            let mut largest = _mm256_set1_ps(f32::NEG_INFINITY);
            for i in (0..cells).step_by(8) {
                let m = _mm256_cvtph_ps(_mm_loadu_si128(mask.as_ptr().add(i).cast()));
                let s = _mm256_fmadd_ps(_mm256_loadu_ps(x.add(i)), _mm256_set1_ps(0.125), m);
                _mm256_storeu_ps(p.add(i), s);
                largest = _mm256_max_ps(largest, s);
            }
            let mut lanes = [0f32; 8];
            _mm256_storeu_ps(lanes.as_mut_ptr(), largest);
            let shift = _mm256_set1_ps(lanes.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b)));
            let mut sum = _mm256_setzero_ps();
            for i in (0..cells).step_by(8) {
                let e = exp8(_mm256_sub_ps(_mm256_loadu_ps(p.add(i)), shift));
                _mm256_storeu_ps(p.add(i), e);
                sum = _mm256_add_ps(sum, e);
            }
            _mm256_storeu_ps(lanes.as_mut_ptr(), sum);
            let inverse = _mm256_set1_ps(1.0 / lanes.iter().sum::<f32>());
            for i in (0..cells).step_by(8) {
                _mm256_storeu_ps(p.add(i), _mm256_mul_ps(_mm256_loadu_ps(p.add(i)), inverse));
            }
        }
        let mut block = [0f32; 512 * CHANNELS];
        for group in (0..channels).step_by(CHANNELS) {
            let mut sums = vec![_mm512_setzero_ps(); rows * CHANNELS];
            for from in (0..cells).step_by(512) {
                let n = 512.min(cells - from) / 16;
                for c in 0..CHANNELS {
                    for l in 0..n {
                        let h = v.as_ptr().add((group + c) * cells + from + 16 * l);
                        _mm512_storeu_ps(
                            block.as_mut_ptr().add((l * CHANNELS + c) * 16),
                            _mm512_cvtph_ps(_mm256_loadu_si256(h.cast())),
                        );
                    }
                }
                for r in 0..rows {
                    let mut acc =
                        [sums[r * CHANNELS], sums[r * CHANNELS + 1], sums[r * CHANNELS + 2], sums[r * CHANNELS + 3]];
                    for l in 0..n {
                        let x = _mm512_loadu_ps(p.as_ptr().add(r * cells + from + 16 * l));
                        for (c, acc) in acc.iter_mut().enumerate() {
                            *acc =
                                _mm512_fmadd_ps(x, _mm512_loadu_ps(block.as_ptr().add((l * CHANNELS + c) * 16)), *acc);
                        }
                    }
                    sums[r * CHANNELS..][..CHANNELS].copy_from_slice(&acc);
                }
            }
            for r in 0..rows {
                for c in 0..CHANNELS {
                    out[r * channels + group + c] = _mm512_reduce_add_ps(sums[r * CHANNELS + c]);
                }
            }
        }
    }
}

/// Prints the microseconds of one key head with its query heads: keys, then softmax with values, as implemented and
/// with plain sums of floats. Run it with `cargo test --release -p chaski-kernels -- --ignored --nocapture
/// what_being_exact_costs`.
#[test]
#[ignore = "a measurement"]
fn what_being_exact_costs() {
    if !Isa::Avx512.is_supported() {
        return eprintln!("not run: this CPU has no AVX-512");
    }
    println!(
        "{:>8} {:>8} {:>6} {:>10} {:>10} {:>10} {:>10}",
        "cells", "channels", "rows", "keys", "softmax", "values", "plain"
    );
    for (channels, heads) in [(64, 7), (128, 6)] {
        for cells in [256, 8192] {
            for tokens in [1, 8] {
                let rows = heads * tokens;
                let half = |n: usize, seed| -> Vec<u16> {
                    // SAFETY: a CPU with AVX-512 has F16C.
                    let bits = |x: f32| unsafe { half_of(x) };
                    numbers(n, seed).into_iter().map(bits).collect()
                };
                let (k, v, mask) = (half(cells * channels, 1), half(cells * channels, 2), vec![0u16; cells * tokens]);
                let (q, x) = (numbers(rows * channels, 3), numbers(rows * cells, 4));
                let (scores, mut p, mut out) =
                    (vec![0f32; rows * cells], vec![0f32; rows * cells], vec![0f32; rows * channels]);
                let kt = tensor(&k, code::F16, [channels, cells, 1]);
                let vt = tensor(&v, code::F16, [cells, channels, 1]);
                let qt = tensor(&q, code::F32, [channels, tokens, heads]);
                let xt = tensor(&x, code::F32, [cells, tokens, heads]);
                let st = tensor(&scores, code::F32, [cells, tokens, heads]);
                let mt = tensor(&mask, code::F16, [cells, tokens, 1]);
                let pt = tensor(&p, code::F32, [cells, tokens, heads]);
                let ot = tensor(&out, code::F32, [channels, tokens, heads]);
                let mut work = vec![0u8; values_work_size(&vt, &pt, 1)];
                let softmax = Softmax { x: &xt, mask: Some(&mt), sinks: None, scale: 0.125, max_bias: 0.0, out: &pt };
                let best = |work: &mut dyn FnMut()| {
                    let once = |work: &mut dyn FnMut()| {
                        let start = Instant::now();
                        work();
                        start.elapsed().as_secs_f64() * 1e6
                    };
                    (0..200).map(|_| once(work)).fold(f64::INFINITY, f64::min)
                };
                // SAFETY: the tensors have the sizes they claim, and the CPU was checked.
                let times = unsafe {
                    [
                        best(&mut || run_keys(Isa::Avx512, &kt, &qt, &st, ALONE)),
                        best(&mut || run_softmax(Isa::Avx512, &softmax, ALONE)),
                        best(&mut || run_values(Isa::Avx512, &vt, &pt, &ot, ALONE, work.as_mut_ptr())),
                        best(&mut || plain(&x, &mask, &v, [cells, channels, rows], &mut p, &mut out)),
                    ]
                };
                let [keys, softmax, values, plain] = times;
                println!(
                    "{cells:>8} {channels:>8} {tokens:>6} {keys:>10.1} {softmax:>10.1} {values:>10.1} {plain:>10.1}"
                );
            }
        }
    }
}

#[target_feature(enable = "f16c")]
unsafe fn half_of(x: f32) -> u16 {
    _mm_extract_epi16::<0>(_mm_cvtps_ph::<0>(_mm_set_ss(x))) as u16
}
