# Table and picture of ops/bench/live: live.py OUT COMMIT SETTINGS. Standard library only.
#
# Arms of one seed meet the same requests, candidates and moods, so gaps and differences are taken within a seed, and errors are those of the mean over seeds.
# When half of the gap is regained: the gap of a window is the oracle's click rate less the arm's. The gap of the first window behind the drift is what there is to regain (who learns has
# regained a little within it, which makes the bar higher). Half is regained with the first window whose gap, and that of the next, is at most half of it; counted are the requests from the drift to the end
# of that window. Two windows, so that one lucky window is not enough.
import json, math, random, sys
from collections import defaultdict

ARMS = ["random", "baseline", "headwater", "oracle"]
COLORS = {"random": "#888888", "baseline": "#0072b2", "headwater": "#d55e00", "oracle": "#009e73"}
LAST = 5  # windows that are put together before the drift and at the end
SAMPLES = 2000

out, commit, settings = sys.argv[1:]
runs = defaultdict(dict)
for line in open(f"{out}/results.jsonl"):
    one = json.loads(line)
    if one["commit"] == commit and one["cell"].endswith(" " + settings):
        runs[one["seed"]][one["arm"]] = one
runs = {seed: arms for seed, arms in sorted(runs.items()) if len(arms) == len(ARMS)}
if not runs:
    sys.exit("no seed has all arms yet")
some = next(iter(runs.values()))["oracle"]
window, drift = some["window"], some["drift"] // some["window"]
windows = len(some["shown"])
seeds = list(runs)


def rate(arm, seed, at):
    one = runs[seed][arm]
    return sum(one["clicked"][k] for k in at) / sum(one["shown"][k] for k in at)


def mean(values):
    return sum(values) / len(values)


def error(values):
    if len(values) < 2:
        return float("nan")
    middle = mean(values)
    return math.sqrt(sum((value - middle) ** 2 for value in values) / (len(values) - 1) / len(values))


def percent(values):
    return f"{100 * mean(values):.2f} ± {100 * error(values):.2f}"


def regained(gaps, bar=None):
    """Requests from the drift to the end of the first of two windows in a row whose gap is at most the bar; None: never."""
    bar = gaps[0] / 2 if bar is None else bar
    for k in range(len(gaps) - 1):
        if gaps[k] <= bar and gaps[k + 1] <= bar:
            return (k + 1) * window
    return None


places = {
    f"the last {LAST} windows before the drift": range(drift - LAST, drift),
    "the first window behind it": range(drift, drift + 1),
    f"the last {LAST} windows": range(windows - LAST, windows),
    "all before": range(drift),
    "all behind": range(drift, windows),
}
print(f"{len(seeds)} seeds, {settings}, commit {commit}: clicks by items shown where the arm made the order, %, mean over seeds ± its standard error\n")
print("| | " + " | ".join(ARMS) + " | headwater − baseline | t | of what lies between random and oracle: baseline, headwater |")
print("|---" * (len(ARMS) + 4) + "|")
for name, at in places.items():
    rates = {arm: [rate(arm, seed, at) for seed in seeds] for arm in ARMS}
    differences = [a - b for a, b in zip(rates["headwater"], rates["baseline"])]
    t = mean(differences) / error(differences) if error(differences) else float("nan")
    floor, ceiling = mean(rates["random"]), mean(rates["oracle"])
    shares = [f"{100 * (mean(rates[arm]) - floor) / (ceiling - floor):.0f} %" for arm in ["baseline", "headwater"]]
    better = sum(difference > 0 for difference in differences)
    print(f"| {name} | " + " | ".join(percent(rates[arm]) for arm in ARMS) + f" | {percent(differences)} ({better} of {len(seeds)} seeds) | {t:.1f} | {', '.join(shares)} |")

