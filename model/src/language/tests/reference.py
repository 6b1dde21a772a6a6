#!/usr/bin/env python3
"""Makes reference.json: numbers of PyTorch that our blocks are held against.

    python3 reference.py [FOLDER]

FOLDER holds SmolLM2-135M-Instruct.Q4_1.gguf and all-MiniLM-L6-v2 (as HEADWATER_MODELS does); without it the numbers of the real
models stay as they are. Needs torch and numpy, and no network. Everything is computed in 64 bits, from the definitions of the models and
of the file formats: no code is shared with ours, and no library of models is used.

The small models' weights follow from a formula of name and place, which both sides compute: no weights are stored.
"""

import json
import math
import pathlib
import struct
import sys

import numpy as np
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
HERE = pathlib.Path(__file__).parent / "reference.json"


def formula(name, shape, around=0.0):
    """Values between around - 0.2 and around + 0.2: a hash of the name and the place, rounded to 32 bits."""
    seed = 2166136261
    for byte in name.encode():
        seed = (seed ^ byte) * 16777619 % 2**32
    x = (seed + np.arange(math.prod(shape), dtype=np.uint64) * 2654435761) % 2**32
    x ^= x >> 16
    x = x * 0x45D9F3B % 2**32
    x ^= x >> 16
    values = around + ((x >> 8) / 2**24 - 0.5) * 0.4
    return torch.from_numpy(values.astype(np.float32).astype(np.float64)).reshape(shape)


class Small(dict):
    """Tensors that are made when they are asked for: norms' weights around 1, all others around 0."""

    def __missing__(self, asked):
        name, *shape = asked
        norm = "norm" in name.lower() and name.endswith("weight")
        self[asked] = formula(name, shape, 1.0 if norm else 0.0).requires_grad_()
        return self[asked]


# The blocks, from their definitions.


def rms(x, weight, epsilon):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + epsilon) * weight


