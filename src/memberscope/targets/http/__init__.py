"""A model behind an HTTP endpoint: described in YAML, asked within budgets, every answer kept."""
