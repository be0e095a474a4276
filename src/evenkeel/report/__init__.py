"""How results are shown: terminal tables, pages and machine formats."""
