//! Training what the mixer believes at the start, on recorded answers.
//!
//! The mixer learns from every token anyway; training is that, over many answers, with longer steps first.

use crate::cost::{Clock, CostCurve};
use crate::draft::Source;
use crate::draft::auto::Auto;
use crate::draft::mixer::{Mixer, MixerState};
use crate::replay::score::replay;
use crate::replay::trace::Trace;
use crate::schedule::Schedule;
use crate::target::TargetError;

/// Steps of the gradient descent in each pass over all traces, in units of the usual one.
const RATES: [f32; 4] = [8.0, 4.0, 1.0, 0.3];

/// What a mixer for the sources that `sources` makes knows after reading all `traces` plainly, several times. Each trace
/// begins with fresh sources.
///
/// # Errors
/// When a trace contradicts itself.
pub fn train(
    traces: &[Trace],
    sources: &dyn Fn() -> Vec<Box<dyn Source>>,
    wall: &dyn Clock,
) -> Result<MixerState, TargetError> {
    // With no curve nothing is drafted: every token is scored all the same.
    let plain = Schedule::cost_aware(CostCurve::default());
    let one_row = CostCurve::exact([(1, 1.0)]);
    let mut mixer = Mixer::new(&sources(), &MixerState::empty());
    for rate in RATES {
        mixer = mixer.with_rate(rate);
        for trace in traces {
            let mut auto = Auto::new(sources(), &MixerState::empty()).with_mixer(mixer);
            replay(trace, &one_row, &mut auto, plain.clone(), wall)?;
            mixer = auto.into_mixer();
        }
    }
    Ok(mixer.state().clone())
}
