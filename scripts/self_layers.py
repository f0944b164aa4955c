#!/usr/bin/env python3
"""How well a model predicts itself with some of its blocks left out ("Draft & Verify", arXiv 2309.08168).

search    Leaves out blocks greedily: in each round the one (--step: the few) without which the model still predicts most of the
          recorded tokens. The first round tries all blocks, later rounds the best of the round before.
evaluate  Predicts other recorded texts with the models that a search found, and keeps the predictions for
          `chaski drafter replay --predictions`.
report    Prints the records of both as a table.
chain     Replays recorded predictions as the paper drafts: always, one chain, no other source.
breakeven Prints the agreement that a chain needs, by the price of a prediction.

Every evaluation is one line of the log, and is not repeated; so an interrupted search goes on where it stopped. Texts are
written by `chaski run --trace`. Build the two programs first:

  cargo build --release --locked -p chaski-gguf --example leave_out_layers
  cargo build --release --locked -p chaski-llama --features kernels --example teacher_forced
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def read_jsonl(path):
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(command):
    ran = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ran.returncode != 0:
        sys.exit(f"error: {' '.join(map(str, command))} failed: {ran.stderr.strip()}")


class Texts:
    """Recorded texts, each cut to its first tokens."""

    def __init__(self, path, n_tokens, folder):
        self.name = str(path.resolve()) if n_tokens is None else f"{path.resolve()}:{n_tokens}"
        self.tokens = {}
        self.path = folder / f"texts-{n_tokens}.jsonl"
        records = read_jsonl(path)
        if not records:
            sys.exit(f"error: {path}: expected recorded texts, found none")
        with open(self.path, "w", encoding="utf-8") as out:
            for record in records:
                tokens = record["tokens"][:n_tokens]
                self.tokens[record["id"]] = tokens
                print(json.dumps({"id": record["id"], "prompt": record["prompt"], "tokens": tokens}), file=out)


class Evaluator:
    """Evaluates a model without some blocks; results come from the log where they are there already."""

    def __init__(self, options, folder, n_tokens):
        self.options, self.folder = options, folder
        self.model_name = str(options.model.resolve())
        self.texts = Texts(options.texts, n_tokens, folder)
        self.known = {key(record): record for record in read_jsonl(options.log)}

    def __call__(self, left_out, kept=None):
        left_out = sorted(left_out)
        wanted = (self.model_name, self.texts.name, tuple(left_out))
        if wanted in self.known and (kept is None or kept.exists()):
            return self.known[wanted]
        while self.options.pause_while and self.options.pause_while.exists():
            time.sleep(5)
        model = self.options.model
        if left_out:
            model = self.folder / "reduced.gguf"
            run([self.options.leave_out_layers.resolve(), self.options.model, model, ",".join(map(str, left_out))])
        predictions = kept or self.folder / "predictions.jsonl"
        run([self.options.teacher_forced.resolve(), model, self.texts.path, predictions, "--name", f"without {left_out}", "--threads",
             self.options.threads])
        record = {"model": self.model_name, "texts": self.texts.name, "left_out": left_out,
                  "bytes": model.stat().st_size, **self.agreement(predictions)}
        if wanted not in self.known:
            with open(self.options.log, "a", encoding="utf-8") as log:
                print(json.dumps(record), file=log, flush=True)
        print(f"{left_out}: {rate(record):.4f}", file=sys.stderr, flush=True)
        self.known[wanted] = record
        return record

    def agreement(self, predictions):
        """How many recorded tokens were the likeliest prediction, and the sum of the probabilities that recorded tokens had."""
        n, n_equal, p_sum, by_text = 0, 0, 0.0, {}
        for record in read_jsonl(predictions):
            tokens, rows = self.texts.tokens[record["id"]], record["rows"]
            if len(rows) != len(tokens):
                sys.exit(f"error: {predictions}: expected {len(tokens)} rows for {record['id']}, found {len(rows)}")
            equal = 0
            for token, row in zip(tokens, rows):
                top = row[0]
                equal += bool(top) and top[0][0] == token
                p_sum += sum(p for predicted, p in top if predicted == token)
            n, n_equal = n + len(tokens), n_equal + equal
            by_text[record["id"]] = [equal, len(tokens)]
        return {"n_tokens": n, "n_equal": n_equal, "mean_p": round(p_sum / n, 4), "by_text": by_text}


def key(record):
    return record["model"], record["texts"], tuple(record["left_out"])


def rate(record):
    return record["n_equal"] / record["n_tokens"]


def n_blocks_of(model):
    """The number of blocks, from the names of the tensors in the header."""
    with open(model, "rb") as file:
        head = file.read(64 << 20)
    n = 0
    while f"blk.{n}.attn_norm.weight".encode() in head:
        n += 1
    if n == 0:
        sys.exit(f"error: {model}: expected a model with blocks named blk.0, blk.1, ..., found none")
    return n


def search(options, evaluate, evaluate_first):
    n_blocks = n_blocks_of(options.model)
    left_out, ranking = [], list(range(n_blocks))
    # One block must remain.
    most = min(options.most, n_blocks - 1)
    if options.candidates:
        ranking = [int(block) for block in options.candidates.split(",")]
    while ranking and len(left_out) < most:
        candidates, others = (ranking[:options.width], ranking[options.width:]) if left_out else (ranking, [])
        evaluate_round = evaluate if left_out else evaluate_first
        tried = [(evaluate_round(left_out + [block]), block) for block in candidates]
        # Equal counts are decided by the probability of the recorded tokens.
        tried.sort(key=lambda pair: (pair[0]["n_equal"], pair[0]["mean_p"]), reverse=True)
        best = tried[0][0]
        if rate(best) < options.until:
            break
        ranked = [block for _, block in tried]
        step = min(options.step, most - len(left_out))
        taken, ranking = ranked[:step], ranked[step:] + others
        left_out += taken
        print(f"{len(left_out)} left out, now {taken} too; with only {taken[0]} of these: {rate(best):.4f}", file=sys.stderr,
              flush=True)
    print(",".join(map(str, left_out)))


def evaluate_found(options, evaluate):
    blocks = [int(block) for block in options.blocks.split(",")]
    options.keep.mkdir(parents=True, exist_ok=True)
    counts = range(len(blocks) + 1) if options.counts is None else map(int, options.counts.split(","))
    texts = options.texts.stem if options.tokens is None else f"{options.texts.stem}-{options.tokens}"
    for n in counts:
        left_out = "-".join(map(str, sorted(blocks[:n]))) or "none"
        evaluate(blocks[:n], options.keep / f"{options.model.stem}-without-{left_out}-{texts}.jsonl")


class Curve:
    """Time of a batch in steps, from points `rows:ms,rows:ms,...` or `5%`; linear between the points, as chaski takes it."""

    def __init__(self, text):
        if text.endswith("%"):
            self.points = [(1, 1.0), (64, 1 + 63 * float(text[:-1]) / 100)]
        else:
            points = [tuple(map(float, point.split(":"))) for point in text.split(",")]
            self.points = [(rows, ms / points[0][1]) for rows, ms in points]

    def __call__(self, n_rows):
        for (rows, cost), (next_rows, next_cost) in zip(self.points, self.points[1:]):
            if n_rows <= next_rows:
                return cost + (next_cost - cost) * (n_rows - rows) / (next_rows - rows)
        sys.exit(f"error: the curve ends at {self.points[-1][0]:.0f} rows, before {n_rows}")


class Fixed:
    """Drafts always the same number of tokens."""

    def __init__(self, n):
        self.most = n

    def stops(self, _p):
        return False

    def saw(self, n_drafted, n_accepted):
        pass


class Threshold:
    """The paper's rule: stop after a token less probable than a threshold, which follows the acceptance rate. Constants of the
    authors' evaluation of LLaMA-2-13B (github.com/dilab-zju/self-speculative-decoding)."""

    most, wanted = 12, 0.9

    def __init__(self):
        self.threshold, self.rate = 0.6, 0.0

    def stops(self, p):
        return p < self.threshold

    def saw(self, n_drafted, n_accepted):
        self.rate = 0.5 * self.rate + 0.5 * n_accepted / n_drafted
        change = 0.01 if self.rate < self.wanted else 0.0 if n_drafted == self.most else -0.01
        self.threshold += 0.1 * change


