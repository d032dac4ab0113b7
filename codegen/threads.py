"""The thread pool: `parallel(function, context, count, room, scratch)` runs function(context, k, scratch) for k < count.

In: calls from compiled programs, whose kernels are cut into pieces by tile.py; how many pieces depends on the problem alone,
so results do not depend on the number of threads. Out: all pieces done.

Fork-join in machine code, no Python in it. A worker has a state: idle, posted, running, stop. The caller writes the job,
posts the workers, takes pieces itself until there are none, then takes back the posts that no worker has claimed and waits
for those that run. So a worker that is slow to wake up delays nobody. An idle worker looks for a post for some microseconds,
then sleeps in a futex; the caller wakes those that sleep.

Which pieces: everybody starts with a share of his own, neighbouring pieces, and then takes from the others' shares (an atomic
counter per share deals the pieces out). Call after call a core so meets the rows that are in its own cache.

Lazily made: the workers are created by the first job. One job at a time: a caller that finds the pool taken, or is a worker
itself, runs its pieces alone. After fork the child has no workers; it notices by its process id and makes its own. Signals are
blocked in workers. What a piece needs for itself lies in `scratch`, of which every worker has `room` bytes of its own; one
that cannot get them does not help. Workers compute in the caller's floating-point environment (a library that makes the main
thread flush subnormals does so here too), so results do not depend on who helps. At exit workers are joined before the
interpreter goes. Programs call the pool only where they have released the GIL (a piece may have to take it: vecmath's rare
arguments).

The number of threads: TAPEJIT_NUM_THREADS, else the cores this process may run on. On systems other than Linux on x86-64 and
arm64 there is one.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading

SYMBOL = "tapejit.parallel"
MOST = 256
SPIN = 1000  # looks at the state before a worker sleeps: about 30 microseconds
MACHINE = os.uname().machine if sys.platform == "linux" else None
FUTEX = {"x86_64": 202, "aarch64": 98}.get(MACHINE)  # the number of the system call

_lock = threading.RLock()
_code = None
_wanted = None

TEXT = """
%worker = type {{ i32, i32, i64, ptr, i64, [4 x i64] }}
@lock = internal global i32 0
@pid = internal global i32 0
@wanted = internal global i64 0
@started = internal global i64 0
@workers = internal global [{most} x %worker] zeroinitializer, align 64
@job.function = internal global ptr null
@job.context = internal global ptr null
@job.room = internal global i64 0
@job.environment = internal global [64 x i8] zeroinitializer, align 16
%share = type {{ i64, i64, [6 x i64] }}
@job.parties = internal global i64 0
@job.shares = internal global [{most} x %share] zeroinitializer, align 64
declare i64 @syscall(i64, ...)
declare i32 @getpid()
declare i32 @sched_yield()
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(i64, ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @sigfillset(ptr)
declare i32 @posix_memalign(ptr, i64, i64)
declare void @free(ptr)
declare i32 @fegetenv(ptr)
declare i32 @fesetenv(ptr)

define internal void @alone(ptr %function, ptr %context, i64 %count, ptr %scratch) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  call void %function(ptr %context, i64 %i, ptr %scratch)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %out
out:
  ret void
}}

; Party p of n has the pieces from count * p / n on, as many as there are before the next one's.
define internal void @deal(i64 %count, i64 %parties) {{
entry:
  store i64 %parties, ptr @job.parties
  br label %loop
loop:
  %p = phi i64 [ 0, %entry ], [ %p.next, %loop ]
  %from = phi i64 [ 0, %entry ], [ %to, %loop ]
  %p.next = add i64 %p, 1
  %product = mul i64 %count, %p.next
  %to = udiv i64 %product, %parties
  %next = getelementptr [{most} x %share], ptr @job.shares, i64 0, i64 %p, i32 0
  %end = getelementptr [{most} x %share], ptr @job.shares, i64 0, i64 %p, i32 1
  store atomic i64 %from, ptr %next seq_cst, align 8
  store i64 %to, ptr %end
  %more = icmp slt i64 %p.next, %parties
  br i1 %more, label %loop, label %out
out:
  ret void
}}