def turned(x, base):
    """Rotary positions: the two halves of each head are the coordinates that are turned."""
    positions, wide = x.shape[-2], x.shape[-1]
    angles = torch.arange(positions)[:, None] / base ** (torch.arange(wide // 2) * 2.0 / wide)
    one, other = x[..., : wide // 2], x[..., wide // 2 :]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((one * cos - other * sin, other * cos + one * sin), -1)


def heads_of(x, heads):
    batch, positions, width = x.shape
    return x.reshape(batch, positions, heads, width // heads).transpose(1, 2)


def attend(query, key, value, mask):
    weights = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + mask).softmax(-1)
    mixed = (weights @ value).transpose(1, 2)
    return mixed.reshape(*mixed.shape[:2], -1)


def decoder(get, config, ids, layers):
    """States before the first layer and after each."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    heads, groups, wide = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    mask = torch.full((ids.shape[1],) * 2, -torch.inf).triu(1)
    x = get("model.embed_tokens.weight", config["vocab_size"], width)[ids]
    states = [x]
    for layer in range(layers):
        at = f"model.layers.{layer}."

        def linear(x, part, outputs, inputs, biased=False):
            bias = get(f"{at}{part}.bias", outputs) if biased else None
            return F.linear(x, get(f"{at}{part}.weight", outputs, inputs), bias)

        biased = config["model_type"] == "qwen2"
        y = rms(x, get(at + "input_layernorm.weight", width), config["rms_norm_eps"])
        q = heads_of(linear(y, "self_attn.q_proj", heads * wide, width, biased), heads)
        k = heads_of(linear(y, "self_attn.k_proj", groups * wide, width, biased), groups)
        v = heads_of(linear(y, "self_attn.v_proj", groups * wide, width, biased), groups)
        q, k = turned(q, config["rope_theta"]), turned(k, config["rope_theta"])
        k, v = (t.repeat_interleave(heads // groups, 1) for t in (k, v))
        x = x + linear(attend(q, k, v, mask), "self_attn.o_proj", width, heads * wide)
        y = rms(x, get(at + "post_attention_layernorm.weight", width), config["rms_norm_eps"])
        y = F.silu(linear(y, "mlp.gate_proj", inner, width)) * linear(y, "mlp.up_proj", inner, width)
        x = x + linear(y, "mlp.down_proj", width, inner)
        states.append(x)
    return states


def logits(get, config, x):
    width, vocabulary = config["hidden_size"], config["vocab_size"]
    head = "model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"
    x = rms(x, get("model.norm.weight", width), config["rms_norm_eps"])
    return x @ get(head, vocabulary, width).T


def encoder(get, config, ids, lengths, layers):
    """States before the first layer and after each; what stands behind a text is not looked at."""
    width, inner, heads = (config[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads"))

    def norm(x, name):
        return F.layer_norm(x, (width,), get(name + ".weight", width), get(name + ".bias", width), config["layer_norm_eps"])

    at = "embeddings."
    x = get(at + "word_embeddings.weight", config["vocab_size"], width)[ids]
    x = x + get(at + "position_embeddings.weight", config["max_position_embeddings"], width)[: ids.shape[1]]
    x = x + get(at + "token_type_embeddings.weight", config["type_vocab_size"], width)[0]
    x = norm(x, at + "LayerNorm")
    behind = torch.arange(ids.shape[1])[None] >= torch.tensor(lengths)[:, None]
    mask = torch.zeros(ids.shape).masked_fill(behind, -torch.inf)[:, None, None]
    states = [x]
    for layer in range(layers):
        at = f"encoder.layer.{layer}."

        def linear(x, part, outputs, inputs):
            return F.linear(x, get(f"{at}{part}.weight", outputs, inputs), get(f"{at}{part}.bias", outputs))

        q, k, v = (heads_of(linear(x, f"attention.self.{part}", width, width), heads) for part in ("query", "key", "value"))
        x = norm(x + linear(attend(q, k, v, mask), "attention.output.dense", width, width), at + "attention.output.LayerNorm")
        y = F.gelu(linear(x, "intermediate.dense", inner, width))
        x = norm(x + linear(y, "output.dense", width, inner), at + "output.LayerNorm")
        states.append(x)
    return states


# The small models.

DECODER = {
    "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "vocab_size": 13, "max_position_embeddings": 16, "rope_theta": 100.0,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
}
ENCODER = {
    "model_type": "bert", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
    "vocab_size": 13, "max_position_embeddings": 16, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
}
IDS = [[3, 1, 4, 1, 5, 9], [2, 7, 12, 8, 0, 6]]
LENGTHS = [6, 4]


def flat(tensor):
    return [float(f"{value:.8g}") for value in tensor.detach().flatten().tolist()]


def small():
    ids = torch.tensor(IDS)
    made = {"ids": IDS, "lengths": LENGTHS}
    for family, tied in (("llama", False), ("qwen2", True)):
        config = DECODER | {"model_type": family, "tie_word_embeddings": tied}
        tensors = Small()
        states = decoder(lambda *asked: tensors[asked], config, ids, 2)
        out = logits(lambda *asked: tensors[asked], config, states[-1])
        made[family] = {"config": config, "states": [flat(x) for x in states], "logits": flat(out)}
        # One number that every weight moves.
        (out * formula("probe", out.shape)).sum().backward()
        if family == "llama":
            made[family]["gradients"] = {asked[0]: flat(tensor.grad) for asked, tensor in tensors.items()}
    tensors = Small()
    states = encoder(lambda *asked: tensors[asked], ENCODER, ids, LENGTHS, 2)
    made["bert"] = {"config": ENCODER, "states": [flat(x) for x in states]}
    return made


# The real ones, and the files that they lie in.


def safetensors(path):
    raw = path.read_bytes()
    (header,) = struct.unpack_from("<Q", raw)
    tensors = {}
    for name, info in json.loads(raw[8 : 8 + header]).items():
        if name != "__metadata__" and info["dtype"] == "F32":
            start, end = (8 + header + at for at in info["data_offsets"])
            values = np.frombuffer(raw[start:end], "<f4").astype(np.float64)
            tensors[name] = torch.from_numpy(values).reshape(info["shape"])
    return tensors


def gguf(path):
    """Metadata and tensors of a GGUF file (version 3) of F32, Q8_0 and Q4_1."""
    raw = path.read_bytes()
    at = 0

    def take(form):
        nonlocal at
        values = struct.unpack_from("<" + form, raw, at)
        at += struct.calcsize("<" + form)
        return values[0]

    def text():
        nonlocal at
        length = take("Q")
        at += length
        return raw[at - length : at].decode()

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            inner, count = take("I"), take("Q")
            return [value(inner) for _ in range(count)]
        return take("BbHhIif?__Qqd"[kind])

    assert take("4s") == b"GGUF" and take("I") == 3
    count, pairs = take("Q"), take("Q")
    metadata = {text(): value(take("I")) for _ in range(pairs)}
    infos = []
    for _ in range(count):
        name, rank = text(), take("I")
        shape = [take("Q") for _ in range(rank)][::-1]
        infos.append((name, shape, take("I"), take("Q")))
    align = metadata.get("general.alignment", 32)
    base = (at + align - 1) // align * align
    tensors = {}
    for name, shape, kind, offset in infos:
        size = math.prod(shape)
        block = {0: np.dtype("<f4"), 8: np.dtype([("d", "<f2"), ("q", "i1", 32)]), 3: np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)])}[kind]
        blocks = np.frombuffer(raw, block, size if kind == 0 else size // 32, base + offset)
        if kind == 0:
            values = blocks.astype(np.float64)
        elif kind == 8:
            values = blocks["d"].astype(np.float64)[:, None] * blocks["q"]
        else:
            # The low halves of a block's bytes come first.
            halves = np.concatenate((blocks["q"] & 15, blocks["q"] >> 4), 1)
            values = blocks["d"].astype(np.float64)[:, None] * halves + blocks["m"].astype(np.float64)[:, None]
        tensors[name] = torch.from_numpy(values.reshape(shape).astype(np.float32).astype(np.float64))
    return metadata, tensors


def smollm2(path):
    metadata, tensors = gguf(path)
    get = lambda key: metadata["llama." + key]
    heads, groups = get("attention.head_count"), get("attention.head_count_kv")
    config = {
        "model_type": "llama", "hidden_size": get("embedding_length"), "intermediate_size": get("feed_forward_length"),
        "num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": get("embedding_length") // heads,
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]), "rope_theta": get("rope.freq_base"),
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon"), "tie_word_embeddings": "output.weight" not in tensors,
    }
    parts = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}

    def find(name, *shape):
        if name in whole:
            found = tensors[whole[name]]
        else:
            layer, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
            found = tensors[f"blk.{layer}.{parts[part]}.weight"]
            if part in ("self_attn.q_proj", "self_attn.k_proj"):
                # The file has the two coordinates of a turn side by side; here they are half a head apart.
                number = heads if part.endswith("q_proj") else groups
                found = found.reshape(number, -1, 2, shape[1]).transpose(1, 2).reshape(shape)
        assert list(found.shape) == list(shape), name
        return found

    text = "watched a documentary about wolves in 2026"
    tokens = ("<|im_start|>", "wat", "ched", "Ġa", "Ġdocumentary", "Ġabout", "Ġwolves", "Ġin", "Ġ", "2", "0", "2", "6")
    ids = [metadata["tokenizer.ggml.tokens"].index(token) for token in tokens]
    states = decoder(find, config, torch.tensor([ids]), get("block_count"))
    out = logits(find, config, states[-1])[0, -1, :8]
    return {"text": text, "ids": ids, "logits": flat(out)} | cut(states, (8, get("block_count")))


def minilm(folder):
    tensors = safetensors(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    words = (folder / "vocab.txt").read_text().split("\n")
    text = "watched a documentary about wolves"
    ids = [words.index(word) for word in ("[CLS]", *text.split(), "[SEP]")]
    layers = config["num_hidden_layers"]
    states = encoder(lambda name, *_: tensors[name], config, torch.tensor([ids]), [len(ids)], layers)
    return {"text": text, "ids": ids} | cut(states, (2, layers))


def cut(states, layers):
    """Of each position the length and the first numbers."""
    return {
        str(layer): [{"length": flat(row.norm())[0], "first": flat(row[:8])} for row in states[layer][0]] for layer in layers
    }


def main():
    made = {"torch": torch.__version__, "small": small()}
    before = json.loads(HERE.read_text()) if HERE.exists() else {}
    made["real"] = before.get("real")
    if len(sys.argv) > 1:
        models = pathlib.Path(sys.argv[1])
        made["real"] = {
            "smollm2": smollm2(models / "SmolLM2-135M-Instruct.Q4_1.gguf"),
            "minilm": minilm(models / "all-MiniLM-L6-v2"),
        }
    HERE.write_text(json.dumps(made, separators=(",", ":")) + "\n")
    print(f"{HERE}: {HERE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
