"""How much of a GPU's memory a recipe takes, from its numbers alone: nothing here runs a model."""