print("\n| | gap before the drift | behind it | half of the gap is regained within | 95 % (seeds drawn again) | by seed: lowest, median, highest; never | half of what the drift cost, within |")
print("|---" * 7 + "|")
for arm in ["baseline", "headwater"]:
    gaps = {seed: [rate("oracle", seed, [k]) - rate(arm, seed, [k]) for k in range(windows)] for seed in seeds}
    over = lambda chosen: [mean([gaps[seed][k] for seed in chosen]) for k in range(drift, windows)]
    say = lambda requests: f"{requests} requests" if requests else "not within the run"
    draw = random.Random(1)
    drawn = [regained(over([draw.choice(seeds) for _ in seeds])) or math.inf for _ in range(SAMPLES)]
    drawn.sort()
    interval = [drawn[int(SAMPLES * share)] for share in (0.025, 0.975)]
    interval = " to ".join("never" if one == math.inf else str(one) for one in interval)
    each = sorted(regained(gaps[seed][drift:]) or math.inf for seed in seeds)
    never = sum(one == math.inf for one in each)
    spread = ", ".join("never" if one == math.inf else str(one) for one in [each[0], each[len(each) // 2], each[-1]])
    before = [mean([gaps[seed][k] for k in places[f"the last {LAST} windows before the drift"]]) for seed in seeds]
    behind = over(seeds)
    lost = regained(behind, (behind[0] + mean(before)) / 2)
    print(f"| {arm} | {100 * mean(before):.2f} | {100 * behind[0]:.2f} | {say(regained(behind))} | {interval} | {spread}; {never} | {say(lost)} |")

print("\n| seed | promotions (of trials: canary, dropped; went back) | trainings | answers of a trained model, % | half regained: baseline, headwater | unanswered | latency p50, p99 ms | s |")
print("|---" * 8 + "|")
unanswered = answered = 0
for seed in seeds:
    two = [runs[seed][arm] for arm in ["baseline", "headwater"]]
    one = two[1]
    named = {" ".join(sorted(key.split())): value for key, value in one["trials"].items()}
    get = lambda *labels: named.get(" ".join(sorted(labels)), 0)
    learned = ", ".join(f"{key} {value}" for key, value in sorted(one["trainings"].items()) if key != "too_few")
    half = [regained([rate("oracle", seed, [k]) - rate(arm, seed, [k]) for k in range(drift, windows)]) for arm in ["baseline", "headwater"]]
    latency = ", ".join(f"{one['latency_ms']['p50']:.0f}, {one['latency_ms']['p99']:.0f}" for one in two)
    unanswered += sum(arm["unanswered"] for arm in two)
    answered += sum(arm["answered"] for arm in two)
    print(f"| {seed} | {get('challenger', 'promoted')} ({get('challenger', 'canary')}, {get('challenger', 'dropped')}; {get('former', 'went_back')}) | {learned} | "
          f"{100 * sum(one['by_model']) / one['answered']:.0f} | {', '.join(str(at or 'never') for at in half)} | {sum(arm['unanswered'] for arm in two)} | {latency} | {one['seconds']:.0f} |")
print(f"\n{answered} requests answered by daemons, {unanswered} not.")

# The picture.
wide, high, left, bottom, top = 900, 460, 60, 50, 30
series = {arm: [[rate(arm, seed, [k]) for seed in seeds] for k in range(windows)] for arm in ARMS}
ceiling = max(mean(values) for of in series.values() for values in of) * 1.08
x = lambda requests: left + (wide - left - 110) * requests / (windows * window)
y = lambda value: high - bottom - (high - bottom - top) * value / ceiling
svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" font-size="12">', f'<rect width="{wide}" height="{high}" fill="white"/>']
step = 0.05 if ceiling < 0.6 else 0.1
for k in range(int(ceiling / step) + 1):
    svg.append(f'<line x1="{left}" x2="{wide - 110}" y1="{y(k * step):.1f}" y2="{y(k * step):.1f}" stroke="#dddddd"/><text x="{left - 8}" y="{y(k * step) + 4:.1f}" text-anchor="end">{100 * k * step:.0f} %</text>')
for k in range(0, windows + 1, max(windows // 8, 1)):
    svg.append(f'<text x="{x(k * window):.1f}" y="{high - bottom + 18}" text-anchor="middle">{k * window:,}</text>')
svg.append(f'<line x1="{x(drift * window):.1f}" x2="{x(drift * window):.1f}" y1="{top}" y2="{high - bottom}" stroke="black" stroke-dasharray="4 3"/>')
svg.append(f'<text x="{x(drift * window) + 5:.1f}" y="{high - bottom - 8}">all users\' tastes are drawn anew</text>')
for arm, of in series.items():
    middle = [(x((k + 0.5) * window), mean(values), error(values) if len(values) > 1 else 0.0) for k, values in enumerate(of)]
    for part in [middle[:drift], middle[drift:]]:
        edge = [(at, value + 2 * spread) for at, value, spread in part] + [(at, value - 2 * spread) for at, value, spread in reversed(part)]
        svg.append(f'<polygon points="{" ".join(f"{at:.1f},{y(value):.1f}" for at, value in edge)}" fill="{COLORS[arm]}" opacity="0.2"/>')
        svg.append(f'<polyline points="{" ".join(f"{at:.1f},{y(value):.1f}" for at, value, _ in part)}" fill="none" stroke="{COLORS[arm]}" stroke-width="1.8"/>')
    svg.append(f'<text x="{wide - 104}" y="{y(middle[-1][1]) + 4:.1f}" fill="{COLORS[arm]}">{arm}</text>')
svg.append(f'<text x="{(left + wide - 110) / 2}" y="{high - 8}" text-anchor="middle">requests ({len(seeds)} seeds, {window:,} a window; mean, and two standard errors)</text><text x="{left}" y="18">clicks by items shown</text></svg>')
open(f"{out}/live.svg", "w").write("\n".join(svg) + "\n")
