// The slabs of the kernel heap: blocks of frames cut into objects of one class, under the heap's lock.
//
// A slab's state is in the descriptor of its first frame. Slabs with free objects are in a list by class; full ones are in none;
// an empty one goes back to the frames at once, but for the last of its class.
import Base
import Platform

extension UnsafeMutablePointer where Pointee == FrameState {
  /// Moves some free objects of a class to a CPU's empty list.
  func refillObjects(_ local: UnsafeMutablePointer<CPULocal>, _ sizeClass: Int) {
    if GuardedHeap.installed != nil { return }
    pointee.heapLock.withLock {
      let size = SizeClass.size(sizeClass)
      let capacity = (4096 << SizeClass.slabOrder(sizeClass)) / size
      var wanted = max(SizeClass.cacheLimit(sizeClass) >> 3, 1)
      while wanted > 0 {
        var slab = pointee.partialSlabs[sizeClass]
        if slab == 0 {
          // A frame is taken for an object that is wanted now, not for the rest of a handful.
          if local.pointee.objects[sizeClass].count > 0 { return }
          slab = makeSlab(sizeClass)
          if slab == 0 { return }
        }
        let record = pointee.allocator.descriptor(slab).unsafelyUnwrapped
        var address = UInt(record.pointee.freeObject)
        if address != 0 {
          // SAFETY: a free object's first word is its link.
          record.pointee.freeObject = UnsafePointer<UInt>(bitPattern: address).unsafelyUnwrapped.pointee.u64
        } else {
          let base = LinearMap.pointer(PhysicalAddress(slab.u64 << frameShift))
          address = UInt(bitPattern: base + record.pointee.fresh.int &* size)
          record.pointee.fresh &+= 1
        }
        record.pointee.used &+= 1
        if record.pointee.freeObject == 0 && record.pointee.fresh.int == capacity { unlinkSlab(slab, sizeClass) }
        UnsafeMutablePointer<UInt>(bitPattern: address).unsafelyUnwrapped.pointee =
          local.pointee.objects[sizeClass].head
        local.pointee.objects[sizeClass].head = address
        local.pointee.objects[sizeClass].count &+= 1
        wanted &-= 1
      }
    }
  }

  /// Gives half of a CPU's objects of a class back to their slabs.
  func drainObjects(_ local: UnsafeMutablePointer<CPULocal>, _ sizeClass: Int) {
    pointee.heapLock.withLock {
      let capacity = (4096 << SizeClass.slabOrder(sizeClass)) / SizeClass.size(sizeClass)
      var count = (local.pointee.objects[sizeClass].count &+ 1) >> 1
      while count > 0 {
        count &-= 1
        let address = local.pointee.objects[sizeClass].head
        // SAFETY: the object comes from the CPU's list of free objects of the linear map.
        let object = UnsafeMutablePointer<UInt>(bitPattern: address).unsafelyUnwrapped
        local.pointee.objects[sizeClass].head = object.pointee
        local.pointee.objects[sizeClass].count &-= 1
        var slab = LinearMap.physical(of: UnsafeMutableRawPointer(object)).frameNumber
        var record = pointee.allocator.descriptor(slab).unsafelyUnwrapped
        if record.pointee.kind == FrameKind.slabPart {
          slab = record.pointee.next
          record = pointee.allocator.descriptor(slab).unsafelyUnwrapped
        }
        let wasFull = record.pointee.freeObject == 0 && record.pointee.fresh.int == capacity
        object.pointee = UInt(record.pointee.freeObject)
        record.pointee.freeObject = address.u64
        record.pointee.used &-= 1
        if wasFull { linkSlab(slab, sizeClass) }
        let isOnly = pointee.partialSlabs[sizeClass] == slab && record.pointee.next == 0
        if record.pointee.used == 0 && !isOnly { dropSlab(slab, sizeClass) }
      }
    }
  }

  /// Gives all free objects of this CPU back to their slabs, and its magazine to the buddy allocator.
  func trimLocal() {
    withLocal { local in
      for sizeClass in 0..<SizeClass.count {
        while local.pointee.objects[sizeClass].count > 0 { drainObjects(local, sizeClass) }
      }
      beginChange(local)
      drainAll(local)
      endChange(local)
    }
  }

  /// A new slab, in the list of its class; 0 if memory is out.
  private func makeSlab(_ sizeClass: Int) -> UInt32 {
    let order = SizeClass.slabOrder(sizeClass)
    guard let block = pointee.lock.withLock({ take(order: order, .heap) }) else { return 0 }
    let record = pointee.allocator.descriptor(block.frame).unsafelyUnwrapped
    record.pointee.kind = FrameKind.slab
    record.pointee.sizeClass = sizeClass.u8
    record.pointee.freeObject = 0
    record.pointee.used = 0
    record.pointee.fresh = 0
    var part: UInt32 = 1
    while part < 1 << order.u32 {
      let other = pointee.allocator.descriptor(block.frame &+ part).unsafelyUnwrapped
      other.pointee.kind = FrameKind.slabPart
      other.pointee.sizeClass = sizeClass.u8
      other.pointee.next = block.frame
      part &+= 1
    }
    linkSlab(block.frame, sizeClass)
    return block.frame
  }

  private func dropSlab(_ slab: UInt32, _ sizeClass: Int) {
    let order = SizeClass.slabOrder(sizeClass)
    unlinkSlab(slab, sizeClass)
    var part: UInt32 = 1
    while part < 1 << order.u32 {
      pointee.allocator.descriptor(slab &+ part).unsafelyUnwrapped.pointee.kind = FrameKind.part
      part &+= 1
    }
    pointee.allocator.descriptor(slab).unsafelyUnwrapped.pointee.sizeClass = FrameUse.heap.rawValue
    pointee.lock.withLock { give(slab, order: order, isZero: false) }
  }

  private func linkSlab(_ slab: UInt32, _ sizeClass: Int) {
    let record = pointee.allocator.descriptor(slab).unsafelyUnwrapped
    let next = pointee.partialSlabs[sizeClass]
    record.pointee.next = next
    record.pointee.previous = 0
    if next != 0 { pointee.allocator.descriptor(next).unsafelyUnwrapped.pointee.previous = slab }
    pointee.partialSlabs[sizeClass] = slab
  }

  private func unlinkSlab(_ slab: UInt32, _ sizeClass: Int) {
    let record = pointee.allocator.descriptor(slab).unsafelyUnwrapped
    let next = record.pointee.next
    let previous = record.pointee.previous
    if next != 0 { pointee.allocator.descriptor(next).unsafelyUnwrapped.pointee.previous = previous }
    if previous != 0 {
      pointee.allocator.descriptor(previous).unsafelyUnwrapped.pointee.next = next
    } else {
      pointee.partialSlabs[sizeClass] = next
    }
    record.pointee.next = 0
    record.pointee.previous = 0
  }
}
