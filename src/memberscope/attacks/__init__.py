"""Attacks: each a frozen dataclass, called with (signals, target, rng), higher score = more likely a member."""

from __future__ import annotations

from memberscope.attacks.attack_p import AttackP
from memberscope.attacks.attack_r import AttackR
from memberscope.attacks.base import Base
from memberscope.attacks.bavaria import Bavaria
from memberscope.attacks.calibrated_loss import CalibratedLoss
from memberscope.attacks.gap import Gap
from memberscope.attacks.interface import Attack
from memberscope.attacks.lira import LiraOffline, LiraOfflinePooled, LiraOnline, LiraOnlinePooled
from memberscope.attacks.lira_hierarchical import LiraHierarchical
from memberscope.attacks.lira_learned import LiraLearned
from memberscope.attacks.rmia import RmiaOffline, RmiaOnline
from memberscope.attacks.threshold import Confidence, Entropy, Loss, ModifiedEntropy, ScaledLogit
from memberscope.errors import ConfigError, nearest

# From the least to the most that an attack needs; the order of every table.
ATTACKS: tuple[type[Attack], ...] = (
    Gap,
    Loss,
    Confidence,
    Entropy,
    ModifiedEntropy,
    ScaledLogit,
    AttackP,
    AttackR,
    CalibratedLoss,
    LiraOffline,
    LiraOfflinePooled,
    LiraOnline,
    LiraOnlinePooled,
    RmiaOffline,
    RmiaOnline,
    Base,
    Bavaria,
    LiraHierarchical,
    LiraLearned,
)

DEFAULT = LiraHierarchical.name


def attack(name: str) -> Attack:
    """The attack called ``name``, with its default parameters.

    >>> attack("lira_online").minimum
    4

    Raises:
        ConfigError: there is no such attack.
    """
    for kind in ATTACKS:
        if kind.name == name:
            return kind()
    names = [kind.name for kind in ATTACKS]
    raise ConfigError(f"an attack among {', '.join(names)}", f"{name!r}{nearest(name, names)}", "Choose one of them.")


__all__ = ["ATTACKS", "DEFAULT", "Attack", "attack", *(kind.__name__ for kind in ATTACKS)]
