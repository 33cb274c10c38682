"""Numbers and codes in the words of the report: one way to round, said once."""

import math
from collections.abc import Iterable

from septum.errors import Code, Quarantine
from septum_bench.audit.finding import Measured
from septum_bench.record import Interval

_MINUS = "\N{MINUS SIGN}"
_CODES = {str(code): code.name.replace("_", " ").lower() for code in (*Code, *Quarantine)}


def number(value: float | None, digits: int = 2) -> str:
    """Return ``value`` with ``digits`` decimals; words where there is no number.

    >>> number(0.8649), number(None), number(math.inf)
    ('0.86', 'none', '∞')
    """
    if value is None:
        return "none"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    text = f"{value:.{digits}f}"
    sign = "" if value >= 0 or float(text) == 0 else _MINUS
    return sign + text.removeprefix("-")


def spent(epsilon: float) -> str:
    """Return epsilon spent with two decimals, rounded up.

    Guarantees:
      - The figure shown is never below the figure recorded.

    >>> spent(7.9801), spent(7.98)
    ('7.99', '7.98')
    """
    # The tolerance forgives the last bit of a double, far below any accountant's precision.
    return number(math.ceil(epsilon * 100 - 1e-7) / 100) if math.isfinite(epsilon) else "∞"


def left(epsilon: float) -> str:
    """Return epsilon left with two decimals, rounded down.

    >>> left(0.0199), left(-0.001)
    ('0.01', '−0.01')
    """
    return number(math.floor(epsilon * 100 + 1e-7) / 100) if math.isfinite(epsilon) else "∞"


def delta(value: float) -> str:
    """Return a small probability in powers of ten.

    >>> delta(1e-4), delta(2.5e-5), delta(0.0)
    ('1e-4', '2.5e-5', '0')
    """
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def bounds(interval: Interval, digits: int = 2) -> str:
    """Return the interval's ends in brackets, or why there are none."""
    if interval.low is None or interval.high is None:
        return f"[not resolvable{_because(interval)}]"
    # A line may break before the bracket, never inside it.
    return f"[{number(interval.low, digits)},\N{NO-BREAK SPACE}{number(interval.high, digits)}]"


def figure(interval: Interval | None, digits: int = 2) -> str:
    r"""Return ``0.86 [0.82, 0.90]``, or ``not resolvable (reason)``.

    >>> figure(Interval(value=0.864, low=0.82, high=0.9))
    '0.86 [0.82,\xa00.90]'
    >>> figure(Interval(value=None, reason="one class only"))
    'not resolvable (one class only)'
    """
    if interval is None:
        return "not measured"
    if interval.value is None:
        return f"not resolvable{_because(interval)}"
    return f"{number(interval.value, digits)} {bounds(interval, digits)}"


def _because(interval: Interval) -> str:
    return f" ({interval.reason})" if interval.reason else ""


def percent(share: float) -> str:
    """Return a share as a percentage without needless decimals.

    >>> percent(0.9), percent(0.015625)
    ('90 %', '1.6 %')
    """
    return f"{share * 100:.1f}".removesuffix(".0") + " %"


def whole(value: float) -> str:
    """Return a count or a large factor with thin groups of three.

    >>> whole(2921.9)
    '2\u202f922'
    """
    if not math.isfinite(value):
        return "∞"
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def factor(epsilon: float) -> str:
    """Return e to the epsilon, the most by which the odds can grow."""
    return "unbounded" if epsilon > 20 else whole(math.exp(epsilon))


def duration(seconds: float) -> str:
    """Return a time in the unit a reader would say.

    >>> duration(3.21), duration(245.0), duration(7300.0)
    ('3.2 s', '4 min 5 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def plural(count: int, noun: str) -> str:
    """Return ``1 patient`` or ``2 patients``.

    >>> plural(1, "patient"), plural(3, "hospital")
    ('1 patient', '3 hospitals')
    """
    return f"{whole(count)} {noun if count == 1 else noun + 's'}"


def code(public: str) -> str:
    """Return a public code with its meaning; an unknown one stands alone.

    >>> code("SITE_210"), code("SITE_999")
    ('SITE_210 budget exceeded', 'SITE_999')
    """
    return f"{public} {_CODES[public]}" if public in _CODES else public


def listing(names: Iterable[str]) -> str:
    """Return ``a, b and c``.

    >>> listing(["a", "b", "c"])
    'a, b and c'
    """
    items = list(names)
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def accountant(name: str) -> str:
    """Return the accountant's name as a reader would cite it.

    >>> accountant("pld"), accountant("PLD accountant")
    ('PLD accountant', 'PLD accountant')
    """
    shown = name.upper() if len(name) <= 4 else name
    return shown if "accountant" in shown.lower() else f"{shown} accountant"


def spans(rounds: Iterable[int]) -> str:
    """Return increasing round numbers with runs folded.

    >>> spans([1, 2, 3, 7, 9])
    '1–3, 7, 9'
    """
    runs: list[list[int]] = []
    for value in rounds:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(f"{a}" if a == b else f"{a}–{b}" for a, b in runs)


def score(value: float, unit: str) -> str:
    """Return an audit's score in its unit; a share as a percentage.

    >>> score(0.0391, "share"), score(-3.21, "dB"), score(0.5, "AUC"), score(1.5e-4, "share")
    ('3.9 %', '−3.21 dB', '0.50 AUC', '0.015 %')
    """
    if unit == "share":
        return percent(value) if value == 0 or abs(value) >= 0.001 else f"{value * 100:.2g} %"
    return f"{number(value)} {unit}".rstrip()


def measured(found: Measured, unit: str) -> str:
    """Return an audit's score with its 95 % interval and what it rests on.

    >>> measured(Measured(role="null", value=0.5, low=0.25, high=0.75, trials=16), "share")
    '50 % [25 %, 75 %], n = 16'
    """
    inner = unit if unit == "share" else ""
    ends = (
        f" [{score(found.low, inner)}, {score(found.high, inner)}]"
        if found.low is not None and found.high is not None
        else ""
    )
    return f"{score(found.value, unit)}{ends}, n = {whole(found.trials)}"
