#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How the cost of a token grows with context, batch, threads, width and depth, and what follows.

usage: tools/scaling.py BUILD -o OUT [--threads N ...] [--repeat N] [--far-threads N]
                        [--far-flops X] [--far-bytes X] [--from FILE]

Measures with `neoxref bench` (limits of the machine in the same runs), fits a model of four numbers to
all points together, and writes scaling.json, scaling.md and scaling.svg (gnuplot) to OUT:

    seconds = max(Fw / (F ew), Kw / (R er)) + max(Fa / (F ea), Kc / (R er)) + phases * tau

F, R      floating-point operations and bytes read a second, measured; operations and bytes as in
          docs/performance.md ("What a row is measured against")
ew, ea    shares of F that products with weights and those of attention (softmax included) reach
er        share of R that reading weights and cache reaches
tau       seconds that a phase of a parallel region costs beside its work

The predictions for larger models take the same four numbers; those for another machine take its limits
from --far-*, which are assumptions and printed as such. --from draws and predicts again from an earlier
scaling.json without measuring."""
import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys

BASE = {"layers": 6, "hidden": 512, "heads": 8, "vocab": 50304}
CONTEXTS = (1, 32, 128, 512, 1024, 2000)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
WIDTHS = (128, 256, 512, 1024, 2048, 4096)
DEPTHS = (1, 2, 4, 8, 16, 24)
SMALL_VOCAB = 1024  # where width or depth is the question
NEW = 16
# layers, hidden, heads, vocab of the published configurations
LARGER = {"pythia-410m": (24, 1024, 16, 50304), "pythia-1b": (16, 2048, 8, 50304),
          "pythia-1.4b": (24, 2048, 16, 50304), "pythia-2.8b": (32, 2560, 32, 50304),
          "pythia-6.9b": (32, 4096, 32, 50432), "pythia-12b": (36, 5120, 40, 50688),
          "gpt-neox-20b": (44, 6144, 64, 50432)}
WEIGHT_BYTES = 2  # float16
PARAMETERS = ("ew", "ea", "er", "tau")


def cost(shape, kind, tokens, batch):
    """Fw, Fa, Kw, Kc and phases of a prompt of `tokens`, or of one new token behind so many slots."""
    layers, hidden, vocab = shape["layers"], shape["hidden"], shape["vocab"]
    layer = 12 * hidden * hidden
    left_out = 10 * hidden * hidden  # queries, dense and the mlp of the last layer
    unembedding = vocab * hidden
    weights = layers * layer + unembedding
    if kind == "prefill":
        products = tokens * layers * layer - (tokens - 1) * left_out + unembedding
        pairs = (layers - 1) * tokens * (tokens + 1) / 2 + tokens
        passes = math.ceil(tokens * batch / 512)
        slots = tokens
    else:
        products = weights
        pairs = layers * tokens
        passes = math.ceil(batch / 512)
        slots = tokens
    return {"Fw": 2 * batch * products, "Fa": 4 * batch * hidden * pairs,
            "Kw": weights * WEIGHT_BYTES, "Kc": 8 * batch * layers * hidden * slots,
            "phases": passes * (3 * layers + 1)}


def seconds(parts, flops, reads, fit):
    return (max(parts["Fw"] / (flops * fit["ew"]), parts["Kw"] / (reads * fit["er"])) +
            max(parts["Fa"] / (flops * fit["ea"]), parts["Kc"] / (reads * fit["er"])) +
            parts["phases"] * fit["tau"])


def bench(build, model, threads, repeat, prompts, contexts, batches):
    document = json.loads(subprocess.run(
        [build / "tools/neoxref", "bench", model, "--threads", ",".join(map(str, threads)),
         "--prompt", ",".join(map(str, prompts)), "--context", ",".join(map(str, contexts)),
         "--batch", ",".join(map(str, batches)), "--new", str(NEW), "--repeat", str(repeat),
         "--starts", "0", "--json"], check=True, capture_output=True).stdout)
    isa = document["machine"]["isa"]
    flops = {limit["threads"]: limit["per_second"] for limit in document["limits"]
             if limit["kind"] == "fma" and limit["isa"] == isa}
    reads = [(limit["threads"], limit["bytes"], limit["per_second"])
             for limit in document["limits"] if limit["kind"] == "read"]
    return document, flops, reads


def synth(build, out, shape):
    folder = out / f"layers{shape['layers']}-hidden{shape['hidden']}-vocab{shape['vocab']}"
    if not (folder / "config.json").exists():
        subprocess.run([build / "tools/neoxref", "synth", "--shape", "pythia-70m", "--layers",
                        str(shape["layers"]), "--hidden", str(shape["hidden"]), "--heads",
                        str(shape["heads"]), "--intermediate", str(4 * shape["hidden"]), "--vocab",
                        str(shape["vocab"]), "-o", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


def measure(options):
    """Points of all curves: what was asked, seconds of one unit of work, limits of that run."""
    points = []
    most_flops = {}

    def curve(name, shape, threads, prompts, contexts, batches, x):
        model = synth(options.build, options.out, shape)
        for _ in range(3):
            document, flops, reads = bench(options.build, model, threads, options.repeat, prompts,
                                           contexts, batches)
            for count in threads:
                most_flops[count] = max(most_flops.get(count, 0.0), flops[count])
            # A run that did not have its cores: two threads on one, or a busy host.
            if all(flops[count] > 0.75 * most_flops[count] for count in threads):
                break
        for row in document["rows"]:
            kind, batch = row["kind"], row["batch"]
            # Behind the context, half of the new tokens lie before a new token on the mean.
            tokens = row["prompt"] if kind == "prefill" else row["context"] + NEW / 2
            parts = cost(shape, kind, tokens, batch)
            wanted = parts["Kw"] + parts["Kc"]
            read = min((r for r in reads if r[0] == row["threads"]),
                       key=lambda r: abs(r[1] - wanted))[2]
            units = batch * (tokens if kind == "prefill" else 1)
            points.append({"curve": name, "kind": kind, "x": x(row), "batch": batch,
                           "threads": row["threads"], "shape": shape,
                           "tokens": row["prompt"] if kind == "prefill" else row["context"],
                           "seconds": units / row["tokens_per_second"],
                           "tokens_per_second": row["tokens_per_second"], "parts": parts,
                           "flops": flops[row["threads"]], "reads": read,
                           "waited": waited(row)})
        print(f"{name}: {shape}", file=sys.stderr, flush=True)

    most = max(options.threads)
    curve("context", BASE, [most], CONTEXTS[1:], CONTEXTS, [1],
          lambda row: row["prompt"] if row["kind"] == "prefill" else row["context"])
    curve("batch", BASE, [most], [16], [256], BATCHES, lambda row: row["batch"])
    curve("threads", BASE, sorted(set(options.threads)), [512], [256], [1, 16],
          lambda row: row["threads"])
    for hidden in WIDTHS:
        shape = {"layers": 2, "hidden": hidden, "heads": max(hidden // 64, 1), "vocab": SMALL_VOCAB}
        curve("hidden", shape, [most], [512], [256], [1], lambda row, at=hidden: at)
    for layers in DEPTHS:
        shape = {"layers": layers, "hidden": 512, "heads": 8, "vocab": SMALL_VOCAB}
        curve("layers", shape, [most], [512], [256], [1], lambda row, at=layers: at)
    return points


def waited(row):
    worked = sum(phase["worked"] for phase in row["phases"])
    lost = sum(phase["waited"] for phase in row["phases"])
    return lost / (worked + lost) if worked + lost > 0 else 0.0


def fitted(points):
    """The four numbers with the least mean square of log(model / measured), by descent."""
    fit = {"ew": 0.7, "ea": 0.4, "er": 0.9, "tau": 3e-6}

    def error(candidate):
        return statistics.mean(
            math.log(seconds(p["parts"], p["flops"], p["reads"], candidate) / p["seconds"]) ** 2
            for p in points)

    best, step = error(fit), 1.5
    while step > 1.001:
        moved = False
        for name in PARAMETERS:
            for factor in (step, 1 / step):
                candidate = {**fit, name: fit[name] * factor}
                found = error(candidate)
                if found < best:
                    fit, best, moved = candidate, found, True
        if not moved:
            step = math.sqrt(step)
    return fit, math.sqrt(best)


def predictions(fit, flops, reads):
    """Tokens per second of a prompt of 512 and of new tokens behind 256, and gigabytes."""
    lines = []
    for name, (layers, hidden, heads, vocab) in LARGER.items():
        shape = {"layers": layers, "hidden": hidden, "heads": heads, "vocab": vocab}
        prompt = cost(shape, "prefill", 512, 1)
        new = cost(shape, "decode", 256, 1)
        lines.append({"shape": name, "prefill": 512 / seconds(prompt, flops, reads, fit),
                      "decode": 1 / seconds(new, flops, reads, fit),
                      "gigabytes": (new["Kw"] + new["Kc"]) / 1e9})
    return lines


def table(points, fit):
    lines = ["| curve | at | work | threads | batch | tokens/s | model | measured over model | waited |",
             "|---|---|---|---|---|---|---|---|---|"]
    for p in points:
        model = seconds(p["parts"], p["flops"], p["reads"], fit)
        work = f"prompt {p['tokens']}" if p["kind"] == "prefill" else f"new behind {p['tokens']}"
        lines.append(f"| {p['curve']} | {p['x']} | {work} | {p['threads']} | {p['batch']} | "
                     f"{p['tokens_per_second']:,.0f} | "
                     f"{p['tokens_per_second'] * p['seconds'] / model:,.0f} | "
                     f"{model / p['seconds']:.2f} | {100 * p['waited']:.0f} % |")
    return lines


def draw(points, fit, path):
    """One panel a curve and kind of work: points measured, lines the model."""
    panels = []
    for p in points:
        batch = p["batch"] if p["curve"] == "threads" else None
        key = (p["curve"], p["kind"], batch)
        if key not in panels and not (p["curve"] == "batch" and p["kind"] == "prefill"):
            panels.append(key)
    columns = 4
    rows = math.ceil(len(panels) / columns)
    script = [f"set terminal svg size {320 * columns},{260 * rows} noenhanced font 'sans,12' "
              "background '#ffffff'", f"set output '{path}'",
              f"set multiplot layout {rows},{columns} title 'milliseconds of a token (points: "
              "measured; lines: model)'", "set logscale xy", "set grid", "set border 3",
              "set xtics nomirror", "set ytics nomirror", "set xrange [*:*] noextend",
              "set offsets graph 0.05, graph 0.05, 0, 0", "unset key"]
    for number, (name, kind, batch) in enumerate(panels):
        here = sorted((p for p in points if (p["curve"], p["kind"]) == (name, kind) and
                       batch in (None, p["batch"])), key=lambda p: p["x"])
        script.append(f"$data{number} << EOD")
        for p in here:
            scale = 1000 / (p["seconds"] * p["tokens_per_second"])
            model = seconds(p["parts"], p["flops"], p["reads"], fit)
            script.append(f"{p['x']} {p['seconds'] * scale} {model * scale}")
        work = "prompt" if kind == "prefill" else "new token"
        title = f"{work}, {name}" + (f", batch {batch}" if batch else "")
        script += ["EOD", f"set title '{title}'",
                   "set xtics (" + ", ".join(f"\"{x}\" {x}" for x in
                                             sorted({p["x"] for p in here})) + ") rotate by 40 right",
                   f"plot $data{number} using 1:3 with lines lw 2 lc rgb 0x9aa5b1, "
                   "'' using 1:2 with points pt 7 ps 0.6 lc rgb 0x1f5fa8"]
    script.append("unset multiplot")
    subprocess.run(["gnuplot"], input="\n".join(script) + "\n", text=True, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=lambda text: pathlib.Path(text).resolve())
    parser.add_argument("-o", dest="out", type=pathlib.Path, required=True)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, len(os.sched_getaffinity(0))])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--far-threads", type=int, default=64)
    parser.add_argument("--far-flops", type=float, help="default: so many times one thread's here")
    parser.add_argument("--far-bytes", type=float, default=300e9, help="default: %(default)g")
    parser.add_argument("--from", dest="earlier", type=pathlib.Path)
    options = parser.parse_args()
    if min(*options.threads, options.repeat, options.far_threads) < 1:
        parser.error("threads and repetitions: expected 1 or more")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.earlier:
        points = json.loads(options.earlier.read_text())["points"]
    else:
        points = measure(options)
    fit, spread = fitted(points)
    one = statistics.median(p["flops"] for p in points if p["threads"] == min(options.threads))
    most = max(p["threads"] for p in points)
    largest = max((p for p in points if p["threads"] == most), key=lambda p: p["parts"]["Kw"])
    near = (statistics.median(p["flops"] for p in points if p["threads"] == most), largest["reads"])
    far = (options.far_flops or options.far_threads * one, options.far_bytes)
    page = [f"Fitted: ew {fit['ew']:.2f}, ea {fit['ea']:.2f}, er {fit['er']:.2f}, tau "
            f"{fit['tau'] * 1e6:.1f} microseconds; spread of measured over model "
            f"{100 * spread:.0f} %.", "", *table(points, fit), ""]
    document = {"fit": fit, "spread": spread, "points": points, "predictions": []}
    for where, (flops, reads) in ((f"here, {most} threads", near),
                                  (f"{options.far_threads} cores (assumed limits)", far)):
        lines = predictions(fit, flops, reads)
        document["predictions"].append({"machine": where, "flops": flops, "reads": reads,
                                        "rows": lines})
        page += [f"Predicted, {where}: {flops * 1e-9:,.0f} GFLOP/s, {reads * 1e-9:,.0f} GB/s", "",
                 "| shape | prompt of 512, tokens/s | new tokens/s behind 256 | GB |",
                 "|---|---|---|---|"]
        page += [f"| {line['shape']} | {line['prefill']:,.1f} | {line['decode']:,.2f} | "
                 f"{line['gigabytes']:,.1f} |" for line in lines] + [""]
    draw(points, fit, options.out / "scaling.svg")
    for name, text in (("scaling.json", json.dumps(document, indent=1)),
                       ("scaling.md", "\n".join(page))):
        part = options.out / (name + ".part")
        part.write_text(text + "\n")
        part.rename(options.out / name)
    print("\n".join(page))
    return 0


if __name__ == "__main__":
    sys.exit(main())
