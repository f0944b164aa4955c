"""The drafter h[t+1] = A [h[t], e(token)] + W2 relu(W1 [h[t], e(token)]), by hand in numpy."""
import numpy as np


class Net:
    """x is [h, e], standardized; the result is a state, divided by `scale`."""

    def __init__(self, **arrays):
        self.mean, self.std, self.scale = arrays["mean"], arrays["std"], float(arrays["scale"])
        self.parameters = [arrays[name] for name in ("W1", "b1", "W2", "A", "b")]
        self.dropout, self.random = 0.0, np.random.RandomState(1)

    @staticmethod
    def start(x_mean, x_std, scale, linear, n_hidden, seed):
        """Starts as the linear map `linear` (its last row is the bias)."""
        n_in, n_out = len(linear) - 1, linear.shape[1]
        random = np.random.RandomState(seed)
        first = (random.randn(n_in, n_hidden) * np.sqrt(2 / n_in)).astype(np.float32)
        return Net(mean=x_mean, std=x_std, scale=scale, W1=first, b1=np.zeros(n_hidden, np.float32),
                   W2=np.zeros((n_hidden, n_out), np.float32), A=linear[:-1].copy(), b=linear[-1].copy())

    def save(self, path):
        names = ("W1", "b1", "W2", "A", "b")
        np.savez(path, mean=self.mean, std=self.std, scale=self.scale, **dict(zip(names, self.parameters)))

    @staticmethod
    def load(path):
        with np.load(path) as arrays:
            return Net(**{name: arrays[name] for name in arrays.files})

    def standardized(self, states, embeddings):
        x = np.hstack([states, embeddings]).astype(np.float32)
        x -= self.mean
        x /= self.std
        return x

    def forward(self, x, training=False):
        W1, b1, W2, A, b = self.parameters
        drops = training and self.dropout > 0
        keep = lambda shape: (self.random.rand(*shape) > self.dropout).astype(np.float32) / (1 - self.dropout)
        self.x = x * keep(x.shape) if drops else x
        self.active = np.maximum(self.x @ W1 + b1, 0)
        if drops:
            self.kept = keep(self.active.shape)
            self.active *= self.kept
        return self.x @ A + b + self.active @ W2

    def next_states(self, states, embeddings):
        return self.forward(self.standardized(states, embeddings)) * self.scale

    def backward(self, d):
        """Gradients of the parameters, from that of the last `forward(.., training=True)`."""
        _, _, W2, _, _ = self.parameters
        inner = d @ W2.T
        inner *= self.active > 0
        if self.dropout > 0:
            inner *= self.kept
        return [self.x.T @ inner, inner.sum(0), self.active.T @ d, self.x.T @ d, d.sum(0)]


class Adam:
    def __init__(self, parameters, rate, decay):
        self.parameters, self.rate, self.decay, self.step_number = parameters, rate, decay, 0
        self.m, self.v = ([np.zeros_like(p) for p in parameters] for _ in range(2))

    def step(self, gradients, share):
        """One step at `share` of the learning rate."""
        self.step_number += 1
        rate = self.rate * share
        c1, c2 = 1 - 0.9 ** self.step_number, 1 - 0.99 ** self.step_number
        for p, g, m, v in zip(self.parameters, gradients, self.m, self.v):
            m *= 0.9
            m += 0.1 * g
            np.multiply(g, g, out=g)
            g *= 0.01
            v *= 0.99
            v += g
            np.sqrt(v, out=g)
            g *= 1 / np.sqrt(c2)
            g += 1e-8
            np.divide(m, g, out=g)
            if p.ndim > 1:
                p *= 1 - rate * self.decay
            g *= rate / c1
            p -= g


def ridge(x, y, penalty):
    """Least squares of y on [x, 1], as one matrix with the bias in its last row."""
    x = np.hstack([x, np.ones((len(x), 1), np.float32)])
    gram = (x.T @ x).astype(np.float64)
    gram[np.diag_indices_from(gram)] += penalty * len(x) / 1000
    return np.linalg.solve(gram, (x.T @ y).astype(np.float64)).astype(np.float32)
