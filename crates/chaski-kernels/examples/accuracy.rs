//! Measures how far apart two kinds of kernels are: writes the logits of a text, and compares two such files.
//!
//! usage: accuracy logits MODEL.gguf TEXT_FILE N_TOKENS ROWS_IN_A_BATCH OUT
//!          with CHASKI_KERNELS=avx2|avxvnni|avx512|ggml
//!        accuracy compare A B N_VOCAB
//!          prints the KL divergence of B from A, and the share of equal argmax
use std::ffi::{CString, c_char};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};

use chaski_kernels::Isa;
use llama_cpp_sys_2 as llama;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["logits", model, text, n, rows, out] => logits(model, text, number(n), number(rows), out),
        ["compare", a, b, n_vocab] => compare(a, b, number(n_vocab)),
        _ => panic!("see the head of examples/accuracy.rs"),
    }
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("{text}: not a number"))
}

fn logits(model: &str, text: &str, n: usize, rows: usize, out: &str) {
    let kernels = std::env::var("CHASKI_KERNELS").unwrap_or_default();
    let isa = if kernels.is_empty() { Isa::best() } else { kernels.parse::<Isa>().ok() };
    if let Some(isa) = isa {
        chaski_kernels::install(isa).expect("the kernels fit");
    }
    let text = std::fs::read_to_string(text).expect("a text");
    let path = CString::new(model).unwrap();
    let mut out = BufWriter::new(File::create(out).expect("a file to write"));
    // SAFETY: plain use of llama.cpp's interface; all lengths are those of the vectors passed.
    unsafe {
        llama::llama_backend_init();
        llama::llama_log_set(Some(quiet), std::ptr::null_mut());
        let model = llama::llama_model_load_from_file(path.as_ptr(), llama::llama_model_default_params());
        assert!(!model.is_null(), "llama.cpp cannot load the model");
        let vocabulary = llama::llama_model_get_vocab(model);
        let n_vocab = llama::llama_vocab_n_tokens(vocabulary) as usize;
        let mut tokens = vec![0; text.len() + 8];
        let found = llama::llama_tokenize(
            vocabulary,
            text.as_ptr().cast::<c_char>(),
            text.len() as i32,
            tokens.as_mut_ptr(),
            tokens.len() as i32,
            true,
            false,
        );
        tokens.truncate(usize::try_from(found).expect("tokens"));
        assert!(tokens.len() >= n, "the text has {} tokens", tokens.len());
        let mut params = llama::llama_context_default_params();
        params.n_ctx = n as u32 + 256;
        (params.n_batch, params.n_ubatch) = (512, 512);
        (params.n_threads, params.n_threads_batch) = (2, 2);
        params.flash_attn_type = llama::LLAMA_FLASH_ATTN_TYPE_DISABLED;
        let context = llama::llama_init_from_model(model, params);
        assert!(!context.is_null(), "llama.cpp makes no context");
        let mut batch = llama::llama_batch_init(rows as i32, 0, 1);
        for (start, part) in tokens[..n].chunks(rows).enumerate() {
            batch.n_tokens = part.len() as i32;
            for (i, token) in part.iter().enumerate() {
                *batch.token.add(i) = *token;
                *batch.pos.add(i) = (start * rows + i) as i32;
                *batch.n_seq_id.add(i) = 1;
                **batch.seq_id.add(i) = 0;
                *batch.logits.add(i) = 1;
            }
            assert_eq!(llama::llama_decode(context, batch), 0, "llama.cpp cannot decode");
            for i in 0..part.len() {
                let row = std::slice::from_raw_parts(
                    llama::llama_get_logits_ith(context, i as i32).cast::<u8>(),
                    n_vocab * 4,
                );
                out.write_all(row).expect("room on the disk");
            }
        }
        println!("{n_vocab}");
    }
}

unsafe extern "C" fn quiet(_: llama::ggml_log_level, _: *const c_char, _: *mut std::ffi::c_void) {}

fn compare(a: &str, b: &str, n_vocab: usize) {
    let open = |path: &str| BufReader::new(File::open(path).unwrap_or_else(|error| panic!("{path}: {error}")));
    let (mut a, mut b) = (open(a), open(b));
    let row = |from: &mut BufReader<File>| {
        let mut bytes = vec![0; n_vocab * 4];
        from.read_exact(&mut bytes).ok()?;
        Some(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<f32>>())
    };
    let (mut n, mut n_equal, mut n_bits, mut kl, mut largest) = (0usize, 0usize, 0usize, Vec::new(), 0f32);
    while let (Some(x), Some(y)) = (row(&mut a), row(&mut b)) {
        let log_softmax = |x: &[f32]| {
            let max = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let sum: f64 = x.iter().map(|v| (f64::from(*v) - max).exp()).sum();
            x.iter().map(|v| f64::from(*v) - max - sum.ln()).collect::<Vec<f64>>()
        };
        let best = |x: &[f32]| x.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i);
        let (p, q) = (log_softmax(&x), log_softmax(&y));
        kl.push(p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>());
        n += 1;
        n_equal += usize::from(best(&x) == best(&y));
        n_bits += usize::from(x.iter().zip(&y).all(|(x, y)| x.to_bits() == y.to_bits()));
        largest = x.iter().zip(&y).fold(largest, |most, (x, y)| most.max((x - y).abs()));
    }
    kl.sort_by(f64::total_cmp);
    println!(
        "{n} positions: KL mean {:.2e}, median {:.2e}, 99% {:.2e}; argmax equal {:.2}%; greatest difference {largest:.3}; rows with equal bits {n_bits}",
        kl.iter().sum::<f64>() / n as f64,
        kl[n / 2],
        kl[n * 99 / 100],
        100.0 * n_equal as f64 / n as f64
    );
}