define internal void @work(i64 %me, ptr %scratch) {{
entry:
  %function = load ptr, ptr @job.function
  %context = load ptr, ptr @job.context
  %parties = load i64, ptr @job.parties
  br label %share
share:
  %k = phi i64 [ 0, %entry ], [ %k.next, %other ]
  %sum = add i64 %me, %k
  %whose = urem i64 %sum, %parties
  %next = getelementptr [{most} x %share], ptr @job.shares, i64 0, i64 %whose, i32 0
  %end.at = getelementptr [{most} x %share], ptr @job.shares, i64 0, i64 %whose, i32 1
  %end = load i64, ptr %end.at
  br label %take
take:
  %i = atomicrmw add ptr %next, i64 1 seq_cst
  %mine = icmp slt i64 %i, %end
  br i1 %mine, label %run, label %other
run:
  call void %function(ptr %context, i64 %i, ptr %scratch)
  br label %take
other:
  %k.next = add i64 %k, 1
  %more = icmp slt i64 %k.next, %parties
  br i1 %more, label %share, label %out
out:
  ret void
}}

; The worker's own memory for this job, or null if there is none to be had.
define internal ptr @scratch(ptr %worker) {{
entry:
  %at = getelementptr %worker, ptr %worker, i64 0, i32 3
  %room.at = getelementptr %worker, ptr %worker, i64 0, i32 4
  %old = load ptr, ptr %at
  %room = load i64, ptr %room.at
  %need = load i64, ptr @job.room
  %fits = icmp sle i64 %need, %room
  br i1 %fits, label %same, label %grow
same:
  ret ptr %old
grow:
  store i64 0, ptr %room.at
  store ptr null, ptr %at
  call void @free(ptr %old)
  %failed = call i32 @posix_memalign(ptr %at, i64 64, i64 %need)
  %good = icmp eq i32 %failed, 0
  br i1 %good, label %grown, label %none
none:
  store ptr null, ptr %at
  ret ptr null
grown:
  store i64 %need, ptr %room.at
  %new = load ptr, ptr %at
  ret ptr %new
}}

define internal ptr @serve(ptr %self) {{
entry:
  %sleeping = getelementptr %worker, ptr %self, i64 0, i32 1
  br label %again
again:
  br label %look
look:
  %n = phi i64 [ 0, %again ], [ %n.next, %wait ]
  %state = load atomic i32, ptr %self acquire, align 4
  switch i32 %state, label %wait [ i32 1, label %claim
                                   i32 3, label %quit ]
wait:
  call void @pause()
  %n.next = add i64 %n, 1
  %tired = icmp eq i64 %n.next, {spin}
  br i1 %tired, label %sleep, label %look
sleep:
  store atomic i32 1, ptr %sleeping seq_cst, align 4
  %slept = call i64 (i64, ...) @syscall(i64 {futex}, ptr %self, i32 128, i32 0, ptr null)
  store atomic i32 0, ptr %sleeping seq_cst, align 4
  br label %again
claim:
  %pair = cmpxchg ptr %self, i32 1, i32 2 seq_cst seq_cst
  %mine = extractvalue {{ i32, i1 }} %pair, 1
  br i1 %mine, label %run, label %again
run:
  %set = call i32 @fesetenv(ptr @job.environment)
  %scratch = call ptr @scratch(ptr %self)
  %need = load i64, ptr @job.room
  %without = icmp eq i64 %need, 0
  %there = icmp ne ptr %scratch, null
  %able = or i1 %without, %there
  br i1 %able, label %help, label %helped
help:
  %here = ptrtoint ptr %self to i64
  %bytes = sub i64 %here, ptrtoint (ptr @workers to i64)
  %index = udiv i64 %bytes, 64
  %me = add i64 %index, 1
  call void @work(i64 %me, ptr %scratch)
  br label %helped
helped:
  store atomic i32 0, ptr %self seq_cst, align 4
  br label %again
quit:
  ret ptr null
}}

declare void @{pause[0]}({pause[1]})
define internal void @pause() {{
  call void @{pause[0]}({pause[2]})
  ret void
}}

define internal void @wake(ptr %worker) {{
entry:
  %at = getelementptr %worker, ptr %worker, i64 0, i32 1
  %sleeping = load atomic i32, ptr %at seq_cst, align 4
  %yes = icmp ne i32 %sleeping, 0
  br i1 %yes, label %call, label %out
call:
  %woken = call i64 (i64, ...) @syscall(i64 {futex}, ptr %worker, i32 129, i32 1)
  br label %out
out:
  ret void
}}

define internal void @start(i64 %wanted) {{
entry:
  %all = alloca [16 x i64]
  %before = alloca [16 x i64]
  %filled = call i32 @sigfillset(ptr %all)
  %masked = call i32 @pthread_sigmask(i32 2, ptr %all, ptr %before)
  br label %loop
loop:
  %n = load i64, ptr @started
  %more = icmp slt i64 %n, %wanted
  br i1 %more, label %create, label %out
create:
  %worker = getelementptr [{most} x %worker], ptr @workers, i64 0, i64 %n
  store i32 0, ptr %worker
  %thread = getelementptr %worker, ptr %worker, i64 0, i32 2
  %failed = call i32 @pthread_create(ptr %thread, ptr null, ptr @serve, ptr %worker)
  %made = icmp eq i32 %failed, 0
  br i1 %made, label %count, label %out
count:
  %n.next = add i64 %n, 1
  store i64 %n.next, ptr @started
  br label %loop
out:
  %restored = call i32 @pthread_sigmask(i32 2, ptr %before, ptr null)
  ret void
}}

