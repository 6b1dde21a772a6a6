"""Census-Income (KDD) as rows of numbers with three labels, and what became of them.

    census.py rows CSV FOLDER       FOLDER/rows.safetensors: features, labels; rows learned from first, then those that validate, then those that are judged
    census.py judge FOLDER SAID     a JSON object: AUC and log loss by task, of the rows that are judged

Tasks and what is dropped for them are those of MMoE (Ma et al., KDD 2018), on the half of the data that the folder has. Standard library alone.
"""
import array
import csv
import gzip
import hashlib
import json
import math
import struct
import sys

TASKS = ["income", "never_married", "college"]
COLLEGE = ("Some college", "Associates", "Bachelors", "Masters", "Prof school", "Doctorate")
NUMBERS = ["age", "wage_per_hour", "capital_gains", "capital_losses", "stock_dividends", "num_emp", "weeks_worked"]
# A weight of the survey, and what spells out a label.
DROPPED = ["instance_weight", "income_50k", "marital_stat", "education", "hs_college", "tax_filer_stat", "det_hh_fam_stat", "det_hh_summ"]
RARE = 100
SHARES = [0.6, 0.8]


def split_of(number):
    place = int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:8], "big") / 2**64
    return sum(place >= end for end in SHARES)


def rows(path, folder):
    with gzip.open(path, "rt", newline="") as file:
        people = list(csv.DictReader(file))
    splits = [split_of(number) for number in range(len(people))]
    order = sorted(range(len(people)), key=lambda number: (splits[number], number))
    learned = [people[number] for number in order if splits[number] == 0]
    columns = []
    for name in people[0]:
        if name in DROPPED:
            continue
        if name in NUMBERS:
            squashed = [math.log1p(float(person[name])) for person in learned]
            mean = sum(squashed) / len(squashed)
            spread = math.sqrt(sum((one - mean) ** 2 for one in squashed) / len(squashed)) or 1.0
            columns.append(lambda person, name=name, mean=mean, spread=spread: (math.log1p(float(person[name])) - mean) / spread)
        else:
            counts = {}
            for person in learned:
                counts[person[name]] = counts.get(person[name], 0) + 1
            for value in sorted(value for value, count in counts.items() if count >= RARE):
                columns.append(lambda person, name=name, value=value: float(person[name] == value))
    features, labels = array.array("f"), array.array("f")
    for number in order:
        person = people[number]
        features.extend(column(person) for column in columns)
        labels.extend([
            float(person["income_50k"] == "1"),
            float(person["marital_stat"] == "Never married"),
            float(person["education"].startswith(COLLEGE)),
        ])
    sizes = [splits.count(split) for split in range(3)]
    header, at = {"__metadata__": {"sizes": " ".join(map(str, sizes))}}, 0
    for name, values, width in [("features", features, len(columns)), ("labels", labels, len(TASKS))]:
        end = at + 4 * len(values)
        header[name] = {"dtype": "F32", "shape": [len(people), width], "data_offsets": [at, end]}
        at = end
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with open(f"{folder}/rows.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head + features.tobytes() + labels.tobytes())
    with open(f"{folder}/sizes", "w") as file:
        file.write(" ".join(map(str, sizes)))
    rates = [sum(labels[task::len(TASKS)]) / len(people) for task in range(len(TASKS))]
    print(f"{len(people)} people, {len(columns)} numbers each, rows {sizes}, share of 1: " + ", ".join(f"{name} {rate:.3f}" for name, rate in zip(TASKS, rates)), file=sys.stderr)


def auc(said, labels):
    order = sorted(range(len(said)), key=said.__getitem__)
    ranks, at = 0.0, 0
    while at < len(order):
        end = at
        while end < len(order) and said[order[end]] == said[order[at]]:
            end += 1
        ranks += sum(labels[place] for place in order[at:end]) * (at + 1 + end) / 2
        at = end
    ones = sum(labels)
    return (ranks - ones * (ones + 1) / 2) / (ones * (len(labels) - ones))


def judge(folder, path):
    said = array.array("f")
    with open(path, "rb") as file:
        said.frombytes(file.read())
    with open(f"{folder}/rows.safetensors", "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        begin, end = json.loads(file.read(length))["labels"]["data_offsets"]
        file.seek(8 + length + begin)
        labels = array.array("f")
        labels.frombytes(file.read(end - begin))
    labels = labels[-len(said):]
    told = {}
    for task, name in enumerate(TASKS):
        of, truth = said[task::len(TASKS)], labels[task::len(TASKS)]
        toward = [-odds if label else odds for odds, label in zip(of, truth)]
        loss = sum(max(odds, 0.0) + math.log1p(math.exp(-abs(odds))) for odds in toward) / len(of)
        told[name] = {"auc": auc(of, truth), "loss": loss}
    print(json.dumps(told))


if __name__ == "__main__":
    {"rows": rows, "judge": judge}[sys.argv[1]](*sys.argv[2:])
