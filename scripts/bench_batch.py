"""Times a batch of prompts: `chaski batch`, `chaski run` in a loop, and llama-server with a client that keeps all of its
slots busy. Used by bench-batch.sh.

There are two jobs, both generated from a seed. `chat`: 64 short questions with answers of 128 tokens. `extract`: JSON from
each of 200 records, after about 600 tokens of instructions and examples that all prompts share.
"""

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from queue import Empty, Queue

START_S = 300
ANSWER_S = 3600

FORMS = [
    "Explain {} to a colleague who has never heard of it.",
    "What are the three most common mistakes people make with {}?",
    "Give me a short plan for learning about {} in one month.",
    "Why does {} matter? Answer in two paragraphs.",
    "Write a friendly note that invites a neighbour to a talk about {}.",
    "Compare {} with what people did a hundred years ago.",
    "What would you ask an expert on {}? List five questions.",
    "Tell a short story in which {} saves the day.",
]
TOPICS = ["bread baking", "tide tables", "bicycle brakes", "public libraries", "composting", "map projections",
          "sleep", "the printing press"]
FIRST = ["Ada", "Bruno", "Chiara", "Dmitri", "Elif", "Farid", "Greta", "Hiro", "Ines", "Jonas", "Kofi", "Lena"]
LAST = ["Abbott", "Berger", "Castro", "Dahl", "Evans", "Fischer", "Gupta", "Haas", "Ito", "Jensen", "Kaya", "Lopez"]
CITY = ["Lisbon", "Graz", "Ghent", "Turin", "Bergen", "Porto", "Lyon", "Gdansk", "Malmo", "Bilbao"]
ITEM = ["desk lamp", "office chair", "water filter", "phone stand", "rain jacket", "travel mug", "bike light"]


def order(dice):
    """A customer's message, and the JSON to extract from it."""
    name = f"{dice.choice(FIRST)} {dice.choice(LAST)}"
    city, item, count = dice.choice(CITY), dice.choice(ITEM), dice.randint(1, 9)
    number, day = f"{dice.randint(10000, 99999)}", f"2026-{dice.randint(1, 12):02}-{dice.randint(1, 28):02}"
    text = dice.choice([
        f"Hello, this is {name} from {city}. On {day} I ordered {count} x {item} (order {number}) and nothing has come yet.",
        f"Order {number}, {count} pieces of {item}, placed {day}. Please send it to {city}. Regards, {name}",
        f"{name} here. My {item} (I took {count}) from order {number} of {day} should go to {city}, not to my old address.",
    ])
    fields = {"name": name, "city": city, "order": number, "date": day, "item": item, "count": count}
    return text, json.dumps(fields)


def extract_prompts(n):
    dice = random.Random(1)
    rules = ("You extract data from messages of customers. Answer with one JSON object and nothing else. Its members, in this "
             "order: name (first and last name), city, order (a string of digits), date (YYYY-MM-DD), item (singular, "
             "lower case), count (a number). Leave nothing out, invent nothing, and do not explain.\n\n")
    examples = "".join(f"Message: {text}\nJSON: {fields}\n\n" for text, fields in (order(dice) for _ in range(5)))
    return [f"{rules}{examples}Message: {order(dice)[0]}\nJSON:" for _ in range(n)]


def chat_prompts(n):
    return [form.format(topic) for form in FORMS for topic in TOPICS][:n]


JOBS = {"chat": (chat_prompts, 64, 128), "extract": (extract_prompts, 200, 96)}


class Failure(Exception):
    """An error for the user."""


def say(line):
    print(line, file=sys.stderr, flush=True)


def chaski_batch(options, prompts, n_predict, folder):
    """Times one whole command, loading included."""
    lines, results = Path(folder, "prompts.jsonl"), Path(folder, "results.jsonl")
    lines.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
    for old in folder.glob("results.jsonl*"):
        old.unlink()
    command = [options.chaski, "batch", "-m", options.model, "-i", str(lines), "-o", str(results), "-n", str(n_predict),
               "--temp", "0", "-t", str(options.threads), "-q"]
    if options.parallel:
        command += ["-np", str(options.parallel)]
    if options.ctx_size:
        command += ["-c", str(options.ctx_size)]
    start = time.monotonic()
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    seconds = time.monotonic() - start
    if ran.returncode != 0:
        raise Failure(f"chaski batch failed: {ran.stderr.strip()}")
    bodies = [json.loads(line)["response"]["body"] for line in open(results, encoding="utf-8")]
    return {"seconds": seconds, "tokens": sum(body["usage"]["completion_tokens"] for body in bodies),
            "texts": len(bodies)}


