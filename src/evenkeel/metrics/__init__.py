"""What a run measured: event files, metric series, and checks written over them."""