define void @{symbol}(ptr %function, ptr %context, i64 %count, i64 %room, ptr %scratch) {{
entry:
  %wanted = load atomic i64, ptr @wanted monotonic, align 8
  %single = icmp slt i64 %count, 2
  %none = icmp eq i64 %wanted, 0
  %serial = or i1 %single, %none
  br i1 %serial, label %alone, label %try
try:
  %pair = cmpxchg ptr @lock, i32 0, i32 1 seq_cst seq_cst
  %got = extractvalue {{ i32, i1 }} %pair, 1
  br i1 %got, label %check, label %alone
alone:
  call void @alone(ptr %function, ptr %context, i64 %count, ptr %scratch)
  ret void
check:
  %pid = call i32 @getpid()
  %known = load i32, ptr @pid
  %same = icmp eq i32 %pid, %known
  br i1 %same, label %enough, label %forked
forked:
  store i32 %pid, ptr @pid
  store i64 0, ptr @started
  br label %enough
enough:
  %there = load i64, ptr @started
  %short = icmp slt i64 %there, %wanted
  br i1 %short, label %more, label %ready
more:
  call void @start(i64 %wanted)
  br label %ready
ready:
  %started = load i64, ptr @started
  %n0 = call i64 @llvm.smin.i64(i64 %started, i64 %wanted)
  %others = sub i64 %count, 1
  %n = call i64 @llvm.smin.i64(i64 %n0, i64 %others)
  store ptr %function, ptr @job.function
  store ptr %context, ptr @job.context
  store i64 %room, ptr @job.room
  %environment = call i32 @fegetenv(ptr @job.environment)
  %parties = add i64 %n, 1
  call void @deal(i64 %count, i64 %parties)
  br label %posting
posting:
  %i = phi i64 [ 0, %ready ], [ %i.next, %post ]
  %left = icmp slt i64 %i, %n
  br i1 %left, label %post, label %posted
post:
  %worker = getelementptr [{most} x %worker], ptr @workers, i64 0, i64 %i
  store atomic i32 1, ptr %worker seq_cst, align 4
  call void @wake(ptr %worker)
  %i.next = add i64 %i, 1
  br label %posting
posted:
  call void @work(i64 0, ptr %scratch)
  br label %joining
joining:
  %j = phi i64 [ 0, %posted ], [ %j.next, %joined ]
  %busy = icmp slt i64 %j, %n
  br i1 %busy, label %take, label %done
take:
  %other = getelementptr [{most} x %worker], ptr @workers, i64 0, i64 %j
  %back = cmpxchg ptr %other, i32 1, i32 0 seq_cst seq_cst
  %taken = extractvalue {{ i32, i1 }} %back, 1
  br i1 %taken, label %joined, label %waiting
waiting:
  %w = phi i64 [ 0, %take ], [ %w.next, %still ]
  %state = load atomic i32, ptr %other seq_cst, align 4
  %idle = icmp eq i32 %state, 0
  br i1 %idle, label %joined, label %still
still:
  %w.next = add i64 %w, 1
  call void @patience(i64 %w)
  br label %waiting
joined:
  %j.next = add i64 %j, 1
  br label %joining
done:
  store atomic i32 0, ptr @lock seq_cst, align 4
  ret void
}}
declare i64 @llvm.smin.i64(i64, i64)

define internal void @patience(i64 %n) {{
entry:
  %long = icmp sgt i64 %n, 5000
  br i1 %long, label %yield, label %spin
yield:
  %yielded = call i32 @sched_yield()
  ret void
spin:
  call void @pause()
  ret void
}}

define void @tapejit.pool.want(i64 %n) {{
  store atomic i64 %n, ptr @wanted seq_cst, align 8
  ret void
}}

define void @tapejit.pool.forget() {{
  store i32 0, ptr @pid
  store atomic i32 0, ptr @lock seq_cst, align 4
  ret void
}}

define i64 @tapejit.pool.started() {{
  %n = load i64, ptr @started
  ret i64 %n
}}

