//! Writes the tokens that `auto` holds likeliest at each token of recorded answers: `cargo run --release --locked --example
//! auto_candidates -- TRACES.jsonl OUT.jsonl [BASE]`. It drafts and verifies nothing further, so `auto` knows every recorded
//! token before and the logits of one row a step. Each answer begins with a fresh drafter. The output has the format of the
//! predictions of `teacher_forced` (an example of chaski-llama), to compare sources by `scripts/hidden/compare.py`.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chaski::cost::CostCurve;
use chaski::draft::auto::Auto;
use chaski::draft::base::Base;
use chaski::draft::{Draft, Drafter, Verified};
use chaski::replay::score::replay;
use chaski::replay::trace::Trace;
use chaski::schedule::Schedule;
use chaski::store::drafter_file::DrafterFile;
use chaski::target::TreeLimits;
use chaski::token::Token;
use serde_json::{Value, json};

/// Tokens written per row.
const N_TOP: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (traces, out, base) = match arguments.as_slice() {
        [traces, out] => (traces, out, None),
        [traces, out, base] => (traces, out, Some(base)),
        _ => return Err("expected TRACES.jsonl OUT.jsonl [BASE]".into()),
    };
    let base: Option<Arc<dyn Base>> = match base {
        Some(path) => Some(Arc::new(DrafterFile::open_any(Path::new(path))?)),
        None => None,
    };
    let traces = Trace::parse_all(&std::fs::read_to_string(traces)?)?;
    let curve = CostCurve::exact([(1, 1.0)]);
    let mut out = BufWriter::new(File::create(out)?);
    for trace in &traces {
        let mut asked = Asked { auto: Auto::new(Auto::sources(base.clone()), None), rows: Vec::new() };
        replay(trace, &curve, &mut asked, Schedule::everything(curve.clone()), &|| Duration::ZERO)?;
        writeln!(out, "{}", json!({"id": trace.id, "model": "auto", "n_depths": 1, "rows": asked.rows}))?;
    }
    out.flush()?;
    Ok(())
}

/// Records what `auto` would draft next, and drafts nothing.
struct Asked {
    auto: Auto,
    rows: Vec<Value>,
}

impl Drafter for Asked {
    fn begin(&mut self, prompt: &[Token]) {
        self.auto.begin(prompt);
    }

    fn draft(&mut self, context: &[Token], _limits: TreeLimits) -> Draft {
        let wide = TreeLimits { max_nodes: N_TOP + 1, max_leaves: N_TOP, max_depth: 1, ..TreeLimits::TREE };
        let Draft { tree, p, .. } = self.auto.draft(context, wide);
        let drafted = tree.nodes().skip(1).map(|node| json!([tree.token(node).0, p[node.index()]]));
        self.rows.push(json!([drafted.collect::<Vec<Value>>()]));
        Draft::none(tree.token(tree.nodes().next().expect("a root")))
    }

    fn learn(&mut self, context: &[Token], from: usize, verified: Verified<'_>) {
        self.auto.learn(context, from, verified);
    }
}
