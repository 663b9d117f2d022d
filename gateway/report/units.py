"""Numbers as people read them: one spelling for the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

SPARKS = "▁▂▃▄▅▆▇█"


def duration(seconds: float) -> str:
    """`0.4 s`, `48 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def percent(rate: float | None) -> str:
    """A rate in [0, 1] as `87 %`; a dash when there is none."""
    return "–" if rate is None else f"{100 * rate:.0f}\u00a0%"


def count(number: float) -> str:
    """A whole number with its thousands apart."""
    return f"{number:,.0f}".replace(",", "\u2009")


def training(metrics: Mapping[str, float]) -> str:
    """The numbers of one training step in one line; what was not recorded is left out."""
    words = {"loss": "loss", "mismatch_kl": "kl", "entropy": "entropy", "grad_norm": "grad", "lr": "lr"}
    parts = [f"{word} {metrics[name]:.2g}" for name, word in words.items() if name in metrics]
    if "masked" in metrics:
        of = f" of {metrics['sequences']:.0f}" if "sequences" in metrics else ""
        parts.append(f"masked {metrics['masked']:.0f}{of}")
    if metrics.get("skipped"):
        parts.append(f"skipped {metrics['skipped']:.0f}")
    return "  ".join(parts)


def completions(health: Mapping[str, float]) -> str:
    """What the rollouts of one step were like, in one line; what was not recorded is left out."""
    parts = [f"length {health['length']:.0f}"] if "length" in health else []
    for name, word in {"truncated_share": "truncated", "repetition": "repeated"}.items():
        if name in health:
            parts.append(f"{word} {percent(health[name])}")
    return "  ".join(parts)


def sparkline(rates: Iterable[float]) -> str:
    """Rates in [0, 1] as bars. The full height is always 1, so that two lines can be compared."""
    return "".join(SPARKS[min(len(SPARKS) - 1, int(rate * len(SPARKS)))] for rate in rates)
