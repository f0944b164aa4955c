//! Decides what to leave out when a conversation is longer than its context.
//!
//! Whole turns are left out, the oldest first; never the system prompt, and never the last message. Room for the answer
//! stays free. The caller counts the tokens. Turns that are left out stay in the session.

use serde::{Deserialize, Serialize};

/// What to do when a conversation is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum OnOverflow {
    /// Do not answer
    Error,
    /// Leave out the oldest messages, with a notice
    DropOldest,
    /// Replace the oldest messages with a summary by the model
    Summarize,
}

/// How the positions of a context are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// All positions.
    pub n_ctx: usize,
    /// Positions reserved for the answer.
    pub n_answer: usize,
}

impl Budget {
    /// Reserves `max_tokens` for the answer, or a quarter of the context if there is no limit.
    #[must_use]
    pub fn new(n_ctx: usize, max_tokens: Option<usize>) -> Budget {
        Budget { n_ctx, n_answer: max_tokens.unwrap_or(n_ctx / 4).min(n_ctx) }
    }

    /// Maximum prompt in tokens.
    #[must_use]
    pub fn n_prompt(&self) -> usize {
        self.n_ctx - self.n_answer
    }

    /// Length to shorten a prompt to. Less than the longest prompt, because every new beginning has to be read again:
    /// this way several turns pass before the next shortening.
    #[must_use]
    pub fn n_shortened(&self) -> usize {
        self.n_prompt() * 3 / 4
    }
}

/// Which part of a conversation to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Everything after the first `n_left_out` turns.
    From {
        /// Number of turns to leave out.
        n_left_out: usize,
        /// Tokens of the prompt.
        n_prompt: usize,
    },
    /// The prompt has this many tokens, and nothing (more) may be left out.
    TooLong(usize),
}

/// Decides how many of `n_turns` turns to leave out; `n_left_out` of them are already. `count` returns the tokens of
/// the prompt without that many turns. It is called as rarely as possible.
///
/// # Errors
/// The errors of `count`.
pub fn fit<E>(
    n_turns: usize,
    n_left_out: usize,
    budget: Budget,
    policy: OnOverflow,
    mut count: impl FnMut(usize) -> Result<usize, E>,
) -> Result<Fit, E> {
    let n_prompt = count(n_left_out)?;
    if n_prompt <= budget.n_prompt() {
        return Ok(Fit::From { n_left_out, n_prompt });
    }
    if policy == OnOverflow::Error {
        return Ok(Fit::TooLong(n_prompt));
    }
    // Too long with `long` turns left out; short enough with `short` if `n_short` is known.
    let (mut long, mut short, mut n_short) = (n_left_out, n_turns.saturating_sub(1).max(n_left_out), None);
    while short - long > 1 {
        let middle = long.midpoint(short);
        let n_prompt = count(middle)?;
        if n_prompt <= budget.n_shortened() {
            (short, n_short) = (middle, Some(n_prompt));
        } else {
            long = middle;
        }
    }
    let n_prompt = match n_short {
        Some(n_prompt) => n_prompt,
        None => count(short)?,
    };
    let fits = n_prompt <= budget.n_prompt();
    Ok(if fits { Fit::From { n_left_out: short, n_prompt } } else { Fit::TooLong(n_prompt) })
}

/// The largest number in `1 ..= n` for which `fits` holds; `None` if there is none. `fits` must be monotonic.
///
/// # Errors
/// The errors of `fits`.
pub fn most_that_fit<E>(n: usize, mut fits: impl FnMut(usize) -> Result<bool, E>) -> Result<Option<usize>, E> {
    let (mut known, mut beyond) = (0, n + 1);
    while beyond - known > 1 {
        let middle = known.midpoint(beyond);
        if fits(middle)? { known = middle } else { beyond = middle }
    }
    Ok((known > 0).then_some(known))
}

/// The prompt that asks a model for a summary of at most `n_words` words.
#[must_use]
pub fn summary_request(before: Option<&str>, turns: &[(String, String)], n_words: usize) -> String {
    let mut text = format!(
        "Summarize the conversation below in at most {n_words} words. Keep names, numbers, decisions and what the user \
         asked for. Write the summary only.\n\n"
    );
    if let Some(before) = before {
        text += &format!("Summary of what came before: {before}\n\n");
    }
    for (user, assistant) in turns {
        text += &format!("User: {user}\n\nAssistant: {assistant}\n\n");
    }
    text.truncate(text.trim_end().len());
    text
}

