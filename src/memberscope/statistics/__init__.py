"""Statistics that hold: every figure with an interval, every choice corrected for."""
