//! Sampling parameters, with llama.cpp's names, order and defaults.
//!
//! The command line and batch lines both take the allowed range of each number from one table ([`SAMPLING_OPTIONS`]). The samplers
//! themselves are llama.cpp's: see `llama::sampler`.

use std::ops::RangeInclusive;

use crate::token::Token;

/// DRY's default sequence breakers: it sees no repetition across these texts.
pub const DRY_BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// Maximum window of a penalty, in tokens. The sampler allocates memory for the whole window.
const MAX_LAST_N: f64 = (1 << 20) as f64;

/// The window in tokens that `last_n` stands for: any negative number means the longest window.
#[must_use]
pub fn n_looked_back(last_n: i32) -> i32 {
    if last_n < 0 { MAX_LAST_N as i32 } else { last_n }
}

/// An upper bound for numbers that have no natural one.
const HUGE: f64 = 1e6;

/// How tokens are sampled. The default is llama.cpp's.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Seed of the random draws.
    pub seed: u32,
    /// 0 or less always takes the likeliest token.
    pub temperature: f32,
    /// How far the entropy moves the temperature up or down; 0 is off.
    pub dynatemp_range: f32,
    /// Exponent of the entropy in dynamic temperature.
    pub dynatemp_exponent: f32,
    /// Keeps the k likeliest tokens; 0 is off, and so is -1, as in vLLM.
    pub top_k: i32,
    /// Keeps the likeliest tokens that make up this probability; 1 is off.
    pub top_p: f32,
    /// Keeps tokens at least this likely relative to the likeliest; 0 is off.
    pub min_p: f32,
    /// Keeps the most typical tokens that make up this probability; 1 is off.
    pub typical_p: f32,
    /// Keeps tokens within this many standard deviations of the highest logit; 0 or less is off.
    pub top_n_sigma: f32,
    /// Probability of removing all likely tokens but the least likely of them; 0 is off.
    pub xtc_probability: f32,
    /// Probability from which XTC counts a token as likely; above 0.5 is off.
    pub xtc_threshold: f32,
    /// Window of the penalties in tokens; 0 is off, -1 is all.
    pub repeat_last_n: i32,
    /// Divides the logits of recent tokens; 1 is off.
    pub repeat_penalty: f32,
    /// Subtracted from a token's logit once per occurrence; 0 is off.
    pub frequency_penalty: f32,
    /// Subtracted from the logit of every token that occurred; 0 is off.
    pub presence_penalty: f32,
    /// Scales DRY's penalty on tokens that continue a repetition; 0 is off.
    pub dry_multiplier: f32,
    /// Base of DRY's penalty, which grows exponentially with the length of the repetition.
    pub dry_base: f32,
    /// Repetitions up to this length are not penalized.
    pub dry_allowed_length: i32,
    /// DRY's window in tokens; 0 is off, -1 is all.
    pub dry_penalty_last_n: i32,
    /// DRY's sequence breakers; `None` is [`DRY_BREAKERS`].
    pub dry_breakers: Option<Vec<String>>,
    /// Mirostat version, applied after the temperature and instead of all other samplers; 0 is off.
    pub mirostat: i32,
    /// Mirostat's target surprise.
    pub mirostat_tau: f32,
    /// Mirostat's learning rate.
    pub mirostat_eta: f32,
    /// Target probability of adaptive-p, if `samplers` includes it; below 0 there is no target.
    pub adaptive_target: f32,
    /// Decay of adaptive-p's running average per token.
    pub adaptive_decay: f32,
    /// The samplers, in order; `None` is [`DEFAULT_ORDER`].
    pub samplers: Option<Vec<SamplerKind>>,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(Token, f32)>,
    /// Never samples an end-of-generation token.
    pub ignore_eos: bool,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            seed: 0,
            temperature: 0.8,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            top_n_sigma: -1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repeat_last_n: 64,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: 64,
            dry_breakers: None,
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            adaptive_target: -1.0,
            adaptive_decay: 0.9,
            samplers: None,
            logit_bias: Vec::new(),
            ignore_eos: false,
        }
    }
}

impl Sampling {
    /// Always takes the likeliest token.
    #[must_use]
    pub fn greedy() -> Sampling {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }

