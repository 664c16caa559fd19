"""Number formats for people: shares, counts, sizes, times and ratios."""

EQUAL = "the same as"
_LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def percent(share: float) -> str:
    """Return a share as per cent with one decimal; "100 %" only for exactly all."""
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"


def points(difference: float) -> str:
    """Return a difference of two shares in percentage points, signed."""
    return f"{100 * difference:+.1f} points".replace("-", "−")


def interval(low: float, high: float) -> str:
    """Return the range between two shares."""
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def count(number: float) -> str:
    """Return a whole number with separated thousands."""
    return f"{number:,.0f}"


def plural(number: int, noun: str) -> str:
    """Return "1 image", "2 images"."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def unit_of(number: float) -> tuple[float, str]:
    """Return the power of a thousand for a number, and its letter."""
    for unit, letter in _LARGE:
        # 999.5 is where three digits round up into the next unit.
        if number >= 0.9995 * unit:
            return unit, letter
    return 1.0, ""


def short(number: float) -> str:
    """Return a large number to three digits with k, M, G or T."""
    unit, letter = unit_of(number)
    return f"{_three_digits(number / unit)} {letter}" if letter else plain(number)


def size(number: float) -> str:
    """Return bytes as B, kB, MB or GB (powers of ten)."""
    text = short(number)
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def milliseconds(value: float) -> str:
    """Return milliseconds to three digits."""
    return f"{_three_digits(value)} ms"


def duration(seconds: float) -> str:
    """Return a time span in its two largest units."""
    if seconds < 60:
        return f"{_three_digits(seconds)} s"
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"


def share_of(part: float, whole: float) -> str:
    """Return the ratio of `part` to `whole`: "1/12 of", "83 % of", "1.4 times"."""
    ratio = part / whole
    if ratio > 1.005:
        return f"{_three_digits(ratio)} times"
    if ratio > 0.995:
        return EQUAL
    # Under a third, a fraction reads better than per cent.
    if ratio > 1 / 3 or ratio == 0:
        return f"{100 * ratio:.0f} % of"
    return f"1/{1 / ratio:.0f} of"


def plain(value: float) -> str:
    """Return any other number to four significant digits."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def two_digits(value: float) -> str:
    """Return an estimate from a small sample, with two significant digits."""
    return f"{value:.2g}" if abs(value) < 100 else count(value)


def _three_digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
