"""A rule's text as a list of torch calls that write into a few reused blocks of memory.

Out of place, a dozen operations on a block allocate a dozen temporaries, and fetching fresh memory costs more than
the arithmetic. So once a step the text runs on symbols, which note what is asked of them with this step's numbers
in place; the calls are then made for every block with ``out=``. The same calls, but that a product which is only
added is made with the sum and rounds with it: the loop's result to rounding, the same for every way to cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.job import Moment, Piece
from steepest.core.rule import Step
from steepest.engines.write import shrinkage, stepped


class Unrecorded(Exception):
    """The text asks a symbol for what only a tensor has, such as its value or its shape."""


@dataclass(frozen=True, eq=False, slots=True)
class Call:
    """One call, whose arguments hold symbols."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def symbols(self) -> list[Symbol]:
        return [a for a in (*self.args, *self.kwargs.values()) if type(a) is Symbol]

    def moved(self, place: dict[int, int]) -> Call:
        """The same call after its symbols have other places."""
        args = tuple(Symbol(a.tape, place[a.place]) if type(a) is Symbol else a for a in self.args)
        kwargs = {k: Symbol(a.tape, place[a.place]) if type(a) is Symbol else a for k, a in self.kwargs.items()}
        return Call(self.func, args, kwargs)

    def made(self, values: list[Tensor]) -> Tensor:
        """The result for these values of the symbols."""
        args = [values[a.place] if type(a) is Symbol else a for a in self.args]
        kwargs = {key: values[a.place] if type(a) is Symbol else a for key, a in self.kwargs.items()}
        result: Tensor = self.func(*args, **kwargs)
        return result


