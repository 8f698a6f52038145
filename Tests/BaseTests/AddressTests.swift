import Base
import Testing

@Suite struct AddressTests {
  @Test func truncatingConversionsKeepTheLowBits() {
    #expect(0x1_0000_0001.u32 == 1)
    #expect(Int32(-1).u64 == UInt64.max)
    #expect(UInt32.max.i32 == -1)
    #expect(UInt64.max.int == -1)
    #expect(UInt8(0xff).int == 255)
  }

  @Test func rounding() {
    #expect(UInt64(4097).alignedDown(to: 4096) == 4096)
    #expect(UInt64(4097).alignedUp(to: 4096) == 8192)
    #expect(UInt64(8192).alignedUp(to: 4096) == 8192)
    #expect(VirtualAddress(0x1fff).pageOffset == 0xfff)
    #expect(UInt64(1).log2Ceiling == 0 && UInt64(5).log2Ceiling == 3 && UInt64(8).log2Ceiling == 3)
    #expect(UInt64(5).log2Floor == 2 && UInt64.max.log2Floor == 63)
  }

  @Test func sumsOfAProgramsNumbersAreChecked() {
    #expect(VirtualAddress(UInt64.max).adding(1) == nil)
    #expect(VirtualRange(checking: VirtualAddress(UInt64.max - 10), count: 11) == nil)
    #expect(VirtualRange(checking: VirtualAddress(UInt64.max - 10), count: 10) != nil)
  }

  @Test func ranges() {
    let range = VirtualRange(start: VirtualAddress(10), count: 10)
    #expect(range.contains(VirtualAddress(10)) && !range.contains(VirtualAddress(20)))
    #expect(!range.overlaps(VirtualRange(start: VirtualAddress(20), count: 5)))
    #expect(range.intersection(VirtualRange(start: VirtualAddress(15), count: 50))?.count == 5)
  }

  @Test func regionsOfTheMapAreDisjointAndInTheirSlots() {
    let regions = [
      AddressMap.program, AddressMap.linearMap, AddressMap.kernelImage, AddressMap.kernelMappings,
      AddressMap.deviceWindows,
    ]
    for (low, high) in zip(regions, regions.dropFirst()) { #expect(low.end <= high.start) }
    #expect(AddressMap.programEnd.rawValue == AddressMap.kernelSlotStart.u64 << 39)
    #expect(regions.last!.end.rawValue <= AddressMap.kernelSlotEnd.u64 << 39)
    #expect(AddressMap.physical(ofMemoryOffset: 0xc000_0000).rawValue == 0x1_0000_0000)
  }

  @Test func errnoIsLinuxs() {
    #expect(Errno.ENOSYS.rawValue == 38 && Errno.EAGAIN.systemCallResult == -11)
    #expect(Errno(rawValue: 41) == nil && Errno.EHWPOISON.rawValue == 133)
  }
}
