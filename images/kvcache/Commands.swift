// The commands of memcached's text protocol (protocol.txt of memcached 1.6), but for get-and-touch and the meta commands.
import GuestAPI

/// How a value is stored.
private enum Storing { case set, add, replace, append, prepend, compareAndSwap }

extension Client {
  /// Carries out a command line. How many bytes it took of the input, of which the line took `following`; nil if its value has not come yet.
  func perform(_ line: consuming Words, following: Int) -> Int? {
    var words = line
    guard let name = words.next() else { return answer("ERROR\r\n", following) }
    if name == "get" { return get(&words, withVersion: false, following) }
    if name == "gets" { return get(&words, withVersion: true, following) }
    if name == "set" { return store(.set, &words, following) }
    if name == "add" { return store(.add, &words, following) }
    if name == "replace" { return store(.replace, &words, following) }
    if name == "append" { return store(.append, &words, following) }
    if name == "prepend" { return store(.prepend, &words, following) }
    if name == "cas" { return store(.compareAndSwap, &words, following) }
    if name == "delete" { return delete(&words, following) }
    if name == "incr" { return count(up: true, &words, following) }
    if name == "decr" { return count(up: false, &words, following) }
    if name == "touch" { return touch(&words, following) }
    if name == "flush_all" { return flush(&words, following) }
    if name == "stats" { return statistics(&words, following) }
    if name == "version" { return answer("VERSION 1.6.0-kvcache\r\n", following) }
    if name == "verbosity" {
      guard let level = words.next() else { return answer("ERROR\r\n", following) }
      let isQuiet = level == "noreply" || isQuiet(&words)
      guard isQuiet || Words.number(level) != nil else { return answer("ERROR\r\n", following) }
      return answer("OK\r\n", following, quietly: isQuiet)
    }
    if name == "quit" {
      isOver = true
      return following
    }
    return answer("ERROR\r\n", following)
  }

  // MARK: Helpers

  private var now: Int { Int(Clock.wall / 1_000_000_000) }

  private func answer(_ text: StaticString, _ used: Int, quietly: Bool = false) -> Int {
    if !quietly { output.append(text) }
    return used
  }

  private func isQuiet(_ words: inout Words) -> Bool { words.next().map { $0 == "noreply" } ?? false }

  /// A key, nil if it is none that can be.
  private func key(_ words: inout Words) -> UnsafeRawBufferPointer? {
    guard let key = words.next(), key.count <= Cache.keyLimit else { return nil }
    return key
  }

  /// Seconds since 1970: up to 30 days are counted from now, and what is negative has passed.
  private func expiry(_ seconds: Int) -> Int {
    if seconds == 0 { return 0 }
    if seconds < 0 { return 1 }
    return seconds <= 30 * 86_400 ? now + seconds : seconds
  }

  // MARK: Reading

  private func get(_ words: inout Words, withVersion: Bool, _ used: Int) -> Int {
    guard let first = words.next() else { return answer("ERROR\r\n", used) }
    return get(first, &words, withVersion: withVersion, used)
  }

  /// Goes on with a line of keys of which enough for a while have been answered.
  func goOn(withVersion: Bool, _ line: consuming Words, following: Int) -> Int {
    var words = line
    resumed = nil
    return get(words.next(), &words, withVersion: withVersion, following)
  }

  /// The keys of a line, until there are answers enough: then the rest of the line stays where it is.
  private func get(
    _ first: UnsafeRawBufferPointer?, _ words: inout Words, withVersion: Bool, _ used: Int
  ) -> Int {
    var next = first
    let now = now
    while let key = next {
      guard key.count <= Cache.keyLimit else { return answer("CLIENT_ERROR bad command line format\r\n", used) }
      if output.count >= Self.outputLimit {
        resumed = withVersion
        return key.baseAddress! - input.bytes.baseAddress!
      }
      own.pointee.gets += 1
      cache.with(key) { shard, hash in
        guard let found = shard.find(key, hash, now: now) else { return }
        let item = shard.touch(found)
        own.pointee.hits += 1
        output.append("VALUE ")
        output.append(key)
        output.append(" ")
        output.append(UInt64(item.pointee.flags))
        output.append(" ")
        output.append(UInt64(item.pointee.valueByteCount))
        if withVersion {
          output.append(" ")
          output.append(item.pointee.version)
        }
        output.append("\r\n")
        output.append(item.line)
      }
      next = words.next()
    }
    return answer("END\r\n", used)
  }

