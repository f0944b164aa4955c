#!/usr/bin/env python3
"""Writes the drafter's candidates for recorded answers, for `chaski drafter replay --predictions`, and prints how often they
are right. See README.md.

usage: candidates.py --model MODEL.gguf --cache DIR --net NET.npz --traces TRACES.jsonl --states FILE
                     --held-out TEXTS.jsonl --held-out-states FILE [...] --out OUT.jsonl
"""
import argparse
import json

import numpy as np

from data import N_TOP, Head, Target, add_states, read_texts
from net import Net
from train import load, split

N_DEPTHS = 6
TEMPERATURES = np.arange(0.8, 1.41, 0.1)
CALIBRATION_STRIDE = 3  # every third row of the held-out texts


def main():
    parser = argparse.ArgumentParser()
    for name in ("--model", "--cache", "--net", "--traces", "--states", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--held-out", action="append", required=True)
    parser.add_argument("--held-out-states", action="append", required=True)
    parser.add_argument("--n-head", type=int, default=8192)
    options = parser.parse_args()
    target = Target(options.model, options.cache)
    net, tokens = Net.load(options.net), np.load(options.net + ".tokens.npy")[:options.n_head]
    held_out, _ = split(load(options.held_out, options.held_out_states, target.n_embd), 0)
    calibration = calibrated(net, target, Head(target, tokens, held_out), held_out)
    traces = read_texts(options.traces)
    add_states(traces, options.states, target.n_embd)
    head, hits = Head(target, tokens, traces), {}
    with open(options.out, "w") as out:
        for number, text in enumerate(traces):
            depths = [[] for _ in range(len(text.tokens))]
            hit = hits.setdefault(text.kind, np.zeros((N_DEPTHS, 4)))
            for depth, (rows, goals, logits) in enumerate(chain(net, target, head, text, number)):
                temperature, covered = calibration[depth]
                hit[depth, 2:] += head.covers(goals, np.full(len(goals), number)).sum(), len(goals)
                for row, goal, found in zip(rows, goals, candidates(head, logits, temperature, covered)):
                    depths[row].append(found)
                    best = [token for token, _ in found]
                    hit[depth, :2] += goal in best[:1], goal in best[:3]
            line = {"id": text.id, "model": "hidden", "n_depths": N_DEPTHS, "rows": depths}
            out.write(json.dumps(line, separators=(",", ":")) + "\n")
    print_table(hits)


def chain(net, target, head, text, number):
    """For each depth: the rows i that have it, the tokens to predict (`tokens[i + depth]`), and the logits of the cut head.
    Row i starts from the state that emitted `tokens[i - 1]`, and reads recorded tokens and its own states from there."""
    n = len(text.tokens)
    rows = np.arange(1, n)
    states = np.asarray(text.states[np.arange(n - 1)], np.float32)
    for depth in range(N_DEPTHS):
        rows, states = rows[rows + depth < n], states[:len(rows[rows + depth < n])]
        if len(rows) == 0:
            return
        states = net.next_states(states, target.embedding[text.tokens[rows + depth - 1]])
        yield rows, text.tokens[rows + depth], head.logits(states, np.full(len(rows), number))


def calibrated(net, target, head, texts):
    """For each depth a temperature and the share of tokens that the cut head has, from greedy held-out texts."""
    logits, goals = [[] for _ in range(N_DEPTHS)], [[] for _ in range(N_DEPTHS)]
    greedy = [(number, text) for number, text in enumerate(texts) if text.id % 4 != 3]
    for number, text in greedy:
        for depth, (_, goal, found) in enumerate(chain(net, target, head, text, number)):
            goal, found = goal[::CALIBRATION_STRIDE], found[::CALIBRATION_STRIDE]
            covered = head.covers(goal, np.full(len(goal), number))
            goals[depth].append(np.where(covered, head.place[goal], -1))
            logits[depth].append(found)
    result = []
    for depth in range(N_DEPTHS):
        found, goal = np.concatenate(logits[depth]), np.concatenate(goals[depth])
        logits[depth] = None
        has = goal >= 0
        loss = [-log_softmax(found[has] / t)[np.arange(has.sum()), goal[has]].mean() for t in TEMPERATURES]
        result.append((TEMPERATURES[np.argmin(loss)], has.mean()))
        print(f"depth {depth + 1}: temperature {result[-1][0]:.1f}, covered {has.mean():.3f}, loss {min(loss):.3f}", flush=True)
    return result


def log_softmax(logits):
    top = logits.max(1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))


def candidates(head, logits, temperature, covered):
    """For each row the likeliest tokens with their probabilities, likeliest first."""
    p = covered * np.exp(log_softmax(logits / temperature))
    best = np.argpartition(-p, N_TOP, 1)[:, :N_TOP]
    best = np.take_along_axis(best, np.argsort(-np.take_along_axis(p, best, 1), 1), 1)
    for row, which in enumerate(best):
        yield [[int(head.tokens[k]), round(float(p[row, k]), 4)] for k in which if p[row, k] >= 0.001]


def print_table(hits):
    """Shares of tokens that are first (among the first 3), by kind and depth, given recorded tokens before."""
    sums = dict(sorted(hits.items()))
    sums["all"] = sum(sums.values())
    print("| kind | covered | " + " | ".join(f"depth {depth + 1}" for depth in range(N_DEPTHS)) + " |")
    print("|---|---:|" + "---:|" * N_DEPTHS)
    for kind, found in sums.items():
        cells = [f"{row[0] / row[3]:.3f} ({row[1] / row[3]:.3f})" for row in found]
        print(f"| {kind} | {found[0, 2] / found[0, 3]:.3f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
