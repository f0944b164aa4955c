"""Runs prompts through llama-server in several modes and through `chaski bench`, in turn. Used by bench-peers.sh.

Each program times its own decoding. llama-server's clock starts after the first token, so its rate counts the tokens
after it; chaski's clock starts before the first token.
"""

import argparse
import json
import math
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

START_S = 300
ANSWER_S = 3600


def ngram(kind):
    """Modes for one kind of n-gram speculation: its defaults, and short n-grams and drafts."""
    short = [f"--spec-{kind}-size-n", "3", f"--spec-{kind}-size-m", "8"]
    return {kind: ["--spec-type", kind], f"{kind}-3-8": ["--spec-type", kind, *short]}


# llama-server's arguments by mode; "none" and "auto" are chaski's drafters.
SERVER_MODES = {
    "llama-plain": [],
    **ngram("ngram-simple"),
    **ngram("ngram-map-k"),
    **ngram("ngram-map-k4v"),
    "ngram-mod": ["--spec-type", "ngram-mod"],
    "ngram-mod-3-8": ["--spec-type", "ngram-mod", "--spec-ngram-mod-n-match", "3",
                      "--spec-ngram-mod-n-min", "1", "--spec-ngram-mod-n-max", "8"],
    "ngram-cache": ["--spec-type", "ngram-cache"],
    "draft-simple": ["--spec-type", "draft-simple"],
}
# "auto-md" is auto with the draft model.
CHASKI_MODES = ("none", "auto", "auto-md")

# Modes that need a second model.
DRAFT_MODEL_MODES = ("draft-simple", "auto-md")


def say(line):
    print(line, file=sys.stderr, flush=True)


class Failure(Exception):
    """An error for the user, with a hint."""

    def __init__(self, message, hint=""):
        super().__init__(message + (f"\nhint: {hint}" if hint else ""))