  // MARK: Storing

  private func store(_ kind: Storing, _ words: inout Words, _ line: Int) -> Int? {
    guard let key = key(&words), let flags = words.number(), flags <= UInt64(UInt32.max), let seconds = words.seconds(),
      let length = words.number(), length <= UInt64(Int32.max)
    else { return answer("CLIENT_ERROR bad command line format\r\n", line) }
    var version: UInt64 = 0
    if kind == .compareAndSwap {
      guard let given = words.number() else { return answer("CLIENT_ERROR bad command line format\r\n", line) }
      version = given
    }
    let isQuiet = isQuiet(&words)
    let count = Int(length)
    guard count <= cache.valueLimit else {
      skipped = count + 2
      // What was there under the key is not what the client thinks any more.
      if kind == .set { cache.with(key) { shard, hash in shard.find(key, hash, now: now).map { shard.remove($0) } } }
      return answer("SERVER_ERROR object too large for cache\r\n", line, quietly: isQuiet)
    }
    guard input.count >= line + count + 2 else { return nil }
    let bytes = input.bytes
    guard bytes[line + count] == 0x0d, bytes[line + count + 1] == 0x0a else {
      // The rest of what was sent as a value is passed over up to its line's end.
      let rest = UnsafeRawBufferPointer(rebasing: bytes[(line + count)...])
      let end = rest.firstIndex(of: 0x0a).map { line + count + $0 + 1 } ?? bytes.count
      return answer("CLIENT_ERROR bad data chunk\r\n", end)
    }
    own.pointee.sets += 1
    let value = UnsafeRawBufferPointer(rebasing: bytes[line..<(line + count)])
    let outcome = cache.with(key) { shard, hash -> StaticString in
      let old = shard.find(key, hash, now: now)
      switch kind {
      case .set: break
      case .add where old != nil, .replace where old == nil, .append where old == nil, .prepend where old == nil:
        return "NOT_STORED\r\n"
      case .compareAndSwap:
        guard let old else { return "NOT_FOUND\r\n" }
        if old.pointee.version != version { return "EXISTS\r\n" }
      default: break
      }
      let kept = kind == .append || kind == .prepend ? old : nil
      let total = count + (kept?.pointee.valueByteCount ?? 0)
      guard total <= cache.valueLimit else { return "SERVER_ERROR object too large for cache\r\n" }
      let (newFlags, end) = (kept?.pointee.flags ?? UInt32(flags), kept?.pointee.expiry ?? expiry(seconds))
      var parts = ByteQueue(capacity: kept == nil ? 16 : total + 16)
      if let kept {
        // The old value may make room for the new one.
        let before = UnsafeRawBufferPointer(start: kept.value, count: kept.pointee.valueByteCount)
        if kind == .append { parts.append(before) }
        parts.append(value)
        if kind == .prepend { parts.append(before) }
      }
      if let old { shard.remove(old) }
      let item = shard.insert(key: key, hash: hash, valueByteCount: total, flags: newFlags, expiry: end, now: now)
      if total > 0 { item.value.copyMemory(from: (kept == nil ? value : parts.bytes).baseAddress!, byteCount: total) }
      return "STORED\r\n"
    }
    return answer(outcome, line + count + 2, quietly: isQuiet)
  }

