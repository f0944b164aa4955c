//! Measures the kernels of one type or of all: multiply-adds per second in cache, bytes per second from memory.
//!
//! usage: kernels [TYPE [ISA]]      types as in ggml (q4_K), instruction sets as in CHASKI_KERNELS
use std::time::Instant;

use chaski_kernels::{Isa, Matrix, WeightType};

fn seconds(mut work: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..7 {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted = arguments.first().map(|name| {
        WeightType::ALL.into_iter().find(|ty| ty.name().eq_ignore_ascii_case(name)).expect("a type of ggml")
    });
    let isas = arguments.get(1).map(|name| name.parse::<Isa>().expect("an instruction set"));
    let columns = 1536;
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported() && isas.is_none_or(|only| only == *isa)) {
        for ty in WeightType::ALL.into_iter().filter(|ty| wanted.is_none_or(|only| only == *ty)) {
            for (name, bytes) in [("in cache", 256usize << 10), ("in memory", 96 << 20)] {
                let rows = bytes / ty.row_bytes(columns) / 16 * 16;
                let blocks = vec![1u8; rows * ty.row_bytes(columns)];
                let matrix = Matrix::new(ty, isa, columns, &blocks);
                print!("{isa:8} {:7} {name:10}", ty.name());
                for n in [1, 2, 3, 4, 6, 8, 12, 16, 32, 64] {
                    let x: Vec<f32> = (0..n * columns).map(|i| (i % 17) as f32 - 8.0).collect();
                    let acts = matrix.quantize(&x);
                    let mut out = vec![0.0; n * rows];
                    let macs = (n * rows * columns) as f64;
                    let repeats = (2e8 / macs).ceil() as usize;
                    let time =
                        seconds(|| (0..repeats).for_each(|_| matrix.multiply(&x, &acts, &mut out))) / repeats as f64;
                    if name == "in memory" {
                        print!(" {n}:{:.1}GB/s", matrix.bytes() as f64 / time / 1e9);
                    } else {
                        print!(" {n}:{:.0}G", macs / time / 1e9);
                    }
                }
                println!();
            }
        }
    }
}
