#!/usr/bin/env python3
"""What BAHE's short way costs in quality: one language model, four ways to read the same behaviors, on the same rows, in PyTorch.

    bahe_quality.py rows DATA MODEL ROWS            DATA (items.jsonl, events.jsonl, rows.tsv) as ids of tokens: ROWS, a .npz file
    bahe_quality.py learn ROWS MODEL VARIANT LENGTH PASSES SEED OUT    learns, and writes log-odds of test rows to OUT, a .npy file
    bahe_quality.py told ROWS OUT TSV               OUT as predictions

MODEL: a folder with SmolLM2-135M's config.json, tokenizer.json and model.safetensors. DEVICE (cuda, cpu), RATE (of the layers), USERS (so many only) and KINDS (of behaviors that are read, "played wishlist" where it is not set) are of the environment.
Tasks are the columns of rows.tsv behind item_prior.

A user's behaviors are one text, "KIND TITLE, CATEGORY, AUTHOR; ", cut into windows of LENGTH tokens, each beginning with the newer half of the one before; a row sees
what its window says before it. VARIANT says how it is read:

    whole   (a) all 30 layers learn, over all tokens
    top     (b) 8 frozen layers over all tokens, two above them learn
    bahe    (c) 8 frozen layers over each behavior's text alone; its mean is one position of the two layers above them, which learn
    mean    (d) these means, and no layers above them

What else there is is the same in all: the item's text goes the same way as the user's; the user is the mean of positions before the row, without the first one (the
attention sink); loss at every labelled row of a window, one pass of the layers a window; the head; batches, their order and rates. No activation is computed twice.
"""

import json
import os
import sys
import time
from bisect import bisect_left

import numpy as np
import torch
import torch.nn.functional as F

CUT, ABOVE, TEXT_TOKENS_MAX, TOKENS_A_BATCH, FIRST = 8, 2, 48, 16384, 0
RATES = {"whole": 1e-4, "top": 5e-4, "bahe": 5e-4, "mean": 5e-4}
DEVICE = torch.device(os.environ.get("DEVICE", "cuda"))


