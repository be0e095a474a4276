"""What is trained: names, recipe configuration, suites and the agreement between them."""
