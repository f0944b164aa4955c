#!/usr/bin/env python3
"""Trains the drafter on the texts of `align` and their states. See README.md.

usage: train.py --model MODEL.gguf --texts TEXTS.jsonl --states FILE [--texts ... --states ...] --cache DIR --out NET.npz
                [--tokens N] [--hidden 1024] [--epochs 6] [--seconds 600] [--loss ce|tvd] [--from NET.npz] [--weigh-trigram W]
"""
import argparse
import time

import numpy as np

from data import Head, Target, TriGram, add_lane_states, add_states, frequent_tokens, read_texts
from net import Adam, Net, ridge

BATCH = 256
N_FREQUENT = 2048  # rows of the head in every batch, beside those of the batch's own goals
SELF_FED = 0.33  # share of rows fed with the net's own prediction
STATE_LOSS = 0.02  # weight of the squared distance to the true state
HELD_OUT = 12  # every 12th text


def main():
    parser = argparse.ArgumentParser()
    for name in ("--model", "--cache", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--texts", action="append", required=True)
    parser.add_argument("--states", action="append", required=True)
    parser.add_argument("--tokens", type=int, default=1 << 40)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.15)
    parser.add_argument("--loss", choices=("ce", "tvd"), default="ce")
    parser.add_argument("--from", dest="start")
    parser.add_argument("--weigh-trigram", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    target = Target(options.model, options.cache)
    texts = load(options.texts, options.states, target.n_embd)
    held_out, training = split(texts, options.tokens)
    fit(options, target, training, held_out)


def load(paths, states, n_embd):
    """All texts that have states. A states file that ends in .lanes is align's own."""
    texts = []
    for path, file in zip(paths, states, strict=True):
        found = read_texts(path)
        (add_lane_states if file.endswith(".lanes") else add_states)(found, file, n_embd)
        texts += [text for text in found if text.states is not None and len(text.tokens) > 1]
    return texts


def split(texts, n_tokens):
    """Held-out texts, and the first texts of the rest with at least `n_tokens` tokens."""
    training, n = [], 0
    for text in texts:
        if text.id % HELD_OUT != 5 and n < n_tokens:
            training.append(text)
            n += len(text.tokens)
    return [text for text in texts if text.id % HELD_OUT == 5], training


class Pairs:
    """For each row but the last of each text: its state, the token it emitted, and what the next row predicts."""

    def __init__(self, target, texts):
        self.target, self.texts = target, texts
        self.text = np.concatenate([np.full(len(text.tokens) - 1, k) for k, text in enumerate(texts)])
        self.states = np.concatenate([text.states[np.arange(len(text.tokens) - 1)] for text in texts])
        self.goals = np.concatenate([text.states[np.arange(1, len(text.tokens))] for text in texts])
        self.tokens = np.concatenate([text.tokens[:-1] for text in texts])
        self.before = np.concatenate([np.append(text.prompt[-1], text.tokens[:-2]) for text in texts])
        self.top = np.concatenate([text.top[1:] for text in texts])
        self.p = np.concatenate([text.p[1:] for text in texts])
        same = np.diff(self.text, prepend=-1) == 0
        self.previous = np.where(same, np.arange(len(self.text)) - 1, -1)

    def __len__(self):
        return len(self.text)

    def inputs(self, rows):
        return self.states[rows], self.target.embedding[self.tokens[rows]]


def accuracy(net, pairs, head):
    """Shares of rows whose likeliest next token is the net's first, or among its first 3 and 8."""
    hits, n_covered = np.zeros(3), 0
    for start in range(0, len(pairs), 1024):
        rows = np.arange(start, min(start + 1024, len(pairs)))
        logits = head.logits(net.next_states(*pairs.inputs(rows)), pairs.text[rows])
        best = np.argpartition(-logits, 8, 1)[:, :8]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(logits, best, 1), 1), 1)
        right = head.tokens[best] == pairs.top[rows, :1]
        hits += [right[:, :k].any(1).sum() for k in (1, 3, 8)]
        n_covered += head.covers(pairs.top[rows, 0], pairs.text[rows]).sum()
    return hits / len(pairs), n_covered / len(pairs)


def weights(pairs, texts, weight):
    """1 where a tri-gram of the other half of the texts has the next token first, `weight` elsewhere; mean 1."""
    if weight == 1.0:
        return np.ones(len(pairs), np.float32)
    halves = [TriGram(texts[k::2]) for k in (1, 0)]
    right = [halves[k % 2].likeliest(a, b)[0] == goal for k, a, b, goal in zip(
        pairs.text.tolist(), pairs.before.tolist(), pairs.tokens.tolist(), pairs.top[:, 0].tolist())]
    found = np.where(right, 1.0, weight).astype(np.float32)
    print(f"tri-gram of the other half right: {np.mean(right):.3f}", flush=True)
    return found / found.mean()