    /// The samplers in order, without those that have no effect.
    #[must_use]
    pub fn links(&self) -> Vec<SamplerKind> {
        let order = self.samplers.as_deref().unwrap_or(&DEFAULT_ORDER);
        order.iter().copied().filter(|&kind| self.has_effect(kind)).collect()
    }

    fn has_effect(&self, kind: SamplerKind) -> bool {
        match kind {
            SamplerKind::Penalties => {
                let is_off =
                    self.repeat_penalty == 1.0 && self.frequency_penalty == 0.0 && self.presence_penalty == 0.0;
                self.repeat_last_n != 0 && !is_off
            }
            SamplerKind::Dry => self.dry_multiplier != 0.0 && self.dry_base >= 1.0 && self.dry_penalty_last_n != 0,
            SamplerKind::TopNSigma => self.top_n_sigma > 0.0,
            SamplerKind::TopK => self.top_k > 0,
            SamplerKind::Typical => self.typical_p < 1.0,
            SamplerKind::TopP => self.top_p < 1.0,
            SamplerKind::MinP => self.min_p > 0.0,
            SamplerKind::Xtc => self.xtc_probability > 0.0 && self.xtc_threshold <= 0.5,
            SamplerKind::Temperature | SamplerKind::AdaptiveP => true,
        }
    }

    /// Whether sampling always takes the token with the highest raw logit.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        let links = self.links();
        let keeps_likeliest = |kind: &SamplerKind| {
            matches!(kind, SamplerKind::TopNSigma | SamplerKind::TopK | SamplerKind::TopP | SamplerKind::MinP)
        };
        let is_cold = self.temperature <= 0.0 && links.contains(&SamplerKind::Temperature);
        let mut before = links.iter().take_while(|&&kind| kind != SamplerKind::Temperature);
        let is_as_it_is = self.logit_bias.is_empty() && !self.ignore_eos && self.dynatemp_range == 0.0;
        is_as_it_is && self.temperature <= 0.0 && (self.mirostat != 0 || is_cold && before.all(keeps_likeliest))
    }

    /// Checks the range of every number.
    ///
    /// # Errors
    /// The first option out of range, and its number.
    pub fn check(&self) -> Result<(), (&'static SamplingOption, f64)> {
        let mut copy = self.clone();
        for option in &SAMPLING_OPTIONS {
            let number = option.get(&mut copy);
            if !option.allows(number) {
                return Err((option, number));
            }
        }
        Ok(())
    }

    /// The first token in `logit_bias` that a vocabulary of `n_vocab` tokens does not have.
    #[must_use]
    pub fn unknown_token(&self, n_vocab: usize) -> Option<Token> {
        let is_known = |token: Token| usize::try_from(token.0).is_ok_and(|index| index < n_vocab);
        self.logit_bias.iter().map(|&(token, _)| token).find(|&token| !is_known(token))
    }
}

/// One of llama.cpp's samplers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplerKind {
    /// Repetition, frequency and presence penalties.
    Penalties,
    /// Penalty on repeated sequences.
    Dry,
    /// See [`Sampling::top_n_sigma`].
    TopNSigma,
    /// See [`Sampling::top_k`].
    TopK,
    /// See [`Sampling::typical_p`].
    Typical,
    /// See [`Sampling::top_p`].
    TopP,
    /// See [`Sampling::min_p`].
    MinP,
    /// See [`Sampling::xtc_probability`].
    Xtc,
    /// See [`Sampling::temperature`].
    Temperature,
    /// See [`Sampling::adaptive_target`]. It always samples last, wherever the list names it.
    AdaptiveP,
}

/// llama.cpp's order.
pub const DEFAULT_ORDER: [SamplerKind; 9] = [
    SamplerKind::Penalties,
    SamplerKind::Dry,
    SamplerKind::TopNSigma,
    SamplerKind::TopK,
    SamplerKind::Typical,
    SamplerKind::TopP,
    SamplerKind::MinP,
    SamplerKind::Xtc,
    SamplerKind::Temperature,
];

