import Base

struct TimerControl: ~Copyable {
  var handler: TimerEvent.Handler?
  static func make(
    handler: @escaping TimerEvent.Handler, context: UnsafeMutableRawPointer?
  ) throws(Errno) -> UnsafeMutablePointer<TimerControl> { fatalError("not yet") }
  static func arm(_ control: UnsafeMutablePointer<TimerControl>, _ nanoseconds: UInt64) { fatalError("not yet") }
  static func cancel(_ control: UnsafeMutablePointer<TimerControl>) -> Bool { fatalError("not yet") }
  static func destroy(_ control: UnsafeMutablePointer<TimerControl>) { fatalError("not yet") }
}
