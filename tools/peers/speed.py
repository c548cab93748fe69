#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""neoxref beside the engines that PyPI has: tokens per second, start and memory, in one run.

usage: tools/peers/speed.py BUILD --venv DIR -o OUT [--shape NAME ...] [--threads N ...]
                            [--prompt N ...] [--context N ...] [--new N] [--repeat N] [--engine NAME ...]

BUILD is a built folder of neoxref with its Python package; it is only read. DIR is a virtual
environment; it is made, and the engines are installed from PyPI, when it does not exist (llama.cpp is
compiled on the way: a quarter of an hour). Checkpoints are made by `neoxref synth` under OUT, where
the result goes too: speed.json, speed.md and a picture of bars for each shape and number of threads.

Every engine has a process of its own and keeps it. In each round all do all tasks in a random order, one
at a time, with a pause before each, so that no thread of another still spins. Figures are medians over
rounds; the first round does not count. Every engine must come to the same token."""
import argparse
import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import random
import shutil
import statistics
import subprocess
import sys
import time
import venv

PACKAGES = ("torch==2.13.0", "transformers==5.23.0", "safetensors==0.8.0", "numpy==2.4.6",
            "onnx==1.23.2", "onnxruntime==1.32.0", "openvino==2026.4.1", "nncf==3.4.0",
            "ctranslate2==4.8.5", "gguf==0.19.0", "llama-cpp-python==0.3.36")
FLOAT32 = ("transformers", "onnxruntime", "openvino", "ctranslate2", "llama.cpp")
FEWER_BITS = ("llama.cpp bf16", "llama.cpp q8_0", "openvino int8", "ctranslate2 int8")
ENGINES = ("neoxref", *FLOAT32, *FEWER_BITS)
HERE = pathlib.Path(__file__).resolve().parent
PAUSE = 0.3


def installed(name):
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def enter(folder):
    """Goes on in the virtual environment, making it first where there is none."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        try:
            subprocess.run([python, "-m", "pip", "install", *PACKAGES], check=True)
        except subprocess.CalledProcessError:
            shutil.rmtree(folder)  # Half an environment would pass for a whole one next time.
            raise
    if pathlib.Path(sys.prefix).resolve() != folder.resolve():
        os.execv(python, [str(python), *sys.argv])
    lacking = [package for package in PACKAGES if not installed(package.partition("==")[0])]
    if lacking:  # made before the list grew
        subprocess.run([python, "-m", "pip", "install", *lacking], check=True)


