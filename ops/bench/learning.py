"""The same steps in PyTorch, on what `learning` wrote: the same batches from the same first values, so losses must be the same.

learning.py FOLDER cpu|cuda: a JSON object a line for each file of FOLDER.

It is given what the other side looks up for itself: which items and marks a batch has, where each pair points, and how much of it is of the candidate's kind.
Rows of ids have sparse gradients and row-wise Adagrad that forgets, all else AdamW (fused where there is a GPU), by which the network of interest learns faster.
"""

import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

HELD, LOT, LOTS = 8, 8, 7
WIDTH = 16
RATE, FACTOR, ROW_RATE, LONGEST, START, MEMORY = 1e-3, 10, 0.05, 1.0, 1e-4, 0.99


class Network(torch.nn.Module):
    def __init__(self, t):
        super().__init__()
        self.table = torch.nn.Parameter(t["table"])
        for name, value in t.items():
            if name.startswith(("dinmp.", "head.")):
                self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(value))
        self.buckets = t["dinmp.buckets"].shape[0]
        pairs = [(one, other) for one in range(2 * self.buckets) for other in range(one)]
        self.register_buffer("pairs", torch.tensor(pairs).T.contiguous())

    def forward(self, b):
        n = b["asked"].shape[0]
        h = F.embedding(b["items"], self.table, sparse=True)
        h = h + F.embedding_bag(b["groups"].view(-1, 2), self.table, mode="mean", sparse=True)
        mark = b["counts"] @ self.dinmp_kinds + self.dinmp_buckets[b["bucket"]] + self.dinmp_recency[b["recency"]]
        q = h[b["asked"]]
        keys, marks = h @ self.dinmp_key, mark @ self.dinmp_mark
        candidates = q @ self.dinmp_candidate + self.dinmp_inner_bias
        item, kind, row = b["pair_item"], b["pair_mark"], b["pair_row"]
        of_item = h[item]
        hidden = (of_item * q[row]) @ self.dinmp_product + keys[item] + candidates[row] + marks[kind]
        weight = F.silu(hidden) @ self.dinmp_attention[0] + self.dinmp_attention_bias[0]
        place = (row * self.buckets + b["bucket"][kind]) * 2
        sums = torch.zeros(n * self.buckets * 2, WIDTH, device=h.device)
        volumes = torch.zeros(n * self.buckets * 2, device=h.device)
        for side, share in enumerate([b["share"], 1 - b["share"]]):
            sums = sums.index_add(0, place + side, of_item * (weight * share)[:, None])
            volumes = volumes.index_add(0, place + side, share)
        sums, volumes = sums.view(n, -1, WIDTH), volumes.view(n, -1)
        sums = sums / torch.sqrt(1 + volumes)[:, :, None]
        squashed = torch.sign(sums) * torch.log1p(torch.abs(sums))
        read = torch.where(volumes[:, :, None] > 0, squashed, self.dinmp_empty[None])
        products = (read @ read.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        matches = (read @ q[:, :, None])[:, :, 0]
        user = F.embedding(b["user"], self.table, sparse=True)
        product = (user * q).sum(1, keepdim=True)
        interest = torch.cat([product, matches, read.reshape(n, -1), 0.25 * torch.log1p(volumes), products, q, user], 1)
        x = F.silu(F.linear(torch.cat([b["features"], interest], 1), self.head_hidden_0_weight, self.head_hidden_0_bias))
        x = F.silu(F.linear(x, self.head_hidden_1_weight, self.head_hidden_1_bias))
        x = (F.linear(x, self.head_out_weight, self.head_out_bias) + F.linear(interest, self.head_direct))[:, 0]
        return F.binary_cross_entropy_with_logits(x + b["base"] * self.head_base[0], b["label"])


def main():
    device = torch.device(sys.argv[2])
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for path in sorted(Path(sys.argv[1]).glob("*.safetensors"), key=lambda path: int(path.stem)):
        t = {name: value.to(device) for name, value in load_file(path).items()}
        batches = {}
        for name in [name for name in t if name[0].isdigit()]:
            at, _, what = name.partition(".")
            batches.setdefault(int(at), {})[what] = t.pop(name)
        network = Network(t).to(device)
        dense = [value for name, value in network.named_parameters() if name != "table"]
        of_interest = [value for name, value in network.named_parameters() if name.startswith("dinmp_")]
        of_head = [value for name, value in network.named_parameters() if name.startswith("head_")]
        groups = [{"params": of_interest, "lr": FACTOR * RATE}, {"params": of_head, "lr": RATE}]
        adam = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
        squares = torch.full((network.table.shape[0],), START, device=device)

        def step(b):
            loss = network(b)
            loss.backward()
            rows = network.table.grad.coalesce()
            places, of_rows = rows.indices()[0], rows.values()
            grads = [value.grad for value in dense]
            length = torch.linalg.vector_norm(torch.stack([*torch._foreach_norm(grads), torch.linalg.vector_norm(of_rows)]))
            scale = (LONGEST / length).clamp(max=1.0)
            torch._foreach_mul_(grads, scale)
            adam.step()
            with torch.no_grad():
                of_rows = of_rows * scale
                sums = squares[places] * MEMORY + of_rows.square().mean(1)
                squares[places] = sums
                network.table.index_add_(0, places, of_rows * (-ROW_RATE / (sums.sqrt() + 1e-8))[:, None])
            adam.zero_grad(set_to_none=True)
            network.table.grad = None
            return loss.detach(), length.detach()

        said = [step(batches[at % len(batches)]) for at in range(HELD)]
        said = [[loss.item(), length.item()] for loss, length in said]
        found = []
        for _ in range(LOTS):
            wait()
            began = time.perf_counter()
            for at in range(LOT):
                step(batches[at % len(batches)])
            wait()
            found.append((time.perf_counter() - began) * 1e3 / LOT)
        found.sort()
        middle, rows = found[LOTS // 2], batches[0]["label"].shape[0]
        memory = torch.cuda.max_memory_reserved() if device.type == "cuda" else None
        answer = {"device": device.type, "keys": int(path.stem), "step_ms": [middle, found[0], found[-1]], "samples_per_second": 1e3 * rows / middle, "steps": said, "memory": memory}
        print(json.dumps(answer), flush=True)


main()
