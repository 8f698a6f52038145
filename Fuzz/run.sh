#!/bin/bash
# Builds every fuzz target and runs each for FUZZ_SECONDS (10): make fuzz. Inputs found worth keeping stay in .build/fuzz-corpus; an
# input that crashes is left in .build/fuzz-crashes and fails the run.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-10}
swift build --package-path Fuzz --scratch-path .build/fuzz --sanitize fuzzer > .build/fuzz.log 2>&1 || { tail -n 40 .build/fuzz.log; exit 1; }
mkdir -p .build/fuzz-crashes
# Seeds: real programs for the ELF readers, an ordinary command line for the options.
seed() { mkdir -p ".build/fuzz-corpus/$1"; }
for target in ELFLoader ELFFile Closure; do
  seed $target
  head -c 4096 /bin/busybox > .build/fuzz-corpus/$target/busybox
  head -c 4096 /bin/true > .build/fuzz-corpus/$target/true
done
head -c 16000 /etc/ld.so.cache > .build/fuzz-corpus/Closure/cache
seed Options
printf -- '--memory\00064M\000--volume\000.:/data:ro\000--env\000A=B\000--\000/bin/true\000-x' > .build/fuzz-corpus/Options/plain
failed=0
for folder in Fuzz/*/; do
  target=$(basename "$folder")
  seed "$target"
  if timeout $((seconds + 60)) ".build/fuzz/debug/fuzz-$target" -max_total_time="$seconds" -max_len=16384 -timeout=5 -rss_limit_mb=2048 \
    -artifact_prefix=".build/fuzz-crashes/$target-" ".build/fuzz-corpus/$target" > ".build/fuzz-$target.log" 2>&1; then
    echo "fuzz-$target: $(grep -o 'Done [0-9]* runs' ".build/fuzz-$target.log" || echo 'no summary'), nothing found"
  else
    echo "fuzz-$target: FAILED"; tail -n 30 ".build/fuzz-$target.log"; failed=1
  fi
done
exit $failed
