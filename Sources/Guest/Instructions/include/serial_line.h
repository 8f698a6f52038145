// Writing to a PC's serial line (16550): for the kernel before it has a console, and for what starts it.
#pragma once

#ifdef GUEST
#include "instructions.h"

/// Writes a byte when the transmitter has room (line status, bit 5), or after a while anyway.
static inline void serial_line_write(uint16_t port, uint8_t byte) {
  for (int patience = 100000; patience > 0 && !(instruction_in8(port + 5) & 0x20); --patience) instruction_pause();
  instruction_out8(port, byte);
}
#endif
