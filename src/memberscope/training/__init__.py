"""Recipes, the training loop, engines and pools of models with known membership."""
