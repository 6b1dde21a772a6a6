#!/usr/bin/env python3
"""The peer of ops/bench/bahe: the same layers in PyTorch, with its own fused functions.

    bahe.py encode IDS CUT DTYPE            tokens a second through the shallow layers; IDS as `bahe encode` wrote them
    bahe.py step RUNS DTYPE                 runs of 128 behaviors through two layers and back, and with the optimizer
    bahe.py cell VARIANT LENGTH DTYPE       BATCH rows of LENGTH tokens (whole) or behaviors (bahe) forward and backward

DTYPE: f32, bf16, or autocast (weights f32, products in bf16). DEVICE (cpu, cuda) and BATCH are of the environment.
Random weights of SmolLM2-135M's shape: the time does not depend on what they are.
"""

import contextlib
import json
import os
import sys
import time

import torch
import torch.nn.functional as F

WIDTH, INNER, HEADS, GROUPS, WIDE, VOCABULARY = 576, 1536, 9, 3, 64, 49152
DEVICE = torch.device(os.environ.get("DEVICE", "cpu"))
BATCH = int(os.environ.get("BATCH", "1"))
ON_GPU = DEVICE.type == "cuda"
TOKENS_MAX, TEXT_TOKENS_MAX = 65536 if ON_GPU else 2048, 256


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
    return angles.cos().to(DEVICE, dtype), angles.sin().to(DEVICE, dtype)


def wait():
    if ON_GPU:
        torch.cuda.synchronize()


def peak(call):
    """The most memory that tensors had at once, and that was reserved for them, in MiB."""
    if not ON_GPU:
        return {}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call()
    wait()
    mib = lambda bytes: bytes / 2**20
    return {"peak_mib": mib(torch.cuda.max_memory_allocated()), "reserved_mib": mib(torch.cuda.max_memory_reserved())}


def timed(times, call):
    call()
    wait()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        wait()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)


def encode(ids, cut, dtype):
    texts = sorted((text[:TEXT_TOKENS_MAX] for text in json.load(open(ids)) if text), key=len)
    embedding = torch.randn(VOCABULARY, WIDTH).to(DEVICE, dtype)
    blocks = torch.nn.ModuleList([Block() for _ in range(cut)]).to(DEVICE, dtype)
    batches, rest = [], [[0, *text] for text in texts]
    while rest:
        count = 1
        while count < len(rest) and len(rest[count]) * (count + 1) <= TOKENS_MAX:
            count += 1
        batch, rest = rest[:count], rest[count:]
        longest = len(batch[-1])
        batches.append(torch.tensor([text + [0] * (longest - len(text)) for text in batch], dtype=torch.int32))
    tokens = sum(len(text) + 1 for text in texts)
    cos, sin = turns(TEXT_TOKENS_MAX + 1, dtype)

    @torch.inference_mode()
    def run():
        for batch in batches:
            batch = batch.to(DEVICE)
            x, positions = embedding[batch], batch.shape[1]
            for block in blocks:
                x = block(x, cos[:positions], sin[:positions])
            x[:, 1:].mean(1)

    seconds = timed(3, run)
    return {"tokens": tokens, "tokens_a_second": tokens / seconds[1], "best": tokens / seconds[0]}


def layers(count, dtype):
    """Blocks, and what they run under: weights in `dtype`, or f32 with products in bf16."""
    if dtype == "autocast":
        blocks = torch.nn.ModuleList([Block() for _ in range(count)]).to(DEVICE)
        return blocks, torch.float32, lambda: torch.autocast(DEVICE.type, torch.bfloat16)
    blocks = torch.nn.ModuleList([Block() for _ in range(count)]).to(DEVICE, dtype)
    return blocks, dtype, contextlib.nullcontext


def step(runs, dtype):
    blocks, dtype, under = layers(2, dtype)
    x = torch.randn(runs, 129, WIDTH).to(DEVICE, dtype).requires_grad_()
    cos, sin = turns(129, dtype)
    adam = torch.optim.AdamW(blocks.parameters(), lr=1e-4, weight_decay=0.01, fused=True)

    def run():
        blocks.zero_grad()
        x.grad = None
        with under():
            y = x
            for block in blocks:
                y = block(y, cos, sin)
        y.float().square().mean().backward()

    def train():
        run()
        torch.nn.utils.clip_grad_norm_(blocks.parameters(), 1.0)
        adam.step()

    def together():
        for _ in range(10):
            run()

    seconds = timed(7, run)
    answer = {"step_ms": seconds[3] * 1e3, "least_ms": seconds[0] * 1e3, "most_ms": seconds[6] * 1e3}
    if ON_GPU:
        answer["without_waiting_ms"] = timed(7, together)[3] * 1e2
    answer |= peak(run)
    seconds = timed(7, train)
    trained = {"ms": seconds[3] * 1e3, "least_ms": seconds[0] * 1e3, "most_ms": seconds[6] * 1e3} | peak(train)
    answer |= {f"with_optimizer_{name}": value for name, value in trained.items()}
    return answer | {"samples_a_second": runs / seconds[3], "runs": runs}


def cell(variant, length, dtype):
    blocks, dtype, under = layers(30 if variant == "whole" else 2, dtype)
    cos, sin = turns(length + 1, dtype)
    embedding = torch.nn.Embedding(VOCABULARY, WIDTH).to(DEVICE, dtype)
    ids = torch.randint(VOCABULARY, (BATCH, length), device=DEVICE)
    vectors = torch.randn(BATCH, length + 1, WIDTH).to(DEVICE, dtype)
    positions = length if variant == "whole" else length + 1

    def run():
        blocks.zero_grad()
        embedding.zero_grad()
        with under():
            x = embedding(ids) if variant == "whole" else vectors
            for block in blocks:
                x = block(x, cos[:positions], sin[:positions])
        log_odds = x.float().mean(1).sum(1).mean()
        torch.nn.functional.softplus(-log_odds).backward()

    seconds = timed(7, run)
    a_row = {"seconds_a_row": seconds[3] / BATCH, "least": seconds[0] / BATCH, "most": seconds[6] / BATCH}
    return {"variant": variant, "length": length, "batch": BATCH} | a_row | peak(run)


def main():
    torch.manual_seed(1)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "autocast": "autocast"}[sys.argv[-1]]
    match sys.argv[1]:
        case "step":
            answer = step(int(sys.argv[2]), dtype)
        case "cell":
            answer = cell(sys.argv[2], int(sys.argv[3]), dtype)
        case _:
            answer = encode(sys.argv[2], int(sys.argv[3]), dtype)
    where = torch.cuda.get_device_name() if ON_GPU else f"{torch.get_num_threads()} threads"
    print(json.dumps(answer | {"peer": f"PyTorch {torch.__version__} {sys.argv[-1]}", "on": where}))


main()
