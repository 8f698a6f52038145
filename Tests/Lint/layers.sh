#!/bin/bash
# Holds the source to the layers of the manifest: a Swift file may import only what its target in Package.swift reaches
# (SwiftPM itself lets a file import any module that happens to be built), the host's modules name each module they import (SwiftPM
# compiles only those again when it changes), and raw inline assembly stays in its homes.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p .build
swift package dump-package > .build/package.json
python3 - <<'PY'
import json, os, re, sys
package = json.load(open(".build/package.json"))
targets = {t["name"]: t for t in package["targets"]}
def names(t):
    return [d.get("byName", d.get("target", [None]))[0] for d in t["dependencies"]]
def reach(name, seen):
    for d in names(targets[name]):
        if d in targets and d not in seen:
            seen.add(d); reach(d, seen)
    return seen
toolchain = {"Swift", "Synchronization", "Glibc", "Testing", "PackagePlugin", "Foundation", "PackageDescription", "_Volatile", "Dispatch"}
# Foundation costs start-up time and size: tests and plugins only.
wrong = []
for name, t in targets.items():
    path = t.get("path") or f"Plugins/{name}"
    allowed = reach(name, {name}) | toolchain
    if path.startswith("Sources/"): allowed -= {"Foundation", "Dispatch"}
    if path.startswith("Sources/Guest"): allowed -= {"Testing"}
    for folder, _, files in os.walk(path):
        for f in files:
            if not f.endswith(".swift"): continue
            full = os.path.join(folder, f)
            hosted = False
            for number, line in enumerate(open(full), 1):
                if re.match(r"\s*#if HOSTED", line): hosted = True
                if re.match(r"\s*#e", line): hosted = False
                m = re.match(r"\s*(?:@\w+(?:\(\w+\))?\s+)*(?:public |internal |package )?import (?:struct |func |class |enum )?(\w+)", line)
                if not m: continue
                module = m.group(1)
                host = path.startswith(("Sources/VMM", "Sources/Virtio"))
                if host and module in targets and module not in names(t) and module != name:
                    wrong.append(f"{full}:{number}: imports {module}, which Package.swift does not name for {name}")
                if module not in allowed: wrong.append(f"{full}:{number}: imports {module}, which {name} may not")
                if module == "Glibc" and path.startswith("Sources/Guest") and not hosted:
                    wrong.append(f"{full}:{number}: guest code imports Glibc outside #if HOSTED")
if wrong: print("\n".join(wrong)); sys.exit(1)
print(f"layers: {len(targets)} targets hold to the manifest")
PY
