#!/usr/bin/env python3
"""Servers of Debian's in the guest behind a TAP, and natively in a network namespace behind a veth pair, driven by the same clients, in turn.

Runs as root in a network namespace of its own, in which the clients are: `unshare -n Benchmarks/network.py OSV_RUN ROUNDS` (run.py does
so). Prints a JSON list of {"name", "unit", "guest", "native", "ratio"}; a ratio above 1 means that the guest is better.
"""
import csv, json, os, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

OSV, ROUNDS = sys.argv[1], int(sys.argv[2])
GUEST, NATIVE = "10.9.8.2", "10.9.7.2"
FOLDER = tempfile.mkdtemp()
CACHE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.build/images/kvcache.elf")
NGINX = f"""daemon off; master_process off; worker_processes 1; pid /tmp/nginx-bench.pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{ access_log off; sendfile on; keepalive_requests 1000000; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p;
fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; server {{ listen 80; root {FOLDER}; }} }}
"""


def out(command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


class Servers:
    """One program, running in the guest and natively; or another one in the guest."""

    def __init__(self, port, *command, cpus=1, guest=None):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.running = [
            subprocess.Popen([OSV, "--cpus", str(cpus), "--memory", "512M", "--net", "tap:t0,address=10.9.8.1/24",
                              "--volume", f"{FOLDER}:{FOLDER}:ro", *(guest or command)], **quiet),
            subprocess.Popen(["nsenter", "-t", str(holder.pid), "-n", *command], **quiet)]
        for address in (GUEST, NATIVE):
            for _ in range(200):
                try:
                    socket.create_connection((address, port), 0.2).close()
                    break
                except OSError:
                    time.sleep(0.05)
            else:
                sys.exit(f"{command[0]} does not answer at {address}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.wait()


rows = []


def compare(measure, *names):
    """Runs `measure(address)`, which returns one value a name, in turn; `names` are (name, unit), a rate's unit ending in /s."""
    samples = {GUEST: [], NATIVE: []}
    for _ in range(ROUNDS):
        for address in samples:
            samples[address].append(measure(address))
    for index, (name, unit) in enumerate(names):
        guest, native = (statistics.median(s[index] for s in samples[a]) for a in (GUEST, NATIVE))
        ratio = guest / native if unit.endswith("/s") else native / guest
        rows.append({"name": f"network: {name}", "unit": unit, "guest": guest, "native": native, "ratio": ratio})


def memcached(connections):
    def measure(address):
        text = out(["memcaslap", "-s", f"{address}:11211", "-T", "1", "-c", str(connections), "-t", "2s"])
        return [float(re.search(r"TPS: (\d+)", text).group(1))]
    return measure


def redis(test, connections, pipeline, requests):
    def measure(address):
        text = out(["redis-benchmark", "-h", address, "--csv", "-t", test, "-c", str(connections), "-P", str(pipeline), "-n", str(requests)])
        row = list(csv.DictReader(text.splitlines()))[0]
        return [float(row["rps"]), 1000 * float(row["p50_latency_ms"]), 1000 * float(row["p99_latency_ms"])]
    return measure


def wrk(connections, *flags):
    def measure(address):
        text = out(["wrk", "-t", "1", "-c", str(connections), "-d", "2s", "--latency", *flags, f"http://{address}/small"])
        def microseconds(percent):
            value, unit = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s)", text).groups()
            return float(value) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]
        return [float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1)), microseconds(50), microseconds(99)]
    return measure


def iperf(*flags):
    def measure(address):
        result = json.loads(out(["iperf3", "-J", "-c", address, "-t", "2", *flags]))
        return [result["end"]["sum_received"]["bits_per_second"] / 1e9]
    return measure


def sockperf(*flags):
    def measure(address):
        text = out(["sockperf", "ping-pong", "-i", address, "-p", "11111", "-t", "2", *flags])
        at = lambda percent: float(re.search(rf"percentile {percent}\s*=\s*([\d.]+)", text).group(1))
        # Half a round trip is what it tells.
        return [2 * at("50.000"), 2 * at("99.000")]
    return measure


holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec sleep 100000"], stdout=subprocess.PIPE)
try:
    holder.stdout.readline()
    inside = ["nsenter", "-t", str(holder.pid), "-n"]
    for command in (["ip", "link", "set", "lo", "up"], ["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"],
                    ["ip", "link", "set", "v1", "netns", str(holder.pid)], ["ip", "addr", "add", "10.9.7.1/24", "dev", "v0"],
                    ["ip", "link", "set", "v0", "up"], [*inside, "ip", "link", "set", "lo", "up"],
                    [*inside, "ip", "addr", "add", "10.9.7.2/24", "dev", "v1"], [*inside, "ip", "link", "set", "v1", "up"]):
        out(command)
    with open(os.path.join(FOLDER, "small"), "w") as file:
        file.write("x" * 600)
    with open(os.path.join(FOLDER, "nginx.conf"), "w") as file:
        file.write(NGINX)
    os.chmod(FOLDER, 0o755)

    with Servers(11111, "/usr/bin/sockperf", "server", "--tcp", "-p", "11111"):
        compare(sockperf("--tcp"), ("TCP round trip, p50", "us"), ("TCP round trip, p99", "us"))
    with Servers(11211, "/usr/bin/memcached", "-u", "root", "-t", "1", "-m", "128"):
        for connections in (1, 32, 256):
            compare(memcached(connections), (f"memcached, {connections} connections", "requests/s"))
    with Servers(11211, "/usr/bin/memcached", "-u", "root", "-t", "1", "-m", "128", guest=[CACHE, "-m", "128"]):
        for connections in (1, 32, 256):
            compare(memcached(connections), (f"kvcache beside memcached natively, {connections} connections", "requests/s"))
    with Servers(6379, "/usr/bin/redis-server", "--protected-mode", "no", "--save", "", "--appendonly", "no"):
        for test in ("get", "set"):
            for connections, pipeline, requests in ((1, 1, 20_000), (32, 1, 60_000), (32, 16, 400_000)):
                label = f"redis {test}, {connections} connections, pipeline {pipeline}"
                compare(redis(test, connections, pipeline, requests), (label, "requests/s"), (label + ", p50", "us"), (label + ", p99", "us"))
    with Servers(80, "/usr/sbin/nginx", "-c", os.path.join(FOLDER, "nginx.conf")):
        label = "nginx, small file, 32 connections"
        compare(wrk(32), (label, "requests/s"), (label + ", p50", "us"), (label + ", p99", "us"))
        label = "nginx, one request a connection"
        compare(wrk(8, "-H", "Connection: close"), (label, "requests/s"), (label + ", p50", "us"), (label + ", p99", "us"))
    with Servers(5201, "/usr/bin/iperf3", "-s"):
        for label, flags in (("to the guest, 1 flow", []), ("from the guest, 1 flow", ["-R"]),
                             ("to the guest, 4 flows", ["-P", "4"]), ("from the guest, 4 flows", ["-R", "-P", "4"])):
            compare(iperf(*flags), (f"TCP stream {label}", "Gbit/s"))
finally:
    holder.terminate()
    shutil.rmtree(FOLDER, ignore_errors=True)
print(json.dumps(rows))
