#!/usr/bin/env python3
"""Prints by kind how often the next token of recorded answers is the first, or among the first 3, of each source.

usage: compare.py TRACES.jsonl AUTO.jsonl HIDDEN.jsonl TEXTS.jsonl [MORE.jsonl ...]

TEXTS.jsonl (of align_texts): the tri-gram of a base is counted from them. MORE.jsonl: further predictions, for instance of a
model that reads along. The first token of an answer is left out, because there is no hidden state before it.
"""
import json
import sys

import numpy as np

from data import TriGram, read_texts


def predictions(path):
    with open(path) as file:
        lines = [json.loads(line) for line in file]
    return lines[0]["model"], {line["id"]: [[token for token, _ in row[0]] if row else [] for row in line["rows"]] for line in lines}


def main():
    traces, auto, hidden, texts, *more = sys.argv[1:]
    trigram = TriGram(read_texts(texts))
    sources = [predictions(path) for path in (auto, hidden, *more)]
    names = ["tri-gram", *(name for name, _ in sources)]
    sums = {}
    for text in read_texts(traces):
        known = np.concatenate([text.prompt, text.tokens]).tolist()
        start = len(text.prompt)
        for i in range(1, len(text.tokens)):
            goal, (before, last) = known[start + i], known[start + i - 2:start + i]
            rows = [trigram.likeliest(before, last), *(found[text.id][i] for _, found in sources)]
            right = [goal in row[:1] for row in rows] + [goal in rows[1][:1] + rows[2][:1]]
            among = [goal in row[:3] for row in rows] + [goal in rows[1][:3] + rows[2][:3]]
            for kind in (text.kind, "all"):
                total = sums.setdefault(kind, np.zeros((len(right) + 1, 2)))
                total[:-1, 0] += right
                total[:-1, 1] += among
                total[-1] += 1
    print("| kind | tokens | " + " | ".join([*names, "auto or hidden"]) + " |")
    print("|---|---:|" + "---:|" * (len(names) + 1))
    for kind in sorted(sums, key=lambda kind: (kind == "all", kind)):
        total = sums[kind]
        shares = total[:-1] / total[-1]
        print(f"| {kind} | {total[-1, 0]:.0f} | " + " | ".join(f"{a:.3f} ({b:.3f})" for a, b in shares) + " |")


if __name__ == "__main__":
    main()
