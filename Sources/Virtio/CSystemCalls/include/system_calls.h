// Linux system calls and constants that the Glibc module does not import: one static-inline wrapper each.
#pragma once
#include <stdint.h>
