// Frames and the kernel heap as everybody uses them.
import Base
import Dispatch
import Platform
import Testing

@testable import Pages

/// How often memory was asked for.
private let askings = Atomic<Int>(0)

@Suite struct HeapTests {
  @Test func sizeClassesCoverEverySize() {
    for size in 1...SizeClass.maximumSize {
      let index = SizeClass.index(size: size)
      #expect(index < SizeClass.count)
      #expect(SizeClass.size(index) >= size)
      if index > 0 { #expect(SizeClass.size(index - 1) < size) }
    }
  }

  @Test(arguments: [1, 2]) func objectsKeepTheirContents(seed: UInt64) {
    var random = Generator(state: seed)
    var held: [(memory: UnsafeMutableRawPointer, count: Int, mark: UInt8)] = []
    func check(_ entry: (memory: UnsafeMutableRawPointer, count: Int, mark: UInt8)) {
      let bytes = UnsafeRawBufferPointer(start: entry.memory, count: entry.count)
      #expect(bytes.allSatisfy { $0 == entry.mark })
    }
    for step in 0..<4000 {
      if held.count < 20 || Int.random(in: 0..<100, using: &random) < 52 {
        let count = Int.random(in: 0...(step % 10 == 0 ? 40_000 : 600), using: &random)
        let alignment = 16 << Int.random(in: 0...4, using: &random)
        let memory = KernelHeap.allocate(byteCount: count, alignment: alignment)!
        #expect(UInt(bitPattern: memory) % alignment.uint == 0)
        #expect(KernelHeap.usableByteCount(memory) >= count)
        memory.initializeMemory(as: UInt8.self, repeating: step.u8, count: count)
        held.append((memory, count, step.u8))
      } else {
        let entry = held.remove(at: Int.random(in: 0..<held.count, using: &random))
        check(entry)
        KernelHeap.free(entry.memory)
      }
    }
    for entry in held {
      check(entry)
      KernelHeap.free(entry.memory)
    }
  }

  @Test func threadsMayUseItAtOnce() {
    DispatchQueue.concurrentPerform(iterations: 4) { number in
      var random = Generator(state: number.u64)
      var held: [UnsafeMutablePointer<UInt64>] = []
      for step in 0..<5000 {
        if held.isEmpty || Bool.random(using: &random) {
          let words = Int.random(in: 1...200, using: &random)
          let memory = KernelHeap.allocate(byteCount: words * 8)!.bindMemory(to: UInt64.self, capacity: words)
          memory.pointee = UInt64(step) << 8 | number.u64
          held.append(memory)
        } else {
          let memory = held.remove(at: Int.random(in: 0..<held.count, using: &random))
          #expect(memory.pointee & 0xff == number.u64)
          KernelHeap.free(memory)
        }
      }
      for memory in held { KernelHeap.free(memory) }
    }
  }

  @Test func zeroedMeansZero() {
    for round in 0..<50 {
      let order = round % 4
      let frame = Frames.allocate(order: order, zeroed: true)!
      let bytes = UnsafeMutableRawBufferPointer(start: LinearMap.pointer(frame), count: 4096 << order)
      #expect(bytes.allSatisfy { $0 == 0 })
      bytes.initializeMemory(as: UInt8.self, repeating: 0xa5)
      Frames.free(frame, order: order)
    }
  }

  @Test func theLastReferenceFrees() {
    let frame = Frames.allocate()!
    #expect(Frames.references(frame) == 1)
    Frames.retain(frame)
    #expect(Frames.references(frame) == 2)
    Frames.release(frame)
    #expect(Frames.references(frame) == 1)
    Frames.release(frame)
    let block = Frames.allocate(order: 3)!
    Frames.split(block, order: 3)
    for index in 0..<8 { Frames.release(block + index * 4096) }
    // Files in memory and devices are nobody's business.
    let file = AddressMap.bootFilesStart
    #expect(!Frames.isManaged(file))
    Frames.retain(file)
    Frames.release(file)
    #expect(Frames.references(file) == 0)
  }

  /// What peers decide the number of asks nobody for memory, and does not get what the kernel needs for itself.
  @Test func atOnceMeansAtOnce() {
    let tooMuch = 1 << 45
    let before = askings.load(ordering: .relaxed)
    KernelHeap.reclaim = { _ in
      askings.add(1, ordering: .relaxed)
      return false
    }
    defer { KernelHeap.reclaim = nil }
    #expect(KernelHeap.allocateAtOnce(byteCount: tooMuch, use: .packet) == nil)
    #expect(KernelHeap.allocateAtOnce(byteCount: tooMuch, use: .heap) == nil)
    #expect(askings.load(ordering: .relaxed) == before)
    #expect(KernelHeap.allocate(byteCount: tooMuch) == nil)
    #expect(askings.load(ordering: .relaxed) > before)
    let all = Frames.statistics.total << 12
    #expect(!Frames.allows(.packet, byteCount: all) && !Frames.allows(.program, byteCount: all))
    #expect(Frames.allows(.heap, byteCount: all) && Frames.allows(.packet, byteCount: 100))
    for byteCount in [0, 1, 16, 2048, 5000] {
      guard let memory = KernelHeap.allocateAtOnce(byteCount: byteCount, use: .packet) else {
        Issue.record("no \(byteCount) bytes")
        continue
      }
      #expect(KernelHeap.usableByteCount(memory) >= byteCount)
      KernelHeap.free(memory)
    }
  }

  @Test func failureIsAValue() {
    #expect(Frames.allocate(order: 18) == nil)
    #expect(KernelHeap.allocate(byteCount: 1 << 40) == nil)
    #expect(KernelHeap.allocate(byteCount: -1) == nil)
    #expect(KernelHeap.allocate(byteCount: .max) == nil)
  }
}