def chaski_run(options, prompts, n_predict, folder):
    """Times one command per prompt, for the first prompts only: a loop takes long."""
    tokens, start = 0, time.monotonic()
    for prompt in prompts[:options.loop]:
        command = [options.chaski, "run", "-m", options.model, "-p", prompt, "-n", str(n_predict), "--temp", "0",
                   "-t", str(options.threads), "--json", "-q", "--no-learn"]
        ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if ran.returncode != 0:
            raise Failure(f"chaski run failed: {ran.stderr.strip()}")
        tokens += json.loads(ran.stdout)["timings"]["predicted_n"]
    return {"seconds": time.monotonic() - start, "tokens": tokens, "texts": options.loop}


class Server:
    """A running llama-server with several slots."""

    def __init__(self, options, n_slots, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        n_ctx = (options.ctx_size or 1024) * n_slots
        command = [options.server, "-m", options.model, "--host", "127.0.0.1", "--port", self.url.rsplit(":", 1)[1],
                   "-np", str(n_slots), "-c", str(n_ctx), "-t", str(options.threads), "-tb", str(options.threads)]
        log = open(Path(folder, f"server-{n_slots}.log"), "wb")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (OSError, urllib.error.URLError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise Failure(f"llama-server does not start: {Path(log.name).read_text(errors='replace')[-500:]}")
                time.sleep(0.2)

    def answer(self, prompt, n_predict):
        body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": n_predict, "temperature": 0}
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=ANSWER_S) as response:
            return json.load(response)["usage"]["completion_tokens"]

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def llama_server(options, n_slots, prompts, n_predict, folder):
    """Times from the first request to the last answer, without loading. Keeps one request per slot running."""
    server = Server(options, n_slots, folder)
    try:
        queue, counts, errors = Queue(), [], []
        for prompt in prompts:
            queue.put(prompt)

        def client():
            try:
                while not errors:
                    counts.append(server.answer(queue.get_nowait(), n_predict))
            except Empty:
                pass
            except (OSError, KeyError, ValueError) as error:
                errors.append(error)

        start = time.monotonic()
        clients = [threading.Thread(target=client) for _ in range(n_slots)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        if errors:
            raise Failure(f"llama-server: {errors[0]}")
        return {"seconds": time.monotonic() - start, "tokens": sum(counts), "texts": len(counts)}
    finally:
        server.stop()


def measure(options, folder, raw):
    """Measures the rates of all modes, in turn in each repetition."""
    make, n_prompts, n_predict = JOBS[options.job]
    prompts = make(options.n_prompts or n_prompts)
    modes = {"chaski batch": lambda: chaski_batch(options, prompts, n_predict, folder)}
    for n_slots in options.slots:
        modes[f"llama-server -np {n_slots}"] = lambda n=n_slots: llama_server(options, n, prompts, n_predict, folder)
    if options.loop:
        modes["chaski run, a loop"] = lambda: chaski_run(options, prompts, n_predict, folder)
    rates = {mode: [] for mode in modes}
    for repetition in range(options.repetitions):
        for mode, run in modes.items():
            record = {"job": options.job, "model": Path(options.model).name, "threads": options.threads,
                      "repetition": repetition, "mode": mode, **run()}
            rates[mode].append(record["tokens"] / record["seconds"])
            print(json.dumps(record), file=raw, flush=True)
            say(f"{mode}: {record['tokens']} tokens in {record['seconds']:.1f} s")
    return rates


def parse(arguments):
    parser = argparse.ArgumentParser(description="see scripts/bench-batch.sh --help")
    parser.add_argument("--chaski", required=True)
    parser.add_argument("--server", default="")
    parser.add_argument("--model", required=True)
    parser.add_argument("--job", choices=JOBS, default="chat")
    parser.add_argument("--n-prompts", type=int, default=0)
    parser.add_argument("--slots", type=lambda text: [int(n) for n in text.split(",") if n], default=[16])
    parser.add_argument("--loop", type=int, default=8)
    parser.add_argument("--parallel", type=int, default=0)
    parser.add_argument("-c", "--ctx-size", type=int, default=0)
    parser.add_argument("-r", "--repetitions", type=int, default=1)
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("--raw-output", default=os.devnull)
    options = parser.parse_args(arguments)
    if not options.server:
        options.slots = []
    return options


def interrupt(*_):
    raise KeyboardInterrupt


def main(arguments):
    # Stop the server however this ends.
    signal.signal(signal.SIGTERM, interrupt)
    options = parse(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder, open(options.raw_output, "w", encoding="utf-8") as raw:
            rates = measure(options, Path(folder), raw)
    except (Failure, OSError, KeyError, json.JSONDecodeError) as error:
        say(f"error: {error!r}" if isinstance(error, KeyError) else f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    best = statistics.median(rates["chaski batch"])
    print(f"| job | mode | tokens/s | worst – best | chaski batch over it |\n|---|---|---:|---:|---:|")
    for mode, all_rates in rates.items():
        median = statistics.median(all_rates)
        print(f"| {options.job} | {mode} | {median:.1f} | {min(all_rates):.1f} – {max(all_rates):.1f} | {best / median:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
