// Zeroed frames in stock: what a CPU that has nothing to do clears for those who will ask for zero pages.
//
// An idle CPU takes a batch of free frames that are not zero, clears them one after the other, and puts the batch into the depot of
// zeroed ones, from where any CPU's requests for zero frames are served before they clear anything themselves. The scheduler calls
// `clearOneFrame` between two looks for work, so a wake-up is late by the clearing of one page at most. It is bounded: by `zeroedLimit`
// batches, and it begins only while memory is plentiful; the stock counts as free, and whoever finds no frame elsewhere takes it.
// Memory that the host gave zero is left alone.
import Base
import Platform

/// The batch that a CPU is clearing; only its idle thread touches it, and `account`.
struct ZeroingBatch {
  /// The node plus 1; 0: none.
  var node: UInt32 = 0
  /// Its first frame: the batch is contiguous.
  var first: UInt32 = 0
  /// Frames that are cleared already.
  var done: UInt32 = 0
}

extension FrameState {
  /// Nodes of the depot of zeroed frames: 8 MiB.
  static let zeroedCapacity: UInt32 = 64
  /// Batches kept in stock: a 128th of memory, at most.
  var zeroedLimit: Int { min(Self.zeroedCapacity.int, allocator.totalFrames >> 12) }
}

extension Frames {
  /// Clears one free frame for the stock. On the idle thread of a CPU, with interrupts enabled.
  /// - Returns: false if there is nothing to do.
  public static func clearOneFrame() -> Bool {
    guard let state else { return false }
    guard let frame = state.nextToClear() else { return false }
    let address = PhysicalAddress(frame.u64 << frameShift)
    if state.pointee.checksFrames { FramePoison.check(address, order: 0, isZero: false) }
    // SAFETY: the frame is in the batch of this CPU's idle thread, which nobody else touches.
    clearMemory(LinearMap.pointer(address), byteCount: 4096)
    state.hasCleared()
    return true
  }

  /// Bytes of the zeroed frames in stock.
  public static var zeroedByteCount: UInt64 {
    guard let state else { return 0 }
    return state.pointee.zeroed.frameCount.u64 << frameShift
  }
}

extension UnsafeMutablePointer where Pointee == FrameState {
  /// The frame that this CPU's idle thread is to clear now; begins a batch if there is a reason.
  func nextToClear() -> UInt32? {
    withLocal { local in
      if local.pointee.zeroing.node == 0 {
        guard pointee.zeroed.batchCount < pointee.zeroedLimit,
          pointee.allocator.freeFrames > pointee.highMark &* 2
        else { return nil }
        beginChange(local)
        beginBatch(local)
        endChange(local)
        guard local.pointee.zeroing.node != 0 else { return nil }
      }
      return local.pointee.zeroing.first &+ local.pointee.zeroing.done
    }
  }

  private func beginBatch(_ local: UnsafeMutablePointer<CPULocal>) {
    guard let node = pointee.zeroed.nodes.take() else { return }
    let first: UInt32 = pointee.lock.withLock {
      let frame = pointee.allocator.takeUnzeroed(order: FrameDepot.batchOrder)
      if frame != 0 { pointee.allocator.descriptor(frame).unsafelyUnwrapped.pointee.order = 0 }
      return frame
    }
    if first == 0 { return pointee.zeroed.nodes.give(node) }
    local.pointee.zeroing = ZeroingBatch(node: node &+ 1, first: first, done: 0)
  }

  /// The frame that `nextToClear` said is zero now.
  func hasCleared() {
    withLocal { local in
      local.pointee.zeroing.done &+= 1
      guard local.pointee.zeroing.done == FrameDepot.batch.u32 else { return }
      let node = local.pointee.zeroing.node &- 1
      let first = local.pointee.zeroing.first
      let entries = pointee.zeroed.entries(of: node)
      // The lowest address on top.
      for index in 0..<FrameDepot.batch.u32 {
        entries[index.int] = (first &+ (FrameDepot.batch.u32 &- 1 &- index)) | FrameState.zeroBit
      }
      beginChange(local)
      local.pointee.zeroing = ZeroingBatch()
      pointee.zeroed.put(node)
      endChange(local)
    }
  }
}
