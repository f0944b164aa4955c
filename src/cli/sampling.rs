//! The sampling flags: llama.cpp's names and defaults, checked.

use std::str::FromStr;

use clap::Args as ClapArgs;

use crate::cli::failure::Failure;
use crate::gguf::Gguf;
use crate::sampling::{SamplerKind, Sampling};
use crate::token::Token;

/// llama.cpp reads the next number as "choose a random seed", and would not report its choice.
const MAX_SEED: u32 = u32::MAX - 1;

/// Sampling flags.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Seed of the draws (-1: take a random one and report it)
    ///
    /// The same seed gives the same text where chaski is exact (see `chaski models show`). Elsewhere, add
    /// --drafter none --no-prompt-cache to `chaski run`.
    #[arg(short, long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    pub seed: i64,

    /// Temperature (0: always take the most likely token)
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    pub temp: f32,

    /// Keep only the K most likely tokens (0 or -1: off)
    #[arg(long, value_name = "K", default_value_t = 40, allow_negative_numbers = true)]
    pub top_k: i32,

    /// Keep the likeliest tokens whose probabilities sum to P (1: off)
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true)]
    pub top_p: f32,

    /// Keep tokens at least P times as likely as the likeliest (0: off)
    #[arg(long, value_name = "P", default_value_t = 0.05, allow_negative_numbers = true)]
    pub min_p: f32,

    /// Penalize tokens that already occurred (1: off)
    #[arg(hide_short_help = true, long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub repeat_penalty: f32,

    /// Penalize tokens by X for each time they occurred (0: off)
    #[arg(hide_short_help = true, long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,

    /// Penalize tokens by X if they occurred at all (0: off)
    #[arg(hide_short_help = true, long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,

    /// Window of the repeat, frequency and presence penalties, in tokens, prompt included (0: off, -1: all)
    #[arg(hide_short_help = true, long, value_name = "N", default_value_t = 64, allow_negative_numbers = true)]
    pub repeat_last_n: i32,

    /// Keep only the most typical tokens whose probabilities add up to P (1: off)
    #[arg(
        hide_short_help = true,
        long,
        visible_alias = "typical-p",
        value_name = "P",
        default_value_t = 1.0,
        allow_negative_numbers = true
    )]
    pub typical: f32,

    /// Keep only tokens within N standard deviations of the most likely (-1: off)
    #[arg(hide_short_help = true, long, visible_alias = "top-n-sigma", value_name = "N", default_value_t = -1.0, allow_negative_numbers = true)]
    pub top_nsigma: f32,

    /// XTC: chance of removing all likely tokens except the least likely of them (0: off)
    #[arg(hide_short_help = true, long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    pub xtc_probability: f32,

    /// XTC: tokens of at least this probability count as likely (above 0.5: off)
    #[arg(hide_short_help = true, long, value_name = "P", default_value_t = 0.1, allow_negative_numbers = true)]
    pub xtc_threshold: f32,

    /// Dynamic temperature: vary --temp by up to X, depending on the entropy (0: off)
    #[arg(hide_short_help = true, long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub dynatemp_range: f32,

    /// Dynamic temperature: exponent of the entropy
    #[arg(hide_short_help = true, long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub dynatemp_exp: f32,

    /// DRY: penalize tokens that continue a repetition (0: off)
    #[arg(hide_short_help = true, long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub dry_multiplier: f32,

    /// DRY: factor by which the penalty grows with each repeated token
    #[arg(hide_short_help = true, long, value_name = "X", default_value_t = 1.75, allow_negative_numbers = true)]
    pub dry_base: f32,

    /// DRY: allow repetitions of up to N tokens
    #[arg(hide_short_help = true, long, value_name = "N", default_value_t = 2, allow_negative_numbers = true)]
    pub dry_allowed_length: i32,

    /// DRY: number of last tokens to search for repetitions (0: off, -1: all)
    #[arg(hide_short_help = true, long, value_name = "N", default_value_t = 64, allow_negative_numbers = true)]
    pub dry_penalty_last_n: i32,

    /// DRY: text that ends a repetition, or none (repeatable) [default: newline, colon, quote and asterisk]
    #[arg(hide_short_help = true, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub dry_sequence_breaker: Vec<String>,

    /// Use Mirostat, version 1 or 2, instead of the other samplers (0: off)
    #[arg(hide_short_help = true, long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub mirostat: i32,

    /// Mirostat: target entropy (tau)
    #[arg(hide_short_help = true, long, value_name = "X", default_value_t = 5.0, allow_negative_numbers = true)]
    pub mirostat_ent: f32,

    /// Mirostat: learning rate (eta)
    #[arg(hide_short_help = true, long, value_name = "X", default_value_t = 0.1, allow_negative_numbers = true)]
    pub mirostat_lr: f32,

    /// adaptive-p: target probability (below 0: none); needs adaptive_p in --samplers
    #[arg(hide_short_help = true, long, value_name = "P", default_value_t = -1.0, allow_negative_numbers = true)]
    pub adaptive_target: f32,

    /// adaptive-p: decay of the running average, per token
    #[arg(hide_short_help = true, long, value_name = "X", default_value_t = 0.9, allow_negative_numbers = true)]
    pub adaptive_decay: f32,

    /// Samplers to apply, in this order, separated by ; [default:
    /// penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature]
    #[arg(hide_short_help = true, long, value_name = "NAMES")]
    pub samplers: Option<String>,

    /// Change a token's logit by its id, as in 15043+1 or 15043-inf (repeatable)
    #[arg(hide_short_help = true, short = 'l', long, value_name = "TOKEN(+/-)BIAS")]
    pub logit_bias: Vec<LogitBias>,

    /// Never choose a token that ends the answer
    #[arg(hide_short_help = true, long)]
    pub ignore_eos: bool,
}

