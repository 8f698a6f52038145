#!/usr/bin/env python3
"""Runs every benchmark natively and in the guest and writes .build/bench/results.json, results.md and a plot, results.svg.

Native and guest runs are interleaved, pinned alike, repeated, and reported as medians. A result is
{"name", "unit", "guest", "native", "ratio", "bar"}: ratio above 1 means that the guest is better (native/guest for times);
bars stand in thresholds.json, on ratios and counts, and on start-up times where the project promises one.
--check-only reads the last results and fails where a bar is missed. --quick takes fewer runs.
"""
import argparse, json, os, shutil, statistics, subprocess, sys, tempfile, time

import plot

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OUT = os.path.join(ROOT, ".build/bench")
OSV = os.path.join(ROOT, ".build/release/osv-run")
BUSYBOX = "/bin/busybox"
BARS = json.load(open(os.path.join(ROOT, "Benchmarks/thresholds.json")))


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def tool(name, *flags):
    """Compiles one C file of this folder, static, into the output folder."""
    path = os.path.join(OUT, name)
    source = os.path.join(ROOT, "Benchmarks", name + ".c")
    changed = max(os.path.getmtime(file) for file in (source, os.path.join(ROOT, "Benchmarks/measure.h")))
    if not os.path.exists(path) or os.path.getmtime(path) < changed:
        subprocess.run(["gcc", "-O2", "-static", *flags, "-o", path, source], check=True)
    return path


def launch(command):
    """One run: (microseconds to the first output, to the collected end). The command must succeed."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    process = subprocess.Popen(["sh", "-c", f'exec "$@" 3>&{write}', "launch", os.path.join(OUT, "launch"), *command],
                               pass_fds=[write], stderr=subprocess.PIPE)
    os.close(write)
    line = os.fdopen(read).read()
    errors = process.stderr.read().decode()
    process.wait()
    first, end, status = line.split()
    if int(status) != 0:
        sys.exit(f"{' '.join(command)} ended with {status}: {errors}")
    return float(first), float(end)


def stats(arguments):
    """One run of osv-run with --stats: what it counted."""
    with tempfile.NamedTemporaryFile() as file:
        subprocess.run([OSV, "--stats", file.name, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return json.load(open(file.name))


def interleaved(commands, runs, pick):
    """Medians of several commands, run in turn so that the machine's moods hit all alike."""
    samples = [[] for _ in commands]
    for number in range(runs):
        progress(f"{number + 1}/{runs} {' '.join(commands[0])[:60]}")
        for index, command in enumerate(commands):
            samples[index].append(pick(launch(command)))
    progress("")
    return [statistics.median(s) for s in samples]


class Results:
    def __init__(self):
        self.rows = []

    def add(self, name, unit, guest, native=None, ratio=None):
        if ratio is None and native is not None and guest:
            ratio = native / guest
        self.rows.append({"name": name, "unit": unit, "guest": guest, "native": native, "ratio": ratio, "bar": BARS.get(name)})

    def write(self):
        os.makedirs(OUT, exist_ok=True)
        json.dump(self.rows, open(os.path.join(OUT, "results.json"), "w"), indent=1)
        with open(os.path.join(OUT, "results.md"), "w") as file:
            file.write("| benchmark | guest | native | unit | ratio (above 1: the guest is better) | bar |\n|---|---|---|---|---|---|\n")
            for r in self.rows:
                show = lambda v: "" if v is None else (f"{v:,.2f}" if v == 0 or v >= 0.1 else f"{v:.4f}") if isinstance(v, float) else f"{v:,}"
                bar = r["bar"]
                text = "" if bar is None else ", ".join(f"{k} {v}" for k, v in bar.items())
                file.write(f"| {r['name']} | {show(r['guest'])} | {show(r['native'])} | {r['unit']} | {show(r['ratio'])} | {text} |\n")
        with open(os.path.join(OUT, "results.svg"), "w") as file:
            file.write(plot.ratios(self.rows))
        print(open(os.path.join(OUT, "results.md")).read())


def tree(files):
    """A directory of so many small text files, the same every time."""
    path = os.path.join(OUT, f"tree-{files}")
    if not os.path.exists(path + ".complete"):
        for number in range(files):
            folder = os.path.join(path, f"d{number // 100:03}")
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, f"file{number:05}.txt"), "w") as file:
                file.write("".join(f"line {i} of file {number}: the quick brown fox\n" for i in range(20 + number % 60)))
        open(path + ".complete", "w").close()
    return path