  private func count(up: Bool, _ words: inout Words, _ used: Int) -> Int {
    guard let key = key(&words) else { return answer("ERROR\r\n", used) }
    guard let delta = words.number() else { return answer("CLIENT_ERROR invalid numeric delta argument\r\n", used) }
    let isQuiet = isQuiet(&words)
    var result: UInt64 = 0
    let failure = cache.with(key) { shard, hash -> StaticString? in
      guard let old = shard.find(key, hash, now: now) else { return "NOT_FOUND\r\n" }
      let text = UnsafeRawBufferPointer(start: old.value, count: old.pointee.valueByteCount)
      guard let value = Words.number(text) else {
        return "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"
      }
      result = up ? value &+ delta : value - min(value, delta)
      var digits = ByteQueue(capacity: 32)
      digits.append(result)
      let (flags, expiry) = (old.pointee.flags, old.pointee.expiry)
      shard.remove(old)
      let item = shard.insert(
        key: key, hash: hash, valueByteCount: digits.count, flags: flags, expiry: expiry, now: now)
      item.value.copyMemory(from: digits.bytes.baseAddress!, byteCount: digits.count)
      return nil
    }
    if let failure { return answer(failure, used, quietly: isQuiet) }
    if !isQuiet {
      output.append(result)
      output.append("\r\n")
    }
    return used
  }

  // MARK: The rest

  private func delete(_ words: inout Words, _ used: Int) -> Int {
    guard let key = key(&words) else { return answer("ERROR\r\n", used) }
    var isQuiet = false
    if let option = words.next() {
      // A time of 0 is what old clients send.
      if option == "noreply" {
        isQuiet = true
      } else if option == "0" {
        isQuiet = self.isQuiet(&words)
      } else {
        return answer("CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n", used)
      }
    }
    let wasThere = cache.with(key) { shard, hash -> Bool in
      guard let item = shard.find(key, hash, now: now) else { return false }
      shard.remove(item)
      return true
    }
    return answer(wasThere ? "DELETED\r\n" : "NOT_FOUND\r\n", used, quietly: isQuiet)
  }

  private func touch(_ words: inout Words, _ used: Int) -> Int {
    guard let key = key(&words), let seconds = words.seconds() else {
      return answer("CLIENT_ERROR bad command line format\r\n", used)
    }
    let isQuiet = isQuiet(&words)
    let wasThere = cache.with(key) { shard, hash -> Bool in
      guard let item = shard.find(key, hash, now: now) else { return false }
      item.pointee.expiry = expiry(seconds)
      _ = shard.touch(item)
      return true
    }
    return answer(wasThere ? "TOUCHED\r\n" : "NOT_FOUND\r\n", used, quietly: isQuiet)
  }

  private func flush(_ words: inout Words, _ used: Int) -> Int {
    var isQuiet = false
    var delay = 0
    if let option = words.next() {
      if option == "noreply" {
        isQuiet = true
      } else if let seconds = Words.number(option), seconds <= UInt64(Int32.max) {
        delay = Int(seconds)
        isQuiet = self.isQuiet(&words)
      } else {
        return answer("CLIENT_ERROR invalid exptime argument\r\n", used)
      }
    }
    let end = expiry(delay)
    cache.forEach { shard in if end == 0 || end <= now { shard.removeAll() } else { shard.flush(at: end) } }
    return answer("OK\r\n", used, quietly: isQuiet)
  }

  private func statistics(_ words: inout Words, _ used: Int) -> Int {
    if let option = words.next() {
      return answer(option == "reset" ? "RESET\r\n" : "ERROR\r\n", used)
    }
    var (count, bytes, total, evictions) = (0, 0, 0, 0)
    cache.forEach { shard in
      count += shard.count
      bytes += shard.byteCount
      total += shard.total
      evictions += shard.evictions
    }
    let sum = counters.sum
    let lines: [(StaticString, Int)] = [
      ("pid", 1), ("uptime", now - counters.start), ("time", now), ("pointer_size", 64), ("threads", counters.threads),
      ("curr_connections", sum.connections), ("total_connections", sum.accepted), ("cmd_get", sum.gets),
      ("cmd_set", sum.sets), ("get_hits", sum.hits), ("get_misses", sum.gets - sum.hits), ("curr_items", count),
      ("total_items", total), ("bytes", bytes), ("limit_maxbytes", cache.byteLimit), ("evictions", evictions),
    ]
    for (name, value) in lines {
      output.append("STAT ")
      output.append(name)
      output.append(" ")
      output.append(UInt64(max(0, value)))
      output.append("\r\n")
    }
    output.append("STAT version 1.6.0-kvcache\r\n")
    return answer("END\r\n", used)
  }
}
