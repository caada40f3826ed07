"""Measures how many microseconds one full validation of a SIP address takes: parsing, decoding and checking every rule.

    python -m bench.sip

The yardstick is the least that every validation has to do: match one compiled regex of the whole grammar and return its groups.
It is measured in the same run. There are two goals. A typical address costs at most 5 times the yardstick. A character of any
address up to 100 kB costs at most 3 times as much as a character of a typical address.
"""

from collections.abc import Callable
from functools import partial
from statistics import median
from timeit import Timer

from app.sip import SipUri
from app.sip.grammar import SIP_URI

TYPICAL_ADDRESSES = {
    "guide's first example": "sip:michael@example.com",
    "encrypted": "sip:jack@example.com;transport=tls;secure=true",
    "number, port, transport": "sip:+14155550100@sip.example.com:5061;transport=tls;secure=true",
    "with two headers": "sip:kate@example.com;transport=tcp?X-Order-Id=12345&X-Customer=Acme%20Corp",
}
LONGEST_ADDRESSES = {
    "longest user": f"sip:{'u' * 238}@example.com",
    "254 + 1023 characters": f"sip:{'u' * 238}@example.com?X-Data={'v' * 1016}",
    "254 + 1023, all escapes": f"sip:{'u' * 238}@example.com?X-Data={'%41' * 338}vv",
}
HOSTILE_SHAPES = {
    "labels": ("sip:a@", "a.", "com"),
    "dashes": ("sip:a@", "a-", "a.com"),
    "no host": ("sip:", "a", ""),
    "digits": ("sip:a@example.com:", "9", ""),
    "other parameters": ("sip:a@example.com", ";a", ""),
    "distinct parameters": ("sip:a@example.com", ";{}", ""),
    "transports": ("sip:a@example.com", ";transport=%", ""),
    "escaped parameters": ("sip:a@example.com;x=", "%0d%0a", ""),
    "empty parameters": ("sip:a@example.com", ";", ""),
    "headers": ("sip:a@example.com?a=", "&a=", ""),
    "header names": ("sip:a@example.com?X-A=", "&p-{}=", ""),
    "bad escapes": ("sip:", "%0", "@example.com"),
    "scattered illegal": ("sip:", "a^", "@example.com"),
    "at signs": ("sip:a", "@", "example.com"),
    "colons": ("sip:a@", ":", ""),
    "brackets": ("sip:a@", "[", ""),
    "not UTF-8": ("sip:a@example.com?X-A=", "%ff", ""),
    "scattered control": ("sip:", "a\n", "@example.com"),
    "emoji": ("sip:", "\U0001f600", "@example.com"),
    "surrogates": ("sip:", "a\ud800", "@example.com"),
}
HOSTILE_LENGTHS = (250, 1_250, 20_000, 60_000, 100_000)


def hostile_text(shape: tuple[str, str, str], length: int) -> str:
    """Returns a text of about `length` characters that is a worst case for a parser.

    `shape` is the head of the text, the part to repeat, and the tail. `{}` in the part stands for the number of the repetition.
    """
    head, period, tail = shape
    size = len(period.format(1000)) if "{}" in period else len(period)
    count = max(1, (length - len(head) - len(tail)) // size)
    body = "".join(period.format(n) for n in range(count)) if "{}" in period else period * count
    return head + body + tail


def microseconds(action: Callable[[], object]) -> float:
    """Returns how many microseconds `action` takes, in the fastest of several runs.

    In the slower runs, other work on the machine has disturbed it.
    """
    timer = Timer(action)
    number = max(1, int(0.002 / max(timer.timeit(1), 1e-7)))
    return min(timer.repeat(repeat=20, number=number)) / number * 1e6


def match_grammar(text: str) -> object:
    found = SIP_URI.fullmatch(text)
    return found and found.groups()


def measure(title: str, texts: dict[str, str], goal: float | None) -> list[float]:
    """Measures the validation of each text and prints a table. Returns the nanoseconds per character of each text.

    `goal` is the highest ratio to the yardstick that is still good.
    """
    print(f"\n{title:<28}{'characters':>11}{'yardstick µs':>14}{'validation µs':>15}{'ratio':>7}{'ns/char':>9}")
    costs = []
    for name, text in texts.items():
        yardstick, full = microseconds(partial(match_grammar, text)), microseconds(partial(SipUri.parse, text))
        costs.append(full / len(text) * 1000)
        ratio = full / yardstick
        missed = "  over the goal" if goal is not None and ratio > goal else ""
        print(f"  {name:<26}{len(text):>11}{yardstick:>14.2f}{full:>15.2f}{ratio:>7.1f}{costs[-1]:>9.1f}{missed}")
    return costs


def main() -> None:
    typical = median(measure("typical (goal: ratio ≤ 5)", TYPICAL_ADDRESSES, goal=5))
    measure("longest valid", LONGEST_ADDRESSES, goal=None)
    print(f"\n{'hostile: ns/char (goal: ≤ ' + format(3 * typical, '.0f') + ')':<34}", end="")
    print("".join(f"{length:>10}" for length in HOSTILE_LENGTHS))
    worst = 0.0
    for name, shape in HOSTILE_SHAPES.items():
        print(f"  {name:<32}", end="")
        for length in HOSTILE_LENGTHS:
            text = hostile_text(shape, length)
            cost = microseconds(partial(SipUri.parse, text)) / len(text) * 1000
            worst = max(worst, cost)
            print(f"{cost:>10.1f}", end="", flush=True)
        print()
    print(f"\ntypical {typical:.1f} ns/char, worst hostile {worst:.1f} ns/char: {worst / typical:.2f} times typical")


if __name__ == "__main__":
    main()
