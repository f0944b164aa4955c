//! The saved cost curves of an engine.

use std::path::PathBuf;

use crate::cost::CostCurve;
use crate::engine::{Message, Notice, unix_s};
use crate::store::curves::{self, CurveKey};
use crate::thread::Outbox;
use chaski_core::engine::Event;

/// Loads and saves curves.
#[derive(Clone, Copy)]
pub(super) struct Curves<'a> {
    /// `None` after a failed attempt to save: the failure is reported once.
    kept_at: Option<&'a (PathBuf, CurveKey)>,
    outbox: &'a Outbox<Message>,
}

impl<'a> Curves<'a> {
    pub(super) fn new(kept_at: Option<&'a (PathBuf, CurveKey)>, outbox: &'a Outbox<Message>) -> Curves<'a> {
        Curves { kept_at, outbox }
    }

    /// The saved curve for contexts of these settings, and when it was measured; an empty curve if there is none.
    pub(super) fn load(&self, settings: &str) -> (CostCurve, u64) {
        let kept = self.kept_at.and_then(|(folder, key)| curves::load(folder, &key.with_settings(settings), unix_s()));
        let (curve, measured_unix_s) = kept.unwrap_or_default();
        (curve.aged(), measured_unix_s)
    }

    pub(super) fn save(&mut self, settings: &str, curve: &CostCurve, measured_unix_s: u64) {
        let Some((folder, key)) = self.kept_at else { return };
        if let Err(error) = curves::save(folder, &key.with_settings(settings), curve, measured_unix_s) {
            let text = Notice::CurveNotKept(error).to_string();
            self.outbox.send(Message::Event(Event::Notice { id: None, text }));
            self.kept_at = None;
        }
    }
}
