#!/bin/bash
# Holds the source to the rule for unsafe constructs: a Swift file under Sources/ that uses one of these has a line that begins with
# "// SAFETY" and says why the use is sound. Each pair of the first two needs one of its own: in the eight lines above, behind it on
# its line, or as "SAFETY of all" at the head of its file.
set -euo pipefail
cd "$(dirname "$0")/../.."
python3 - <<'PY'
import os, re, sys
unchecked = re.compile(r"nonisolated\(unsafe\)|@unchecked Sendable")
unsafe = re.compile(r"nonisolated\(unsafe\)|@unchecked Sendable|\bUnmanaged\b|\bassumingMemoryBound\b|\bbindMemory\b|\bunsafeBitCast\b")
safety = re.compile(r"// SAFETY( of all)?: ")
wrong, files = [], 0
for folder, _, names in sorted(os.walk("Sources")):
    for name in sorted(names):
        if not name.endswith(".swift"): continue
        path = os.path.join(folder, name)
        lines = open(path).read().split("\n")
        # What is said in comments and strings is no use.
        code = [re.sub(r'"(\\.|[^"\\])*"|//.*', "", line) for line in lines]
        uses = [(number, match.group(0)) for number, line in enumerate(code) for match in unsafe.finditer(line)]
        if not uses: continue
        files += 1
        if not any(safety.search(line) for line in lines):
            number = uses[0][0] + 1
            kinds = ", ".join(sorted({kind for _, kind in uses}))
            wrong.append(f"{path}:{number}: uses {kinds}, and no line says SAFETY")
        elif not any("// SAFETY of all: " in line for line in lines):
            for number, kind in uses:
                if not unchecked.match(kind): continue
                if not any(safety.search(line) for line in lines[max(0, number - 8):number + 1]):
                    wrong.append(f"{path}:{number + 1}: {kind} without a line above that says SAFETY")
if wrong: print("\n".join(wrong)); sys.exit(1)
print(f"safety: {files} files with unsafe constructs say why they are sound")
PY
