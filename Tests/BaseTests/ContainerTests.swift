import Base
import Testing

@Suite struct ContainerTests {
  @Test func sipHashIsTheReferences() {
    // Vectors of the reference implementation: key 00 01 … 0f, input 00 01 … (length - 1).
    let key = SipKey(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908)
    let expected: [(Int, UInt64)] = [
      (0, 0x726f_db47_dd0e_0e31), (1, 0x74f8_39c5_93dc_67fd), (7, 0xab02_00f5_8b01_d137), (8, 0x93f5_f579_9a93_2462),
      (15, 0xa129_ca61_49be_45e5), (63, 0x958a_324c_eb06_4572),
    ]
    for (length, hash) in expected {
      let bytes = (0..<length).map { UInt8($0) }
      #expect(bytes.withUnsafeBytes { key.hash(bytes: $0) } == hash, "length \(length)")
    }
    #expect(key.hash(0x0706_0504_0302_0100) == 0x93f5_f579_9a93_2462)
  }

  @Test func tableBehavesLikeADictionary() {
    var table = HashTable<UInt64, Int>(key: SipKey(1, 2))
    var model: [UInt64: Int] = [:]
    var random = SystemRandomNumberGenerator()
    for step in 0..<50_000 {
      let key = UInt64.random(in: 0..<300, using: &random)
      if Bool.random(using: &random) {
        let old = table.set(key, step)
        #expect(old == model.updateValue(step, forKey: key))
      } else {
        let old = table.remove(key)
        #expect(old == model.removeValue(forKey: key))
      }
      let count = table.count
      #expect(count == model.count)
    }
    for key in 0..<300 as Range<UInt64> {
      let value = table.find(key)
      #expect(value == model[key])
    }
    var seen = 0
    table.forEach { key, value in
      seen += 1
      #expect(model[key] == value)
    }
    #expect(seen == model.count)
  }

  struct Member: ~Copyable, ListMember {
    var links = ListLinks<Member>()
    var number: Int
  }

  @Test func listKeepsItsOrder() {
    let members = UnsafeMutablePointer<Member>.allocate(capacity: 5)
    for index in 0..<5 { (members + index).initialize(to: Member(number: index)) }
    var list = IntrusiveList<Member>()
    list.append(members + 1)
    list.append(members + 3)
    list.prepend(members + 0)
    list.insert(members + 2, before: members + 3)
    list.append(members + 4)
    list.remove(members + 3)
    var numbers: [Int] = []
    var member = list.first
    while let current = member {
      numbers.append(current.pointee.number)
      member = list.next(current)
    }
    #expect(numbers == [0, 1, 2, 4])
    while let first = list.removeFirst() { #expect(!first.pointee.links.isLinked) }
    let isEmpty = list.isEmpty
    #expect(isEmpty)
  }

  @Test func fixedPointArithmetic() {
    let third = FixedPoint(1, over: 3)
    #expect((third * FixedPoint(3)).rawValue >= 0xffff_fffd && (third * FixedPoint(3)) <= .one)
    #expect((FixedPoint(-7) / FixedPoint(2)).rawValue == -7 << 31)
    #expect(FixedPoint(-7, over: 2).floor == -4)
    #expect(FixedPoint(1_000_000) * FixedPoint(2_000) == FixedPoint(2_000_000_000))
  }
}
