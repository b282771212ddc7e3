"""``python -m memberscope``."""

from memberscope.cli import main

if __name__ == "__main__":
    main()
