"""Run directories: the truth about a run, its events, its control and its worker process."""
