"""What Python's own XML-RPC client sees at the door. Argument: the URL. Fails with an AssertionError, else prints "good"."""
import sys
import threading
import xmlrpc.client

URL = sys.argv[1]
SESSION = "oneadmin:pass:word"


def proxy(**options):
    return xmlrpc.client.ServerProxy(URL, **options)


def fault_of(function, *params):
    try:
        answer = function(*params)
    except xmlrpc.client.Fault as fault:
        assert "pass:word" not in fault.faultString, fault.faultString
        return fault.faultCode, fault.faultString
    raise AssertionError(f"no fault but {answer!r}")


one = proxy(allow_none=True).one

# Every type, both ways.
for number in (0, -1, 2**31 - 1, -(2**31)):
    assert one.test.int(SESSION, number) == [True, number, 0], number
for text in ("x", "ünïcödé ☃ 𝄞", "a & b < c > d \"e\" 'f' ]]>", " kept  blanks ", "line\nline\ttab", "ä" * 300_000):
    assert one.test.text(SESSION, text) == [True, text, 0], text[:50]
assert one.test.bool(SESSION, True) == [True, "yes", 0]
assert one.test.bool(SESSION) == [True, "no", 0]
assert one.test.ints(SESSION, [1, 2, -3]) == [True, 0, 0]
assert one.test.ints(SESSION, []) == [True, 0, 0]
assert one.test.big(SESSION) == [True, 2**40, 0]

# An empty text never goes out, nor do characters that XML forbids.
assert one.test.text(SESSION, "") == [True, "-", 0]
assert one.test.control(SESSION) == [True, "bell and\r feed", 0]

# Refusals.
assert one.vm.info(SESSION, 7) == [False, "[one.vm.info] Error getting virtual machine [7].", 1024, 7, -1]
bad = [False, "[one.vm.info] User couldn't be authenticated, aborting call.", 256, -1, -1]
assert one.vm.info("oneadmin:wrong", 7) == bad
assert one.vm.info("", 7) == bad
answer = one.test.panic(SESSION)
assert answer[0] is False and answer[2] == 8192 and "secret" not in answer[1], answer
assert one.test.int(SESSION, 1) == [True, 1, 0], "a panic must cost its own call only"

# Superfluous parameters are ignored, wrong and missing ones are named.
assert one.test.int(SESSION, 1, "more", [2]) == [True, 1, 0]
assert fault_of(one.test.int, SESSION, "1") == (-501, "one.test.int: parameter 2 (number) must be of type int, not string.")
assert fault_of(one.test.int, SESSION, None) == (-501, "one.test.int: parameter 2 (number) must be of type int, not nil.")
assert fault_of(one.test.int, SESSION, True)[0] == -501
assert fault_of(one.test.int, SESSION) == (-501, "one.test.int: parameter 2 (number) is missing.")
assert fault_of(one.test.int) == (-501, "one.test.int: parameter 1 (session) is missing.")
assert fault_of(one.test.int, 5) == (-501, "one.test.int: parameter 1 (session) must be of type string, not int.")
assert fault_of(one.test.ints, SESSION, [1, "2"]) == (-501, "one.test.ints: parameter 2 (numbers) must be of type array of int, not array.")
assert fault_of(one.test.text, SESSION, xmlrpc.client.Binary(b"x"))[0] == -501
assert fault_of(one.test.bool, SESSION, 1)[0] == -501
assert fault_of(one.nothing.here, SESSION)[0] == -506
assert fault_of(one.test.text, SESSION, "bell \x07")[0] == -503

# The system methods.
system = proxy().system
names = system.listMethods()
assert "one.vm.info" in names and "system.multicall" in names and names == sorted(names), names
assert system.methodHelp("one.vm.info") == "Shows a virtual machine."
assert system.methodSignature("one.vm.info") == [["array", "string", "int"], ["array", "string", "int", "boolean"]]
assert fault_of(system.methodHelp, "one.none")[0] == -506
assert fault_of(system.methodHelp)[0] == -501

multi = xmlrpc.client.MultiCall(proxy())
multi.one.test.int(SESSION, 5)
multi.one.vm.info(SESSION, 7)
multi.one.nothing.here(SESSION)
multi.one.test.int(SESSION, 6)
results = multi()
assert results[0] == [True, 5, 0] and results[1][2] == 1024 and results[3] == [True, 6, 0]
assert fault_of(lambda: results[2])[0] == -506
nested = proxy().system.multicall([{"methodName": "system.multicall", "params": [[]]}, {"methodName": "x"}, 5])
assert [entry["faultCode"] for entry in nested] == [-501, -501, -501], nested
assert fault_of(proxy().system.multicall, [{"methodName": "x", "params": []}] * 1001)[0] == -509

# After one refused session, a multicall tries no other: the right one is refused too.
multi = xmlrpc.client.MultiCall(proxy())
multi.one.test.int("oneadmin:guess", 1)
multi.one.test.int(SESSION, 2)
assert [entry[2] for entry in multi()] == [256, 256]

# One connection, many calls: ServerProxy keeps its socket.
many = proxy()
for number in range(300):
    assert many.one.test.int(SESSION, number) == [True, number, 0]

# A hundred at the same time, more than there are places.
wrong = []


def one_call(number):
    try:
        answer = proxy().one.test.slow(SESSION, number)
        if answer != [True, number, 0]:
            wrong.append(answer)
    except Exception as error:  # noqa: BLE001 - reported below
        wrong.append(error)


threads = [threading.Thread(target=one_call, args=(number,)) for number in range(100)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong, wrong[:3]
print("good")
