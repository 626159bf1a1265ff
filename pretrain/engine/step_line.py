"""The console line of a log step: progress, losses, speed, waiting times and remaining time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

_LOSSES_WIDTH = 52  # further parts of the loss are only in metrics.jsonl
_PART = "loss/"


def step_line(row: Mapping[str, object]) -> str:
    """Format a row of figures as one line; missing figures are left out."""
    numbers = {name: float(value) for name, value in row.items() if isinstance(value, int | float)}
    fields = [_progress(numbers), "  ".join(_losses(numbers)), *_speed(numbers)]
    for name, format_value in _FORMATS.items():
        if name in numbers:
            fields.append(format_value(numbers[name]))
    return "  ".join(word for word in fields if word)


def duration(seconds: float) -> str:
    """Format a duration in its two largest units."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s" if whole >= 10 else f"{seconds:.1f}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def _progress(numbers: Mapping[str, float]) -> str:
    done, steps = int(numbers["step"]) + 1, int(numbers["steps"])
    return f"step {done:>{len(str(steps))}}/{steps} {100 * done / steps:.1f}%"


def _losses(numbers: Mapping[str, float]) -> Iterator[str]:
    room = _LOSSES_WIDTH
    for name in ("loss", *(name for name in numbers if name.startswith(_PART))):
        if name in numbers:
            word = f"{name.removeprefix(_PART)} {numbers[name]:.4g}"
            room -= len(word) + 2
            if room >= 0:
                yield word


def _speed(numbers: Mapping[str, float]) -> Iterator[str]:
    if "learning_rate" in numbers:
        yield f"lr {numbers['learning_rate']:.1e}"
    if "clips_per_s" in numbers:
        each = numbers.get("clips_per_s_device", numbers["clips_per_s"])
        is_one = each == numbers["clips_per_s"]
        yield f"{_rate(numbers['clips_per_s'])} clips/s" + ("" if is_one else f" ({_rate(each)} each)")
    if "step_s" in numbers:
        yield f"{numbers['step_s']:.3g} s"


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.1 or share == 0 else f"{100 * share:.2g}%"


_FORMATS: dict[str, Callable[[float], str]] = {
    "data_wait_share": lambda value: f"wait {_percent(value)}",
    "mfu": lambda value: f"MFU {_percent(value)}",
    "memory_gib": lambda value: f"{value:.1f} GiB",
    "bad_share": lambda value: f"bad {_percent(value)}",
    "silent_share": lambda value: f"silent {_percent(value)}",
    "aside_s": lambda value: f"aside {duration(value)}" if value >= 0.1 else "",
    "eta_s": lambda value: f"{duration(value)} left",
}
