"""Reads the pickles of torch.save as a description: nothing is imported, called or hashed, whatever a file names.

`torch.load(weights_only=True)` runs no code either, but it builds what a file describes with the classes that it
allows: `bytearray(2**40)`, or a dict whose key is a tuple in a tuple, a million deep, which ends the process. Here a
class or function is only its name. Calls that rebuild tensors become a `StoredTensor`, dicts stay dicts, and other
objects that checkpoints hold beside weights become an `OtherObject` (stored.py).
"""

from __future__ import annotations

import mmap
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, cast

from trichord.pretrain.weights.stored import (
    KNOWN,
    BadPickle,
    GlobalName,
    OtherObject,
    Storage,
    called,
    current_name,
    storage_of,
)

_MOST_STEPS = 2_000_000  # of a pickle; a tensor takes about 40


@dataclass
class Described:
    """The value that a pickle describes, its storages, and the names of what unpickling would import and run."""

    value: Any
    storages: dict[str, Storage]
    foreign: set[str]


def describe(file: IO[bytes] | mmap.mmap) -> Described:
    """Read the next pickle of a file; raise BadPickle if it is damaged."""
    machine = _Machine()
    for number, (name, argument) in enumerate(_steps(file)):
        if number >= _MOST_STEPS:
            raise BadPickle(f"its pickle has more than {_MOST_STEPS:,} steps")
        step = _STEPS.get(name)
        if step is None:
            raise BadPickle(f"its pickle contains {name}, which torch.save does not write")
        step(machine, argument)
    return Described(machine.pop(), machine.storages, machine.foreign)


def _steps(file: IO[bytes] | mmap.mmap) -> Iterator[tuple[str, Any]]:
    steps = pickletools.genops(cast("IO[bytes]", file))  # it calls read, readline and tell
    while True:
        try:
            opcode, argument, _ = next(steps)
        except StopIteration:
            return
        # Arguments are numbers and texts of any bytes; the library raises whatever parsing them does.
        except Exception as error:
            raise BadPickle(f"its pickle is damaged ({_first_line(error)})") from error
        yield opcode.name, argument


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0][:200]


@dataclass
class _Machine:
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise BadPickle("its pickle takes a value that is not there")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise BadPickle("its pickle ends a list that did not begin")
        mark = self.marks.pop()
        found = self.stack[mark:]
        del self.stack[mark:]
        return found

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def top(self) -> Any:
        value = self.pop()
        self.push(value)
        return value

    def remember(self, place: int) -> None:
        self.memo[place] = self.top()

    def recall(self, place: int) -> None:
        if place not in self.memo:
            raise BadPickle(f"its pickle refers to value {place}, which is not there")
        self.push(self.memo[place])

    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise BadPickle("its pickle names a class by what is no text")
        full = current_name(module, name)
        if full not in KNOWN:
            self.foreign.add(full)
        self.push(GlobalName(full))

    def extend(self, items: list[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if len(items) % 2:
            raise BadPickle("its pickle holds a key without a value")
        if isinstance(target, dict):
            # A key of another kind names no weights, and hashing one may take forever.
            keys = zip(items[::2], items[1::2], strict=True)
            target.update((key, value) for key, value in keys if isinstance(key, str | int | float | bytes | None))

    def call(self, _: object) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, GlobalName | OtherObject) or not isinstance(arguments, tuple):
            raise BadPickle("its pickle calls what is no function")
        self.push(called(function.name, arguments) if isinstance(function, GlobalName) else function)

    def find_storage(self, _: object) -> None:
        whole, part = storage_of(self.pop())
        if self.storages.setdefault(whole.key, whole) != whole:
            raise BadPickle(f"its pickle describes the storage {whole.key[:80]!r} in two ways")
        self.push(part)


_Step = Callable[[_Machine, Any], object]


def _tuple_of(count: int) -> _Step:
    def step(machine: _Machine, _: object) -> None:
        machine.push(tuple([machine.pop() for _ in range(count)][::-1]))

    return step


def _new(kind: Callable[[], Any]) -> _Step:
    return lambda machine, _: machine.push(kind())


def _nothing(machine: _Machine, argument: object) -> None:
    """Take a step that changes no value."""


def _stack_name(machine: _Machine, _: object) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name(module, name)


def _set_item(machine: _Machine, _: object) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


_PUSHED = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING")
_STEPS: dict[str, _Step] = {
    **dict.fromkeys((*_PUSHED, "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"), _Machine.push),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _nothing),
    "NONE": _new(lambda: None),
    "NEWTRUE": _new(lambda: True),
    "NEWFALSE": _new(lambda: False),
    "EMPTY_TUPLE": _new(tuple),
    "EMPTY_LIST": _new(list),
    "EMPTY_DICT": _new(dict),
    "EMPTY_SET": _new(lambda: OtherObject("set")),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "GLOBAL": lambda machine, argument: machine.name(*argument.split(" ", 1)),
    "STACK_GLOBAL": _stack_name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": lambda machine, _: machine.pop(),  # the state of an object that is none of the above
    "BINPERSID": _Machine.find_storage,
}