class Symbol:
    """A block of the gradient, the weight or a slot of state, or the result of a call: a place on the tape."""

    __slots__ = ("place", "tape")

    def __init__(self, tape: Tape, place: int) -> None:
        self.tape, self.place = tape, place

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Symbol:
        symbols = (a for a in (*args, *(kwargs or {}).values()) if isinstance(a, Symbol))
        if (symbol := next(symbols, None)) is None:
            raise Unrecorded(func.__name__)
        return symbol.tape.note(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Callable[..., Symbol]:
        method = getattr(Tensor, name, None)
        if name.startswith("_") or name in NOT_POINTWISE or not callable(method):
            raise Unrecorded(name)
        func = getattr(torch, name, method)  # torch's function takes out=, the method of the same name does not
        return lambda *args, **kwargs: self.tape.note(func, (self, *args), kwargs)

    def __bool__(self) -> bool:
        raise Unrecorded("its truth value")

    def __float__(self) -> float:
        raise Unrecorded("its value")

    def __iter__(self) -> Any:
        raise Unrecorded("its elements")

    __len__ = __int__ = __index__ = __float__
    __hash__ = object.__hash__


NOT_POINTWISE = frozenset(
    ("item", "tolist", "numpy", "numel", "size", "dim", "stride", "backward", "view", "reshape", "split", "chunk")
)
OPERATORS = {
    "__add__": torch.add,
    "__radd__": torch.add,
    "__sub__": torch.sub,
    "__mul__": torch.mul,
    "__rmul__": torch.mul,
    "__truediv__": torch.div,
    "__pow__": torch.pow,
    "__neg__": torch.neg,
    "__abs__": torch.abs,
    "__lt__": torch.lt,
    "__le__": torch.le,
    "__gt__": torch.gt,
    "__ge__": torch.ge,
    "__eq__": torch.eq,
    "__ne__": torch.ne,
    "__and__": torch.bitwise_and,
    "__or__": torch.bitwise_or,
    "__invert__": torch.bitwise_not,
    # The others as torch's own operators compute them: 1 / x is a reciprocal times 1 there.
    **{f"__r{name}__": getattr(Tensor, f"__r{name}__") for name in ("sub", "truediv", "pow")},
}
for _name, _func in OPERATORS.items():
    setattr(Symbol, _name, lambda self, *other, func=_func: self.tape.note(func, (self, *other), {}))


class Tape:
    """What a step of a rule calls; every flat piece with the types of the given one can be played with it.

    Raises: Unrecorded where the text does more than call functions of whole blocks.
    """

    def __init__(self, moment: Moment, piece: Piece) -> None:
        self.calls: list[Call] = []
        tensors = {"grad": piece.grad, "weight": piece.weight, **piece.state}
        loads = [Symbol(self, i) for i in range(len(tensors))]
        self.first, named = len(loads), dict(zip(tensors, loads, strict=True))
        step, shrink = Step(moment.phase, moment.corrections), shrinkage(moment.rule, moment.peak_lr)
        text: Any = stepped
        state = {name: named[name] for name in piece.state}
        weight, new = text(moment.rule, step, shrink, named["grad"], named["weight"], state)
        results = [(named["weight"], weight), *((named[name], new[name]) for name in state)]
        if not all(isinstance(result, Symbol) for _, result in results):
            raise Unrecorded("nothing: a result does not come from it")
        stores = {old.place: result.place for old, result in results if old is not result}
        if stores.keys() & stores.values():
            raise Unrecorded("its old value for another slot while it is itself written")
        self.constants: list[Any] = []
        stores = self._fused(stores)
        self.player, self.registers = self._compiled(stores, self._dtypes(list(tensors.values())))
        self.calls = []  # whose symbols hold the tape: no cycle is left for the garbage collector

    def note(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Symbol:
        self.calls.append(Call(func, args, kwargs))
        return Symbol(self, self.first + len(self.calls) - 1)

    def _fused(self, stores: dict[int, int]) -> dict[int, int]:
        """The stores after each product with a number that only a sum reads has become part of that sum.

        torch.add and torch.sub take the factor along: a pass over memory less, and one rounding for two.
        """
        read = Counter(s.place for call in self.calls for s in call.symbols())
        read.update(stores.values())
        calls, place = list(self.calls), {i: i for i in range(self.first)}
        absorbed: set[int] = set()
        for j, call in enumerate(self.calls):
            if call.func not in (torch.add, torch.sub) or call.kwargs or len(call.symbols()) != 2:
                continue
            for term in (call.args[1], call.args[0])[: 2 if call.func is torch.add else 1]:
                i = term.place - self.first
                factors: tuple[Any, ...] = self.calls[i].args if i >= 0 and self.calls[i].func is torch.mul else ()
                once = read[term.place] == 1 and i not in absorbed
                if once and len(factors) == 2 and isinstance(factors[1], float):
                    other = call.args[0] if term is call.args[1] else call.args[1]
                    calls[j] = Call(call.func, (other, factors[0]), {"alpha": factors[1]})
                    absorbed.add(i)
                    break
        self.calls = []
        for i, call in enumerate(calls):
            if i not in absorbed:
                place[self.first + i] = self.first + len(self.calls)
                self.calls.append(call.moved(place))
        return {old: place[made] for old, made in stores.items()}

    def _dtypes(self, tensors: list[Tensor]) -> tuple[torch.dtype, ...]:
        """The type of every place, found by making the calls on single elements."""
        key = (*(t.dtype for t in tensors), *(call.func for call in self.calls))
        if key not in DTYPES:
            values = [t[:1] for t in tensors]
            for call in self.calls:
                values.append(call.made(values))
                if values[-1].shape != (1,):
                    raise Unrecorded("something that is not of its size")
                if call.func not in TAKES_OUT:
                    TAKES_OUT[call.func] = takes_out(call, values)
            DTYPES[key] = tuple(v.dtype for v in values)
        return DTYPES[key]

    def _compiled(
        self, stores: dict[int, int], dtypes: tuple[torch.dtype, ...]
    ) -> tuple[Callable[..., None], list[torch.dtype]]:
        """A Python function that makes the calls, and the types of the registers that it takes.

        A result goes straight to the operand where it is stored, if the old value there is no longer read; until
        then that memory serves for results on the way, as registers do.
        """
        end = len(self.calls)
        last = {s.place: i for i, call in enumerate(self.calls) for s in call.symbols()}
        last |= dict.fromkeys(stores.values(), end)
        into: dict[int, int] = {}
        for old, place in stores.items():
            direct = place >= self.first and place not in into and dtypes[place] == dtypes[old]
            if direct and last.get(old, -1) <= place - self.first:
                into[place] = old
        memory = {
            f"v{old}": Memory(dtypes[old], last.get(old, -1), place - self.first) for place, old in into.items()
        }
        registers: list[torch.dtype] = []
        where = {place: f"v{place}" for place in range(self.first)}
        lines: list[str] = []
        funcs: dict[Callable[..., Any], str] = {}
        for i, call in enumerate(self.calls):
            place = self.first + i
            func = funcs.setdefault(call.func, f"f{len(funcs)}")
            args = ", ".join(self._written(call, where, dtypes))
            if place in into:
                where[place] = f"v{into[place]}"
            elif TAKES_OUT[call.func]:
                until = last.get(place, i)
                fit = (name for name, m in memory.items() if m.fits(dtypes[place], i, until))
                if (name := next(fit, None)) is None:
                    name = f"r{len(registers)}"
                    registers.append(dtypes[place])
                    memory[name] = Memory(dtypes[place], i, end)
                memory[name].busy = until
                where[place] = name
            else:
                where[place] = f"t{place}"
            if TAKES_OUT[call.func]:
                lines.append(f"{func}({args}, out={where[place]})")
            elif place in into:
                lines.append(f"{where[place]}.copy_({func}({args}))")
            else:
                lines.append(f"{where[place]} = {func}({args})")
        lines += [f"v{old}.copy_({where[place]})" for old, place in stores.items() if place not in into]
        names = [f"v{i}" for i in range(self.first)] + [f"r{i}" for i in range(len(registers))]
        names += [f"k{i}" for i in range(len(self.constants))]
        source = f"def player({', '.join(names)}):\n  " + "\n  ".join(lines or ["pass"])
        key = (source, *funcs)
        if key not in PLAYERS:
            space: dict[str, Any] = {name: func for func, name in funcs.items()}
            exec(source, space)
            PLAYERS[key] = space["player"]
        return PLAYERS[key], registers

    def _written(self, call: Call, where: dict[int, str], dtypes: tuple[torch.dtype, ...]) -> list[str]:
        """The arguments as text; what is no symbol is a constant, whose value changes from step to step."""
        beside = {dtypes[s.place] for s in call.symbols()}
        wrapped = next(iter(beside)) if len(beside) == 1 and call.func in ARITHMETIC and not call.kwargs else None

        def written(value: Any) -> str:
            if type(value) is Symbol:
                return where[value.place]
            if isinstance(value, float) and wrapped is not None and wrapped.is_floating_point:
                # torch makes this tensor of a number itself, but anew at every call.
                value = torch.tensor(value, dtype=wrapped)
            self.constants.append(value)
            return f"k{len(self.constants) - 1}"

        return [written(a) for a in call.args] + [f"{key}={written(a)}" for key, a in call.kwargs.items()]

    def play(self, piece: Piece, scratch: Scratch) -> None:
        """Make the calls on a piece and store the results."""
        registers = scratch.of(self.registers, piece.weight.numel())
        self.player(piece.grad, piece.weight, *piece.state.values(), *registers, *self.constants)


@dataclass(slots=True)
class Memory:
    """Memory that results take turns to use: busy until a call, and lent until another."""

    dtype: torch.dtype
    busy: int
    lent: int

    def fits(self, dtype: torch.dtype, made: int, until: int) -> bool:
        """Whether a result can stay there; the call that makes it may read what it overwrites."""
        return dtype == self.dtype and self.busy <= made and until <= self.lent


ARITHMETIC = (torch.add, torch.sub, torch.mul, torch.div)
DTYPES: dict[tuple[Any, ...], tuple[torch.dtype, ...]] = {}
PLAYERS: dict[tuple[Any, ...], Callable[..., None]] = {}
TAKES_OUT: dict[Callable[..., Any], bool] = {}


def takes_out(call: Call, values: list[Tensor]) -> bool:
    """Whether the function can write its result, the last of the values, into memory that it is given."""
    out = torch.empty_like(values[-1])
    try:
        # A reflected operator, such as 1 / x, answers NotImplemented to an argument that it does not know.
        return Call(call.func, call.args, {**call.kwargs, "out": out}).made(values) is out
    except TypeError:
        return False


class Scratch:
    """Registers: blocks of memory by type, used again for every piece."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.buffers: list[Tensor] = []
        self.views: dict[tuple[Any, ...], list[Tensor]] = {}

    def of(self, dtypes: list[torch.dtype], size: int) -> list[Tensor]:
        """Registers of these types and this many elements, all of them different."""
        key = (*dtypes, size)
        if key not in self.views:
            free, found = list(range(len(self.buffers))), []
            for dtype in dtypes:
                fit = (i for i in free if self.buffers[i].dtype == dtype)
                if (i := next(fit, None)) is None:
                    i = len(self.buffers)
                    self.buffers.append(torch.empty(self.block, dtype=dtype))
                else:
                    free.remove(i)
                found.append(self.buffers[i][:size])
            self.views[key] = found
        return self.views[key]
