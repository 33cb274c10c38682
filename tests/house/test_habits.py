"""Habits that a linter does not check, each with the harm it prevents."""

import ast
import re
from collections.abc import Iterator

import pytest

# Bytes from another machine must never execute, and text must never become code.
RUNS_BYTES = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "pickle.loads",
    "pickle.load",
    "torch.load",
    "joblib.load",
    "marshal.loads",
    "yaml.load",
    "os.system",
    "os.popen",
}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK|for now|temporar(?:y|ily) hack)\b", re.IGNORECASE)


def _calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_input_is_never_checked_by_assert(trees: dict[str, ast.Module]) -> None:
    # `python -O` drops every assert.
    assert not [
        f"{name}:{node.lineno}"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]


def test_nothing_prints(trees: dict[str, ast.Module]) -> None:
    # What a hospital prints, a service manager keeps. Only the command line speaks, through rich.
    assert not [
        f"{name}:{call.lineno}"
        for name, tree in trees.items()
        for called, call in _calls(tree)
        if called in {"print", "pprint.pprint", "sys.stdout.write"}
    ]


def test_nothing_runs_bytes_or_text(trees: dict[str, ast.Module]) -> None:
    assert not [
        f"{name}:{call.lineno} {called}"
        for name, tree in trees.items()
        for called, call in _calls(tree)
        if called in RUNS_BYTES
    ]


def test_arrays_are_read_and_written_without_pickle(trees: dict[str, ast.Module]) -> None:
    faults = []
    for name, tree in trees.items():
        for called, call in _calls(tree):
            if called not in {"np.load", "np.save", "numpy.load", "numpy.save"}:
                continue
            said = {k.arg: ast.unparse(k.value) for k in call.keywords}
            if said.get("allow_pickle") != "False":
                faults.append(f"{name}:{call.lineno}")
    assert not faults


def test_no_shell_is_ever_started(trees: dict[str, ast.Module]) -> None:
    assert not [
        f"{name}:{call.lineno}"
        for name, tree in trees.items()
        for _, call in _calls(tree)
        if any(k.arg == "shell" and ast.unparse(k.value) != "False" for k in call.keywords)
    ]


def test_nothing_is_left_for_later(source: dict[str, str]) -> None:
    assert not [
        f"{name}:{number}"
        for name, text in source.items()
        for number, line in enumerate(text.splitlines(), start=1)
        if UNFINISHED.search(line)
    ]


def test_every_exemption_from_the_linter_gives_its_reason(source: dict[str, str]) -> None:
    # Behind the code or in the line above; once per file and rule.
    exemption = re.compile(r"# noqa(?:: ([A-Z0-9, ]+?))?(?: - (\S.*))?$")
    bare = []
    for name, text in source.items():
        explained: dict[str, bool] = {}
        above = ""
        for line in text.splitlines():
            if found := exemption.search(line):
                rules = found[1] or "every rule"
                said = bool(found[2]) or above.lstrip().startswith("#")
                explained[rules] = explained.get(rules, False) or said
            above = line
        bare += [f"{name}: {rules}" for rules, said in explained.items() if not said]
    assert not bare


@pytest.mark.parametrize("hidden", ["vector", "drawn"])
def test_a_secret_update_is_never_printed(hidden: str, trees: dict[str, ast.Module]) -> None:
    (update,) = (
        node
        for node in ast.walk(trees["client/septum_client/train.py"])
        if isinstance(node, ast.ClassDef) and node.name == "Update"
    )
    (line,) = (
        ast.unparse(node)
        for node in update.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == hidden
    )
    assert "repr=False" in line