class Oracle:
    """Drafts every right token and stops right before the first wrong one. Where a right token costs more than it brings, a
    rule that stops earlier is faster."""

    most = 12


def draft_chain(rule, tokens, rows, at):
    """How many tokens are drafted after `tokens[:at]`, and how many of them are accepted. After the first wrong token the
    predictions of the recorded text stand for those that were not recorded."""
    n_drafted, n_accepted, is_right = 0, 0, True
    # The step itself brings the last token.
    while n_drafted < rule.most and at + n_drafted + 1 < len(tokens):
        top = rows[at + n_drafted][0]
        if not top:
            break
        is_right = is_right and top[0][0] == tokens[at + n_drafted]
        if isinstance(rule, Oracle) and not is_right:
            break
        n_drafted += 1
        n_accepted += is_right
        if not isinstance(rule, Oracle) and rule.stops(top[0][1]):
            break
    return n_drafted, n_accepted


def replay_chain(texts, predictions, price, curve, make_rule):
    """Speed-up over plain decoding, the share of drafted tokens that were accepted, and tokens per step."""
    n_tokens, n_steps, n_drafted, n_accepted, time_taken = 0, 0, 0, 0, 0.0
    rule = make_rule()
    for name, rows in predictions.items():
        tokens, at = texts[name], 0
        while at < len(tokens):
            drafted, accepted = draft_chain(rule, tokens, rows, at)
            if drafted and not isinstance(rule, Oracle):
                rule.saw(drafted, accepted)
            at += accepted + 1
            time_taken += drafted * price + curve(1 + drafted)
            n_steps, n_drafted, n_accepted = n_steps + 1, n_drafted + drafted, n_accepted + accepted
        n_tokens += len(tokens)
    return n_tokens / time_taken, n_accepted / max(n_drafted, 1), n_tokens / n_steps


