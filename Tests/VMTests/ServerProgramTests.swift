// Debian's own servers, unmodified, in the guest, and the tools that drive them on the host, over a TAP: they answer as they do
// natively, over IPv4 and IPv6, with one CPU and with two. Each script runs in a network namespace of its own.
import Foundation
import Testing

/// How often a script asks whether a server listens, a fifth of a second apart.
private let serverStart =
  """
  OSV=$1; CPUS=$2; B=/bin/busybox; T=$(mktemp -d); trap 'kill $machine 2> /dev/null; wait; rm -rf $T' EXIT; ip link set lo up
  NET="--cpus $CPUS --net tap:t0,address=10.9.8.1/24,address=fd09::1/64"
  listens() { for i in $(seq 100); do $B nc -w 1 10.9.8.2 $1 < /dev/null > /dev/null 2>&1 && return; sleep 0.2; done; echo "nobody listens"; cat $T/log; exit 1; }

  """

@Suite(.disabled(if: skipKVM || skipNetwork, "OSV_SKIP_KVM=1 or OSV_SKIP_NET=1"))
struct ServerProgramTests {
  private func script(_ text: String, cpus: Int, seconds: Double = 120) async throws -> Outcome {
    try await run(
      ["/usr/bin/unshare", "-n", "/bin/bash", "-c", serverStart + text, "bash", osvRun, "\(cpus)"], seconds: seconds)
  }

