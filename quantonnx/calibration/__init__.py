"""From samples to ranges: read data, run the float model over it, remember what each tensor held, choose a range."""