def chain(options):
    texts = {record["id"]: record["tokens"] for record in read_jsonl(options.texts)}
    predictions = {record["id"]: record["rows"] for record in read_jsonl(options.predictions)}
    if not predictions:
        sys.exit(f"error: {options.predictions}: expected predictions, found none")
    print("| curve | price | best fixed length | | | the paper's threshold | | | where the first wrong token is known | |")
    print("|---|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    print("| | | tokens: speed-up | accepted | tokens/step | speed-up | accepted | tokens/step | speed-up | tokens/step |")
    for text in options.curve:
        curve = Curve(text)
        for price in map(float, options.price.split(",")):
            def play(make_rule):
                return replay_chain(texts, predictions, price, curve, make_rule)
            best, n = max((play(lambda n=n: Fixed(n)), n) for n in range(1, 13))
            rule, oracle = play(Threshold), play(Oracle)
            print(f"| {text} | {price:.3f} | {n}: {best[0]:.3f} | {100 * best[1]:.0f}% | {best[2]:.2f} | {rule[0]:.3f} | {100 * rule[1]:.0f}% | "
                  f"{rule[2]:.2f} | {oracle[0]:.3f} | {oracle[2]:.2f} |")


def best_speed_up(agreement, price, curve):
    """The speed-up of the best fixed length, if every token is right with this probability, whatever the others are."""
    tokens, best = 1.0, 0.0
    for n in range(1, 17):
        tokens += agreement ** n
        best = max(best, tokens / (n * price + curve(1 + n)))
    return best


def breakeven(options):
    gains = [1.0, 1.1, 1.2, 1.5]
    print("| curve | price | " + " | ".join(f"agreement for {gain}" for gain in gains) + " | if all are right |")
    print("|---|---:|" + "---:|" * (len(gains) + 1))
    for text in options.curve:
        curve = Curve(text)
        for price in map(float, options.price.split(",")):
            cells = []
            for gain in gains:
                enough = [a / 1000 for a in range(1001) if best_speed_up(a / 1000, price, curve) >= gain]
                cells.append(f"{100 * enough[0]:.0f}%" if enough else "never")
            print(f"| {text} | {price:.2f} | {' | '.join(cells)} | {best_speed_up(1.0, price, curve):.2f} |")


def report(options):
    print("| model | texts | left out | blocks | size | agreement | mean probability of the recorded token |")
    print("|---|---|---:|---|---:|---:|---:|")
    for record in read_jsonl(options.log):
        blocks = " ".join(map(str, record["left_out"]))
        print(f"| {Path(record['model']).name} | {Path(record['texts']).name} | {len(record['left_out'])} | {blocks} | {record['bytes'] / 1e6:.0f} MB | "
              f"{100 * rate(record):.1f}% of {record['n_tokens']} | {record['mean_p']:.3f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ["search", "evaluate"]:
        command = commands.add_parser(name)
        command.add_argument("--model", type=Path, required=True)
        command.add_argument("--texts", type=Path, required=True, help="recorded texts")
        command.add_argument("--tokens", type=int, help="use only this many tokens of each text")
        command.add_argument("--log", type=Path, required=True, help="JSON lines; an evaluation in it is not repeated")
        command.add_argument("--leave-out-layers", type=Path, default=Path("target/release/examples/leave_out_layers"))
        command.add_argument("--teacher-forced", type=Path, default=Path("target/release/examples/teacher_forced"))
        command.add_argument("--threads", type=int, default=2)
        command.add_argument("--scratch", type=Path, help="a folder for one model at a time, best in memory")
        command.add_argument("--pause-while", type=Path, help="start no evaluation while this file exists")
        if name == "search":
            command.add_argument("--first-tokens", type=int, help="the same for the first round, which tries all blocks")
            command.add_argument("--candidates", help="blocks that may be left out: 4,5,6; default: all")
            command.add_argument("--width", type=int, default=6, help="blocks tried in each round but the first")
            command.add_argument("--step", type=int, default=1, help="blocks left out in each round")
            command.add_argument("--until", type=float, default=0.35, help="stop below this agreement")
            command.add_argument("--most", type=int, default=64, help="stop with this many blocks left out")
        else:
            command.add_argument("--blocks", required=True, help="blocks in the order of a search: 3,17,4")
            command.add_argument("--counts", help="how many of them to leave out: 0,2,4; default: every number")
            command.add_argument("--keep", type=Path, required=True, help="folder for the predictions")
    commands.add_parser("report").add_argument("--log", type=Path, required=True)
    for name in ["chain", "breakeven"]:
        command = commands.add_parser(name)
        command.add_argument("--price", required=True, help="time of a prediction as a share of a plain step: 0.5,0.7")
        command.add_argument("--curve", action="append", required=True, help="5%%, or rows:ms,rows:ms,...; repeatable")
        if name == "chain":
            command.add_argument("--texts", type=Path, required=True, help="recorded texts")
            command.add_argument("--predictions", type=Path, required=True)
    options = parser.parse_args()
    without_model = {"report": report, "chain": chain, "breakeven": breakeven}
    if options.command in without_model:
        without_model[options.command](options)
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        evaluate = Evaluator(options, Path(folder), options.tokens)
        if options.command == "evaluate":
            evaluate_found(options, evaluate)
        else:
            n_first = options.first_tokens or options.tokens
            search(options, evaluate, Evaluator(options, Path(folder), n_first))


if __name__ == "__main__":
    main()
