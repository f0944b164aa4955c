"""Texts, hidden states and the target's embeddings for the scripts beside this file."""
import json
from collections import Counter, defaultdict
from pathlib import Path

import gguf
import numpy as np

N_TOP = 8


class Text:
    """A prompt, its answer, the likeliest tokens of each answer row, and `states[i]`: the state that emits `tokens[i]`."""

    def __init__(self, line):
        self.id, self.kind = line["id"], line.get("kind") or str(line["id"]).rsplit("-", 1)[0]
        self.prompt, self.tokens = np.array(line["prompt"]), np.array(line["tokens"])
        self.top, self.p = np.full((len(self.tokens), N_TOP), -1), np.zeros((len(self.tokens), N_TOP), np.float32)
        for i, row in enumerate(line["top"]):
            for j, (token, p) in enumerate(row[:N_TOP]):
                self.top[i, j], self.p[i, j] = token, p
        self.states = None

    def cut(self, length):
        self.tokens, self.top, self.p = self.tokens[:length], self.top[:length], self.p[:length]


def read_texts(path):
    with open(path) as file:
        return [Text(json.loads(line)) for line in file]


def add_states(texts, path, n_embd):
    """Adds the states that `teacher_forced --states` wrote for exactly these texts."""
    states = np.memmap(path, dtype="<f2", mode="r").reshape(-1, n_embd)
    n_rows = sum(len(text.tokens) for text in texts)
    if len(states) != n_rows:
        raise SystemExit(f"error: {path}: {len(states)} rows, expected {n_rows}\nhint: give the texts that were read")
    row = 0
    for text in texts:
        text.states = states[row:row + len(text.tokens)]
        row += len(text.tokens)


def add_lane_states(texts, path, n_embd):
    """Adds the states that `align` itself wrote, with the patch in bench/results: lane, position, token and state of each
    output row. A run of positions of a lane is a text; it is found by the length of its prompt and its first tokens."""
    record = np.dtype([("lane", "<i4"), ("position", "<i4"), ("token", "<i4"), ("state", "<f2", n_embd)])
    n = Path(path).stat().st_size // record.itemsize
    rows = np.memmap(path, dtype=record, mode="r", shape=(n,))
    lane, position, token = (np.array(rows[name]) for name in ("lane", "position", "token"))
    order = np.argsort(lane, kind="stable")
    follows = (np.diff(lane[order]) == 0) & (np.diff(position[order]) == 1)
    known = defaultdict(list)
    for text in texts:
        known[len(text.prompt), tuple(text.tokens[:4])].append(text)
    for run in np.split(order, np.nonzero(~follows)[0] + 1):
        said = token[run[1:]]
        for text in known.get((position[run[0]] + 1, tuple(said[:4])), []):
            length = min(len(said), len(text.tokens))
            if text.states is None and (said[:length] == text.tokens[:length]).all():
                # A text that ended early in the log has fewer tokens than rows, or one more.
                length = min(len(run), len(text.tokens))
                text.cut(length)
                text.states = LazyRows(rows, run[:length])
                break


class LazyRows:
    """Rows of a record file that are read when they are asked for."""

    def __init__(self, rows, index):
        self.rows, self.index = rows, index

    def __len__(self):
        return len(self.index)

    def __getitem__(self, which):
        return self.rows["state"][self.index[which]]


class Target:
    """The target's token embeddings and its head (one matrix where the file ties them), as f16 rows on demand."""

    def __init__(self, path, cache):
        reader = gguf.GGUFReader(path)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.embedding = self.rows(tensors["token_embd.weight"], Path(cache) / "embedding.npy")
        head = tensors.get("output.weight")
        self.is_tied = head is None
        self.head = self.embedding if head is None else self.rows(head, Path(cache) / "head.npy")
        self.n_vocab, self.n_embd = self.embedding.shape

    @staticmethod
    def rows(tensor, file):
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            parts = np.array_split(tensor.data, 64)
            np.save(file, np.concatenate([gguf.dequantize(part, tensor.tensor_type).astype(np.float16) for part in parts]))
        return np.load(file, mmap_mode="r")


def frequent_tokens(texts, n):
    """The n tokens that the texts hold or could have held most often, most frequent first."""
    count = Counter()
    for text in texts:
        count.update(text.tokens.tolist())
        for token, p in zip(text.top.ravel().tolist(), text.p.ravel().tolist()):
            if token >= 0:
                count[token] += 0.5 * p
        for token in text.prompt.tolist():
            count[token] += 0.05
    return np.array([token for token, _ in count.most_common(n)])


class Head:
    """The target's head cut to `tokens`, and for each text the tokens of its own prompt."""

    def __init__(self, target, tokens, texts):
        extra = [np.setdiff1d(text.prompt, tokens) for text in texts]
        union = np.unique(np.concatenate(extra))
        self.tokens, self.n_shared = np.concatenate([tokens, union]), len(tokens)
        self.rows = np.ascontiguousarray(target.head[self.tokens].astype(np.float32).T)
        self.is_own = np.array([np.isin(union, own) for own in extra])
        self.place = np.full(target.n_vocab, -1)
        self.place[self.tokens] = np.arange(len(self.tokens))

    def logits(self, states, which):
        """`which`: for each state, the number of its text."""
        logits = states @ self.rows
        logits[:, self.n_shared:][~self.is_own[which]] = -np.inf
        return logits

    def covers(self, goals, which):
        place = self.place[goals]
        own = place - self.n_shared
        return (place >= 0) & ((own < 0) | self.is_own[which, np.maximum(own, 0)])


class TriGram:
    """Soft counts of the tokens after the last two, one and no tokens, interpolated."""

    def __init__(self, texts):
        counts = [defaultdict(Counter) for _ in range(3)]
        for text in texts:
            known = np.concatenate([text.prompt[-2:], text.tokens]).tolist()
            for i in range(len(text.tokens)):
                for n, context in enumerate(((), tuple(known[i + 1:i + 2]), tuple(known[i:i + 2]))):
                    row = counts[n][context]
                    for token, p in zip(text.top[i].tolist(), text.p[i].tolist()):
                        if token >= 0:
                            row[token] += p
        self.rows = [{context: (sum(row.values()), sum(v > 0.05 for v in row.values()), row.most_common(N_TOP))
                      for context, row in level.items()} for level in counts]

    def likeliest(self, before, last):
        """Tokens after `before`, `last`, likeliest first."""
        mixed, left = Counter(), 1.0
        for n, context in ((2, (before, last)), (1, (last,)), (0, ())):
            found = self.rows[n].get(context)
            if found:
                total, kinds, row = found
                share = total / (total + 0.3 + 0.7 * kinds) if n else 1.0
                for token, count in row:
                    mixed[token] += left * share * count / total
                left *= 1 - share
        return [token for token, _ in mixed.most_common(N_TOP)]