impl SamplerKind {
    /// All samplers, with llama.cpp's names.
    pub const NAMES: [(&str, SamplerKind); 10] = [
        ("penalties", SamplerKind::Penalties),
        ("dry", SamplerKind::Dry),
        ("top_n_sigma", SamplerKind::TopNSigma),
        ("top_k", SamplerKind::TopK),
        ("typ_p", SamplerKind::Typical),
        ("top_p", SamplerKind::TopP),
        ("min_p", SamplerKind::MinP),
        ("xtc", SamplerKind::Xtc),
        ("temperature", SamplerKind::Temperature),
        ("adaptive_p", SamplerKind::AdaptiveP),
    ];

    /// Looks up a sampler by name, written with `_` or `-`.
    #[must_use]
    pub fn named(name: &str) -> Option<SamplerKind> {
        let name = name.replace('-', "_");
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|&(_, kind)| kind)
    }
}

/// A number of [`Sampling`], with its names and its range.
#[derive(Debug)]
pub struct SamplingOption {
    /// Name in JSON: OpenAI's if it has one, else llama-server's.
    pub name: &'static str,
    /// llama.cpp's flag on the command line.
    pub flag: &'static str,
    range: RangeInclusive<f64>,
    field: Field,
}

#[derive(Debug)]
enum Field {
    Real(fn(&mut Sampling) -> &mut f32),
    Whole(fn(&mut Sampling) -> &mut i32),
}

impl SamplingOption {
    /// Reads the number from `sampling`, without changing it.
    #[must_use]
    pub fn get(&self, sampling: &mut Sampling) -> f64 {
        match self.field {
            Field::Real(field) => f64::from(*field(sampling)),
            Field::Whole(field) => f64::from(*field(sampling)),
        }
    }

    /// Sets the number in `sampling`. The number must satisfy [`SamplingOption::allows`].
    pub fn set(&self, sampling: &mut Sampling, number: f64) {
        match self.field {
            Field::Real(field) => *field(sampling) = number as f32,
            Field::Whole(field) => *field(sampling) = number as i32,
        }
    }

    /// Whether the number is in range, and whole if it has to be.
    #[must_use]
    pub fn allows(&self, number: f64) -> bool {
        let is_kind = matches!(self.field, Field::Real(_)) || number.fract() == 0.0;
        is_kind && self.range.contains(&number)
    }

    /// The allowed range, in words.
    #[must_use]
    pub fn wanted(&self) -> String {
        let kind = if matches!(self.field, Field::Whole(_)) { "a whole number" } else { "a number" };
        let (&start, &end) = (self.range.start(), self.range.end());
        match (start, end) {
            (start, end) if end < HUGE => format!("{kind} from {start} to {end}"),
            (0.0, _) => format!("{kind}, 0 or more"),
            (start, _) if start > 0.0 && start < 0.1 => format!("{kind} above 0"),
            (start, _) if start == -HUGE => kind.to_owned(),
            (start, _) => format!("{kind}, {start} or more"),
        }
    }
}

macro_rules! options {
    ($($kind:ident $name:literal $flag:literal $field:ident $start:expr, $end:expr;)*) => {
        [$(SamplingOption {
            name: $name,
            flag: $flag,
            range: $start..=$end,
            field: Field::$kind(|sampling| &mut sampling.$field),
        }),*]
    };
}

