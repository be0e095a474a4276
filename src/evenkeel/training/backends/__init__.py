"""The libraries that hold the model and move the gradients, behind one interface."""
