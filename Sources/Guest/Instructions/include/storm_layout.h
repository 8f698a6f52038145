// The block of one thread of the interrupt storm, at its FS base. Read by the assembler too.
#pragma once

#define STORM_SELF 0x00
#define STORM_PATTERN 0x40       // 16 words, one a register
#define STORM_COUNT 0xc0         // turns of the inner loop
#define STORM_FAULT_ADDRESS 0xc8 // where the inner loop stores
#define STORM_FLAGS_WANTED 0xd0
#define STORM_FLAGS_FOUND 0xd8
#define STORM_STACK 0xe0 // RSP
#define STORM_ITERATIONS 0xe8
#define STORM_FAILED_CHECK 0xf0
#define STORM_CALLS 0xf8 // not 0: make a system call in this iteration
#define STORM_FEATURES 0x100
#define STORM_CALL_RESULT 0x108
#define STORM_CALL_RCX 0x110
#define STORM_CALL_R11 0x118
#define STORM_X87 0x120
#define STORM_BYTES 0x140

#define STORM_FEATURE_AVX 1
#define STORM_FEATURE_AVX512 2

#define STORM_CALL_NUMBER 0x5701
#define STORM_CALL_ANSWER 0x57025703

// CF PF AF ZF SF DF OF AC
#define STORM_FLAGS 0x40cd5
