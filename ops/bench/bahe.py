#!/usr/bin/env python3
"""The peer of ops/bench/bahe: the same layers in PyTorch, with its own fused functions.

    bahe.py encode IDS CUT DTYPE     tokens a second through the shallow layers; IDS as `bahe encode` wrote them
    bahe.py step DTYPE               sixteen runs of 128 behaviors through two layers and back

Random weights of SmolLM2-135M's shape: the time does not depend on what they are.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

WIDTH, INNER, HEADS, GROUPS, WIDE, VOCABULARY = 576, 1536, 9, 3, 64, 49152
TOKENS_MAX, TEXT_TOKENS_MAX = 2048, 256


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        linear = lambda inputs, outputs: torch.nn.Linear(inputs, outputs, bias=False)
        self.q, self.k, self.v = (linear(WIDTH, heads * WIDE) for heads in (HEADS, GROUPS, GROUPS))
        self.o = linear(HEADS * WIDE, WIDTH)
        self.gate, self.up, self.down = linear(WIDTH, INNER), linear(WIDTH, INNER), linear(INNER, WIDTH)
        self.norms = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(WIDTH)) for _ in range(2)])

    def forward(self, x, cos, sin):
        batch, positions, _ = x.shape

        def heads(y, count):
            return y.view(batch, positions, count, WIDE).transpose(1, 2)

        def turned(y):
            one, other = y[..., : WIDE // 2], y[..., WIDE // 2 :]
            return torch.cat((one * cos - other * sin, other * cos + one * sin), -1)

        y = F.rms_norm(x, (WIDTH,), self.norms[0], 1e-5)
        q, k, v = turned(heads(self.q(y), HEADS)), turned(heads(self.k(y), GROUPS)), heads(self.v(y), GROUPS)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(mixed.transpose(1, 2).reshape(batch, positions, HEADS * WIDE))
        y = F.rms_norm(x, (WIDTH,), self.norms[1], 1e-5)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def turns(positions, dtype):
    angles = torch.arange(positions)[:, None] / 100000.0 ** (torch.arange(WIDE // 2) * 2.0 / WIDE)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def timed(times, call):
    call()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)


def encode(ids, cut, dtype):
    texts = sorted((text[:TEXT_TOKENS_MAX] for text in json.load(open(ids)) if text), key=len)
    embedding = torch.randn(VOCABULARY, WIDTH).to(dtype)
    blocks = torch.nn.ModuleList([Block() for _ in range(cut)]).to(dtype)
    batches, rest = [], [[0, *text] for text in texts]
    while rest:
        count = 1
        while count < len(rest) and len(rest[count]) * (count + 1) <= TOKENS_MAX:
            count += 1
        batch, rest = rest[:count], rest[count:]
        longest = len(batch[-1])
        batches.append(torch.tensor([text + [0] * (longest - len(text)) for text in batch]))
    tokens = sum(len(text) + 1 for text in texts)
    cos, sin = turns(TEXT_TOKENS_MAX + 1, dtype)

    @torch.inference_mode()
    def run():
        for batch in batches:
            x, positions = embedding[batch], batch.shape[1]
            for block in blocks:
                x = block(x, cos[:positions], sin[:positions])
            x[:, 1:].mean(1)

    seconds = timed(3, run)
    return {"tokens": tokens, "tokens_a_second": tokens / seconds[1], "best": tokens / seconds[0]}


def step(dtype):
    blocks = torch.nn.ModuleList([Block() for _ in range(2)]).to(dtype)
    x = torch.randn(16, 129, WIDTH).to(dtype).requires_grad_()
    cos, sin = turns(129, dtype)

    def run():
        blocks.zero_grad()
        y = x
        for block in blocks:
            y = block(y, cos, sin)
        y.square().mean().backward()

    seconds = timed(7, run)
    return {"step_ms": seconds[3] * 1e3, "least_ms": seconds[0] * 1e3}


def main():
    torch.manual_seed(1)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[sys.argv[-1]]
    answer = step(dtype) if sys.argv[1] == "step" else encode(sys.argv[2], int(sys.argv[3]), dtype)
    print(json.dumps(answer | {"peer": f"PyTorch {torch.__version__} {sys.argv[-1]}", "threads": torch.get_num_threads()}))


main()