/// Argument of `--logit-bias`, as in `15043+1`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitBias(pub Token, pub f32);

impl FromStr for LogitBias {
    type Err = String;

    fn from_str(text: &str) -> Result<LogitBias, String> {
        let parse = || {
            let at = text.find(['+', '-'])?;
            let token = text[..at].trim().parse().ok().filter(|&token: &i32| token >= 0)?;
            let bias = text[at..].parse().ok().filter(|bias: &f32| !bias.is_nan() && *bias != f32::INFINITY)?;
            Some(LogitBias(Token(token), bias))
        };
        parse().ok_or_else(|| "expected a token's id, a sign and a bias, as in 15043+1 or 15043-inf".to_owned())
    }
}

/// Checks the sampling flags and picks the seed.
///
/// # Errors
/// If a value is invalid.
pub fn sampling(args: &SamplingArgs) -> Result<Sampling, Failure> {
    let sampling = Sampling {
        seed: seed(args.seed)?,
        temperature: args.temp,
        dynatemp_range: args.dynatemp_range,
        dynatemp_exponent: args.dynatemp_exp,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        typical_p: args.typical,
        top_n_sigma: args.top_nsigma,
        xtc_probability: args.xtc_probability,
        xtc_threshold: args.xtc_threshold,
        repeat_last_n: args.repeat_last_n,
        repeat_penalty: args.repeat_penalty,
        frequency_penalty: args.frequency_penalty,
        presence_penalty: args.presence_penalty,
        dry_multiplier: args.dry_multiplier,
        dry_base: args.dry_base,
        dry_allowed_length: args.dry_allowed_length,
        dry_penalty_last_n: args.dry_penalty_last_n,
        dry_breakers: breakers(&args.dry_sequence_breaker)?,
        mirostat: args.mirostat,
        mirostat_tau: args.mirostat_ent,
        mirostat_eta: args.mirostat_lr,
        adaptive_target: args.adaptive_target,
        adaptive_decay: args.adaptive_decay,
        samplers: args.samplers.as_deref().map(samplers).transpose()?,
        logit_bias: args.logit_bias.iter().map(|&LogitBias(token, bias)| (token, bias)).collect(),
        ignore_eos: args.ignore_eos,
    };
    sampling.check().map_err(|(knob, number)| {
        // Print the number as `f32`, as the user wrote it.
        Failure::usage(format!("{} must be {}, not {}", knob.flag, knob.wanted(), number as f32))
    })?;
    Ok(sampling)
}