def fit(options, target, training, held_out):
    frequent = frequent_tokens(training, 8192)
    pairs, held = Pairs(target, training), Pairs(target, held_out)
    print(f"{len(pairs)} pairs of {len(training)} texts, {len(held)} held out of {len(held_out)} texts", flush=True)
    head = Head(target, frequent, held_out)
    began = time.monotonic()
    if options.start:
        net = Net.load(options.start)
    else:
        x = np.hstack(pairs.inputs(np.arange(len(pairs)))).astype(np.float32)
        mean, std = x.mean(0), x.std(0) + 1e-6
        x -= mean
        x /= std
        scale = float(pairs.goals.astype(np.float32).std())
        net = Net.start(mean, std, scale, ridge(x, pairs.goals.astype(np.float32) / scale, 60.0), options.hidden, options.seed)
        del x
    net.dropout = options.dropout
    weight = weights(pairs, training, options.weigh_trigram)
    best, n_worse = report(net, held, head, "start", began), 0
    net.save(options.out)
    optimizer, random = Adam(net.parameters, options.rate, 0.02), np.random.RandomState(options.seed + 1)
    n_steps, step, loss_of = options.epochs * (len(pairs) // BATCH), 0, {"ce": cross_entropy, "tvd": total_variation}
    for epoch in range(options.epochs):
        order, total = random.permutation(len(pairs)), 0.0
        for start in range(0, len(pairs) - BATCH + 1, BATCH):
            # The rate falls over the epochs, or over the time if that ends first.
            done = max(step / n_steps, (time.monotonic() - began) / options.seconds)
            if done >= 1:
                break
            step += 1
            rows = order[start:start + BATCH]
            x = net.standardized(*pairs.inputs(rows))
            if epoch > 0 or options.start:
                feed_itself(net, pairs, rows, x, random)
            predicted = net.forward(x, training=True)
            vocabulary = np.union1d(frequent[:N_FREQUENT], pairs.top[rows][pairs.top[rows] >= 0])
            matrix = target.head[vocabulary].astype(np.float32) * net.scale
            loss, d = loss_of[options.loss](predicted @ matrix.T, vocabulary, pairs.top[rows], pairs.p[rows], weight[rows])
            gradient = d @ matrix + STATE_LOSS * (predicted - pairs.goals[rows].astype(np.float32) / net.scale)
            total += loss
            optimizer.step(net.backward(gradient / BATCH), min(1, step / 40) * (1 - done))
        mean = total / max(1, start / BATCH)
        found = report(net, held, head, f"epoch {epoch + 1} loss {mean:.3f}", began)
        if found > best:
            best, n_worse = found, 0
            net.save(options.out)
        else:
            n_worse += 1
        if n_worse == 2 or time.monotonic() - began > options.seconds:
            break
    np.save(options.out + ".tokens.npy", frequent)
    print(f"best on held-out texts: {best:.4f}", flush=True)


def feed_itself(net, pairs, rows, x, random):
    """Replaces the states of some rows by the net's own prediction from the row before."""
    chosen = np.nonzero((random.rand(len(rows)) < SELF_FED) & (pairs.previous[rows] >= 0))[0]
    if len(chosen):
        n_embd = pairs.target.n_embd
        own = net.next_states(*pairs.inputs(pairs.previous[rows[chosen]]))
        x[chosen, :n_embd] = (own - net.mean[:n_embd]) / net.std[:n_embd]


def goals_of(vocabulary, top, p):
    """The target's probabilities over `vocabulary`, scaled to sum 1 in each row."""
    goals = np.zeros((len(top), len(vocabulary)), np.float32)
    known = top >= 0
    goals[np.nonzero(known)[0], np.searchsorted(vocabulary, top[known])] = p[known]
    return goals / np.maximum(goals.sum(1, keepdims=True), 1e-6)


def softmax(logits):
    q = np.exp(logits - logits.max(1, keepdims=True))
    return q / q.sum(1, keepdims=True)


def cross_entropy(logits, vocabulary, top, p, weight):
    """The mean loss, and the gradient of the sum."""
    q, goals = softmax(logits), goals_of(vocabulary, top, p)
    loss = -(goals * np.log(np.maximum(q, 1e-9))).sum(1)
    return (loss * weight).mean(), (q - goals) * weight[:, None]


def total_variation(logits, vocabulary, top, p, weight):
    """TVD++ (Direct Alignment of Draft Model, 2024): a policy gradient on the reward p > q, normalized over the batch."""
    q, goals = softmax(logits), goals_of(vocabulary, top, p)
    reward = (goals > q).astype(np.float32)
    mean = (q * reward).sum(1).mean()
    advantage = (reward - mean) / np.sqrt(max((q * (reward - mean) ** 2).sum(1).mean(), 1e-6))
    gradient = -q * (advantage - (q * advantage).sum(1, keepdims=True))
    return (1 - np.minimum(q, goals).sum(1)).mean(), gradient * weight[:, None]


def report(net, held, head, what, began):
    dropout, net.dropout = net.dropout, 0.0
    hits, covered = accuracy(net, held, head)
    net.dropout = dropout
    print(f"{what}: {time.monotonic() - began:.0f} s, held-out top-1/3/8 {hits[0]:.3f}/{hits[1]:.3f}/{hits[2]:.3f}, "
          f"covered {covered:.3f}", flush=True)
    return hits[0]


if __name__ == "__main__":
    main()