/// The system prompt, followed by the summary of the turns left out.
#[must_use]
pub fn system_with_summary(system: Option<&str>, summary: Option<&str>) -> Option<String> {
    let summary = summary.map(|summary| format!("Summary of the conversation so far: {summary}"));
    match (system, summary) {
        (Some(system), Some(summary)) => Some(format!("{system}\n\n{summary}")),
        (system, summary) => system.map(str::to_owned).or(summary),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// Tokens of the prompt with this many turns left out.
    fn n_tokens(system: usize, turns: &[usize], n_left_out: usize) -> usize {
        system + turns[n_left_out..].iter().sum::<usize>()
    }

    /// Reference implementation: tries one turn after another.
    fn naive(system: usize, turns: &[usize], already: usize, budget: Budget) -> Fit {
        let of = |n| n_tokens(system, turns, n);
        if of(already) <= budget.n_prompt() {
            return Fit::From { n_left_out: already, n_prompt: of(already) };
        }
        let last = turns.len() - 1;
        let n_left_out = (already + 1..last).find(|&n| of(n) <= budget.n_shortened()).unwrap_or(last.max(already));
        match of(n_left_out) {
            n_prompt if n_prompt <= budget.n_prompt() => Fit::From { n_left_out, n_prompt },
            n_prompt => Fit::TooLong(n_prompt),
        }
    }

    proptest! {
        #[test]
        fn is_the_naive_twin_and_asks_little(
            system in 0usize..20,
            turns in prop::collection::vec(0usize..40, 1..40),
            already in any::<prop::sample::Index>(),
            n_ctx in 1usize..400,
            max_tokens in prop::option::of(0usize..200),
        ) {
            let already = already.index(turns.len());
            let budget = Budget::new(n_ctx, max_tokens);
            let mut n_asked = 0;
            let count = |n| { n_asked += 1; Ok::<_, Infallible>(n_tokens(system, &turns, n)) };
            let Ok(fit) = fit(turns.len(), already, budget, OnOverflow::DropOldest, count);
            prop_assert_eq!(fit, naive(system, &turns, already, budget));
            prop_assert!(n_asked <= 8);
            if let Fit::From { n_left_out, n_prompt } = fit {
                // The answer has its room (the whole context, if it may be longer), the last message stays, and no turn
                // comes back.
                prop_assert!(n_prompt + max_tokens.unwrap_or(n_ctx / 4).min(n_ctx) <= n_ctx);
                prop_assert!((already..turns.len()).contains(&n_left_out));
            }
        }

        #[test]
        fn an_error_leaves_nothing_out(turns in prop::collection::vec(1usize..40, 1..9), n_ctx in 1usize..200) {
            let budget = Budget::new(n_ctx, Some(0));
            let Ok(fit) = fit(turns.len(), 0, budget, OnOverflow::Error, |n| Ok::<_, Infallible>(n_tokens(3, &turns, n)));
            let all = n_tokens(3, &turns, 0);
            let expected = if all <= n_ctx { Fit::From { n_left_out: 0, n_prompt: all } } else { Fit::TooLong(all) };
            prop_assert_eq!(fit, expected);
        }

        #[test]
        fn the_most_that_fit_is_found(n in 0usize..50, limit in 0usize..60) {
            let Ok(found) = most_that_fit(n, |k| Ok::<_, Infallible>(k <= limit));
            prop_assert_eq!(found, (1..=n).filter(|&k| k <= limit).max());
        }
    }

    #[test]
    fn a_summary_stands_beside_the_system_prompt() {
        assert_eq!(system_with_summary(None, None), None);
        assert_eq!(system_with_summary(Some("Be brief."), None).as_deref(), Some("Be brief."));
        let both = system_with_summary(Some("Be brief."), Some("They met."));
        assert_eq!(both.as_deref(), Some("Be brief.\n\nSummary of the conversation so far: They met."));
        let request = summary_request(Some("They met."), &[("hi".into(), "hello".into())], 50);
        assert!(request.ends_with("Summary of what came before: They met.\n\nUser: hi\n\nAssistant: hello"));
    }
}
