"""From a recipe's ``data`` section to the micro-batches of one rank at one step.

records (text) → samples (token ids and what is trained) → batches (tensors, a pure function of
the step). Each data set is one module that yields records; each stage knows only the one before.
"""