  @Test(arguments: [1, 2]) func memcachedAnswersAsItsProtocolSays(_ cpus: Int) async throws {
    let outcome = try await script(
      """
      $OSV $NET /usr/bin/memcached -u root -l 0.0.0.0,:: -t 2 > $T/log 2>&1 & machine=$!
      listens 11211
      printf 'set k 0 0 5\\r\\nhello\\r\\nget k\\r\\nquit\\r\\n' | $B nc -w 5 10.9.8.2 11211
      printf 'get k\\r\\nquit\\r\\n' | $B nc -w 5 fd09::2 11211
      /usr/share/memcached/scripts/memcached-tool 10.9.8.2:11211 stats | grep -c curr_items
      memccapable -h 10.9.8.2 -p 11211 -a | sed 's/ *\\[/ [/'
      memcslap --servers=10.9.8.2:11211 --concurrency=4 --execute-number=500 --test=get > /dev/null && echo slapped
      """, cpus: cpus)
    #expect(
      outcome.text.hasPrefix("STORED\r\nVALUE k 0 5\r\nhello\r\nEND\r\nVALUE k 0 5\r\nhello\r\nEND\r\n1\n"),
      "\(outcome.text) \(outcome.errorText)")
    #expect(outcome.text.contains("All tests passed"), "\(outcome.text) \(outcome.errorText)")
    #expect(outcome.text.hasSuffix("slapped\n"), "\(outcome.text) \(outcome.errorText)")
  }

  /// Our own cache, an image, passes what memcached's protocol asks for, keeps within its memory and stays with its clients.
  @Test(arguments: [1, 2]) func theCacheImageAnswersAsMemcachedDoes(_ cpus: Int) async throws {
    let outcome = try await script(
      """
      $OSV $NET \(packageRoot)/.build/images/kvcache.elf -m 8 > $T/log 2>&1 & machine=$!
      listens 11211
      memccapable -h 10.9.8.2 -p 11211 -a | tail -1
      printf 'get k\\r\\nquit\\r\\n' | $B nc -w 5 fd09::2 11211
      memcslap --servers=10.9.8.2:11211 --concurrency=4 --execute-number=500 --test=get > /dev/null && echo slapped
      python3 \(packageRoot)/Tests/Clients/cache.py 10.9.8.2
      kill $machine; wait $machine; echo "status $?"
      """, cpus: cpus)
    #expect(
      outcome.text == "All tests passed\nEND\r\nslapped\nkept\nstatus 143\n", "\(outcome.text) \(outcome.errorText)")
  }

  /// CPUs that come when the network is up already, as on a busy host: no flow waits for the interrupt of a CPU that was not there.
  @Test(arguments: [2, 4]) func everyFlowIsServedThoughCPUsComeLate(_ cpus: Int) async throws {
    let outcome = try await script(
      """
      $OSV --debug late $NET /usr/bin/memcached -u root -l 0.0.0.0 -t 2 > $T/log 2>&1 & machine=$!
      listens 11211
      for i in $(seq 16); do printf 'version\\r\\nquit\\r\\n' | timeout 10 $B nc -w 5 10.9.8.2 11211 | grep -c VERSION; done | sort | uniq -c
      """, cpus: cpus)
    #expect(outcome.text == "     16 1\n", "\(outcome.text) \(outcome.errorText)")
  }

  @Test(arguments: [1, 2]) func redisAnswersItsOwnTools(_ cpus: Int) async throws {
    let outcome = try await script(
      """
      $OSV $NET /usr/bin/redis-server --bind 0.0.0.0 :: --protected-mode no --save '' --appendonly no > $T/log 2>&1 & machine=$!
      listens 6379
      redis-cli -h 10.9.8.2 set k v; redis-cli -h fd09::2 get k
      redis-cli -h 10.9.8.2 eval 'return redis.call("incrby", KEYS[1], 41) + 1' 1 n
      head -c 3000000 /dev/urandom > $T/big
      redis-cli -h 10.9.8.2 -x set big < $T/big; redis-cli -h 10.9.8.2 --raw get big | head -c 3000000 | cmp - $T/big && echo same
      redis-benchmark -h 10.9.8.2 -q -n 2000 -c 20 -P 16 -t get,set,lpush,mset > $T/benchmark && tr '\\r' '\\n' < $T/benchmark | grep -c 'requests per second'
      redis-cli -h 10.9.8.2 shutdown nosave; wait $machine; echo "status $?"
      """, cpus: cpus)
    #expect(outcome.text == "OK\nv\n42\nOK\nsame\n4\nstatus 0\n", "\(outcome.text) \(outcome.errorText)")
  }

  @Test(arguments: [1, 2]) func nginxServesFiles(_ cpus: Int) async throws {
    let outcome = try await script(
      """
      mkdir $T/www $T/state; head -c 5000000 /dev/urandom > $T/www/big; echo small > $T/www/small
      cat > $T/www/nginx.conf <<EOF
      daemon off; master_process off; worker_processes 1; pid /tmp/nginx.pid; error_log stderr;
      events { worker_connections 512; }
      http { access_log off; sendfile on; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f;
        uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; server { listen 80 reuseport; listen [::]:80; root /www; } }
      EOF
      $OSV $NET --volume $T/www:/www:ro /usr/sbin/nginx -c /www/nginx.conf > $T/log 2>&1 & machine=$!
      listens 80
      curl -s http://10.9.8.2/small; curl -s 'http://[fd09::2]/small'
      curl -s http://10.9.8.2/big | cmp - $T/www/big && echo same
      curl -s -r 1000000-1999999 http://10.9.8.2/big | cmp - <(tail -c +1000001 $T/www/big | head -c 1000000) && echo part
      curl -s -o /dev/null -w '%{http_code}\\n' http://10.9.8.2/none
      wrk -t 1 -c 16 -d 1 http://10.9.8.2/small > $T/wrk; grep -c 'Socket errors\\|Non-2xx' $T/wrk; grep -c 'Requests/sec' $T/wrk
      """, cpus: cpus)
    #expect(outcome.text == "small\nsmall\nsame\npart\n404\n0\n1\n", "\(outcome.text) \(outcome.errorText)")
  }

  /// iperf3's server closes its listening socket after each test and opens another, and so resets who has connected in between, on any system: the
  /// next client starts when the server has said that it listens again.
  @Test(arguments: [1, 2]) func iperfMeasuresBothWays(_ cpus: Int) async throws {
    let outcome = try await script(
      """
      $OSV $NET /usr/bin/iperf3 -s --forceflush > $T/log 2>&1 & machine=$!
      test=0
      for options in "" -R "-P 4" "-u -b 50M" "-6"; do
        to=10.9.8.2; [ "$options" != -6 ] || to=fd09::2
        test=$((test + 1))
        for i in $(seq 300); do grep -q "Server listening on 5201 (test #$test)" $T/log && break; sleep 0.1; done
        iperf3 -c $to -t 1 $options > $T/result 2>&1 && echo "$options done" || { echo "$options failed"; cat $T/result $T/log; }
      done
      """, cpus: cpus)
    #expect(
      outcome.text == " done\n-R done\n-P 4 done\n-u -b 50M done\n-6 done\n", "\(outcome.text) \(outcome.errorText)")
  }

  @Test(arguments: [1, 2]) func pythonServesADirectory(_ cpus: Int) async throws {
    let outcome = try await script(
      """
      mkdir $T/www; echo page > $T/www/page
      $OSV $NET --root / --volume $T/www:/mnt:ro --workdir /mnt /usr/bin/python3 -m http.server --bind 0.0.0.0 8000 > $T/log 2>&1 & machine=$!
      listens 8000
      curl -s http://10.9.8.2:8000/page; curl -s http://10.9.8.2:8000/ | grep -c 'href="page"'
      """, cpus: cpus)
    #expect(outcome.text == "page\n1\n", "\(outcome.text) \(outcome.errorText)")
  }

  @Test func curlFetchesFromTheHost() async throws {
    let outcome = try await script(
      """
      mkdir $T/www; head -c 20000000 /dev/urandom > $T/www/big; machine=
      ip tuntap add t0 mode tap multi_queue; ip link set t0 up; ip addr add 10.9.8.1/24 dev t0
      $B httpd -f -p 10.9.8.1:8000 -h $T/www & server=$!
      for i in $(seq 100); do $B nc -w 1 10.9.8.1 8000 < /dev/null > /dev/null 2>&1 && break; sleep 0.1; done
      $OSV --net tap:t0,guest=10.9.8.2/24 /usr/bin/curl -s http://10.9.8.1:8000/big | cmp - $T/www/big && echo same
      kill $server
      """, cpus: 1)
    #expect(outcome.text == "same\n", "\(outcome.text) \(outcome.errorText)")
  }
}
