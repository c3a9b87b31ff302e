#!/usr/bin/env python3
"""Trains a small Mixture-of-Experts language model and records what its routers choose.

A byte-level transformer learns the source text of Python's own standard library (Python Software Foundation License,
version 2; Debian installs it in /usr/lib/python3.11). Routing is top-2 of 16 experts in 6 layers with the
load-balancing loss of Switch Transformers (arXiv 2101.03961, equation 4), weakly, as published models have it. The
recording is of files that were not trained on, in file order: [layers, tokens, top_k] expert ids by falling gate
weight, unsigned bytes, for numpy.load and moesim's `trace`.

    python3 record.py [--steps 160] [--tokens 16384] [-o python_moe_16x6.npy]

Needs PyTorch (Debian's python3-torch is enough) and minutes on two cores.
"""
import argparse
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

LAYERS, EXPERTS, TOP_K, HIDDEN, HEADS, FFN, CONTEXT = 6, 16, 2, 96, 4, 128, 128
LIBRARY = pathlib.Path("/usr/lib/python3.11")


def library_text():
    """Bytes of the library's top-level modules, in name order: nine parts to train on, the tenth of files to record."""
    files = sorted(LIBRARY.glob("*.py"))
    held_out = files[::10]
    text = lambda some: np.frombuffer(b"".join(f.read_bytes() for f in some), dtype=np.uint8).astype(np.int64)
    return text(f for f in files if f not in held_out), text(held_out)


class Moe(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.router = torch.nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.up = torch.nn.Parameter(torch.randn(EXPERTS, HIDDEN, FFN) * HIDDEN**-0.5)
        self.down = torch.nn.Parameter(torch.randn(EXPERTS, FFN, HIDDEN) * FFN**-0.5 * 0.3)
        self.chosen = None
        self.balance = None

    def forward(self, x):
        flat = x.reshape(-1, HIDDEN)
        probability = self.router(flat).softmax(-1)
        gate, chosen = probability.topk(TOP_K, dim=-1)
        gate = gate / gate.sum(-1, keepdim=True)
        out = torch.zeros_like(flat)
        for e in range(EXPERTS):
            token, place = (chosen == e).nonzero(as_tuple=True)
            if len(token):
                y = F.silu(flat[token] @ self.up[e]) @ self.down[e]
                out.index_add_(0, token, y * gate[token, place, None])
        share = F.one_hot(chosen, EXPERTS).float().sum(1).mean(0) / TOP_K
        self.balance = EXPERTS * (share * probability.mean(0)).sum()
        self.chosen = chosen.detach()
        return out.reshape(x.shape)


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(HIDDEN), torch.nn.LayerNorm(HIDDEN)
        self.attention = torch.nn.MultiheadAttention(HIDDEN, HEADS, batch_first=True)
        self.moe = Moe()

    def forward(self, x, mask):
        h = self.norm1(x)
        x = x + self.attention(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.moe(self.norm2(x))


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(256, HIDDEN)
        self.position = torch.nn.Embedding(CONTEXT, HIDDEN)
        self.layers = torch.nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = torch.nn.LayerNorm(HIDDEN)
        for table in (self.embedding, self.position):
            torch.nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids):
        mask = torch.full((CONTEXT, CONTEXT), float("-inf")).triu(1)
        x = self.embedding(ids) + self.position.weight
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x) @ self.embedding.weight.T


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("-o", "--output", default="python_moe_16x6.npy")
    args = parser.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(args.threads)
    draws = np.random.default_rng(1)
    train, held_out = library_text()
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=args.steps)
    for step in range(args.steps):
        first = draws.integers(0, len(train) - CONTEXT - 1, args.batch)
        rows = torch.from_numpy(np.stack([train[f : f + CONTEXT + 1] for f in first]))
        loss = F.cross_entropy(model(rows[:, :-1]).reshape(-1, 256), rows[:, 1:].reshape(-1))
        balance = sum(layer.moe.balance for layer in model.layers) / LAYERS
        optimizer.zero_grad()
        (loss + 0.01 * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0 or step + 1 == args.steps:
            print(f"step {step}: {loss.item():.3f} nats a byte, balance {balance.item():.3f}", flush=True)
    model.eval()
    chosen, losses = [], []
    with torch.no_grad():
        for first in range(0, args.tokens, 16 * CONTEXT):
            starts = range(first, min(first + 16 * CONTEXT, args.tokens), CONTEXT)
            rows = torch.from_numpy(np.stack([held_out[s : s + CONTEXT + 1] for s in starts]))
            losses.append(F.cross_entropy(model(rows[:, :-1]).reshape(-1, 256), rows[:, 1:].reshape(-1)).item())
            chosen.append(torch.stack([layer.moe.chosen for layer in model.layers]))
    ids = torch.cat(chosen, 1).numpy().astype(np.uint8)
    np.save(args.output, ids)
    load = np.stack([np.bincount(layer.ravel(), minlength=EXPERTS) for layer in ids])
    print(f"held out: {np.mean(losses):.3f} nats a byte; hottest expert / mean by layer:",
          np.round(load.max(1) / load.mean(1), 2))
    # How much knowing the first expert of a layer tells about the first of the next: 1 = nothing.
    for l in range(LAYERS - 1):
        joint = np.zeros((EXPERTS, EXPERTS))
        np.add.at(joint, (ids[l, :, 0], ids[l + 1, :, 0]), 1)
        print(f"layers {l} and {l + 1}: the likeliest follower is right for {joint.max(1).sum() / joint.sum():.2f}, "
              f"without the first {joint.sum(0).max() / joint.sum():.2f}")


if __name__ == "__main__":
    main()
