"""Run a command under a container engine's seccomp profile, with the library that engines use.

python confined.py PROFILE COMMAND...
"""

import ctypes
import json
import os
import sys
from pathlib import Path

OPERATORS = {"SCMP_CMP_NE": 1, "SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}
ALLOW = 0x7FFF0000
ERRNO = 0x00050000
UNKNOWN = -1


class Compare(ctypes.Structure):
    """One condition on an argument (seccomp.h)."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def action_of(rule, kind="action", number="errnoRet"):
    return ALLOW if rule[kind] == "SCMP_ACT_ALLOW" else ERRNO | rule.get(number, 1)


def confine(profile):
    """Put this process, and all that it starts, under ``profile``."""
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(
        library.seccomp_init(action_of(profile, "defaultAction", "defaultErrnoRet"))
    )
    for rule in profile["syscalls"]:
        conditions = [
            Compare(each["index"], OPERATORS[each["op"]], each["value"], each.get("valueTwo", 0))
            for each in rule.get("args", [])
        ]
        array = (Compare * max(1, len(conditions)))(*conditions)
        for name in rule["names"]:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number == UNKNOWN:
                raise SystemExit(f"{name} is no system call")
            if library.seccomp_rule_add_array(
                context, action_of(rule), number, len(conditions), array
            ):
                raise SystemExit(f"{name} was not accepted")
    ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
    if library.seccomp_load(context):
        raise SystemExit("the profile was not accepted")


if __name__ == "__main__":
    confine(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    os.execvp(sys.argv[2], sys.argv[2:])
