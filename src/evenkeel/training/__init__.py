"""The trainers themselves: the only room that imports torch."""