def startup(results, runs):
    hello = tool("hello")
    volume = os.path.join(OUT, "attached")
    os.makedirs(volume, exist_ok=True)
    base = [OSV, "--memory", "128M"]
    native = [hello]
    plain = base + [hello]
    attached = base + ["--volume", f"{volume}:/data", hello]
    for name, pick in (("first output", lambda t: t[0]), ("exit collected", lambda t: t[1])):
        n, p, a = interleaved([native, plain, attached], runs, pick)
        results.add(f"start-up: {name}, no volume", "us", p, n)
        results.add(f"start-up: {name}, one volume", "us", a, n)
    # The phases that --trace boot stamps are exits themselves: they are not counted, their time is.
    times, exits, pages, before, resident = [], [], [], [], []
    for _ in range(9):
        s = stats(["--memory", "128M", "--trace", "boot", hello])
        steps = s["timeline"]
        entry = max(i for i, step in enumerate(steps) if not step["step"].startswith("kernel") and step["step"] != "program ended")
        program = next(i for i, step in enumerate(steps) if step["step"] == "kernel: program loaded")
        stamps = sum(step["step"].startswith("kernel: ") for step in steps[:program + 1])
        times.append(steps[program]["us"] - steps[entry]["us"])
        exits.append(steps[program]["exits"] - stamps)
        pages.append(s["guest_pages_at_program"] - s["guest_pages_at_entry"])
        before.append(s["guest_pages_at_entry"])
        resident.append(s["resident_bytes"] / 1024 - s["guest_pages"] * 4)
    results.add("start-up: kernel entry to program", "us", statistics.median(times))
    results.add("start-up: exits to userspace before the program", "exits", statistics.median(exits))
    results.add("start-up: fresh pages before the program", "pages", statistics.median(pages))
    results.add("memory: osv-run beyond the guest", "KiB", statistics.median(resident))
    kernel = subprocess.run(["find", os.path.join(ROOT, ".build/plugins"), "-path", "*GuestImagePlugin*", "-name", "kernel.elf", "-printf", "%s\n"],
                            capture_output=True, text=True).stdout.split()
    results.add("size: kernel image", "bytes", int(kernel[-1]))
    results.add("start-up: pages laid down beside the kernel's image", "pages",
                statistics.median(before) - (int(kernel[-1]) + 4095) // 4096)


def trees(results, runs):
    path = tree(10_000)
    for name, applet in (("find", ["find", "."]), ("grep -r", ["grep", "-r", "brown fox 7", "."]), ("ls -lR", ["ls", "-lR", "."])):
        script = f'cd {path} && exec "$@"'
        native = ["/bin/sh", "-c", script, "sh", BUSYBOX] + applet
        guest = [OSV, "--volume", f"{path}:/data:ro", "--workdir", "/data", BUSYBOX] + applet
        # grep finds nothing and says so by its status: ask for a line that exists instead.
        if applet[0] == "grep":
            native[-2], guest[-2] = "line 7 of file 77", "line 7 of file 77"
        n, g = interleaved([native, guest], runs, lambda t: t[1])
        results.add(f"10,000 files: {name}", "us", g, n)


def volume(results, runs):
    """A directory of the host in its memory: reading, writing, walking, making files; and the messages that all of it takes."""
    path = tool("volume")
    folder = tempfile.mkdtemp(dir="/dev/shm")
    try:
        subprocess.run(["cp", "-r", tree(10_000), os.path.join(folder, "tree")], check=True)
        subprocess.run(["dd", "if=/dev/zero", f"of={folder}/big", "bs=1M", "count=256", "status=none"], check=True)
        native = [path, folder, "256"]
        guest = [OSV, "--memory", "1G", "--volume", f"{folder}:/data", path, "/data", "256"]
        measured(results, "volume", runs, native, guest, "us", 1000)
    finally:
        shutil.rmtree(folder)


def calls(results, runs):
    """System calls in a loop, in code that may be changed and in code that may not."""
    program = tool("calls")
    samples = {}
    for number in range(runs):
        progress(f"{number + 1}/{runs} calls")
        for side, command in (("native", [program]), ("guest", [OSV, program])):
            for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
                name, nanoseconds, cycles = line.split()
                samples.setdefault((name, side), []).append((float(nanoseconds), float(cycles)))
    progress("")
    for name in dict.fromkeys(name for name, _ in samples):
        for index, unit in ((0, "ns"), (1, "cycles")):
            native, guest = (statistics.median(s[index] for s in samples[name, side]) for side in ("native", "guest"))
            results.add(f"system call: {name}, {unit}", unit, guest, native)


def measured(results, name, runs, native, guest, unit, nanoseconds):
    """A program that measures itself and prints lines of name, tab, nanoseconds: run natively and in the guest, in turn."""
    samples = ({}, {})
    for number in range(runs):
        progress(f"{number + 1}/{runs} {name}")
        for command, sample in zip((native, guest), samples):
            for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
                key, value = line.split("\t")
                sample.setdefault(key, []).append(float(value) / nanoseconds)
    progress("")
    for key in samples[0]:
        n, g = (statistics.median(sample[key]) for sample in samples)
        results.add(f"{name}: {key}", unit, g, n)


def program(results, name, runs):
    """The same for a C file of this folder that needs nothing else."""
    path = tool(name)
    measured(results, name, runs, [path], [OSV, path], "ns", 1)


def counted(results, name, runs, options=(), flags=(), stream="stdout"):
    """A C file of this folder that measures itself and prints lines of name, nanoseconds and operations, natively and in the guest, in
    turn; then each measurement on its own, for the exits that an operation takes."""
    path = tool(name, *flags)
    samples, counts = {}, {}
    for number in range(runs):
        for side, command in (("native", [path]), ("guest", [OSV, *options, path])):
            progress(f"{number + 1}/{runs} {name}, {side}")
            text = getattr(subprocess.run(command, check=True, capture_output=True, text=True), stream)
            for line in text.splitlines():
                key, value, count = line.split()
                samples.setdefault(key, {}).setdefault(side, []).append(float(value))
                counts[key] = int(count)
    idle = stats([*options, path, "none"])["exits"]["total"]
    for key, sides in samples.items():
        progress(f"{name}, exits of {key}")
        results.add(f"{name}: {key}", "ns", statistics.median(sides["guest"]), statistics.median(sides["native"]))
        exits = stats([*options, path, key])["exits"]["total"] - idle
        results.add(f"{name}: {key}, exits to userspace", "exits an operation", max(0, exits) / counts[key])
    progress("")


def threads(results, runs):
    """The same program natively and in the guest, in turn; each figure is the median of the runs' medians. Beside it what an
    operation takes in the guest: switches, interrupts between CPUs, and, from a run of its own, exits to userspace."""
    program = tool("threads", "-pthread")
    options = ["--cpus", "2"]
    samples, counts = {}, {}
    for number in range(runs):
        for side, command in (("native", [program]), ("guest", [OSV, *options, program])):
            progress(f"{number + 1}/{runs} threads, {side}")
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            for line in text.splitlines():
                name, value, operations, *taken = line.split()
                samples.setdefault(name, {}).setdefault(side, []).append(float(value))
                if side == "guest":
                    counts.setdefault(name, []).append([int(operations), *map(float, taken)])
    idle = stats([*options, program, "none"])["exits"]["total"]
    for name, sides in samples.items():
        progress(f"threads, exits of {name}")
        results.add(f"threads: {name}", "ns", statistics.median(sides["guest"]), statistics.median(sides["native"]))
        operations, switches, interrupts = (statistics.median(column) for column in zip(*counts[name]))
        if operations <= 1:  # A percentile of samples that another measurement took.
            continue
        results.add(f"threads: {name}, switches", "an operation", switches)
        results.add(f"threads: {name}, interrupts between CPUs", "an operation", interrupts)
        exits = stats([*options, program, name])["exits"]["total"] - idle
        results.add(f"threads: {name}, exits to userspace", "an operation", max(0, exits) / operations)
    progress("")


def missed():
    rows = json.load(open(os.path.join(OUT, "results.json")))
    wrong = []
    for r in rows:
        bar = BARS.get(r["name"]) or {}
        if "most" in bar and r["guest"] > bar["most"]:
            wrong.append(f"{r['name']}: {r['guest']} {r['unit']}, at most {bar['most']} allowed")
        if "ratio" in bar and (r["ratio"] or 0) < bar["ratio"]:
            wrong.append(f"{r['name']}: ratio {r['ratio']:.2f}, at least {bar['ratio']} wanted")
    absent = sorted(set(BARS) - {r["name"] for r in rows})
    wrong += [f"{name}: not measured" for name in absent]
    print("\n".join(wrong) or f"every stored bar is met ({len(BARS)})")
    return 1 if wrong else 0


def network(results, rounds):
    command = [os.path.join(ROOT, "Benchmarks/network.py"), OSV, str(rounds)]
    for row in json.loads(subprocess.run(["unshare", "-n", *command], check=True, stdout=subprocess.PIPE).stdout):
        results.add(row["name"], row["unit"], row["guest"], row["native"], row["ratio"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check-only", action="store_true")
    parser.add_argument("--quick", action="store_true")
    sections = {
        "startup": lambda r: startup(r, 15 if arguments.quick else 101),
        "clocks": lambda r: program(r, "clocks", 3 if arguments.quick else 15),
        "trees": lambda r: trees(r, 3 if arguments.quick else 9),
        "files": lambda r: program(r, "files", 1 if arguments.quick else 5),
        "volume": lambda r: volume(r, 1 if arguments.quick else 5),
        "calls": lambda r: calls(r, 3 if arguments.quick else 9),
        # Its standard output, a pipe that is read all the time, is what it measures.
        "console": lambda r: counted(r, "console", 3 if arguments.quick else 9, stream="stderr"),
        "threads": lambda r: threads(r, 1 if arguments.quick else 5),
        "memory": lambda r: counted(r, "memory", 1 if arguments.quick else 5, ["--cpus", "2", "--memory", "1G"], ["-pthread"]),
        "network": lambda r: network(r, 1 if arguments.quick else 5),
    }
    parser.add_argument("--only", nargs="+", choices=sections, help="measure only these, and write only their results")
    arguments = parser.parse_args()
    if arguments.check_only:
        return missed()
    os.makedirs(OUT, exist_ok=True)
    tool("launch")
    results = Results()
    for name in arguments.only or sections:
        sections[name](results)
    results.write()
    return 0


sys.exit(main())
