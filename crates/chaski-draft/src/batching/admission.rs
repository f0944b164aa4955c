//! Assigns lanes: admits texts, shares prefixes, closes gaps between lanes, and frees them.

use super::{Batcher, End, Ended, Lane, Text, Work};
use crate::batching::schedule::Wish;
use crate::batching::shared_prefixes::{Held, SharedPrefix, n_common, shared_prefix};
use crate::batching::target::BatchTarget;
use crate::token::Token;

impl<S: BatchTarget> Batcher<S> {
    /// Admits a text into the lowest free lane.
    ///
    /// # Panics
    /// If no lane is free, or the prompt is empty or does not fit.
    pub fn admit(&mut self, text: Text) {
        let Text { id, prompt, max_tokens, sampler, filter } = text;
        let lane_id = self.lanes.iter().position(|lane| lane.work.is_none()).expect("a lane is free");
        let n_ctx = self.target.n_ctx();
        assert!((1..n_ctx).contains(&prompt.len()), "a prompt of {} tokens in {n_ctx} positions", prompt.len());
        let capacity = n_ctx - prompt.len();
        // The free lane may still hold a common prefix. The last prompt token is always decoded, for its logits.
        let n_kept = n_common(&self.lanes[lane_id].text, &prompt[..prompt.len() - 1]);
        self.target.cut(lane_id, n_kept);
        self.lanes[lane_id] = Lane {
            work: Some(Work {
                id,
                n_prompt: prompt.len(),
                order: self.n_admitted,
                n_cached: self.target.n_past(lane_id),
                n_left: max_tokens.clamp(1, capacity),
                limit: if max_tokens <= capacity { End::Limit } else { End::Full },
                sampler,
                n_drafted: 0,
                n_accepted: 0,
            }),
            text: prompt,
        };
        if let (Some(drafting), Some(filter)) = (&mut self.drafting, filter) {
            drafting.set_filter(lane_id, filter);
        }
        self.n_admitted += 1;
    }

    /// Puts `tokens` into lane 0 as a prefix that later texts share. `put` must make the lane hold exactly `tokens`.
    /// Call it before any text is admitted.
    ///
    /// # Errors
    /// Errors of `put`; the lane is empty then.
    pub fn admit_shared_prefix<E>(
        &mut self,
        tokens: &[Token],
        put: impl FnOnce(&mut S, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        self.lanes[0].text.clear();
        put(&mut self.target, 0)?;
        self.lanes[0].text = tokens.to_vec();
        Ok(())
    }

    /// Cuts a free lane that holds `tokens` down to exactly these. Returns the target and the lane, or `None` if there
    /// is none.
    pub fn only_shared_prefix(&mut self, tokens: &[Token]) -> Option<(&S, usize)> {
        let is_it = |lane: &Lane| lane.work.is_none() && lane.text.starts_with(tokens);
        let lane_id = self.lanes.iter().position(is_it)?;
        self.target.cut(lane_id, tokens.len());
        self.lanes[lane_id].text.truncate(tokens.len());
        (self.target.n_past(lane_id) == tokens.len()).then_some((&self.target, lane_id))
    }

    /// Moves texts from high lanes into free lower ones. llama.cpp splits a batch at every gap, in every step.
    pub(super) fn close_ranks(&mut self) {
        let is_free = |lane: &Lane| lane.work.is_none();
        while self.target.can_copy()
            && let Some(free) = self.lanes.iter().position(is_free)
            && let Some(last) = self.lanes.iter().rposition(|lane| !is_free(lane))
            && free < last
        {
            let n_past = self.target.n_past(last);
            self.target.copy(last, free, n_past);
            if let Some(drafting) = &mut self.drafting {
                drafting.swap(last, free);
            }
            self.lanes[free] = std::mem::take(&mut self.lanes[last]);
            self.lanes[last].text = self.lanes[free].text[..n_past].to_vec();
        }
    }

    /// What a lane could use in the next batch: its pending tokens. Copies a shared prefix first if there is one.
    pub(super) fn wish(&mut self, lane_id: usize) -> Wish {
        let lane = &self.lanes[lane_id];
        let Some(work) = &lane.work else { return Wish::default() };
        let n_past = self.target.n_past(lane_id);
        if n_past + 1 < work.n_prompt && self.target.can_copy() {
            let others = (0..self.lanes.len()).filter(|&other| other != lane_id).map(|other| (other, self.held(other)));
            match shared_prefix(&lane.text[..work.n_prompt - 1], n_past, work.order, others) {
                SharedPrefix::Own => {}
                SharedPrefix::Awaited => return Wish::default(),
                SharedPrefix::Copied(from, n) => self.share(from, lane_id, n),
            }
        }
        Wish { n_pending: self.lanes[lane_id].text.len() - self.target.n_past(lane_id), p: Vec::new() }
    }

    fn held(&self, lane_id: usize) -> Held<'_> {
        let lane = &self.lanes[lane_id];
        let n_past = self.target.n_past(lane_id);
        let reading = lane.work.as_ref().filter(|work| n_past + 1 < work.n_prompt);
        Held { text: &lane.text, n_past, reading: reading.map(|work| work.order) }
    }

    fn share(&mut self, from: usize, to: usize, n: usize) {
        let n_before = self.target.n_past(to);
        self.target.copy(from, to, n);
        if let Some(work) = &mut self.lanes[to].work {
            work.n_cached += self.target.n_past(to).saturating_sub(n_before);
        }
    }

    /// Frees a lane. Its cache stays until another text needs the lane.
    pub(super) fn leave(&mut self, lane_id: usize, end: End) -> Option<Ended> {
        let lane = &mut self.lanes[lane_id];
        let Work { id, n_cached, n_drafted, n_accepted, .. } = lane.work.take()?;
        if let Some(drafting) = &mut self.drafting {
            drafting.end(lane_id, &lane.text);
        }
        lane.text.truncate(self.target.n_past(lane_id));
        Some(Ended { id, end, n_cached, n_drafted, n_accepted })
    }
}
