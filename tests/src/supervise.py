# The process that owns what a test starts: see supervisor.rs.
# One JSON object per line on standard input, one answer per line on standard output:
#   {"argv": [...], "env": {NAME: VALUE or null}, "log": PATH, "cwd": PATH}  ->  {"pid": N}
#   {"status": PID}  ->  {"status": null while it runs, else as a shell counts it}
# The end of standard input ends every process below this one, daemonised ones included.
import ctypes, json, os, select, signal, sys, time

PR_SET_CHILD_SUBREAPER = 36
if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
    sys.exit("prctl(PR_SET_CHILD_SUBREAPER) failed")
# A Ctrl-C at the terminal goes to the test, whose end is the end of our input.
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
wake_read, wake_write = os.pipe()
os.set_blocking(wake_write, False)
os.set_blocking(wake_read, False)
signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
signal.signal(signal.SIGCHLD, lambda *_: None)
ended = {}
running = set()


def reap():
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        if pid in running:
            running.discard(pid)
            code = os.waitstatus_to_exitcode(status)
            ended[pid] = code if code >= 0 else 128 - code


def start(order):
    environment = dict(os.environ)
    for name, value in order.get("env", {}).items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.closerange(3, 256)
            os.chdir(order.get("cwd", "/"))
            os.execvpe(order["argv"][0], order["argv"], environment)
        except BaseException as error:
            os.write(2, ("cannot run %s: %s\n" % (order["argv"][0], error)).encode())
        finally:
            os._exit(127)
    running.add(pid)
    return pid


def children():
    with open("/proc/self/task/%d/children" % os.getpid()) as listing:
        return [int(pid) for pid in listing.read().split()]


def end_all():
    limit = time.monotonic() + 20
    while reap() and time.monotonic() < limit:
        for pid in children():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.005)


pending = b""
while True:
    ready, _, _ = select.select([0, wake_read], [], [])
    if wake_read in ready:
        try:
            os.read(wake_read, 4096)
        except BlockingIOError:
            pass
        reap()
    if 0 not in ready:
        continue
    data = os.read(0, 65536)
    if not data:
        break
    pending += data
    while b"\n" in pending:
        line, pending = pending.split(b"\n", 1)
        order = json.loads(line)
        if "argv" in order:
            answer = {"pid": start(order)}
        else:
            reap()
            answer = {"status": ended.get(order["status"])}
        os.write(1, json.dumps(answer).encode() + b"\n")
end_all()