def rows(data, model, out):
    """Texts as ids, users as texts in order of time, rows as (user, behaviors before it, item, labels, whether it is of the test)."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
    kinds = os.environ.get("KINDS", "played wishlist").split()
    lines = lambda name: map(json.loads, open(f"{data}/{name}"))
    items = {item["item_id"]: {"category": ", ".join(item.get("categories", [])), **item["fields"]} for item in lines("items.jsonl")}
    texts, users, times, who = {}, [], [], {}

    def text(item, kind):
        fields = items.get(item, {})
        said = ", ".join(fields[name] for name in ("title", "category", "author") if fields.get(name))
        return texts.setdefault(f"{kind} {said}; " if kind else f"{said}; ", len(texts))

    for event in lines("events.jsonl"):
        if event["topic"] == "behaviors" and event["record"]["kind"] in kinds:
            record = event["record"]
            user = who.setdefault(record["user_id"], len(who))
            if user == len(users):
                users.append([])
                times.append([])
            users[user].append(text(record["item_id"], record["kind"]))
            times[user].append(record["time"])
    for one in times:
        assert one == sorted(one)
    wanted = int(os.environ.get("USERS", 10**9))
    table, names = [], []
    with open(f"{data}/rows.tsv") as file:
        head = file.readline().rstrip("\n").split("\t")
        tasks = head[head.index("item_prior") + 1 :]
        for line in file:
            row = dict(zip(head, line.rstrip("\n").split("\t")))
            user = who.setdefault(row["user_id"], len(who))
            if user == len(users):
                users.append([])
                times.append([])
            if row["split"] == "valid" or user >= wanted:
                continue
            before = int(np.searchsorted(times[user], int(row["time"])))
            labels = [float(row[task]) if row[task] else np.nan for task in tasks]
            table.append((user, before, text(row["item_id"], ""), *labels, row["split"] == "test"))
            if row["split"] == "test":
                names.append((row["request_id"], row["item_id"]))
    ids = [tokenizer.encode(one, add_special_tokens=False).ids[:TEXT_TOKENS_MAX] for one in texts]
    flat = lambda lists: np.array([x for one in lists for x in one], np.int32)
    sizes = lambda lists: np.array([len(one) for one in lists], np.int32)
    users = users[:wanted]
    np.savez_compressed(
        out, ids=flat(ids), ids_len=sizes(ids), users=flat(users), users_len=sizes(users), rows=np.array(table, np.float32), names=np.array(names), tasks=np.array(tasks)
    )
    print(json.dumps({"texts": len(ids), "tokens_a_text": float(np.mean(sizes(ids))), "behaviors": int(sum(sizes(users))), "rows": len(table)}))


class Block(torch.nn.Module):
    """A layer of the Llama family, by its tensors' names in the file."""

    def __init__(self, config, tensors, layer):
        super().__init__()
        self.heads, self.groups = config["num_attention_heads"], config["num_key_value_heads"]
        self.epsilon = config["rms_norm_eps"]
        take = lambda name: torch.nn.Parameter(tensors[f"model.layers.{layer}.{name}.weight"].float().clone())
        self.q, self.k, self.v, self.o = (take(f"self_attn.{name}_proj") for name in "qkvo")
        self.gate, self.up, self.down = (take(f"mlp.{name}_proj") for name in ("gate", "up", "down"))
        self.before, self.between = take("input_layernorm"), take("post_attention_layernorm")

    def forward(self, x, turn):
        batch, positions, width = x.shape
        cos, sin = (one[:positions].to(torch.bfloat16) for one in turn)

        def heads(weight, count):
            return F.linear(y, weight).view(batch, positions, count, -1).transpose(1, 2)

        def turned(z):
            one, other = z.chunk(2, -1)
            return torch.cat((one * cos - other * sin, other * cos + one * sin), -1)

        y = F.rms_norm(x, (width,), self.before, self.epsilon)
        q, k, v = turned(heads(self.q, self.heads)), turned(heads(self.k, self.groups)), heads(self.v, self.groups)
        mixed = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True, enable_gqa=True)
        x = x + F.linear(mixed.transpose(1, 2).reshape(batch, positions, -1), self.o)
        y = F.rms_norm(x, (width,), self.between, self.epsilon)
        return x + F.linear(F.silu(F.linear(y, self.gate)) * F.linear(y, self.up), self.down)


