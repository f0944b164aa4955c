//! Makes room in a full context: leaves out old turns, or has the model summarize them. [`crate::chat::overflow`]
//! decides how many.

use crate::chat::overflow::{self, Budget, Fit, OnOverflow};
use crate::chat::session::Turn;
use crate::chat::template::{Message, Rendered};
use crate::chat::thinking::{self, opens_thinking, without_thinking};
use crate::cli::chat::conversation::{Conversation, Opens};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::output::stderr_line;
use crate::engine::End;
use crate::llama::sampler::Sampling;

/// Tokens allowed per requested word: models write more than they are asked for.
const TOKENS_PER_WORD: usize = 2;

/// Shortest answer that a hint leaves room for, in tokens.
const LEAST_ANSWER: usize = 32;

impl Conversation {
    /// Restores the turns that were left out, if the context has room for all of them now.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn recall(&mut self) -> Result<(), Failure> {
        if self.session.n_left_out == 0 {
            return Ok(());
        }
        let budget = Budget::new(self.engine.n_ctx, self.settings.max_tokens);
        let all = self.session.messages(self.session.system.clone(), 0, None);
        if self.count(self.render(&all, Opens::Answer)?)? <= budget.n_prompt() {
            (self.session.n_left_out, self.session.summary) = (0, None);
        }
        Ok(())
    }

    /// Leaves out the oldest turns that do not fit beside the message and its answer, and prints a notice.
    pub(super) fn make_room(&mut self, message: &str) -> Result<(), Failure> {
        let budget = Budget::new(self.engine.n_ctx, self.settings.max_tokens);
        let (before, policy) = (self.session.n_left_out, self.settings.on_overflow);
        let fit = overflow::fit(self.session.turns.len() + 1, before, budget, policy, |n| self.count_with(n, message))?;
        let n_left_out = match fit {
            Fit::TooLong(n_prompt) => {
                let n_alone = self.count_with(self.session.turns.len(), message)?;
                return Err(self.too_long(n_prompt, n_alone, budget));
            }
            Fit::From { n_left_out, .. } if n_left_out == before => return Ok(()),
            Fit::From { n_left_out, .. } => n_left_out,
        };
        let mut instead = "";
        if policy == OnOverflow::Summarize {
            let summary = self.summarize(before, n_left_out)?;
            let summary_before = std::mem::replace(&mut self.session.summary, summary);
            let fits = self.count_with(n_left_out, message)? <= budget.n_prompt();
            instead = match &self.session.summary {
                Some(_) if fits => ", and a summary replaces them",
                Some(_) => ", without a summary, because it does not fit",
                None => ", without a summary, because the model wrote none",
            };
            if !fits {
                self.session.summary = summary_before;
            }
        }
        self.session.n_left_out = n_left_out;
        stderr_line(&format!(
            "notice: the context of {} tokens is full: the oldest {} messages are left out{instead}; they stay in \
             the chat",
            budget.n_ctx,
            2 * n_left_out,
        ));
        Ok(())
    }

    /// `n_alone` is the length of a prompt with this message alone, in tokens.
    fn too_long(&self, n_prompt: usize, n_alone: usize, budget: Budget) -> Failure {
        let what = match self.settings.on_overflow {
            OnOverflow::Error => "the chat",
            OnOverflow::DropOldest | OnOverflow::Summarize => "the message",
        };
        Failure::new(format!(
            "{what} has {n_prompt} tokens, but the context has {}, of which {} are reserved for the answer",
            budget.n_ctx, budget.n_answer
        ))
        .with_code(ExitCode::PromptTooLong)
        .about("ctx-size")
        .with_hint(self.what_helps(n_prompt, n_alone, budget).join(", or "))
    }

    /// Hints that make room for the prompt, as the user types them. Omits those that would not help.
    fn what_helps(&self, n_prompt: usize, n_alone: usize, budget: Budget) -> Vec<String> {
        let drops = self.settings.on_overflow != OnOverflow::Error;
        let mut helps = Vec::new();
        if !drops && n_alone <= budget.n_prompt() {
            helps.push("/set on-overflow drop-oldest".to_owned());
        }
        let n_needed = n_prompt + budget.n_answer.min(LEAST_ANSWER);
        if n_needed <= budget.n_ctx {
            helps.push(format!("/set n-predict {}", budget.n_ctx - n_prompt));
        }
        // Without `n-predict`, a quarter of the context is reserved for the answer.
        let n_ctx = match self.settings.max_tokens {
            Some(n) => n_prompt + n,
            None => n_prompt.div_ceil(3) * 4,
        };
        if self.engine.n_ctx_train.is_none_or(|n_ctx_train| n_ctx <= n_ctx_train) {
            helps.push(format!("start chaski chat with -c {n_ctx}"));
        }
        helps.push("a shorter message".to_owned());
        helps
    }

    /// Summarizes the turns from `from` to `to` and the summary before them. If they do not fit into one context, it
    /// works in parts.
    fn summarize(&self, from: usize, to: usize) -> Result<Option<String>, Failure> {
        let pair = |turn: &Turn| (turn.user.clone(), without_thinking(&turn.assistant));
        let turns: Vec<(String, String)> = self.session.turns[from..to].iter().map(pair).collect();
        stderr_line(&format!("notice: summarizing {} messages", 2 * turns.len()));
        let (mut summary, mut rest) = (self.session.summary.clone(), turns.as_slice());
        while !rest.is_empty() {
            let n_summary = self.n_summary();
            let request = |n: usize| self.summary_request(summary.as_deref(), &rest[..n]);
            let fits = |n| Ok::<_, Failure>(self.count(request(n)?)? + n_summary <= self.engine.n_ctx);
            let Some(n) = overflow::most_that_fit(rest.len(), fits)? else {
                stderr_line("notice: a message is too long for a summary; it is left out without one");
                rest = &rest[1..];
                continue;
            };
            let text = self.summary_of(request(n)?)?;
            summary = Some(text).filter(|text| !text.is_empty()).or(summary);
            rest = &rest[n..];
        }
        Ok(summary)
    }

    /// Length limit of a summary, in tokens.
    fn n_summary(&self) -> usize {
        self.engine.n_ctx / 8
    }

    fn summary_request(&self, before: Option<&str>, turns: &[(String, String)]) -> Result<Rendered, Failure> {
        let text = overflow::summary_request(before, turns, self.n_summary() / TOKENS_PER_WORD);
        self.render(&[Message::new("user", text)], Opens::Summary)
    }

    /// The model's answer to a request for a summary.
    fn summary_of(&self, request: Rendered) -> Result<String, Failure> {
        let opening = if opens_thinking(&request.text()) { thinking::OPEN } else { "" };
        // Greedy: a summary must depend only on its text.
        let sampling = Sampling { temperature: 0.0, ..self.settings.sampling.clone() };
        let (answer, text) = self.run(self.request(request, Some(self.n_summary()), sampling), |_| Ok(()))?;
        match answer.end {
            End::Interrupted => Err(Failure::interrupted()),
            _ => Ok(without_thinking(&format!("{opening}{text}")).trim().to_owned()),
        }
    }
}
