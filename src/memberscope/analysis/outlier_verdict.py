"""Whether the vulnerable records are outliers of their class: a verdict by a rule fixed in advance, and why."""

from __future__ import annotations

from typing import Literal

from memberscope.text import percent
from memberscope.types.analyses import OutlierScore

Verdict = Literal["yes", "partly", "no", "undecided"]
_Size = Literal["strong", "some", "none", "opposite", "open"]

# Sizes of Cliff's delta (Romano et al. 2006): negligible below the first, medium from the second on.
SMALL, MEDIUM = 0.147, 0.33
LEAST = 10


def judge(
    geometry: OutlierScore | None, hardness: OutlierScore | None, vulnerable: int, controls: int, base_rate: float
) -> tuple[Verdict, str]:
    """The verdict and its sentence, from two scores of models that did not train on the record.

    Two questions, fixed before any record is looked at: do the vulnerable records lie further from the centroid
    of their class (``feature_cosine``, or ``logit_cosine`` where only logits are known), and are they harder
    (``low_confidence``)? Each is answered by the 95 % interval of Cliff's delta against protected records of the
    same class, in the sizes of Romano et al. (2006):

    - ``yes``: both lower bounds are above 0.33 (a medium effect or more).
    - ``partly``: otherwise, some lower bound is above 0.147 (a small effect or more).
    - ``no``: both upper bounds are below 0.147 (negligible, or the opposite).
    - ``undecided``: anything else, and always with fewer than ten vulnerable records or ten controls.

    Args:
        geometry: the first score as measured; None where it was not.
        hardness: the second.
        vulnerable: vulnerable records with a control of their class.
        controls: controls with a vulnerable record of their class.
        base_rate: share of vulnerable records among all that were judged.
    """
    if min(vulnerable, controls) < LEAST:
        return "undecided", (
            f"Undecided: {vulnerable:,} vulnerable and {controls:,} protected records share a class with one of the "
            f"other kind; {LEAST} of each are needed to tell whether the vulnerable ones are outliers of their class."
        )
    if geometry is None and hardness is None:
        return "undecided", (
            "Undecided: too few vulnerable or protected records were shown to a model that did not train on them."
        )
    sizes = (_size(geometry), _size(hardness))
    verdict = _verdict(geometry, hardness)
    lead = {"yes": _yes, "partly": _partly, "no": _no, "undecided": _undecided}[verdict](*sizes)
    return verdict, " ".join(part for part in (lead, _figures(geometry, hardness, base_rate)) if part)


def _verdict(*scores: OutlierScore | None) -> Verdict:
    bounds = [(score.effect.low, score.effect.high) for score in scores if score is not None]
    lows = [low for low, _ in bounds if low is not None]
    highs = [high for _, high in bounds if high is not None]
    if len(lows) == 2 and min(lows) > MEDIUM:
        return "yes"
    if lows and max(lows) > SMALL:
        return "partly"
    if len(highs) == 2 and max(highs) < SMALL:
        return "no"
    return "undecided"


def _size(score: OutlierScore | None) -> _Size:
    low, high = (None, None) if score is None else (score.effect.low, score.effect.high)
    if low is None or high is None:
        return "open"
    if low > SMALL:
        return "strong" if low > MEDIUM else "some"
    if high < SMALL:
        return "opposite" if high < -SMALL else "none"
    return "open"


def _yes(geometry: _Size, hardness: _Size) -> str:
    return "Yes: the vulnerable records are outliers of their class."


def _partly(geometry: _Size, hardness: _Size) -> str:
    shown = ("strong", "some")
    if geometry in shown and hardness in shown:
        return "Partly: the vulnerable records tend to be outliers of their class, if not strongly by both measures."
    if geometry in shown:
        other = {
            "opposite": ", yet models that never saw them find them easier, not harder.",
            "none": ", but models that never saw them do not find them notably harder.",
        }.get(hardness, "; whether models that never saw them find them notably harder is open.")
        return f"Partly: the vulnerable records lie further from the centroid of their class than protected ones{other}"
    other = {
        "opposite": ", yet they lie nearer to the centroid of their class, not further from it.",
        "none": ", but they do not lie notably further from the centroid of their class.",
    }.get(geometry, "; whether they lie notably further from the centroid of their class is open.")
    return f"Partly: the vulnerable records are harder than protected ones for models that never saw them{other}"


def _no(geometry: _Size, hardness: _Size) -> str:
    if geometry == hardness == "opposite":
        return "No, the opposite: the vulnerable records are more typical of their class than the protected ones."
    more = {
        ("opposite", "none"): ", and they lie nearer to its centroid",
        ("none", "opposite"): ", and they are easier for models that never saw them",
    }.get((geometry, hardness), "")
    return f"No: the vulnerable records are not notably more outlying than protected ones of their class{more}."


def _undecided(geometry: _Size, hardness: _Size) -> str:
    return "Undecided: these records do not settle whether the vulnerable ones are notable outliers of their class."


def _figures(geometry: OutlierScore | None, hardness: OutlierScore | None, base_rate: float) -> str:
    """What was measured, in one sentence; it holds whatever the verdict."""
    space = " in logits" if geometry is not None and geometry.name.startswith("logit") else ""
    claims: list[str] = []
    best: OutlierScore | None = None
    for score, claim in (
        (geometry, f"lies further from the centroid of its class{space} than a protected one of that class"),
        (hardness, "gets less confidence in its label" + ("" if geometry else " than a protected one of its class")),
    ):
        if score is None or score.effect.value is None:
            continue
        best = score if best is None or score.effect.value > (best.effect.value or 0.0) else best
        delta, low, high = (_signed(bound) for bound in (score.effect.value, score.effect.low, score.effect.high))
        share = percent(round((1 + score.effect.value) / 2, 2))
        pairs, name = (" of pairs", "Cliff's delta ") if not claims else ("", "")
        claims.append(f"{claim} in {share}{pairs} ({name}{delta}, {low} to {high})")
    if best is None:
        return ""
    text = f"Judged by models that never saw it, a vulnerable record {' and '.join(claims)}"
    where = "with the least confidence" if best is hardness else "furthest from their centroid"
    for key, top in (("0.01", 0.01), ("0.05", 0.05)):
        found = best.precision[key].value
        if found is not None:
            share = percent(round(found, 2))
            text += f"; of the {percent(top)} of records {where}, {share} are vulnerable, against {_rate(base_rate)}"
            break
    return f"{text}."


def _rate(rate: float) -> str:
    return f"{percent(rate if rate < 0.01 else round(rate, 3))} of all"


def _signed(value: float | None) -> str:
    return f"{round(value or 0.0, 2) + 0.0:.2f}".replace("-", "−")
