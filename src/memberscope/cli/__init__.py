"""The command. Nothing heavy is imported before a command needs it: ``--help`` answers at once."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

# Options that take several values, and what such a value looks like.
_SEVERAL = {
    "--target": re.compile(r"\d+"),
    "--rows": re.compile(r"[\w+,][\w+,-]*"),
    "--reference-predictions": re.compile(r"[^-].*"),
}


def several_values(arguments: Sequence[str]) -> list[str]:
    """Arguments in which ``--target 0 1`` means ``--target 0 --target 1``, and ``--rows`` likewise.

    >>> several_values(["audit", "--target", "0", "12", "--json"])
    ['audit', '--target', '0', '--target', '12', '--json']
    >>> several_values(["study", "cifar10", "--rows", "original", "l2_1e-3", "--quiet"])
    ['study', 'cifar10', '--rows', 'original', '--rows', 'l2_1e-3', '--quiet']
    """
    expanded: list[str] = []
    inside = ""
    for argument in arguments:
        if inside and _SEVERAL[inside].fullmatch(argument):
            # The first value follows the option itself.
            expanded += [argument] if expanded[-1] == inside else [inside, argument]
        else:
            inside = argument if argument in _SEVERAL else ""
            expanded.append(argument)
    return expanded


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its status.

    0 pass or no gate, 1 a gate failed, 2 wrong use or failure, 3 inconclusive; 130 stopped by Ctrl-C.
    """
    from memberscope.cli.app import app
    from memberscope.errors import MemberscopeError

    try:
        app(args=several_values(sys.argv[1:] if arguments is None else arguments), standalone_mode=True)
    except MemberscopeError as error:
        print(
            f"memberscope: expected {error.expected}\n  got: {error.got}\n  do this: {error.fix}",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("memberscope: stopped; start the same command again to go on where it stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone (for example `| head`): nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if os.environ.get("MEMBERSCOPE_DEBUG"):
            raise
        print(
            f"memberscope: an internal error, which is a bug of memberscope: {type(error).__name__}: {error}\n"
            "  do this: run again with MEMBERSCOPE_DEBUG=1 and report what it prints",
            file=sys.stderr,
        )
        sys.exit(2)