/// Rejects biases for tokens that the model does not have.
///
/// # Errors
/// For the first such token.
pub fn check_biases(sampling: &Sampling, gguf: &Gguf) -> Result<(), Failure> {
    let n_vocab = gguf.n_vocab().unwrap_or(usize::MAX);
    let Some(token) = sampling.unknown_token(n_vocab) else { return Ok(()) };
    Err(Failure::usage(format!("--logit-bias: the model has {n_vocab} tokens, and {} is not one of them", token.0)))
}

fn seed(seed: i64) -> Result<u32, Failure> {
    if seed == -1 {
        return Ok(random_seed());
    }
    let known = u32::try_from(seed).ok().filter(|&seed| seed <= MAX_SEED);
    known.ok_or_else(|| Failure::usage(format!("--seed must be -1, or from 0 to {MAX_SEED}, not {seed}")))
}

/// A random seed, from the standard library's random keys for hash maps.
fn random_seed() -> u32 {
    use std::hash::BuildHasher as _;
    let random = std::collections::hash_map::RandomState::new().hash_one(std::process::id());
    (random >> 32) as u32 & (u32::MAX >> 1)
}

fn breakers(given: &[String]) -> Result<Option<Vec<String>>, Failure> {
    if given.iter().any(|text| text.is_empty() || text.contains('\0')) {
        return Err(Failure::usage("--dry-sequence-breaker: the text is empty")
            .with_hint("to have no sequence breakers, give --dry-sequence-breaker none"));
    }
    let texts = || given.iter().filter(|text| *text != "none").cloned().collect();
    Ok((!given.is_empty()).then(texts))
}

fn samplers(names: &str) -> Result<Vec<SamplerKind>, Failure> {
    let kind = |name: &str| {
        SamplerKind::named(name.trim()).ok_or_else(|| {
            let known: Vec<&str> = SamplerKind::NAMES.iter().map(|(name, _)| *name).collect();
            Failure::usage(format!("--samplers: {name:?} is not a sampler"))
                .with_hint(format!("the samplers are {}", known.join(";")))
        })
    };
    names.split(';').filter(|name| !name.trim().is_empty()).map(kind).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        sampling: SamplingArgs,
    }

    fn parse(line: &[&str]) -> Result<Sampling, Failure> {
        let line = Line::try_parse_from(["x"].iter().chain(line)).unwrap();
        sampling(&line.sampling)
    }

    #[test]
    fn the_defaults_are_llama_cpps() {
        assert_eq!(parse(&["-s", "0"]).unwrap(), Sampling::default());
    }

    #[test]
    fn flags_are_what_they_say() {
        let line = ["-s", "0", "--samplers", "top-k;temperature", "-l", "5+1.5", "-l", "6-inf", "--ignore-eos"];
        let expected = Sampling {
            samplers: Some(vec![SamplerKind::TopK, SamplerKind::Temperature]),
            logit_bias: vec![(Token(5), 1.5), (Token(6), f32::NEG_INFINITY)],
            ignore_eos: true,
            ..Sampling::default()
        };
        assert_eq!(parse(&line).unwrap(), expected);
        let breakers = |line: &[&str]| parse(line).unwrap().dry_breakers;
        assert_eq!(breakers(&["--dry-sequence-breaker", "none"]), Some(vec![]));
        assert_eq!(breakers(&["--dry-sequence-breaker", "\n"]), Some(vec!["\n".to_owned()]));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            ["--temp", "-1"],
            ["--top-p", "1.5"],
            ["--top-k", "-2"],
            ["--repeat-penalty", "0"],
            ["--mirostat", "3"],
            ["--dry-base", "0.5"],
            ["--samplers", "infill"],
            ["--seed", "-2"],
            ["--temp", "nan"],
        ] {
            let failure = parse(&line).unwrap_err().to_string();
            assert!(failure.contains(line[0]), "{failure}");
        }
        for bias in ["5", "x+1", "-5+1", "5+", "5+nan", "5+inf"] {
            assert!(bias.parse::<LogitBias>().is_err(), "{bias}");
        }
    }
}
