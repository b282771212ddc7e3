"""The codes of all checks: what each one means and what to do. The checks themselves stand with what they look at."""

from __future__ import annotations

from typing import NamedTuple


class Code(NamedTuple):
    """A check's title, why it matters, and what to do when it fires."""

    title: str
    meaning: str
    action: str


CODES: dict[str, Code] = {
    "MS001": Code(
        "Duplicates across the member border",
        "The same record stands among members and non-members, so telling them apart is impossible or meaningless.",
        "Remove duplicates before splitting.",
    ),
    "MS002": Code(
        "Near-duplicates across the member border",
        "Almost equal records stand on both sides; the non-member looks like a member.",
        "Group near-duplicates and keep each group on one side.",
    ),
    "MS003": Code(
        "Label shift between members and non-members",
        "Class shares differ, so an attack can tell the sides apart without the model.",
        "Draw members and non-members from the same records at random.",
    ),
    "MS004": Code(
        "Covariate shift between members and non-members",
        "A classifier that never saw the model tells the sides apart: the audit would measure the split.",
        "Draw members and non-members from the same records at random.",
    ),
    "MS005": Code(
        "Enough non-members for the false-alarm rates",
        "A rate is measured by at least ten false alarms: 1,000 non-members for 1 %, 10,000 for 0.1 %.",
        "Hold out more records, or more targets.",
    ),
    "MS006": Code(
        "Saturated scores",
        "Probabilities of exactly 0 or 1 hide how sure the model is, and attacks look weaker than they are.",
        "Pass logits, or probabilities in float64.",
    ),
    "MS007": Code(
        "Rounded scores",
        "Rounded probabilities hide differences between records; the figures hold for a server that rounds alike.",
        "Pass full-precision scores to audit the model itself.",
    ),
    "MS008": Code(
        "References trained on as many records as the target",
        "Models trained on more or fewer records behave differently, and reference attacks are miscalibrated.",
        "Train references on the target's number of records.",
    ),
    "MS009": Code(
        "Gap between training and test accuracy",
        "An overfitted model leaks through its accuracy alone; leakage is then not beyond overfitting.",
        "Regularise or stop earlier, then audit again.",
    ),
    "MS010": Code(
        "Number of reference models",
        "Few references make the strongest attacks weaker than an attacker's with more.",
        "Train more references (16 or more; 64 for per-record variances).",
    ),
    "MS011": Code(
        "Membership hidden from counting",
        "The number of references trained on a record must say nothing about the target's membership.",
        "Draw membership in complementary pairs or independently for each model.",
    ),
    "MS012": Code(
        "Records with models on both sides",
        "A record that is IN or OUT in too few references cannot be scored by some attacks and is left out there.",
        "Use complementary pairs, or more references.",
    ),
    "MS013": Code(
        "Accuracy above chance",
        "Accuracy below chance suggests that labels, class order or records do not belong to these outputs.",
        "Check the order of records and classes.",
    ),
    "MS014": Code(
        "Models that differ",
        "Two rows with the same outputs are one model twice: references then say nothing about the target.",
        "Train every row with its own seed and its own records.",
    ),
}
