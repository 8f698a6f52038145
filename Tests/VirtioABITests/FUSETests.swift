// The FUSE structures against sizes and offsets of Linux's include/uapi/linux/fuse.h (protocol 7.39).
import Testing
import VirtioABI

@Suite struct FUSETests {
  @Test func sizes() {
    #expect(MemoryLayout<FUSEInHeader>.size == 40)
    #expect(MemoryLayout<FUSEOutHeader>.size == 16)
    #expect(MemoryLayout<FUSEAttributes>.size == 88)
    #expect(MemoryLayout<FUSEEntryOut>.size == 128)
    #expect(MemoryLayout<FUSEForgetIn>.size == 8)
    #expect(MemoryLayout<FUSEBatchForgetIn>.size == 8)
    #expect(MemoryLayout<FUSEForgetOne>.size == 16)
    #expect(MemoryLayout<FUSEGetattrIn>.size == 16)
    #expect(MemoryLayout<FUSEAttributesOut>.size == 104)
    #expect(MemoryLayout<FUSEOpenIn>.size == 8)
    #expect(MemoryLayout<FUSEOpenOut>.size == 16)
    #expect(MemoryLayout<FUSEReleaseIn>.size == 24)
    #expect(MemoryLayout<FUSEReadIn>.size == 40)
    #expect(MemoryLayout<FUSEDirectoryEntry>.size == 24)
    #expect(MemoryLayout<FUSEStatFSOut>.size == 80)
    #expect(MemoryLayout<FUSEXattrSize>.size == 8)
    #expect(MemoryLayout<FUSEAccessIn>.size == 8)
    #expect(MemoryLayout<FUSEInitIn>.size == 64)
    #expect(MemoryLayout<FUSEInitOut>.size == 64)
    #expect(MemoryLayout<FUSEInterruptIn>.size == 8)
    #expect(MemoryLayout<FUSESeekIn>.size == 24)
    #expect(MemoryLayout<FUSESeekOut>.size == 8)
    #expect(MemoryLayout<FUSEStatXIn>.size == 24)
    #expect(MemoryLayout<FUSEStatXOut>.size == 288)
    #expect(MemoryLayout<FUSEWriteIn>.size == 40)
    #expect(MemoryLayout<FUSEWriteOut>.size == 8)
    #expect(MemoryLayout<FUSESetattrIn>.size == 88)
    #expect(MemoryLayout<FUSECreateIn>.size == 16)
    #expect(MemoryLayout<FUSEMknodIn>.size == 16)
    #expect(MemoryLayout<FUSEMkdirIn>.size == 8)
    #expect(MemoryLayout<FUSELinkIn>.size == 8)
    #expect(MemoryLayout<FUSERenameIn>.size == 8)
    #expect(MemoryLayout<FUSERename2In>.size == 16)
    #expect(MemoryLayout<FUSEFsyncIn>.size == 16)
    #expect(MemoryLayout<FUSEFallocateIn>.size == 32)
    #expect(MemoryLayout<FUSESetxattrIn>.size == 8)
    #expect(MemoryLayout<FUSECopyIn>.size == 56)
    #expect(MemoryLayout<FUSEChangeReport>.size == 128)
  }

  @Test func offsets() {
    #expect(MemoryLayout<FUSEInHeader>.offset(of: \.nodeID) == 16)
    #expect(MemoryLayout<FUSEInHeader>.offset(of: \.pid) == 32)
    #expect(MemoryLayout<FUSEAttributes>.offset(of: \.atimeNanoseconds) == 48)
    #expect(MemoryLayout<FUSEAttributes>.offset(of: \.mode) == 60)
    #expect(MemoryLayout<FUSEAttributes>.offset(of: \.flags) == 84)
    #expect(MemoryLayout<FUSEEntryOut>.offset(of: \.attributes) == 40)
    #expect(MemoryLayout<FUSEReadIn>.offset(of: \.lockOwner) == 24)
    #expect(MemoryLayout<FUSEInitOut>.offset(of: \.maxWrite) == 20)
    #expect(MemoryLayout<FUSEInitOut>.offset(of: \.maxPages) == 28)
    #expect(MemoryLayout<FUSEInitOut>.offset(of: \.flags2) == 32)
    #expect(MemoryLayout<FUSEWriteIn>.offset(of: \.writeFlags) == 20)
    #expect(MemoryLayout<FUSEWriteIn>.offset(of: \.flags) == 32)
    #expect(MemoryLayout<FUSESetattrIn>.offset(of: \.atime) == 32)
    #expect(MemoryLayout<FUSESetattrIn>.offset(of: \.mode) == 68)
    #expect(MemoryLayout<FUSESetattrIn>.offset(of: \.uid) == 76)
    #expect(MemoryLayout<FUSEFallocateIn>.offset(of: \.mode) == 24)
    #expect(MemoryLayout<FUSEStatFSOut>.offset(of: \.blockSize) == 40)
    #expect(MemoryLayout<FUSEStatXOut>.offset(of: \.mask) == 32)
    #expect(MemoryLayout<FUSEStatXOut>.offset(of: \.mode) == 60)
    #expect(MemoryLayout<FUSEStatXOut>.offset(of: \.ino) == 64)
    #expect(MemoryLayout<FUSEStatXOut>.offset(of: \.atime) == 96)
    #expect(MemoryLayout<FUSEStatXOut>.offset(of: \.rdevMajor) == 160)
  }

  @Test func recordsAreAligned() {
    #expect(FUSE.align(0) == 0)
    #expect(FUSE.align(153) == 160)
    // The longest entry of READDIRPLUS leaves room to spare, which is what `FUSEInit.directoryEnd` rests on.
    #expect(FUSE.align(128 + 24 + FUSE.nameMax) < FUSE.directoryEntryMax)
  }
}