/// Every number of [`Sampling`] except the seed.
pub static SAMPLING_OPTIONS: [SamplingOption; 23] = options![
    Real "temperature" "--temp" temperature 0.0, HUGE;
    Real "dynatemp_range" "--dynatemp-range" dynatemp_range 0.0, HUGE;
    Real "dynatemp_exponent" "--dynatemp-exp" dynatemp_exponent 0.0, HUGE;
    Whole "top_k" "--top-k" top_k -1.0, i32::MAX as f64;
    Real "top_p" "--top-p" top_p 0.0, 1.0;
    Real "min_p" "--min-p" min_p 0.0, 1.0;
    Real "typical_p" "--typical" typical_p 0.0, 1.0;
    Real "top_n_sigma" "--top-nsigma" top_n_sigma -1.0, HUGE;
    Real "xtc_probability" "--xtc-probability" xtc_probability 0.0, 1.0;
    Real "xtc_threshold" "--xtc-threshold" xtc_threshold 0.0, 1.0;
    Whole "repeat_last_n" "--repeat-last-n" repeat_last_n -1.0, MAX_LAST_N;
    Real "repeat_penalty" "--repeat-penalty" repeat_penalty 1e-6, HUGE;
    Real "frequency_penalty" "--frequency-penalty" frequency_penalty -HUGE, HUGE;
    Real "presence_penalty" "--presence-penalty" presence_penalty -HUGE, HUGE;
    Real "dry_multiplier" "--dry-multiplier" dry_multiplier 0.0, HUGE;
    Real "dry_base" "--dry-base" dry_base 1.0, HUGE;
    Whole "dry_allowed_length" "--dry-allowed-length" dry_allowed_length 0.0, MAX_LAST_N;
    Whole "dry_penalty_last_n" "--dry-penalty-last-n" dry_penalty_last_n -1.0, MAX_LAST_N;
    Whole "mirostat" "--mirostat" mirostat 0.0, 2.0;
    Real "mirostat_tau" "--mirostat-ent" mirostat_tau 0.0, HUGE;
    Real "mirostat_eta" "--mirostat-lr" mirostat_eta 0.0, HUGE;
    Real "adaptive_target" "--adaptive-target" adaptive_target -1.0, 1.0;
    Real "adaptive_decay" "--adaptive-decay" adaptive_decay 0.0, 0.99;
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_in_range_and_every_knob_reaches_its_own_number() {
        assert_eq!(Sampling::default().check().map_err(|(option, _)| option.flag), Ok(()));
        for option in &SAMPLING_OPTIONS {
            let mut sampling = Sampling::default();
            let other = if option.get(&mut sampling) == 0.0 { 1.0 } else { 0.0 };
            option.set(&mut sampling, other);
            let changed = SAMPLING_OPTIONS
                .iter()
                .filter(|option| option.get(&mut sampling.clone()) != option.get(&mut Sampling::default()));
            assert_eq!(changed.map(|option| option.name).collect::<Vec<_>>(), [option.name]);
            assert!(!option.allows(f64::NAN) && !option.allows(f64::INFINITY), "{}", option.name);
        }
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let wrong = Sampling { top_p: 1.5, ..Sampling::default() };
        let (option, number) = wrong.check().unwrap_err();
        assert_eq!((option.flag, number, option.wanted().as_str()), ("--top-p", 1.5, "a number from 0 to 1"));
        let wanted = |name: &str| SAMPLING_OPTIONS.iter().find(|option| option.name == name).unwrap().wanted();
        assert_eq!(wanted("top_k"), "a whole number, -1 or more");
        assert_eq!(wanted("dynatemp_range"), "a number, 0 or more");
        assert_eq!(wanted("repeat_penalty"), "a number above 0");
        assert_eq!(wanted("presence_penalty"), "a number");
        assert_eq!(wanted("dry_base"), "a number, 1 or more");
        assert_eq!(wanted("mirostat"), "a whole number from 0 to 2");
    }

    #[test]
    fn only_what_keeps_the_likeliest_is_greedy() {
        assert!(Sampling::greedy().is_greedy());
        let changes: [fn(&mut Sampling); 9] = [
            |s| s.temperature = 0.1,
            |s| s.repeat_penalty = 1.1,
            |s| s.presence_penalty = 0.5,
            |s| s.dry_multiplier = 0.8,
            |s| s.typical_p = 0.5,
            |s| s.xtc_probability = 1.0,
            |s| s.logit_bias = vec![(Token(1), 1.0)],
            |s| s.ignore_eos = true,
            |s| s.samplers = Some(vec![SamplerKind::TopK]),
        ];
        for (n, change) in changes.iter().enumerate() {
            let mut sampling = Sampling::greedy();
            change(&mut sampling);
            assert!(!sampling.is_greedy(), "change {n}");
        }
    }

    #[test]
    fn samplers_have_the_names_that_llama_cpp_gives_them() {
        assert_eq!(SamplerKind::named("top-k"), Some(SamplerKind::TopK));
        assert_eq!(SamplerKind::named("typ_p"), Some(SamplerKind::Typical));
        assert_eq!(SamplerKind::named("infill"), None);
    }
}