class Worker:
    def __init__(self, engine, model, threads, package):
        self.engine = engine
        environment = {**os.environ, "PYTHONPATH": str(package)}
        self.process = subprocess.Popen(
            [sys.executable, HERE / "worker.py", engine, model, str(threads)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.engine} ended:\n{self.process.stderr.read()[-2000:]}")
        return line.split()

    def ask(self, *words):
        print(*words, file=self.process.stdin, flush=True)
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def start(engine, model, threads, build):
    """(seconds from the start of a process to the logits of 16 tokens, most bytes in memory)"""
    begun = time.perf_counter()
    if engine == "neoxref":
        process = subprocess.Popen([build / "tools" / "neoxref", "bench", model, "--start-only",
                                    "--threads", str(threads)], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit("neoxref bench --start-only failed")
        return seconds, 1024 * usage.ru_maxrss
    worker = Worker(engine, model, threads, "")
    worker.ask("prefill", 16)
    seconds = time.perf_counter() - begun
    peak, = worker.ask("peak")
    worker.close()
    return seconds, int(peak)


def figures(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values),
            "n": len(values)}


def measure(model, threads, options):
    """Rows {engine, task, tokens_per_second: figures} and {engine, task: start, ...}."""
    tasks = ([("prefill", n) for n in options.prompt] +
             [("decode", n, options.new) for n in options.context])
    rows = []
    taken = {engine: [] for engine in options.engine}
    for _ in range(options.starts):
        for engine in random.sample(options.engine, len(options.engine)):
            time.sleep(PAUSE)
            taken[engine].append(start(engine, model, threads, options.build))
    for engine, values in taken.items():
        rows.append({"engine": engine, "threads": threads, "task": "start",
                     "seconds": figures([seconds for seconds, _ in values]),
                     "peak_bytes": max(peak for _, peak in values)})
    with contextlib.ExitStack() as stack:
        workers = []
        for engine in options.engine:
            workers.append(Worker(engine, model, threads, options.build / "tools" / "python"))
            stack.callback(workers[-1].close)
        seconds, tokens = {}, {}
        for number in range(options.repeat + 1):
            turns = [(worker, task) for worker in workers for task in tasks]
            random.shuffle(turns)
            for turn, (worker, task) in enumerate(turns):
                print(f"\r{threads} threads, round {number} of {options.repeat}, {turn + 1} of "
                      f"{len(turns)}   ", end="", file=sys.stderr, flush=True)
                time.sleep(PAUSE)
                taken, token = worker.ask(*task)
                if number > 0:
                    seconds.setdefault((worker.engine, task), []).append(float(taken))
                tokens.setdefault((worker.engine, task), int(token))
        print(file=sys.stderr)
    for (engine, task), values in seconds.items():
        count = task[1] if task[0] == "prefill" else options.new
        rows.append({"engine": engine, "threads": threads, "task": f"{task[0]} {task[1]}",
                     "tokens_per_second": figures([count / each for each in values]),
                     "token": tokens[engine, task]})
    return rows


def check_tokens(rows):
    """Engines that came to another token than neoxref; those of fewer bits may."""
    right = {row["task"]: row["token"] for row in rows
             if row["engine"] == "neoxref" and "token" in row}
    return [f"{row['engine']}, {row['task']}: token {row['token']}, neoxref {right[row['task']]}"
            for row in rows if "token" in row and row["task"] in right
            and row["engine"] in FLOAT32 and row["token"] != right[row["task"]]]


def table(rows, threads):
    """Markdown: engines down, tasks across, and how many times the best float32 peer neoxref is."""
    mine = [row for row in rows if row["threads"] == threads]
    tasks = list(dict.fromkeys(row["task"] for row in mine if row["task"] != "start"))
    tasks.sort(key=lambda task: (task.split()[0] != "prefill", int(task.split()[1])))
    engines = list(dict.fromkeys(row["engine"] for row in mine))
    at = {(row["engine"], row["task"]): row for row in mine}
    lines = ["| engine | " + " | ".join(tasks) + " | start s | peak MB |",
             "|---|" + "---|" * (len(tasks) + 2)]
    for engine in engines:
        started = at[engine, "start"]
        cells = [f"{at[engine, task]['tokens_per_second']['median']:,.0f}" for task in tasks]
        lines.append(f"| {engine} | " + " | ".join(cells) +
                     f" | {started['seconds']['median']:.2f} | {started['peak_bytes'] / 1e6:,.0f} |")
    for name, peers in (("best float32 peer", FLOAT32),
                        *((engine, (engine,)) for engine in FEWER_BITS)):
        present = [engine for engine in engines if engine in peers]
        if "neoxref" in engines and present:
            ratios = []
            for task in tasks:
                best = max(at[engine, task]["tokens_per_second"]["median"] for engine in present)
                ratios.append(at["neoxref", task]["tokens_per_second"]["median"] / best)
            lines.append(f"| neoxref over {name} | " +
                         " | ".join(f"{ratio:.2f}" for ratio in ratios) + " | | |")
    return lines


def bars(rows, shape, threads, path):
    """One panel a task, one bar an engine."""
    mine = [row for row in rows if row["threads"] == threads and row["task"] != "start"]
    tasks = list(dict.fromkeys(row["task"] for row in mine))
    tasks.sort(key=lambda task: (task.split()[0] != "prefill", int(task.split()[1])))
    script = [f"set terminal svg size {300 * len(tasks)},360 noenhanced font 'sans,12' "
              "background '#ffffff'",
              f"set output '{path}'",
              f"set multiplot layout 1,{len(tasks)} title '{shape}, {threads} threads: tokens per "
              "second (line: least and most; grey: float32, yellow: fewer bits)'",
              "set style fill solid", "set boxwidth 0.7", "set xtics rotate by 50 right nomirror",
              "set yrange [0:*]", "set grid y", "set border 3", "set ytics nomirror", "unset key",
              "set bmargin 8", "set tmargin 4"]
    for number, task in enumerate(tasks):
        script.append(f"$data{number} << EOD")
        here = [row for row in mine if row["task"] == task]
        here.sort(key=lambda row: ENGINES.index(row["engine"]))
        for row in here:
            speed = row["tokens_per_second"]
            colour = (0x1f5fa8 if row["engine"] == "neoxref" else
                      0x9aa5b1 if row["engine"] in FLOAT32 else 0xd9c58b)
            script.append(f"\"{row['engine']}\" {speed['median']} {speed['min']} {speed['max']} {colour}")
        script += ["EOD", f"set title '{task}'",
                   f"plot $data{number} using 0:2:5:xtic(1) with boxes lc rgb variable, "
                   "'' using 0:3:(0):($4-$3) with vectors nohead lc black"]
    script.append("unset multiplot")
    subprocess.run(["gnuplot"], input="\n".join(script) + "\n", text=True, check=True)


def positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {text}")
    return int(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("build", type=lambda text: pathlib.Path(text).resolve())
    parser.add_argument("--venv", type=pathlib.Path, required=True)
    parser.add_argument("-o", dest="out", type=pathlib.Path, required=True)
    parser.add_argument("--shape", nargs="+", default=["pythia-70m"])
    parser.add_argument("--threads", nargs="+", type=positive, default=[1, os.cpu_count()])
    parser.add_argument("--prompt", nargs="*", type=positive, default=[128, 512, 2048])
    parser.add_argument("--context", nargs="*", type=positive, default=[256, 1900])
    parser.add_argument("--new", type=positive, default=32)
    parser.add_argument("--repeat", type=positive, default=20)
    parser.add_argument("--starts", type=positive, default=3)
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="NAME")
    options = parser.parse_args()
    enter(options.venv)
    options.out.mkdir(parents=True, exist_ok=True)
    random.seed(1)
    document = {"machine": platform.machine(), "cpus": os.cpu_count(), "packages": PACKAGES,
                "shapes": []}
    page, wrong = [], []
    for shape in options.shape:
        model = options.out / shape
        if not (model / "config.json").exists():
            subprocess.run([options.build / "tools" / "neoxref", "synth", "--shape", shape, "-o", model],
                           check=True, stdout=subprocess.DEVNULL)
        for engine in options.engine:
            # In a process each: what an exporter leaves in memory is not kept.
            subprocess.run([sys.executable, HERE / "exports.py", model, engine], check=True)
        rows = []
        for threads in options.threads:
            rows += measure(model, threads, options)
            page += [f"## {shape}, {threads} threads", "", *table(rows, threads), ""]
            print("\n".join(page[-len(table(rows, threads)) - 3:]), flush=True)
            bars(rows, shape, threads, options.out / f"{shape}-{threads}.svg")
        wrong += check_tokens(rows)
        document["shapes"].append({"shape": shape, "rows": rows})
    for name, text in (("speed.json", json.dumps(document, indent=1)), ("speed.md", "\n".join(page))):
        part = options.out / (name + ".part")
        part.write_text(text + "\n")
        part.rename(options.out / name)
    print("\n".join(wrong) if wrong else "all engines came to the same tokens")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