define void @tapejit.pool.stop() {{
entry:
  store atomic i64 0, ptr @wanted seq_cst, align 8
  br label %try
try:
  %k = phi i64 [ 0, %entry ], [ %k.next, %again ]
  %pair = cmpxchg ptr @lock, i32 0, i32 1 seq_cst seq_cst
  %got = extractvalue {{ i32, i1 }} %pair, 1
  br i1 %got, label %check, label %again
again:
  %yielded = call i32 @sched_yield()
  %k.next = add i64 %k, 1
  %long = icmp eq i64 %k.next, 1000000
  br i1 %long, label %out, label %try
check:
  %pid = call i32 @getpid()
  %known = load i32, ptr @pid
  %same = icmp eq i32 %pid, %known
  br i1 %same, label %loop, label %free
loop:
  %n = load i64, ptr @started
  %any = icmp sgt i64 %n, 0
  br i1 %any, label %join, label %free
join:
  %last = sub i64 %n, 1
  %worker = getelementptr [{most} x %worker], ptr @workers, i64 0, i64 %last
  store atomic i32 3, ptr %worker seq_cst, align 4
  call void @wake(ptr %worker)
  %at = getelementptr %worker, ptr %worker, i64 0, i32 2
  %thread = load i64, ptr %at
  %joined = call i32 @pthread_join(i64 %thread, ptr null)
  %own = getelementptr %worker, ptr %worker, i64 0, i32 3
  %scratch = load ptr, ptr %own
  call void @free(ptr %scratch)
  store ptr null, ptr %own
  %room = getelementptr %worker, ptr %worker, i64 0, i32 4
  store i64 0, ptr %room
  store i64 %last, ptr @started
  br label %loop
free:
  store atomic i32 0, ptr @lock seq_cst, align 4
  br label %out
out:
  ret void
}}
"""
PAUSE = {"x86_64": ("llvm.x86.sse2.pause", "", ""), "aarch64": ("llvm.aarch64.hint", "i32", "i32 1")}
SERIAL = """
define void @{symbol}(ptr %function, ptr %context, i64 %count, i64 %room, ptr %scratch) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  call void %function(ptr %context, i64 %i, ptr %scratch)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %out
out:
  ret void
}}
"""
CONTROL = ("want", "forget", "started", "stop")


class _Pool:
    """The machine code, alive for good: workers run in it."""

    def __init__(self):
        from . import engine

        text = SERIAL if FUTEX is None else TEXT
        text = text.format(symbol=SYMBOL, most=MOST, spin=SPIN, futex=FUTEX, pause=PAUSE.get(MACHINE))
        control = [] if FUTEX is None else [f"tapejit.pool.{name}" for name in CONTROL]
        self.code = engine.Code(engine.Image(text), [SYMBOL, *control], {})
        self.address = self.code.addresses[SYMBOL]
        if control:
            kinds = {"want": (None, ctypes.c_int64), "started": (ctypes.c_int64,)}
            for name, symbol in zip(CONTROL, control):
                setattr(self, name, ctypes.CFUNCTYPE(*kinds.get(name, (None,)))(self.code.addresses[symbol]))
            self.want(get_num_threads() - 1)
            os.register_at_fork(after_in_child=self.forget)
            atexit.register(self.stop)


def pool() -> _Pool:
    global _code
    with _lock:
        if _code is None:
            _code = _Pool()
        return _code


def address(symbol=SYMBOL) -> int:
    """Of `parallel`, for programs that call it."""
    return pool().address


def get_num_threads() -> int:
    """How many threads compiled programs use.

        >>> import tapejit
        >>> tapejit.get_num_threads() >= 1
        True
    """
    if FUTEX is None:
        return 1
    if _wanted is not None:
        return _wanted
    named = os.environ.get("TAPEJIT_NUM_THREADS", "")
    if named.isdecimal() and int(named) > 0:
        return min(int(named), MOST)
    return min(len(os.sched_getaffinity(0)), MOST)


def set_num_threads(n: int) -> None:
    """Have compiled programs use `n` threads from their next call on, matrix products included.

    Results do not depend on n. Where NumPy brings its own OpenBLAS, whose routines tapejit calls, NumPy's products use n
    threads from then on, too. Raises ValueError unless n is an integer from 1 to 256.

        >>> import tapejit
        >>> tapejit.set_num_threads(1)
        >>> tapejit.get_num_threads()
        1
    """
    global _wanted
    if type(n) is not int or not 1 <= n <= MOST:
        raise ValueError(f"the number of threads is an integer from 1 to {MOST}, got {n!r}")
    from . import blas

    with _lock:
        _wanted = n
        if _code is not None and FUTEX is not None:
            _code.want(n - 1)
        blas.set_num_threads(n)
