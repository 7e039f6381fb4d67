"""How templates write figures and times."""

from __future__ import annotations

from datetime import UTC, datetime

NONE = "–"
_UNITS = ((86400 * 365, "year"), (86400 * 30, "month"), (86400, "day"), (3600, "hour"), (60, "minute"))


def score(value: object) -> str:
    """A share in [0, 1] with three digits."""
    return f"{value:.3f}" if isinstance(value, int | float) else NONE


def change(value: object) -> str:
    """A difference of two scores, with its sign."""
    if not isinstance(value, int | float):
        return NONE
    text = f"{value:+.3f}".replace("-", "−")
    return "±0.000" if text in ("+0.000", "−0.000") else text


def trend(value: object) -> str:
    """up, down or even: the class of a difference."""
    if not isinstance(value, int | float) or abs(value) < 0.0005:
        return "even"
    return "up" if value > 0 else "down"


def percent(value: object) -> str:
    """A share in [0, 1] as a whole percentage; one below half a percent that is not zero is `<1 %`."""
    if not isinstance(value, int | float):
        return NONE
    return "<1 %" if 0 < value < 0.005 else f"{value:.0%}".replace("%", " %")


def number(value: object) -> str:
    """A whole number with spaces between thousands."""
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else NONE


def duration(seconds: object) -> str:
    """A time span in at most two units."""
    if not isinstance(seconds, int | float):
        return NONE
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def ago(text: object, now: datetime | None = None) -> str:
    """How long ago a moment in ISO 8601 was, in one unit."""
    if not isinstance(text, str):
        return NONE
    then = datetime.fromisoformat(text)
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    seconds = ((now or datetime.now(UTC)) - then).total_seconds()
    for unit_s, name in _UNITS:
        count = int(seconds // unit_s)
        if count >= 1:
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def moment(text: object) -> str:
    """A moment in ISO 8601 to the minute, in UTC."""
    if not isinstance(text, str):
        return NONE
    then = datetime.fromisoformat(text)
    return f"{(then if then.tzinfo else then.replace(tzinfo=UTC)).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


FILTERS = {function.__name__: function for function in (score, change, trend, percent, number, duration, ago, moment)}
