# Finds in QEMU's log of interrupts (-d int) what no processor does, and prints one line each:
# maskable interrupts (vectors from 0x20) that were delivered while the interrupt flag was clear, and double faults because the interrupt
# table itself could not be read, in a guest of ours on the tables it was started with (root 0x1000), which it never changes or frees. Lines
# that two virtual CPUs wrote into each other say nothing.
/^ *[0-9]+: v=[2-9a-f][0-9a-f] .* i=0 / { event = gsub(/ v=/, " v=") == 1 ? $0 : ""; fault = ""; next }
/^ *[0-9]+: v=08 / { fault = $0; table = ""; event = ""; next }
event != "" && / RFL=/ {
  flags = $2
  sub(/RFL=/, "", flags)
  if (index("2367abef", substr(flags, 6, 1)) == 0) { print event; fflush() }
}
fault != "" && /^IDT= / { table = substr($2, 1, 13) }
fault != "" && /^CR0=.* CR3=0000000000001000 / {
  if (table != "" && $2 == "CR2=" table substr($2, 18)) { print fault; fflush() }
  fault = ""
}
/^ *[0-9]+: v=| RFL=/ { event = "" }
