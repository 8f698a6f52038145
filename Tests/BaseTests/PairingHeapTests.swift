import Base
import Testing

@Suite struct PairingHeapTests {
  struct Node: ~Copyable, PairingNode {
    var links = PairingLinks<Node>()
    var key: Int
    var isIn = false
    borrowing func precedes(_ other: borrowing Node) -> Bool { key < other.key }
  }

  @Test func behavesLikeASortedArray() {
    var random = SystemRandomNumberGenerator()
    let nodes = UnsafeMutablePointer<Node>.allocate(capacity: 64)
    for index in 0..<64 { (nodes + index).initialize(to: Node(key: 0)) }
    var heap = PairingHeap<Node>()
    var model: [Int] = []
    for _ in 0..<20_000 {
      let node = nodes + Int.random(in: 0..<64, using: &random)
      switch (node.pointee.isIn, Int.random(in: 0..<4, using: &random)) {
      case (false, _):
        node.pointee.key = Int.random(in: 0..<1_000, using: &random)
        node.pointee.isIn = true
        heap.insert(node)
        model.append(node.pointee.key)
      case (true, 0...1):
        node.pointee.isIn = false
        heap.remove(node)
        model.remove(at: model.firstIndex(of: node.pointee.key)!)
      default:
        let first = heap.removeFirst()!
        first.pointee.isIn = false
        #expect(first.pointee.key == model.min())
        model.remove(at: model.firstIndex(of: first.pointee.key)!)
      }
      #expect(heap.first?.pointee.key == model.min())
    }
  }
}
