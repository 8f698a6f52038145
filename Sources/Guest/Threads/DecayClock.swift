// DecayClock: how much CPU time still counts, as a function of time alone.
//
// A thread's rank is the CPU time it has used, where a nanosecond counts less the longer ago it was: by a factor of e every
// tau = 200 ms (OSv's measure). Rather than let everybody's rank decay, new time counts more: charge(t) grows by that
// factor, and only the running thread's rank changes, by price * (charge(then) - charge(now)). All CPUs use the same
// function of the same clock, so a rank means the same on each of them: a thread that moves takes its rank along as it is.
//
// charge(t) = 2^32 * 2^((t mod E) / D), with D = tau * ln 2 and the epoch E = 20 D. At each new epoch charge falls back by
// a factor of 2^20, and ranks of earlier epochs count 2^20 times less (`RunNode.epoch`).
//
// In fixed point, with a table of 2^(j/64) and three terms of the exponential series between its entries: the relative
// error is below 10^-9, that is 0.2 us of CPU time; and it never decreases within an epoch.

import Base

enum DecayClock {
  /// The time in which a charge doubles, ns: 200 ms times ln 2.
  static var doubling: UInt64 { 138_629_436 }
  /// Doublings an epoch.
  static var doublingsPerEpoch: UInt64 { 20 }
  /// ns.
  static var epochLength: UInt64 { doubling &* doublingsPerEpoch }
  /// The time constant, ns.
  static var tau: UInt64 { 200_000_000 }

  /// A moment, as the scheduler reckons.
  struct Reading {
    /// The number of the epoch.
    var epoch: UInt32 = 0
    /// What a price of 1 is charged up to that moment of the epoch, 2^32 to 2^52.
    var charge: Int64 = 1 << 32
  }

  /// A reading, and the time it is of: those of the next microseconds cost less.
  struct Base {
    private var time: UInt64 = 0
    private var epochEnd: UInt64 = 0
    private var reading = Reading()

    /// The reading of a time. Within 16 us of the base the exponential is its tangent: 3 parts in 10^9 too little at the end of
    /// that span. It does not add up, since all readings are of the same curve; and it never decreases, the curve being above.
    mutating func reading(at now: UInt64) -> Reading {
      let ahead = now &- time
      if ahead < 1 << 14 && now < epochEnd {
        // ahead / tau, times 2^50.
        let part = ahead &* 5_629_499
        let product = reading.charge.u64.multipliedFullWidth(by: part)
        let more = product.high &<< 14 | product.low &>> 50
        return Reading(epoch: reading.epoch, charge: reading.charge &+ more.i64)
      }
      reading = DecayClock.reading(at: now)
      time = now
      epochEnd = (reading.epoch.u64 &+ 1) &* epochLength
      return reading
    }
  }

  /// The moment `time` (ns).
  static func reading(at time: UInt64) -> Reading {
    let epoch = time / epochLength
    let within = time &- epoch &* epochLength
    let whole = within / doubling
    // 2^64 / doubling, rounded down: the fraction of a doubling, times 2^64.
    let fraction = (within &- whole &* doubling) &* 133_065_131_085
    let base = powers[(fraction &>> 58).int]
    // The rest of the fraction, times ln 2, times 2^64: below 0.011.
    let z = (fraction & (1 << 58 &- 1)).multipliedFullWidth(by: 0xb172_17f7_d1cf_79ab).high
    let z2 = z.multipliedFullWidth(by: z).high
    let z3 = z2.multipliedFullWidth(by: z).high
    let more = base.multipliedFullWidth(by: z &+ z2 &>> 1 &+ z3 / 6).high
    return Reading(epoch: epoch.u32, charge: ((base &+ more) &>> (30 &- whole)).i64)
  }

  /// 2^(j/64), times 2^62.
  private static let powers: [64 of UInt64] = [
    0x4000000000000000, 0x40b268f9de0183b9, 0x4166c34c5615d0eb, 0x421d1461d66f2023,
    0x42d561b3e6243d8a, 0x438fb0cb4f468808, 0x444c0740496d4293, 0x450a6abaa4b77ecd,
    0x45cae0f1f545eb73, 0x468d6fadbf2dd4f2, 0x47521cc5a2e6a9e0, 0x4818ee218a3358ee,
    0x48e1e9b9d588e19b, 0x49ad159789f37495, 0x4a7a77d47f7b84b0, 0x4b4a169b900c2d00,
    0x4c1bf828c6dc54b7, 0x4cf022c9905bfd32, 0x4dc69cdceaa72a9c, 0x4e9f6cd3967fdba8,
    0x4f7a993048d088d6, 0x50582887dcb8a7e1, 0x513821818624b40c, 0x521a8ad704f3404f,
    0x52ff6b54d8a89c75, 0x53e6c9da74b29ab4, 0x54d0ad5a753e077c, 0x55bd1cdad49f699b,
    0x56ac1f752150a563, 0x579dbc56b48521ba, 0x5891fac0e95612c7, 0x5988e20954889244,
    0x5a827999fcef3242, 0x5b7ec8f19468bbc8, 0x5c7dd7a3b17dcf74, 0x5d7fad59099f22fd,
    0x5e8451cfac061b5f, 0x5f8bccdb3d398841, 0x6096266533384a2b, 0x61a3666d124bb203,
    0x62b39508aa836d6e, 0x63c6ba6455dcd8ae, 0x64dcdec3371793d1, 0x65f60a7f79393e2e,
    0x6712460a8fc24071, 0x683199ed779592ca, 0x69540ec8f895722d, 0x6a79ad55e7f6fd0f,
    0x6ba27e656b4eb57a, 0x6cce8ae13c57ebda, 0x6dfddbcbed791baa, 0x6f307a412f074891,
    0x70666f76154a7088, 0x719fc4b95f452d28, 0x72dc8373be41a454, 0x741cb5281e25ee34,
    0x75606373ee921c97, 0x76a7980f6cca15c2, 0x77f25ccdee6d7ae5, 0x7940bb9e2cffd89c,
    0x7a92be8a92436616, 0x7be86fb985689ddc, 0x7d41d96db915019d, 0x7e9f06067a4360ba,
  ]
}
