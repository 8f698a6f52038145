// The slabs of the kernel heap: blocks of frames cut into objects of one class, under the heap's lock. Between the CPUs' lists and the
// slabs stands a lock-free depot of lists (Depots).
//
// A slab's state is in the descriptor of its first frame. Slabs with free objects are in a list by class; full ones are in none;
// an empty one goes back to the frames at once, but for the last of its class.
import Base
import Platform

extension UnsafeMutablePointer where Pointee == FrameState {
  /// Moves some free objects of a class to a CPU's empty list: from the depot, or from slabs.
  func refillObjects(_ local: UnsafeMutablePointer<CPULocal>, _ sizeClass: Int) {
    if GuardedHeap.installed != nil { return }
    if let list = pointee.objects.take(sizeClass) {
      local.pointee.objects[sizeClass] = list
      return
    }
    pointee.heapLock.withLock {
      let size = SizeClass.size(sizeClass)
      let capacity = (4096 << SizeClass.slabOrder(sizeClass)) / size
      var wanted = max(SizeClass.cacheLimit(sizeClass) >> 3, 1)
      while wanted > 0 {
        var slab = pointee.partialSlabs[sizeClass]
        if slab == 0 {
          // A frame is taken for an object that is wanted now, not for the rest of a handful.
          if local.pointee.objects[sizeClass].count > 0 { return }
          slab = makeSlab(sizeClass, local)
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

  /// Gives half of a CPU's objects of a class, those freed first, to the depot or, if there is no room, back to their slabs.
  func drainObjects(_ local: UnsafeMutablePointer<CPULocal>, _ sizeClass: Int) {
    let kept = local.pointee.objects[sizeClass].count >> 1
    // SAFETY: the objects are on the CPU's list, which is so long, and of the linear map; their first words are the links.
    var last = UnsafeMutablePointer<UInt>(bitPattern: local.pointee.objects[sizeClass].head).unsafelyUnwrapped
    for _ in 1..<kept { last = UnsafeMutablePointer<UInt>(bitPattern: last.pointee).unsafelyUnwrapped }
    let list = ObjectCache(head: last.pointee, count: local.pointee.objects[sizeClass].count &- kept)
    last.pointee = 0
    local.pointee.objects[sizeClass].count = kept
    if !pointee.objects.put(list, sizeClass) { giveToSlabs(list, sizeClass) }
  }

  /// Gives a list of objects back to their slabs.
  private func giveToSlabs(_ list: ObjectCache, _ sizeClass: Int) {
    if list.count == 0 { return }
    pointee.heapLock.withLock {
      let capacity = (4096 << SizeClass.slabOrder(sizeClass)) / SizeClass.size(sizeClass)
      var address = list.head
      // SAFETY: as above.
      while let object = UnsafeMutablePointer<UInt>(bitPattern: address) {
        let following = object.pointee
        defer { address = following }
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

  /// Gives all free objects of this CPU, and those in the depot, back to their slabs, and its magazine and the depots of frames to the
  /// buddy allocator.
  func trimLocal() {
    withLocal { local in
      for sizeClass in 0..<SizeClass.count {
        giveToSlabs(local.pointee.objects[sizeClass], sizeClass)
        local.pointee.objects[sizeClass] = ObjectCache()
        while let list = pointee.objects.take(sizeClass) { giveToSlabs(list, sizeClass) }
      }
      beginChange(local)
      drainAll(local)
      endChange(local)
    }
  }

  /// A new slab, in the list of its class; 0 if memory is out.
  private func makeSlab(_ sizeClass: Int, _ local: UnsafeMutablePointer<CPULocal>) -> UInt32 {
    let order = SizeClass.slabOrder(sizeClass)
    guard let block = takeBlock(order: order, .heap, local) else { return 0 }
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
