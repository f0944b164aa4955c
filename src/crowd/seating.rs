//! Who has which place: texts come and leave, take over beginnings, and close ranks.

use super::{Crowd, End, Ended, Place, Text, Work};
use crate::crowd::schedule::Wish;
use crate::crowd::sharing::{Beginning, Held, beginning, n_common};
use crate::crowd::slots::Slots;
use crate::token::Token;

impl<S: Slots> Crowd<S> {
    /// Gives a text the lowest free place.
    ///
    /// # Panics
    /// When no place is free, or the prompt is empty or does not fit.
    pub fn admit(&mut self, text: Text) {
        let Text { id, prompt, max_tokens, sampler, form } = text;
        let slot = self.places.iter().position(|place| place.work.is_none()).expect("a place is free");
        let n_ctx = self.slots.n_ctx();
        assert!((1..n_ctx).contains(&prompt.len()), "a prompt of {} tokens in {n_ctx} positions", prompt.len());
        let room = n_ctx - prompt.len();
        // What the slot holds may begin like this one; the last token is decoded in any case, for its logits.
        let n_kept = n_common(&self.places[slot].text, &prompt[..prompt.len() - 1]);
        self.slots.cut(slot, n_kept);
        self.places[slot] = Place {
            work: Some(Work {
                id,
                n_prompt: prompt.len(),
                order: self.n_admitted,
                n_cached: self.slots.n_past(slot),
                n_left: max_tokens.clamp(1, room),
                limit: if max_tokens <= room { End::Limit } else { End::Full },
                sampler,
                n_drafted: 0,
                n_accepted: 0,
            }),
            text: prompt,
        };
        if let (Some(drafting), Some(form)) = (&mut self.drafting, form) {
            drafting.hold_to(slot, form);
        }
        self.n_admitted += 1;
    }

    /// Puts `tokens` into a free place by `put`, which makes its slot hold them: the first text that begins so takes them
    /// over, and others from it. Before any text is admitted.
    ///
    /// # Errors
    /// Those of `put`; the place holds nothing then.
    pub fn seat_beginning<E>(
        &mut self,
        tokens: &[Token],
        put: impl FnOnce(&mut S, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        self.places[0].text.clear();
        put(&mut self.slots, 0)?;
        self.places[0].text = tokens.to_vec();
        Ok(())
    }

    /// A free place that holds `tokens` and, from now on, nothing else; with what decodes.
    pub fn only_beginning(&mut self, tokens: &[Token]) -> Option<(&S, usize)> {
        let is_it = |place: &Place| place.work.is_none() && place.text.starts_with(tokens);
        let slot = self.places.iter().position(is_it)?;
        self.slots.cut(slot, tokens.len());
        self.places[slot].text.truncate(tokens.len());
        (self.slots.n_past(slot) == tokens.len()).then_some((&self.slots, slot))
    }

    /// Moves texts down into free places: a gap cuts a batch in two, in every step.
    pub(super) fn close_ranks(&mut self) {
        let is_free = |place: &Place| place.work.is_none();
        while self.slots.can_copy()
            && let Some(free) = self.places.iter().position(is_free)
            && let Some(last) = self.places.iter().rposition(|place| !is_free(place))
            && free < last
        {
            let n_past = self.slots.n_past(last);
            self.slots.copy(last, free, n_past);
            if let Some(drafting) = &mut self.drafting {
                drafting.swap(last, free);
            }
            self.places[free] = std::mem::take(&mut self.places[last]);
            self.places[last].text = self.places[free].text[..n_past].to_vec();
        }
    }

    /// What a slot could use in the next batch: what its text has and the slot does not hold.
    pub(super) fn wish(&mut self, slot: usize) -> Wish {
        let place = &self.places[slot];
        let Some(work) = &place.work else { return Wish::default() };
        let n_past = self.slots.n_past(slot);
        if n_past + 1 < work.n_prompt && self.slots.can_copy() {
            let others = (0..self.places.len()).filter(|&other| other != slot).map(|other| (other, self.held(other)));
            match beginning(&place.text[..work.n_prompt - 1], n_past, work.order, others) {
                Beginning::Own => {}
                Beginning::Awaited => return Wish::default(),
                Beginning::Copied(from, n) => self.share(from, slot, n),
            }
        }
        Wish { n_pending: self.places[slot].text.len() - self.slots.n_past(slot), p: Vec::new() }
    }

    fn held(&self, slot: usize) -> Held<'_> {
        let place = &self.places[slot];
        let n_past = self.slots.n_past(slot);
        let reading = place.work.as_ref().filter(|work| n_past + 1 < work.n_prompt);
        Held { text: &place.text, n_past, reading: reading.map(|work| work.order) }
    }

    fn share(&mut self, from: usize, to: usize, n: usize) {
        let n_before = self.slots.n_past(to);
        self.slots.copy(from, to, n);
        if let Some(work) = &mut self.places[to].work {
            work.n_cached += self.slots.n_past(to).saturating_sub(n_before);
        }
    }

    /// Frees a place; its slot keeps what it holds until somebody needs it.
    pub(super) fn leave(&mut self, slot: usize, end: End) -> Option<Ended> {
        let place = &mut self.places[slot];
        let Work { id, n_cached, n_drafted, n_accepted, .. } = place.work.take()?;
        if let Some(drafting) = &mut self.drafting {
            drafting.end(slot, &place.text);
        }
        place.text.truncate(self.slots.n_past(slot));
        Some(Ended { id, end, n_cached, n_drafted, n_accepted })
    }
}
