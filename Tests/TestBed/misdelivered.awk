# Finds in QEMU's log of interrupts (-d int) the maskable ones (vectors from 0x20) that were delivered while the interrupt flag was
# clear; prints one line each. Lines that two virtual CPUs wrote into each other say nothing.
/^ *[0-9]+: v=[2-9a-f][0-9a-f] .* i=0 / { event = gsub(/ v=/, " v=") == 1 ? $0 : ""; next }
event != "" && / RFL=/ {
  flags = $2
  sub(/RFL=/, "", flags)
  if (index("2367abef", substr(flags, 6, 1)) == 0) { print event; fflush() }
}
/^ *[0-9]+: v=| RFL=/ { event = "" }
