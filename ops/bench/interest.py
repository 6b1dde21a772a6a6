"""The same network in ONNX Runtime and PyTorch, on what `interest` wrote: one thread, f32, the user's part computed once a request.

interest.py FOLDER: a JSON object a line for each file of FOLDER.

The candidates' part takes the user's part as its input, and the part of each atom that is of a candidate's kind, which the other side computes itself.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from safetensors.numpy import load_file

SPAN, TIMES = 0.15, 7
WIDTH = 16


def user_part(t, h, counts, bucket, recency):
    """Of each atom its part of the hidden layer; and what the first layer makes of the row's other numbers."""
    mark = counts @ t["dinmp.kinds"] + t["dinmp.buckets"][bucket] + t["dinmp.recency"][recency]
    inner = h @ t["dinmp.key"] + mark @ t["dinmp.mark"]
    features = t["in.features"]
    same = t["head.hidden.0.weight"][:, : features.shape[0]] @ features + t["head.hidden.0.bias"]
    return inner, same


class Candidates(torch.nn.Module):
    """Candidates' log-odds over those of the baseline."""

    def __init__(self, t):
        super().__init__()
        for name, value in t.items():
            if not name.startswith(("in.", "out.")):
                self.register_buffer(name.replace(".", "_"), value)
        buckets = t["dinmp.buckets"].shape[0]
        pairs = [(one, other) for one in range(2 * buckets) for other in range(one)]
        self.pairs = torch.tensor(pairs).T
        self.buckets = buckets

    def forward(self, h, inner, same, places, share, q, base, user):
        n = q.shape[0]
        hidden = (h[None] * q[:, None]) @ self.dinmp_product
        hidden = hidden + inner[None] + (q @ self.dinmp_candidate + self.dinmp_inner_bias)[:, None]
        weight = torch.nn.functional.silu(hidden) @ self.dinmp_attention[0] + self.dinmp_attention_bias[0]
        # (candidates, sides, atoms) by (atoms, buckets × width)
        sides = torch.stack([share, 1 - share], 1)
        of_bucket = (places[:, :, None] * h[:, None]).reshape(h.shape[0], -1)
        sums = ((weight[:, None] * sides) @ of_bucket).reshape(n, 2, self.buckets, WIDTH)
        sums = sums.transpose(1, 2).reshape(n, 2 * self.buckets, WIDTH)
        volumes = (sides @ places).transpose(1, 2).reshape(n, 2 * self.buckets)
        sums = sums / torch.sqrt(1 + volumes)[:, :, None]
        squashed = torch.sign(sums) * torch.log1p(torch.abs(sums))
        read = torch.where(volumes[:, :, None] > 0, squashed, self.dinmp_empty[None])
        products = read @ read.transpose(1, 2)
        products = products[:, self.pairs[0], self.pairs[1]]
        matches = (read @ q[:, :, None])[:, :, 0]
        product = q @ user[:, None]
        interest = torch.cat([product, matches, read.reshape(n, -1), 0.25 * torch.log1p(volumes), products, q, user.expand(n, -1)], 1)
        # The row's other numbers are the same for all candidates here, so they are of the user's part.
        wide = interest.shape[1]
        one = torch.nn.functional.silu(interest @ self.head_hidden_0_weight[:, -wide:].T + same)
        two = torch.nn.functional.silu(one @ self.head_hidden_1_weight.T + self.head_hidden_1_bias)
        more = two @ self.head_out_weight.T + self.head_out_bias + interest @ self.head_direct.T
        return torch.sigmoid(more[:, 0] + base * self.head_base[0])


def timed(one):
    one()
    found = []
    for _ in range(TIMES):
        began, times = time.perf_counter(), 0
        while time.perf_counter() - began < SPAN:
            one()
            times += 1
        found.append((time.perf_counter() - began) * 1e6 / times)
    found.sort()
    return [found[TIMES // 2], found[0], found[-1]]


def main():
    torch.set_num_threads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    for path in sorted(Path(sys.argv[1]).glob("*.safetensors")):
        atoms, candidates = (int(part) for part in path.stem.split("-"))
        t = {name: torch.from_numpy(value) for name, value in load_file(path).items()}
        bucket, recency = t["in.buckets"].long(), t["in.recency"].long()
        h, q, share, base = t["in.keys"], t["in.candidates"], t["in.share"], t["in.base"]
        places = torch.nn.functional.one_hot(bucket, t["dinmp.buckets"].shape[0]).float()
        network = Candidates(t).eval()
        answer = {"atoms": atoms, "candidates": candidates}
        with torch.inference_mode():
            # What is right, in f64: with many keys sums of f32 differ by their order.
            d = {name: value.double() for name, value in t.items()}
            part = user_part(d, d["in.keys"], d["in.counts"], bucket, recency)
            right = Candidates(d).eval()(d["in.keys"], *part, places.double(), d["in.share"], d["in.candidates"], d["in.base"], d["in.user"])
            answer["apart"] = (right - d["out.scores"]).abs().max().item()
            assert answer["apart"] < 1e-5, f"{path}: {answer}"
            part = user_part(t, h, t["in.counts"], bucket, recency)
            inputs = (h, *part, places, share, q, base, t["in.user"])
            answer["pytorch_apart"] = (network(*inputs) - right).abs().max().item()
            assert answer["pytorch_apart"] < 1e-5, f"{path}: {answer}"
            answer["user_us"] = timed(lambda: user_part(t, h, t["in.counts"], bucket, recency))
            answer["pytorch_us"] = timed(lambda: network(*inputs))
        names = ["h", "inner", "same", "places", "share", "q", "base", "user"]
        model = path.with_suffix(".onnx")
        torch.onnx.export(network, inputs, str(model), input_names=names, opset_version=17, dynamo=False)
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        fed = {name: np.ascontiguousarray(value.numpy()) for name, value in zip(names, inputs)}
        got = session.run(None, fed)[0]
        answer["onnx_apart"] = float(np.abs(got - right.numpy()).max())
        assert answer["onnx_apart"] < 1e-5, f"{path}: {answer}"
        answer["onnx_us"] = timed(lambda: session.run(None, fed))
        print(json.dumps(answer), flush=True)


main()