class Server:
    """A llama-server in one mode; the constructor starts it."""

    def __init__(self, mode, options, folder):
        self.mode = mode
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = Path(folder, f"{mode}.log")
        command = [options.server, "-m", options.model, "--host", "127.0.0.1", "--port", str(self.port), "-np", "1",
                   "-c", str(options.ctx_size), "-t", str(options.threads), "-tb", str(options.threads),
                   *SERVER_MODES[mode], *options.server_args.split()]
        if mode == "draft-simple":
            command += ["--spec-draft-model", options.draft_model, "--spec-draft-threads", str(options.threads)]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait(self):
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                self.ask("/health")
                return
            except (OSError, urllib.error.URLError):
                time.sleep(0.2)
        tail = self.log.read_text(errors="replace").strip().splitlines()[-3:]
        raise Failure(f"llama-server does not start in mode {self.mode}: " + " / ".join(tail),
                      "does it know this mode's flags? --modes leaves modes out")

    def ask(self, path, body=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if body is None:
                raise  # not ready yet
            reason = error.read().decode(errors="replace")
            raise Failure(f"llama-server in mode {self.mode}: {reason}", "a longer context, as in -c 9216?") from error

    def answer(self, rendered, n_predict):
        """Gets one answer, as a record."""
        body = {"prompt": rendered, "n_predict": n_predict, "temperature": 0, "cache_prompt": True, "return_tokens": True}
        answer = self.ask("/completion", body)
        timings = answer["timings"]
        n = timings["predicted_n"]
        return {
            "mode": self.mode,
            "tokens": answer["tokens"],
            "prompt_tokens": answer["tokens_evaluated"],
            "rate": (n - 1) * 1e3 / timings["predicted_ms"] if n > 1 else math.nan,
            "timings": timings,
        }

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def chaski_answers(options, mode, prompt, folder):
    """chaski's answers to one prompt: plain, and in `mode`."""
    prompts, raw = Path(folder, "prompt.jsonl"), Path(folder, "raw.jsonl")
    prompts.write_text(json.dumps(prompt) + "\n", encoding="utf-8")
    command = [options.chaski, "bench", "-m", options.model, "-t", str(options.threads), "-n", str(options.n_predict),
               "-r", "1", "--prompts", str(prompts), "--drafters", mode.removesuffix("-md"), "--raw-output", str(raw)]
    if mode == "auto-md":
        command += ["--draft-model", options.draft_model]
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ran.returncode != 0:
        raise Failure(f"chaski bench failed: {ran.stderr.strip()}")
    with open(raw, encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            timings = record["timings"]
            yield {
                "mode": "none" if record["drafter"] == "none" else mode,
                # Plain decoding is measured beside each drafter: the two belong together.
                "beside": mode,
                "tokens": record["tokens"],
                "prompt_tokens": timings["prompt_n"] + timings["cache_n"],
                "rate": timings["predicted_per_second"],
                "timings": timings,
            }


def read_prompts(options):
    with open(options.prompts, encoding="utf-8") as lines:
        prompts = [json.loads(line) for line in lines if line.strip()]
    for flag, asked, key in (("--kinds", options.kinds, "kind"), ("--ids", options.ids, "id")):
        known = list(dict.fromkeys(prompt[key] for prompt in prompts))
        for name in asked:
            if name not in known:
                raise Failure(f"{flag}: there is no {name} among the prompts", f"there are {', '.join(known)}")
    return [prompt for prompt in prompts if (not options.kinds or prompt["kind"] in options.kinds)
            and (not options.ids or prompt["id"] in options.ids)]


def measure(options, servers, prompts, folder, setup, raw):
    """Measures all records: every mode in turn, in each repetition of each prompt."""
    records = []
    for number, prompt in enumerate(prompts, 1):
        rendered = None
        if servers:
            message = {"messages": [{"role": "user", "content": prompt["prompt"]}]}
            rendered = servers[0].ask("/apply-template", message)["prompt"]
        for repetition in range(options.repetitions):
            say(f"{number}/{len(prompts)}: {prompt['id']}" + (f", again ({repetition})" if repetition else ""))
            turns = [lambda server=server: [server.answer(rendered, options.n_predict)] for server in servers]
            ours = [mode for mode in options.modes if mode in CHASKI_MODES]
            # `chaski bench` measures plain decoding beside every drafter.
            for mode in [mode for mode in ours if mode != "none"] or ours:
                turns.append(lambda mode=mode: list(chaski_answers(options, mode, prompt, folder)))
            first = repetition % len(turns)
            answers = [answer for turn in turns[first:] + turns[:first] for answer in turn()]
            lengths = {answer["prompt_tokens"] for answer in answers}
            if len(lengths) > 1:
                say(f"warning: {prompt['id']} has {lengths} tokens: the programs read different prompts")
            for answer in answers:
                record = {**setup, "id": prompt["id"], "kind": prompt["kind"], "repetition": repetition, **answer}
                records.append(record)
                print(json.dumps(record), file=raw, flush=True)
    return records


def plain_of(record, records, baseline):
    """The plain answer in mode `baseline` to compare `record` with: the one of the same run of the program, if there is
    one."""
    same = [r for r in records if (r["id"], r["repetition"], r["mode"]) == (record["id"], record["repetition"], baseline)]
    beside = [r for r in same if r.get("beside") == record.get("beside")]
    return next(iter(beside or same), None)


def speedups(records, mode, baseline):
    """The median speedup of each prompt over its repetitions."""
    ratios = {}
    for record in records:
        if record["mode"] == mode and not math.isnan(record["rate"]):
            base = plain_of(record, records, baseline)
            if base and not math.isnan(base["rate"]):
                ratios.setdefault(record["id"], []).append(record["rate"] / base["rate"])
    return {prompt: statistics.median(values) for prompt, values in ratios.items()}


def geometric_mean(values):
    values = list(values)
    return f"{math.exp(sum(map(math.log, values)) / len(values)):.2f}" if values else "-"


def table(records, modes):
    """One row per kind and mode, then one per mode over all prompts."""
    present = [mode for mode in (*modes, "none") if any(record["mode"] == mode for record in records)]
    present = list(dict.fromkeys(present))
    lines = ["| kind | mode | tokens/s | over llama plain | worst – best | over chaski none | equal texts |",
             "|---|---|---:|---:|---:|---:|---:|"]
    for kind in [*dict.fromkeys(record["kind"] for record in records), "all"]:
        chosen = [record for record in records if kind in (record["kind"], "all")]
        for mode in present:
            own = [record for record in chosen if record["mode"] == mode]
            over_llama = speedups(chosen, mode, "llama-plain").values()
            # Compared with the plain text of the same program.
            plain = "none" if mode in CHASKI_MODES else "llama-plain"
            pairs = [(r, plain_of(r, chosen, plain)) for r in own]
            equal = [r["tokens"] == base["tokens"] for r, base in pairs if base]
            rates = [record["rate"] for record in own if not math.isnan(record["rate"])]
            lines.append("| " + " | ".join([
                kind, mode, f"{statistics.mean(rates):.1f}" if rates else "-", geometric_mean(over_llama),
                f"{min(over_llama):.2f} – {max(over_llama):.2f}" if over_llama else "-",
                geometric_mean(speedups(chosen, mode, "none").values()),
                f"{sum(equal)}/{len(equal)}" if equal else "-",
            ]) + " |")
    return "\n".join(lines)


def first_line(command):
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return " ".join((ran.stdout + ran.stderr).split("built with")[0].split())


def server_build(server):
    """llama-server's ggml version and CPU features. It logs the features before it looks for a model."""
    libraries = sorted(path.name for path in Path(server).resolve().parent.glob("libggml-base.*"))
    ggml = re.search(r"(\d+\.\d+\.\d+)", " ".join(libraries))
    ran = subprocess.run([server, "-lv", "5", "-m", "no-such-model.gguf", "--port", "0"], stdin=subprocess.DEVNULL,
                         capture_output=True, text=True, timeout=START_S)
    features = re.search(r"CPU : (.*)", ran.stdout + ran.stderr)
    features = re.findall(r"(\w+) = 1", features[1]) if features else []
    return f"{first_line([server, '--version'])}, ggml {ggml[1] if ggml else 'unknown'}", features


def names(text):
    return [name for name in text.split(",") if name]


def parse(arguments):
    parser = argparse.ArgumentParser(description="see scripts/bench-peers.sh --help")
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--list-modes", action="store_true")
    parser.add_argument("--server")
    parser.add_argument("--chaski")
    parser.add_argument("--model")
    parser.add_argument("--draft-model")
    parser.add_argument("--prompts", default=root / "bench/prompts.jsonl")
    parser.add_argument("--modes", type=names, default=[])
    parser.add_argument("--kinds", type=names, default=[])
    parser.add_argument("--ids", type=names, default=[])
    parser.add_argument("-n", "--n-predict", type=int, default=160)
    parser.add_argument("-r", "--repetitions", type=int, default=1)
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("-c", "--ctx-size", type=int, default=4096)
    parser.add_argument("--server-args", default="", help="for every llama-server, as in --server-args='-fa off'")
    parser.add_argument("--raw-output", default=os.devnull)
    options = parser.parse_args(arguments)
    all_modes = [*SERVER_MODES, *CHASKI_MODES]
    without = [] if options.draft_model else DRAFT_MODEL_MODES
    options.modes = options.modes or [mode for mode in all_modes if mode not in without]
    for mode in options.modes:
        if mode not in all_modes:
            raise Failure(f"there is no mode {mode}", f"there are {', '.join(all_modes)}")
        if mode in without:
            raise Failure(f"{mode} needs a second model", "--draft-model qwen2.5-coder-0.5b-instruct")
    if min(options.n_predict, options.repetitions, options.threads, options.ctx_size) < 1:
        raise Failure("-n, -r, -t and -c must be more than 0")
    return options


def run(options):
    prompts = read_prompts(options)
    server, features = server_build(options.server)
    chaski = first_line([options.chaski, "--version"])
    ours = {name for name in chaski.partition("CPU features: ")[2].split() if not name.startswith("KERNELS=")}
    different = set(features) ^ ours
    if different:
        say(f"warning: built for different CPUs, so llama.cpp's part of the work differs: {' '.join(sorted(different))}")
    setup = {
        "model": Path(options.model).name,
        "threads": options.threads,
        "ctx_size": options.ctx_size,
        "n_predict": options.n_predict,
        "server_args": options.server_args,
        "chaski": chaski,
        "llama_server": f"{server}, CPU features: {' '.join(features) or 'unknown'}",
    }
    servers = []
    with tempfile.TemporaryDirectory() as folder, open(options.raw_output, "w", encoding="utf-8") as raw:
        try:
            for mode in options.modes:
                if mode in SERVER_MODES:
                    say(f"starting llama-server: {mode}")
                    servers.append(Server(mode, options, folder))
                    # One at a time: loading uses the same cores.
                    servers[-1].wait()
            records = measure(options, servers, prompts, folder, setup, raw)
        finally:
            for server in servers:
                server.stop()
    print(f"# {setup['model']}: chaski and llama-server\n")
    print(f"{options.threads} threads, context {options.ctx_size}, greedy, {options.n_predict} tokens, "
          f"{options.repetitions} repetitions{', llama-server ' if options.server_args else ''}{options.server_args}\n")
    print(f"- {setup['chaski']}\n- llama-server: {setup['llama_server']}\n")
    print(table(records, options.modes))


def interrupt(*_):
    raise KeyboardInterrupt


def main(arguments):
    # Stop the servers however this ends.
    signal.signal(signal.SIGTERM, interrupt)
    try:
        options = parse(arguments)
        if options.list_modes:
            print("\n".join([*SERVER_MODES, *CHASKI_MODES]))
            return 0
        run(options)
        return 0
    except (Failure, OSError, json.JSONDecodeError, KeyError) as error:
        say(f"error: {error!r}" if isinstance(error, KeyError) else f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
