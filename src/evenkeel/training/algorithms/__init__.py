"""What a step optimises: one readable file per algorithm."""
