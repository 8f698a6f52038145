# What everyday Python programs do: its modules in C, threads with every kind of lock, pipes, signals, files. Same output everywhere.
import json, hashlib, re, threading, queue, zlib, struct, math, random, os, sys, time, tempfile, datetime, decimal, collections, itertools, functools, sqlite3, bz2, lzma, csv, io, base64, string, select, errno, signal
print(json.dumps({"a":[1,2.5,None,True],"b":"ü"},sort_keys=True), json.loads('{"x":[1,{"y":2}]}'))
print(hashlib.sha256(b"abc"*1000).hexdigest(), hashlib.blake2b(b"x").hexdigest()[:16])
print(re.findall(r"(\w+)@(\w+)", "a@b c@d"), re.sub(r"\d+", lambda m: str(int(m[0])*2), "1 22 333"))
q=queue.Queue(); res=[]
lock=threading.Lock()
def w():
    while True:
        i=q.get()
        if i is None: break
        with lock: res.append(i*i)
        q.task_done()
ts=[threading.Thread(target=w) for _ in range(8)]
[t.start() for t in ts]
for i in range(1000): q.put(i)
q.join()
for _ in ts: q.put(None)
[t.join() for t in ts]
print(len(res), sum(res))
e=threading.Event(); t=threading.Timer(0.01,e.set); t.start(); print(e.wait(5)); t.join()
c=threading.Condition(); n=[0]
def prod():
    for i in range(100):
        with c: n[0]+=1; c.notify_all()
def cons():
    with c:
        while n[0]<100: c.wait()
a=threading.Thread(target=cons); b=threading.Thread(target=prod); a.start(); b.start(); a.join(10); b.join(10); print(n)
print(zlib.crc32(b"hello"), zlib.decompress(zlib.compress(b"z"*10000,9))==b"z"*10000, lzma.decompress(lzma.compress(b"q"*5000))==b"q"*5000, bz2.decompress(bz2.compress(b"w"*5000))==b"w"*5000)
print(decimal.Decimal(1)/decimal.Decimal(7), math.sqrt(2), math.pi**10, f"{1e300*1e10}")
db=sqlite3.connect(":memory:"); db.execute("create table t(a,b)"); db.executemany("insert into t values(?,?)",[(i,str(i)) for i in range(100)]); print(db.execute("select sum(a),count(b) from t where a%3=0").fetchone())
print(datetime.datetime.fromtimestamp(86400*365, datetime.timezone.utc).isoformat(), datetime.date(2024,2,29)+datetime.timedelta(366))
r,w_=os.pipe(); os.write(w_,b"pipe"); print(os.read(r,10), select.select([r],[],[],0.001))
signal.signal(signal.SIGUSR1, lambda *a: print("signal")); os.kill(os.getpid(), signal.SIGUSR1); time.sleep(0.001)
try: open("/nonexistent")
except OSError as x: print(x.errno==errno.ENOENT, x.strerror)
print(len(os.urandom(16)), os.cpu_count()>0, sys.getsizeof(1), sys.maxsize)
print(sum(len(str(2**i)) for i in range(2000)))
with open("/proc/self/status") as f: print(f.readline().strip())
random.seed(1); print(random.random(), random.sample(range(100),5))
sys.stderr.write("end\n"); sys.exit(7)
