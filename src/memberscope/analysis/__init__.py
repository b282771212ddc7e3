"""What the scores say about records: which are exposed, and (later) what they have in common."""