class Reader(torch.nn.Module):
    """One of the variants: from texts to a user's and an item's vector, and the head over both."""

    def __init__(self, variant, model, length, tasks):
        super().__init__()
        from safetensors.torch import load_file

        config = json.load(open(f"{model}/config.json"))
        tensors = load_file(f"{model}/model.safetensors")
        self.variant, self.width, self.epsilon = variant, config["hidden_size"], config["rms_norm_eps"]
        layers = config["num_hidden_layers"]
        trained = {"whole": range(layers), "top": range(CUT, CUT + ABOVE), "bahe": range(CUT, CUT + ABOVE), "mean": ()}[variant]
        block = lambda layer: Block(config, tensors, layer)
        self.frozen = torch.nn.ModuleList([] if variant == "whole" else [block(layer) for layer in range(CUT)]).requires_grad_(False)
        self.layers = torch.nn.ModuleList([block(layer) for layer in trained])
        self.embedding = torch.nn.Parameter(tensors["model.embed_tokens.weight"].float().clone(), requires_grad=variant == "whole")
        self.norm = torch.nn.Parameter(tensors["model.norm.weight"].float().clone()) if trained else None
        wide = self.width // config["num_attention_heads"]
        angles = torch.arange(length + TEXT_TOKENS_MAX + 2)[:, None] / config["rope_theta"] ** (torch.arange(wide // 2) * 2.0 / wide)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        self.first = None
        linear = torch.nn.Linear
        self.nobody = torch.nn.Parameter(torch.zeros(self.width))
        self.user, self.item = linear(self.width, 64), linear(self.width, 64)
        self.head = torch.nn.Sequential(linear(192, 128), torch.nn.GELU(), linear(128, tasks))

    def run(self, blocks, x):
        for one in blocks:
            x = one(x, (self.cos, self.sin))
        return x

    def tokens(self, ids):
        """States of texts [n, tokens] behind a first token, [n, 1 + tokens, width]: of the last layer or, where layers are frozen, of the last of these."""
        x = F.embedding(F.pad(ids, (1, 0), value=FIRST), self.embedding)
        if self.variant == "whole":
            return self.run(self.layers, x)
        with torch.no_grad():
            return self.run(self.frozen, x)

    @torch.no_grad()
    def read_texts(self, ids, lengths):
        """The means of all texts' states, once (bahe, mean), and what a first position looks like."""
        means = torch.zeros(len(lengths), self.width, device=DEVICE)
        order = np.argsort(lengths, kind="stable")
        for part in np.array_split(order, max(1, len(order) // 1024)):
            batch, mask = padded([ids[text] for text in part])
            states = self.tokens(batch).float()
            means[torch.from_numpy(part).to(DEVICE)] = (states[:, 1:] * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
            self.first = states[0, 0].clone()
        if self.variant == "mean":
            means = (means - means.mean(0)) / (means.std(0) + 1e-6)
        self.means = means

    def above(self, states):
        """From what a first part of the way gave, positions without the first: [n, positions, width]."""
        if self.variant in ("top", "bahe"):
            states = self.run(self.layers, states)
        return F.rms_norm(states[:, 1:].float(), (self.width,), self.norm, self.epsilon)

    def vectors(self, sequences, ids):
        """Sums of positions up to each behavior's end [n, behaviors + 1, width], and how many positions these are [n, behaviors + 1]; `sequences` are texts' numbers."""
        longest = max(map(len, sequences))
        if self.variant in ("bahe", "mean"):
            texts = torch.zeros(len(sequences), longest, dtype=torch.long)
            for row, one in enumerate(sequences):
                texts[row, : len(one)] = torch.from_numpy(one)
            states = self.means[texts.to(DEVICE)]
            if self.variant == "bahe":
                states = self.above(torch.cat((self.first.expand(len(sequences), 1, -1), states), 1))
            ends = np.tile(np.arange(longest + 1), (len(sequences), 1))
        else:
            said = [[ids[text] for text in one] for one in sequences]
            batch, _ = padded([np.concatenate(one) if one else np.zeros(0, np.int32) for one in said])
            states = self.above(self.tokens(batch))
            ends = np.zeros((len(sequences), longest + 1), np.int64)
            for row, one in enumerate(said):
                ends[row, 1 : len(one) + 1] = np.cumsum([len(text) for text in one])
        sums = F.pad(states.float().cumsum(1), (0, 0, 1, 0))
        ends = torch.from_numpy(ends).to(DEVICE)
        return sums.gather(1, ends[:, :, None].expand(-1, -1, self.width)), ends

    def forward(self, windows, pairs, ids):
        """Log-odds of pairs (window, behaviors before it, text of the item): [pairs, tasks]."""
        sums, counts = self.vectors(windows, ids)
        window, before = (torch.from_numpy(pairs[:, at]).to(DEVICE) for at in (0, 1))
        count = counts[window, before][:, None]
        user = torch.where(count > 0, sums[window, before] / count.clamp(min=1), self.nobody)
        texts, which = np.unique(pairs[:, 2], return_inverse=True)
        order = np.argsort([len(ids[text]) for text in texts], kind="stable")
        items = torch.zeros(len(texts), self.width, device=DEVICE)
        for part in np.array_split(order, max(1, len(texts) // 512)):
            sums, counts = self.vectors([np.array([texts[at]]) for at in part], ids)
            items = items.index_copy(0, torch.from_numpy(part).to(DEVICE), sums[:, 1] / counts[:, 1:2].clamp(min=1))
        user, item = self.user(user), self.item(items)[torch.from_numpy(which).to(DEVICE)]
        return self.head(torch.cat((user, item, user * item), 1)).float()


def padded(texts):
    """Ids [n, longest], and which of them are there."""
    longest = max(1, max(map(len, texts)))
    batch, mask = np.zeros((len(texts), longest), np.int64), np.zeros((len(texts), longest), np.float32)
    for row, one in enumerate(texts):
        batch[row, : len(one)], mask[row, : len(one)] = one, 1
    return torch.from_numpy(batch).to(DEVICE), torch.from_numpy(mask).to(DEVICE)


def windows_of(users, ids, length):
    """(user, from, to): windows of at most `length` tokens; each but a user's first begins with the newer half of the one before."""
    found = []
    for user, texts in enumerate(users):
        begin, tokens = 0, 0
        for at, text in enumerate(texts):
            if tokens + len(ids[text]) > length:
                found.append((user, begin, at))
                while tokens > length // 2:
                    tokens -= len(ids[texts[begin]])
                    begin += 1
            tokens += len(ids[text])
        found.append((user, begin, len(texts)))
    return found


def batches_of(windows, pairs_of, users, ids, random):
    """Windows of about the same length together, as many as a batch's tokens allow."""
    sized = [(sum(len(ids[text]) for text in users[user][begin:end]) + 1, at) for at, (user, begin, end) in enumerate(windows) if len(pairs_of[at])]
    sized = [sized[at] for at in random.permutation(len(sized))]
    batches = []
    for part in range(0, len(sized), 2048):
        batch, longest = [], 0
        for size, at in sorted(sized[part : part + 2048]):
            if batch and max(longest, size) * (len(batch) + 1) > TOKENS_A_BATCH:
                batches.append(batch)
                batch, longest = [], 0
            batch.append(at)
            longest = max(longest, size)
        batches.append(batch)
    return [batches[at] for at in random.permutation(len(batches))]


def tasks_of(rows):
    """The rows' tasks; those of ifdb where a file of before does not say."""
    return [str(task) for task in rows["tasks"]] if "tasks" in rows else ["played", "wishlist"]


def area(labels, answers):
    """Under the ROC curve, of rows that have a label; pairs that are told the same count half."""
    known = ~np.isnan(labels)
    labels, answers = labels[known], answers[known]
    _, place, count = np.unique(answers, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    positives = labels.sum()
    return float((ranks[labels > 0].sum() - positives * (positives + 1) / 2) / (positives * (len(labels) - positives)))


def learn(rows, model, variant, length, passes, seed, out):
    began = time.time()
    data = np.load(rows)
    split = lambda name: np.split(data[name].astype(np.int64), np.cumsum(data[f"{name}_len"])[:-1])
    ids, users, table = split("ids"), split("users"), data["rows"]
    length, passes, tasks = int(length), int(passes), tasks_of(data)
    torch.manual_seed(int(seed))
    random = np.random.default_rng(int(seed))
    windows = windows_of(users, ids, length)
    # A row's window is the first of its user that reaches to where the row is.
    at_of = {}
    for at, (user, _, end) in enumerate(windows):
        at_of.setdefault(user, []).append((end, at))
    pairs = {True: [[] for _ in windows], False: [[] for _ in windows]}
    tests = 0
    for number, (user, before, item, *_, test) in enumerate(table):
        ends = at_of[int(user)]
        at = ends[bisect_left(ends, (before,))][1]
        pairs[bool(test)][at].append((int(before) - windows[at][1], int(item), number, tests))
        tests += int(test)
    reader = Reader(variant, model, length, len(tasks)).to(DEVICE)
    rates = [
        {"params": [p for name, p in reader.named_parameters() if p.requires_grad and name.split(".")[0] in ("layers", "embedding", "norm")], "lr": float(os.environ.get("RATE", RATES[variant]))},
        {"params": [p for name, p in reader.named_parameters() if p.requires_grad and name.split(".")[0] not in ("layers", "embedding", "norm")], "lr": 1e-3},
    ]
    adam = torch.optim.AdamW([one for one in rates if one["params"]], weight_decay=0.01, fused=DEVICE.type == "cuda")
    under = lambda: torch.autocast(DEVICE.type, torch.bfloat16)
    if variant in ("bahe", "mean"):
        with under():
            reader.read_texts(ids, data["ids_len"])
    order = [batch for _ in range(passes) for batch in batches_of(windows, pairs[False], users, ids, random)]
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: min(1, (step + 1) / (0.05 * len(order))) * (1 - step / len(order)))

    def said(batch, which):
        """Log-odds of a batch's rows, and these."""
        lists = [(at, pair) for at, window in enumerate(batch) for pair in pairs[which][window]]
        triples = np.array([(at, pair[0], pair[1]) for at, pair in lists])
        texts = [users[user][begin:end] for user, begin, end in (windows[window] for window in batch)]
        with under():
            return reader(texts, triples, ids), [pair for _, pair in lists]

    prepared, tokens, losses = time.time(), 0, []
    for step, batch in enumerate(order):
        log_odds, which = said(batch, False)
        labels = torch.from_numpy(table[[pair[2] for pair in which], 3:-1]).to(DEVICE)
        there = ~labels.isnan()
        each = F.binary_cross_entropy_with_logits(log_odds, labels.nan_to_num(), reduction="none") * there
        loss = (each.sum(0) / there.sum(0).clamp(min=1)).sum()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        adam.step()
        schedule.step()
        losses.append(loss.detach())
        tokens += sum(len(ids[text]) for window in batch for text in users[windows[window][0]][windows[window][1] : windows[window][2]])
        if step % 20 == 0:
            print(f"{variant} {length}: step {step} of {len(order)}, loss {float(torch.stack(losses[-20:]).mean()):.4f}, {time.time() - prepared:.0f} s", file=sys.stderr, flush=True)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    learned = time.time()
    answers = np.zeros((tests, len(tasks)), np.float32)
    with torch.no_grad():
        for batch in batches_of(windows, pairs[True], users, ids, random):
            log_odds, which = said(batch, True)
            answers[[pair[3] for pair in which]] = log_odds.cpu().numpy()
    done = time.time()
    np.save(out, answers)
    labels = table[table[:, -1] == 1][:, 3:-1]
    areas = {f"auc_{task}": area(labels[:, at], answers[:, at]) for at, task in enumerate(tasks)}
    told = {"variant": variant, "length": length, "passes": passes, "seed": int(seed), "steps": len(order), "tokens_of_users": tokens}
    told |= {"prepare_s": prepared - began, "learn_s": learned - prepared, "test_s": done - learned, "loss": float(torch.stack(losses[-max(1, len(order) // passes) :]).mean())}
    told |= {"rate": rates[0]["lr"]} | areas
    if DEVICE.type == "cuda":
        told |= {"peak_mib": torch.cuda.max_memory_allocated() / 2**20, "on": torch.cuda.get_device_name()}
    print(json.dumps(told), flush=True)


def told(rows, answers, out):
    data = np.load(rows)
    labels = data["rows"][data["rows"][:, -1] == 1][:, 3:-1]
    with open(out, "w") as file:
        print("request_id\titem_id\ttask\tprobability", file=file)
        for (request, item), row, there in zip(data["names"], np.load(answers), ~np.isnan(labels)):
            for task, log_odds, known in zip(tasks_of(data), row, there):
                if known:
                    print(f"{request}\t{item}\t{task}\t{1 / (1 + np.exp(-float(log_odds))):.7f}", file=file)


{"rows": rows, "learn": learn, "told": told}[sys.argv[1]](*sys.argv[2:])
