// The self-test's look at the live page tables: those that the kernel runs on, and a program's with code, data and a stack.
#if GUEST
  import Base
  import Pages
  import Platform

  extension MemorySelfTest {
    /// Audits the kernel's own tables, and gives a line about them.
    /// - Returns: whether they are as they must be.
    public static func auditKernel(reporting: (TextLine) -> Void) -> Bool {
      let audit = audit(KernelMappings.kernelTable)
      var line = TextLine()
      line.append("kernel page tables: ")
      if audit.defect == .none {
        line.append("ok, ")
        line.append(decimal: audit.pageCount.u64)
        line.append(" pages, ")
        line.append(decimal: audit.codePageCount.u64)
        line.append(" with code, ")
        line.append(decimal: audit.stackCount.u64)
        line.append(" stacks behind guards")
      } else {
        line.append("FAILED, ")
        line.append(audit.defect.text)
        line.append(" at ")
        line.append(hexadecimal: audit.address.rawValue)
        line.append(", defects: ")
        line.append(decimal: audit.defectCount.u64)
      }
      reporting(line)
      return audit.defect == .none
    }

    private static func audit(_ table: PageTable, allowsWritableCode: Bool = false) -> PageTableAudit {
      var audit = PageTableAudit(
        table, linearMap: LinearMap.base, stacks: KernelMappings.stackAddresses, allowsWritableCode: allowsWritableCode)
      BootStacks.forEachGuard { audit.requireGuard($0, in: table) }
      return audit
    }

    /// The tables of a program: nothing wrong with code, data and a stack; and what is wrong is seen.
    static func programTables(
      _ space: AddressSpace, _ report: (StaticString, StaticString?, UInt64, UInt64) -> Void
    ) throws(Errno) {
      let before = audit(space.table)
      let count: UInt64 = 4 &* PageSize.small
      let data = try space.map(MapRequest(byteCount: count, protection: [.read, .write], flags: .populate))
      let code = try space.map(MapRequest(byteCount: count, protection: [.read, .execute], flags: .populate))
      let stack = try space.map(
        MapRequest(byteCount: count, protection: [.read, .write], flags: [.growsDown, .noReserve]))
      (stack + count - 8).unsafePointer.storeBytes(of: 1, as: UInt64.self)
      let innocent = audit(space.table)
      var failure: StaticString?
      if before.defect != .none { failure = before.defect.text }
      if innocent.defect != .none { failure = innocent.defect.text }
      if innocent.codePageCount &- before.codePageCount != 4 { failure = "code is not seen" }
      if innocent.writableThroughLinearMap &- before.writableThroughLinearMap != 4 {
        failure = "the linear map is not what it should be"
      }
      if space.table.translate(stack - 1) != nil { failure = "a page below a stack" }
      let both = try space.map(
        MapRequest(byteCount: count, protection: [.read, .write, .execute], flags: .populate))
      let guilty = audit(space.table)
      if guilty.defect != .writableCode || guilty.address != both || guilty.defectCount != 4 {
        failure = "writable code is not seen"
      }
      if audit(space.table, allowsWritableCode: true).defect != .none {
        failure = "a program may not have writable code"
      }
      for start in [data, code, stack, both] { try space.unmap(VirtualRange(start: start, count: count)) }
      report("page tables of a program", failure, 0, 0)
    }
  }
#endif
