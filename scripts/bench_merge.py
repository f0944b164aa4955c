#!/usr/bin/env python3
"""Measures `chaski batch merge` on finished shards that no model has answered.

    scripts/bench_merge.py CHASKI SHARD.jsonl [--lines 100000] [--shards 8] [--tokens 500]

SHARD.jsonl is the output of a real finished shard, with its journal beside it, answered without --ordered. Its records
and its journal entries are the pattern: the answers are repeated up to --tokens tokens. Needs the package xxhash.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import xxhash


def entry(value: dict) -> str:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return f"{xxhash.xxh3_64_intdigest(text.encode()) & 0xFFFFFFFF:08x} {text}\n"


def pattern(shard: Path) -> tuple[dict, str, float, dict]:
    """An answered record, the text of all answers, bytes of text per token, and the journal's key."""
    records = [json.loads(line) for line in shard.read_text().splitlines()]
    bodies = [record["response"]["body"] for record in records if record["response"]]
    texts = [body["choices"][0]["message"]["content"] for body in bodies]
    n_tokens = sum(body["usage"]["completion_tokens"] for body in bodies)
    n_bytes = sum(len(json.dumps(text, ensure_ascii=False).encode()) - 2 for text in texts)
    log = Path(f"{shard}.journal").read_text().splitlines()
    key = json.loads(log[1].split(" ", 1)[1])["key"]
    return next(record for record in records if record["response"]), " ".join(texts), n_bytes / n_tokens, key


def write_shards(folder: Path, args: argparse.Namespace) -> list[Path]:
    record, text, per_token, key = pattern(args.shard)
    text = (text * (1 + int(args.tokens * per_token) // len(text)))[: int(args.tokens * per_token)]
    record["response"]["body"]["choices"][0]["message"]["content"] = text
    rest = json.dumps({name: record[name] for name in ("response", "error")}, separators=(",", ":"), ensure_ascii=False)[1:]
    parts = []
    for number in range(1, args.shards + 1):
        parts.append(folder / f"results.{number}-of-{args.shards}.jsonl")
        lines = list(range(number - 1, args.lines, args.shards))
        # Lines end in another order than they begin.
        random.Random(number).shuffle(lines)
        parameters = {**key["parameters"], "--shard": f"{number}/{args.shards}"}
        head = entry({"key": {**key, "n_lines": args.lines, "n_own": len(lines), "parameters": parameters}})
        end = 0
        with open(parts[-1], "w") as output, open(f"{parts[-1]}.journal", "w") as log:
            log.write("chaski batch journal 1\n" + head + entry({"opened": {"ms": 1}}))
            for count, line in enumerate(lines):
                one = f'{{"id":"{record["id"]}","custom_id":"q{line}",{rest}\n'
                output.write(one)
                end += len(one.encode())
                log.write(entry({"begun": {"line": line}}) + entry({"answered": {"line": line}}))
                log.write(entry({"finished": {"line": line, "end": end, "prompt": 42, "predicted": args.tokens}}))
                if count % args.group == args.group - 1:
                    log.write(entry({"synced": {"ms": 1 + count}}))
            log.write(entry({"synced": {"ms": 2 + len(lines)}}) + entry({"closed": {"ms": 3 + len(lines)}}))
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chaski", type=Path)
    parser.add_argument("shard", type=Path)
    parser.add_argument("--lines", type=int, default=100_000, metavar="N")
    parser.add_argument("--shards", type=int, default=8, metavar="N")
    parser.add_argument("--tokens", type=int, default=500, metavar="N")
    parser.add_argument("--group", type=int, default=3, metavar="N", help="lines that are synced at a time")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parts = write_shards(Path(folder), args)
        n_bytes = sum(os.path.getsize(part) for part in parts) / args.lines
        n_log_bytes = sum(os.path.getsize(f"{part}.journal") for part in parts) / args.lines
        start = time.monotonic()
        subprocess.run([args.chaski.resolve(), "batch", "merge", "-o", "results.jsonl"], cwd=folder, check=True)
        seconds = time.monotonic() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        names = [json.loads(line)["custom_id"] for line in open(f"{folder}/results.jsonl")]
        assert names == [f"q{line}" for line in range(args.lines)], "the merged lines are not in order"
        n_merged = os.path.getsize(f"{folder}/results.jsonl.journal") / args.lines
    print(f"{args.lines} lines of {args.tokens} tokens in {args.shards} shards, {args.group} lines per sync")
    print(f"bytes per line: output {n_bytes:.0f}, journal {n_log_bytes:.0f}, journal after merge {n_merged:.0f}")
    print(f"merge: {seconds:.1f} s; {used.ru_utime + used.ru_stime:.1f} s of CPU time, peak memory {used.ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
